/* The table of commands and their options: parsing, --help and completion follow it. */
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

static bool take_seconds(const char *value, uint64_t *ms, char why[VMSPEC_WHY_MAX])
{
	uint64_t s;

	if (!text_number_parse(value, 1, 86400, &s)) {
		snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected seconds, 1 to 86400", value);
		return false;
	}
	*ms = s * 1000;
	return true;
}

#define TAKE(name) static bool take_##name(struct ctl *c, const char *v, char why[VMSPEC_WHY_MAX])
/* An option that only remembers its text, and one that is only a flag. */
#define TAKE_TEXT(name, field)                                                                     \
	TAKE(name)                                                                                 \
	{                                                                                          \
		c->field = v;                                                                      \
		return true;                                                                       \
	}
#define TAKE_FLAG(name, field)                                                                     \
	TAKE(name)                                                                                 \
	{                                                                                          \
		c->field = true;                                                                   \
		return true;                                                                       \
	}
#define TAKE_SPEC(name, field)                                                                     \
	TAKE(name)                                                                                 \
	{                                                                                          \
		return vmspec_set_text(c->spec->field, sizeof(c->spec->field), #field, v, why);    \
	}

TAKE_FLAG(json, json)
TAKE_FLAG(quiet, quiet)
TAKE_FLAG(follow, follow)
TAKE_FLAG(watch, watch)
TAKE_FLAG(overcommit, overcommit)
TAKE_FLAG(together, together)
TAKE_FLAG(attach, attach)
TAKE_FLAG(with_disk, with_disk)
TAKE_FLAG(force, force)
TAKE_TEXT(home, home)
TAKE_TEXT(agent, agent)
TAKE_TEXT(node, node)
TAKE_TEXT(until, until)
TAKE_TEXT(nodes, nodes)
TAKE_TEXT(file, file)
TAKE_TEXT(out, out_dir)
TAKE_TEXT(cluster_name, cluster_name)
TAKE_TEXT(system_map, system_map)
TAKE_TEXT(output, output)
TAKE_TEXT(from, from)
TAKE_TEXT(places, places)
TAKE_SPEC(kernel, kernel)
TAKE_SPEC(initrd, initrd)
TAKE_SPEC(restore, restore)
TAKE_SPEC(cmdline, cmdline)

TAKE(timeout)
{
	return take_seconds(v, &c->timeout_ms, why);
}

TAKE(interval)
{
	return take_seconds(v, &c->interval_ms, why);
}

TAKE(target)
{
	c->target = v;
	return true;
}

TAKE(cancel)
{
	return c->cancel = true;
}

TAKE(encrypt)
{
	return c->encrypt = true;
}

TAKE(seal)
{
	return c->spec->encrypt = true;
}

TAKE(transport)
{
	return vmspec_set_transport(c->spec, v, why);
}

TAKE(seconds_option)
{
	uint64_t ms;

	if (!take_seconds(v, &ms, why))
		return false;
	c->seconds = ms / 1000;
	return true;
}

TAKE(live)
{
	return c->live = true;
}

TAKE(mode)
{
	static const char *const modes[] = {"precopy", "postcopy", "auto"};

	for (uint32_t i = 0; i < BASE_ARRAY_LEN(modes); i++) {
		if (strcmp(v, modes[i]) != 0)
			continue;
		c->mode = i;
		return true;
	}
	snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected precopy, postcopy or auto", v);
	return false;
}

TAKE(postcopy_after)
{
	uint64_t n;

	if (!text_number_parse(v, 1, 1000, &n)) {
		snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected 1 to 1000 rounds", v);
		return false;
	}
	c->postcopy_after = (uint32_t)n;
	return true;
}

TAKE(resume)
{
	return c->resume = true;
}

TAKE(max_downtime)
{
	uint64_t ms;

	if (!text_number_parse(v, 1, 60000, &ms)) {
		snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected 1 to 60000 milliseconds", v);
		return false;
	}
	c->max_downtime_ms = (uint32_t)ms;
	return true;
}

TAKE(channels)
{
	uint64_t n;

	if (!text_number_parse(v, 1, CONTROL_MIGRATE_CHANNELS, &n)) {
		snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected 1 to %d connections", v,
			 CONTROL_MIGRATE_CHANNELS);
		return false;
	}
	c->channels = (uint32_t)n;
	return true;
}

