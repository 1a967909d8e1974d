/* Refusals before anything is made: is there room, are the files there. */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/agent/vm.h"

bool agent_vm_fits(const struct control_node *n, uint64_t vcpus, uint64_t memory_bytes,
		   bool overcommit, char why[AGENT_WHY_MAX])
{
	uint64_t left =
		n->memory_bytes > n->vm_memory_bytes ? n->memory_bytes - n->vm_memory_bytes : 0;
	char want[32], have[32];

	left = BASE_MIN(left, n->available_bytes);
	if (overcommit)
		return true;
	if (vcpus > n->cpus) {
		snprintf(why, AGENT_WHY_MAX,
			 "%s has %u CPUs, %u vCPUs are beyond that (--overcommit allows it)",
			 n->name, (unsigned)n->cpus, (unsigned)vcpus);
		return false;
	}
	if (memory_bytes > left) {
		snprintf(why, AGENT_WHY_MAX,
			 "%s has %s of memory free, %s is beyond that (--overcommit allows it)",
			 n->name, text_size_print(left, have, sizeof(have)),
			 text_size_print(memory_bytes, want, sizeof(want)));
		return false;
	}
	return true;
}

static enum control_code check_file(const struct agent *a, const char *what, const char *path,
				    int mode, bool block, char why[AGENT_WHY_MAX])
{
	const char *node = a->self->name;
	struct stat st;

	if (!path[0])
		return CONTROL_OK;
	if (stat(path, &st)) {
		snprintf(why, AGENT_WHY_MAX, "%s %.200s on node %s: %s", what, path, node,
			 strerror(errno));
		return errno == ENOENT || errno == ENOTDIR ? CONTROL_NOT_FOUND : CONTROL_FAILED;
	}
	if (!S_ISREG(st.st_mode) && !(block && S_ISBLK(st.st_mode))) {
		snprintf(why, AGENT_WHY_MAX, "%s %.200s on node %s is not a regular file%s", what,
			 path, node, block ? " or block device" : "");
		return CONTROL_USAGE;
	}
	if (access(path, mode)) {
		snprintf(why, AGENT_WHY_MAX, "%s %.200s on node %s: %s", what, path, node,
			 strerror(errno));
		return CONTROL_DENIED;
	}
	return CONTROL_OK;
}

static enum control_code check_nic(const struct agent *a, const struct vmspec_nic *n,
				   char why[AGENT_WHY_MAX])
{
	if (n->kind == VMSPEC_NIC_NET && !a->net) {
		snprintf(why, AGENT_WHY_MAX,
			 "node %s has no network for guests; its agent's log says why",
			 a->self->name);
		return CONTROL_FAILED;
	}
	if (n->kind == VMSPEC_NIC_TAP && !if_nametoindex(n->target)) {
		snprintf(why, AGENT_WHY_MAX, "node %s has no interface '%.16s'", a->self->name,
			 n->target);
		return CONTROL_NOT_FOUND;
	}
	return CONTROL_OK;
}

static enum control_code check_files(const struct agent *a, const struct vmspec *s,
				     char why[AGENT_WHY_MAX])
{
	enum control_code code = check_file(a, "kernel", s->kernel, R_OK, false, why);

	if (!code)
		code = check_file(a, "initrd", s->initrd, R_OK, false, why);
	if (!code)
		code = check_file(a, "saved state", s->restore, R_OK, false, why);
	for (size_t i = 0; !code && i < s->disk_count; i++)
		code = check_file(a, "disk", s->disks[i].path,
				  s->disks[i].read_only ? R_OK : R_OK | W_OK, true, why);
	for (size_t i = 0; !code && i < s->nic_count; i++)
		code = check_nic(a, &s->nics[i], why);
	return code;
}

bool agent_vm_has_room(struct agent *a, uint64_t vcpus, uint64_t memory_bytes, bool overcommit,
		       char why[AGENT_WHY_MAX])
{
	struct control_node n = {.name = a->self->name, .vm_memory_bytes = agent_vms_memory(a)};
	struct agent_host h;

	agent_host_read(&h);
	n.cpus = h.cpus;
	n.memory_bytes = h.memory_bytes;
	n.available_bytes = h.available_bytes;
	return agent_vm_fits(&n, vcpus, memory_bytes, overcommit, why);
}

enum control_code agent_vm_check(struct agent *a, const struct vmspec *s, bool overcommit,
				 char why[AGENT_WHY_MAX])
{
	struct vmspec_part share = agent_vm_share(a, s);

	if (agent_vm_find(a, s->name)) {
		snprintf(why, AGENT_WHY_MAX, "there is a VM '%s' already, on node %s", s->name,
			 a->self->name);
		return CONTROL_EXISTS;
	}
	if (!agent_vm_has_room(a, share.vcpus, share.memory_bytes, overcommit, why))
		return CONTROL_NO_ROOM;
	/* Devices and what boots are the lead's. */
	if (vmspec_spans(s) && strcmp(s->parts[0].node, a->self->name) != 0)
		return CONTROL_OK;
	return check_files(a, s, why);
}