TAKE(bandwidth)
{
	if (text_size_parse(v, &c->bandwidth) && c->bandwidth)
		return true;
	snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected bytes a second, such as 100M", v);
	return false;
}

TAKE(disk)
{
	return vmspec_add_disk(c->spec, v, why);
}

TAKE(nic)
{
	return vmspec_add_nic(c->spec, v, why);
}

TAKE(vcpus)
{
	return vmspec_set_vcpus(c->spec, v, why);
}

TAKE(memory)
{
	return vmspec_set_memory(c->spec, v, why);
}

static bool is_parts(const char *v, char why[VMSPEC_WHY_MAX])
{
	if (strchr(v, '='))
		return true;
	snprintf(why, VMSPEC_WHY_MAX, "expected nodes, such as a=1,b=1");
	return false;
}

TAKE(part_vcpus)
{
	return is_parts(v, why) && vmspec_set_vcpus(c->spec, v, why);
}

TAKE(part_memory)
{
	return is_parts(v, why) && vmspec_set_memory(c->spec, v, why);
}

TAKE(gdb)
{
	uint64_t port;

	if (!text_number_parse(v, 1, 65535, &port)) {
		snprintf(why, VMSPEC_WHY_MAX, "'%.40s' is not a port", v);
		return false;
	}
	c->spec->gdb_port = (uint16_t)port;
	return true;
}

/* The file first, so that other options may change what it says. */
TAKE(spec_file)
{
	struct vmspec *s;

	if (vmspec_read(v, &s, why))
		return false;
	free(c->spec);
	c->spec = s;
	return true;
}

/* "^]" or "ctrl-]" or one character. */
TAKE(escape)
{
	const char *key = !strncmp(v, "ctrl-", 5) ? v + 5 : v[0] == '^' && v[1] ? v + 1 : NULL;

	if (key && strlen(key) == 1) {
		int k = *key >= 'a' && *key <= 'z' ? *key - 32 : *key;

		if (k >= '@' && k <= '_') {
			c->escape = k - '@';
			return true;
		}
	}
	snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected a control key such as ^] or ctrl-a", v);
	return false;
}

static bool take_vms(struct ctl *c, const char *v, char *why)
{
	c->vms = v;
	return true;
}

static bool take_tasks(struct ctl *c, const char *v, char *why)
{
	uint64_t n;

	if (!text_number_parse(v, 1, 4096, &n)) {
		snprintf(why, VMSPEC_WHY_MAX, "'%.40s': expected a number of 1 to 4096", v);
		return false;
	}
	c->tasks = (uint32_t)n;
	return true;
}

#define END                                                                                        \
	{                                                                                          \
		NULL, 0, NULL, NULL, NULL                                                          \
	}
#define NODE_OPTION                                                                                \
	{                                                                                          \
		"node", 'n', "NODE", "the node that has the VM (else it is looked for)", take_node \
	}

const struct ctl_option ctl_global_options[] = {
	{"json", 'j', NULL, "print JSON", take_json},
	{"quiet", 'q', NULL, "print names only, or nothing", take_quiet},
	{"home", 0, "DIR", "cluster.yaml and keys (default $PANGAEA_HOME, else /etc/pangaea)",
	 take_home},
	{"agent", 0, "NODE", "ask this node's agent (default $PANGAEA_AGENT, else this host's)",
	 take_agent},
	{"timeout", 't', "SECONDS", "how long to wait at most", take_timeout},
	END,
};

static const struct ctl_option no_options[] = {END};
static const struct ctl_option vm_options[] = {NODE_OPTION, END};
static const struct ctl_option ls_options[] = {
	{"node", 'n', "NODE", "of this node only", take_node},
	END,
};
static const struct ctl_option run_options[] = {
	{"file", 'f', "FILE", "a YAML file with all this; options after it change it",
	 take_spec_file},
	{"kernel", 'k', "FILE", "bzImage or ELF vmlinux, on the node that runs it", take_kernel},
	{"initrd", 'i', "FILE", "initial RAM disk", take_initrd},
	{"cmdline", 'c', "TEXT", "the kernel's command line (default console=ttyS0)", take_cmdline},
	{"vcpus", 0, "N|a=N,b=N", "virtual CPUs (default 1), or so many of each node", take_vcpus},
	{"memory", 'm', "SIZE|a=SIZE,..", "memory, such as 512M or 2G, or so much of each node",
	 take_memory},
	{"together", 0, NULL,
	 "of a guest over several nodes: on the first alone, to be spread later", take_together},
	{"encrypt", 0, NULL, "of a guest over several nodes: seal its page traffic", take_seal},
	{"transport", 0, "tcp|verbs", "of a guest over several nodes: how pages go (default tcp)",
	 take_transport},
	{"disk", 'd', "FILE[,ro][,format=raw|qcow2]", "a disk; may be repeated", take_disk},
	{"nic", 0, "net|tap=IF|port=SOCKET[,mac=..]",
	 "a network interface; 'net' joins the cluster's network; may be repeated", take_nic},
	{"node", 'n', "NODE", "where (default: the node with most room)", take_node},
	{"overcommit", 0, NULL, "allow more vCPUs or memory than the host has free",
	 take_overcommit},
	{"restore", 0, "FILE", "start from a saved state", take_restore},
	{"gdb", 0, "PORT", "wait for gdb there", take_gdb},
	{"console", 'C', NULL, "attach to the console once it runs", take_attach},
	{"escape", 'e', "KEY", "with --console: the key that leaves it", take_escape},
	END,
};
static const struct ctl_option console_options[] = {
	NODE_OPTION,
	{"escape", 'e', "KEY", "the key that leaves the console (default ^])", take_escape},
	{"until", 'u', "TEXT", "leave when the guest has printed this; 5 if --timeout comes first",
	 take_until},
	END,
};
static const struct ctl_option stats_options[] = {
	NODE_OPTION,
	{"watch", 'w', NULL, "again and again, with what each grows by in a second", take_watch},
	{"interval", 0, "SECONDS", "between two looks (default 1)", take_interval},
	{"system-map", 0, "FILE",
	 "the guest kernel's symbols (System.map, /proc/kallsyms): names what is in hot pages",
	 take_system_map},
	END,
};
static const struct ctl_option heatmap_options[] = {
	{"output", 'o', "FILE", "the SVG file (default NAME.svg)", take_output},
	{"seconds", 0, "N", "look for so long (default 10)", take_seconds_option},
	END,
};
static const struct ctl_option migrate_options[] = {
	{"to", 0, "NODE", "where it goes", take_target},
	{"mode", 0, "precopy|postcopy|auto", "how (default precopy)", take_mode},
	{"postcopy-after", 0, "N", "auto: rounds of pre-copy before post-copy (default 3)",
	 take_postcopy_after},
	{"max-downtime", 0, "MS", "stop the guest for so long at most (default 50)",
	 take_max_downtime},
	{"bandwidth", 0, "BYTES", "a limit a second, such as 100M", take_bandwidth},
	{"channels", 0, "N", "data connections (default 4)", take_channels},
	{"encrypt", 0, NULL, "seal what is sent", take_encrypt},
	{"with-disk", 0, NULL, "copy the disks along that can be written", take_with_disk},
	{"force", 0, NULL, "with --with-disk: replace files of those names there", take_force},
	{"cancel", 0, NULL, "give up the migration that is under way", take_cancel},
	{"resume", 0, NULL, "take up one that waits after a break", take_resume},
	NODE_OPTION,
	END,
};
static const struct ctl_option spread_options[] = {
	{"vcpus", 0, "a=N,b=N", "so many vCPUs on each node; all of them are to be placed",
	 take_places},
	{"overcommit", 0, NULL, "allow more vCPUs or memory than a host has free", take_overcommit},
	NODE_OPTION,
	END,
};
static const struct ctl_option consolidate_options[] = {
	{"to", 0, "NODE", "where it goes", take_target},
	{"from", 0, "NODE", "leave this node alone (else all others)", take_from},
	{"bandwidth", 0, "BYTES", "a limit a second, such as 100M", take_bandwidth},
	{"overcommit", 0, NULL, "allow more vCPUs or memory than the host has free",
	 take_overcommit},
	{"max-downtime", 0, "MS", "if it migrates, stop it for so long at most (default 50)",
	 take_max_downtime},
	NODE_OPTION,
	END,
};
static const struct ctl_option drain_options[] = {
	{"max-downtime", 0, "MS", "stop each guest for so long at most (default 50)",
	 take_max_downtime},
	{"bandwidth", 0, "BYTES", "a limit a second, such as 100M", take_bandwidth},
	{"channels", 0, "N", "data connections (default 4)", take_channels},
	{"encrypt", 0, NULL, "seal what is sent", take_encrypt},
	{"overcommit", 0, NULL,
	 "let a guest that spans nodes have more on its lead's node than is free there",
	 take_overcommit},
	END,
};
static const struct ctl_option checkpoint_options[] = {
	{"live", 0, NULL, "let the guest run on while most of its memory is written", take_live},
	NODE_OPTION,
	END,
};
static const struct ctl_option restore_options[] = {
	{"node", 'n', "NODE", "where (default: the node that is asked)", take_node},
	{"vcpus", 0, "a=N,b=N", "of a guest over several nodes: other nodes, or other shares",
	 take_part_vcpus},
	{"memory", 'm', "a=SIZE,..", "the same for its memory", take_part_memory},
	{"overcommit", 0, NULL, "allow more vCPUs or memory than the host has free",
	 take_overcommit},
	END,
};
#define VMS_OPTION                                                                                 \
	{                                                                                          \
		"vms", 0, "A,B,..",                                                                \
			"the VMs; the first one coordinates (default: of the last up)", take_vms   \
	}
static const struct ctl_option pvm_options[] = {VMS_OPTION, END};
static const struct ctl_option pvm_run_options[] = {
	VMS_OPTION,
	{"tasks", 'n', "N", "spawn so many over all VMs (default: run it once, in the first)",
	 take_tasks},
	END,
};
static const struct ctl_option events_options[] = {
	{"node", 'n', "NODE", "of this node only", take_node},
	{"follow", 'f', NULL, "go on printing what happens", take_follow},
	END,
};
static const struct ctl_option init_options[] = {
	{"nodes", 0, "a=ADDRESS[:PORT],..", "the nodes", take_nodes},
	{"file", 'f', "CLUSTERFILE", "the nodes from a cluster file without keys", take_file},
	{"out", 'o', "DIR", "where the result goes; keys that are there are kept", take_out},
	{"name", 0, "NAME", "the cluster's name", take_cluster_name},
	END,
};

const struct ctl_command ctl_commands[] = {
	{"node", "ls", "", 0, 0, "list the nodes of the cluster", NULL,
	 "pangaea node ls\npangaea node ls --json | jq -r '.[] | select(.state!=\"up\").name'",
	 no_options, ctl_node_ls},
	{"node", "info", "[NODE]", 0, 1, "show one node (default: the one that is asked)", NULL,
	 "pangaea node info b", no_options, ctl_node_info},
	{"node", "doctor", "[NODE]", 0, 1, "say what hosts lack, and how to mend it",
	 "Checks KVM, paging settings, the kernel, userfaultfd, the TSC, RDMA, memory, limits,\n"
	 "time, ports and keys, on all nodes or on one. Exits 1 when a check fails.",
	 "pangaea node doctor\npangaea node doctor a --json", no_options, ctl_node_doctor},
	{"node", "drain", "NODE", 1, 1, "move all VMs of a node to the others",
	 "For maintenance: one after another, each to the node with most memory left that takes it.\n"
	 "What a guest that spans nodes has there goes to the node of its devices.\n"
	 "Exits 1 when a VM stays, and says why. New VMs may still be started on the node.",
	 "pangaea node drain a\npangaea node drain a --max-downtime 20 --json", drain_options,
	 ctl_node_drain},
	{"vm", "run", "NAME", 0, 1, "start a VM",
	 "Files are those of the node that runs it. Waits until the VM runs. A VM is gone when it\n"
	 "ends: 'pangaea vm info NAME' says for an hour why one failed, 'pangaea events NAME' all.\n"
	 "With shares (a=..,b=..) one guest spans these nodes, each a NUMA node of it. The first is\n"
	 "the lead: files, disks and interfaces are there. All start, or none. With --together all of it\n"
	 "is on the first, which must have room; 'pangaea vm spread' brings it to other nodes.",
	 "pangaea vm run web --kernel /boot/vmlinuz --initrd /boot/initrd.img --vcpus 2 "
	 "--memory 512M --nic net\n"
	 "pangaea vm run db -f db.yaml --node b --console\n"
	 "pangaea vm run t -k /boot/vmlinuz -m 256M -c 'console=ttyS0' -d /srv/t.img,ro\n"
	 "pangaea vm run big -f vm.yaml --vcpus a=2,b=2 --memory a=512M,b=512M",
	 run_options, ctl_vm_run},
	{"vm", "ls", "", 0, 0, "list the VMs", NULL, "pangaea vm ls\npangaea vm ls -q --node a",
	 ls_options, ctl_vm_ls},
	{"vm", "info", "NAME", 1, 1, "show a VM: state, configuration, devices", NULL,
	 "pangaea vm info web", vm_options, ctl_vm_info},
	{"vm", "console", "NAME", 1, 1, "attach to a VM's console",
	 "First prints what the guest wrote lately. Standard input may be a file or a pipe.",
	 "pangaea vm console web\npangaea vm console web --until 'login:' --timeout 60 </dev/null\n"
	 "pangaea vm console web --escape ctrl-a",
	 console_options, ctl_vm_console},
	{"vm", "start", "NAME", 1, 1, "start a libvirt domain that is off",
	 "VMs of ours are gone when they end, and start by 'pangaea vm run'.",
	 "pangaea vm start db", vm_options, ctl_vm_start},
	{"vm", "stop", "NAME", 1, 1, "press the power button and wait for the end",
	 "Exits 5 when the guest has not powered off within --timeout (default 30).",
	 "pangaea vm stop web --timeout 120", vm_options, ctl_vm_stop},
	{"vm", "kill", "NAME", 1, 1, "end a VM at once", NULL, "pangaea vm kill web", vm_options,
	 ctl_vm_kill},
	{"vm", "pause", "NAME", 1, 1, "stop the vCPUs", NULL, "pangaea vm pause web", vm_options,
	 ctl_vm_pause},
	{"vm", "resume", "NAME", 1, 1, "let the vCPUs go on", NULL, "pangaea vm resume web",
	 vm_options, ctl_vm_resume},
	{"vm", "reset", "NAME", 1, 1, "restart the guest", NULL, "pangaea vm reset web", vm_options,
	 ctl_vm_reset},
	{"vm", "stats", "NAME", 1, 1, "show counters: exits, run times, I/O, shared memory",
	 "Of a guest over several nodes: the faults of each slice by kind, their latency, the pages\n"
	 "and bytes between the slices, and the hottest pages, with --system-map by the kernel's\n"
	 "names, or by the process or file they belong to (right for a guest booted with nokaslr).\n"
	 "Debian keeps no System.map in /boot: take the guest's /proc/kallsyms, as root reads it.\n"
	 "--json has all counters of every slice.",
	 "pangaea vm stats web --watch\npangaea vm stats web --json\n"
	 "pangaea vm stats big --watch --system-map guest-kallsyms",
	 stats_options, ctl_vm_stats},
	{"vm", "heatmap", "NAME", 1, 1, "draw which slice owns what memory over time",
	 "Looks four times a second for --seconds and writes an SVG: a column a look, a row a part\n"
	 "of guest memory, the colour of the slice that owns most of it, strong where it owns all.",
	 "pangaea vm heatmap big -o pages.svg --seconds 30", heatmap_options, ctl_vm_heatmap},
	{"vm", "registers", "NAME", 1, 1, "show the registers of the vCPUs", NULL,
	 "pangaea vm registers web", vm_options, ctl_vm_registers},
	{"vm", "migrate", "NAME", 1, 1, "move a running VM to another node",
	 "The guest runs on while its memory is copied, and stops for some milliseconds at the\n"
	 "end. Whatever breaks meanwhile, one copy runs or is paused, never two: a VM in doubt\n"
	 "waits for the other node's word. Disks must be reachable under the same paths there,\n"
	 "or are copied with --with-disk: raw and qcow2 images in regular files. The copy gets its\n"
	 "name when all of it is there and the guest stands still; the file on the old node stays\n"
	 "as it was then.\n"
	 "postcopy moves the guest at once, and its memory while it runs there already; auto does\n"
	 "so when pre-copy has not come to an end after some rounds. Then both nodes must live\n"
	 "until all has come: a broken link pauses the guest on its new node until --resume.\n"
	 "--resume also ends a doubt by hand, where the other node is dead for good: the VM must\n"
	 "not run there.",
	 "pangaea vm migrate web --to b\n"
	 "pangaea vm migrate web --to b --max-downtime 10 --bandwidth 200M --json\n"
	 "pangaea vm migrate web --to b --mode auto --postcopy-after 5\n"
	 "pangaea vm migrate web --to b --with-disk\n"
	 "pangaea vm migrate web --resume\n"
	 "pangaea vm migrate web --cancel",
	 migrate_options, ctl_vm_migrate},
	{"vm", "spread", "NAME", 1, 1, "move vCPUs of a spanning guest between nodes",
	 "The guest runs on; a vCPU stands for some milliseconds while it moves. Where a slice has left\n"
	 "(consolidate, node drain) another one joins, on its node or on any other: all stand for a\n"
	 "moment, and the memory that is of its part goes there as it is used. There are never more\n"
	 "slices than the guest was started with. All vCPUs that are to move do, or none.",
	 "pangaea vm spread big --vcpus a=2,b=2\npangaea vm spread big --vcpus a=4,b=0",
	 spread_options, ctl_vm_spread},
	{"vm", "consolidate", "NAME", 1, 1, "bring a spanning guest together on one node",
	 "While the guest runs, vCPUs and memory of the other nodes come to the node of its devices,\n"
	 "where there must be room; all of it stands for some milliseconds once for each node that it\n"
	 "leaves. Their slices end. Where NODE is another one it migrates there in the end. With --from\n"
	 "it leaves this node only.",
	 "pangaea vm consolidate big --to a\n"
	 "pangaea vm consolidate big --to a --from c --bandwidth 200M",
	 consolidate_options, ctl_vm_consolidate},
	{"vm", "checkpoint", "NAME FILE", 2, 2, "write a VM's state to a file; it goes on",
	 "FILE is made on the VM's node: whole or not at all, and only its owner may read it. It\n"
	 "holds memory and devices, not the disks: these must not change until it is restored.\n"
	 "With --live the guest stops for the last pages only. Of a guest that spans nodes the node of\n"
	 "its lead needs room for all of its memory.",
	 "pangaea vm checkpoint web /srv/web.ckpt --live", checkpoint_options, ctl_vm_checkpoint},
	{"vm", "restore", "FILE", 1, 1, "start a VM from a checkpoint",
	 "FILE is one of the node. The VM has the name, disks and networks that it had; its clock\n"
	 "goes on where it stood. A guest that spans nodes starts on those that it had, or on those of\n"
	 "--vcpus and --memory; FILE is then one of the first.",
	 "pangaea vm restore /srv/web.ckpt --node b\n"
	 "pangaea vm restore /srv/big.ckpt --vcpus b=2,c=2 --memory b=1G,c=1G",
	 restore_options, ctl_vm_restore},
	{"pvm", "up", "", 0, 0, "make a parallel virtual machine of VMs",
	 "The guests are to be made by 'deploy/guest-image --pvm', or hold pangaea-guest,\n"
	 "pangaea-pvm and our PVM, and to reach one another ('--nic net', an address each).",
	 "pangaea pvm up --vms web,db", pvm_options, ctl_pvm_up},
	{"pvm", "run", "PROGRAM [ARGS]", 1, CTL_REST, "run a PVM program and show its output",
	 "PROGRAM is one of the guests. It goes on while its VMs move. Ctrl-C ends it.",
	 "pangaea pvm run ringcheck 60\npangaea pvm run -n 4 hello", pvm_run_options, ctl_pvm_run},
	{"pvm", "status", "", 0, 0, "show hosts and tasks", NULL, "pangaea pvm status", pvm_options,
	 ctl_pvm_status},
	{"pvm", "console", "", 0, 0, "the PVM console: its commands from standard input", NULL,
	 "echo conf | pangaea pvm console", pvm_options, ctl_pvm_console},
	{"pvm", "down", "", 0, 0, "end its tasks and daemons", NULL, "pangaea pvm down",
	 pvm_options, ctl_pvm_down},
	{"events", NULL, "[VM]", 0, 1, "show what has happened in the cluster", NULL,
	 "pangaea events --follow\npangaea events web", events_options, ctl_events},
	{"init", NULL, "cluster|key FILE", 1, 2, "make keys and the cluster file",
	 "'init cluster' makes in DIR: cluster.yaml, admin.key, and one folder a node, nodes/NAME/,\n"
	 "which is to become /etc/pangaea on that host; admin/ is the same for a workstation.\n"
	 "'init key FILE' makes one key and prints its public half.",
	 "pangaea init cluster --nodes a=10.0.0.1,b=10.0.0.2 --out lab\n"
	 "pangaea init cluster --file cluster.yaml --out lab",
	 init_options, ctl_init},
	{"version", NULL, "", 0, 0, "show the version", NULL, "pangaea version --json", no_options,
	 ctl_version},
	{"completion", NULL, "bash", 1, 1, "print the completion script of a shell", NULL,
	 "eval \"$(pangaea completion bash)\"", no_options, ctl_completion},
};
const size_t ctl_command_count = BASE_ARRAY_LEN(ctl_commands);
