/* The ports of a VM's interfaces on the node's switch. The VMM connects to <dir>/nicN. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "node/agent/vm.h"

static void port_closed(void *arg)
{
	struct agent_nic *nic = arg;

	nic->port = NULL;
}

/* A later connection takes the place of an earlier one: the VMM may come again. */
static void nic_accept(struct base_watch *w, uint32_t events)
{
	struct agent_nic *nic = base_container_of(w, struct agent_nic, listener);
	struct agent_vm *vm = nic->vm;
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), rc;

	if (fd < 0)
		return;
	if (nic->port)
		node_switch_port_remove(nic->port);
	nic->port = NULL;
	rc = node_switch_port_add(vm->agent->net, fd, AGENT_NETWORK, nic->mac, port_closed, nic,
				  &nic->port);
	if (rc) {
		log_warn("%s: no port on the switch: %s", vm->spec.name, strerror(-rc));
		close(fd);
		return;
	}
	node_switch_port_announce(nic->port, nic->mac);
}

static int nic_open(struct agent_nic *nic, size_t index)
{
	struct agent_vm *vm = nic->vm;
	char name[16];
	int fd, rc;

	snprintf(name, sizeof(name), "nic%zu", index);
	fd = vmmctl_listen(vm->dir, name, SOCK_SEQPACKET);
	if (fd < 0)
		return fd;
	nic->listener = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = nic_accept};
	rc = base_loop_add(vm->agent->loop, &nic->listener);
	if (rc) {
		close(fd);
		nic->listener.fd = -1;
	}
	return rc;
}

int agent_nics_open(struct agent_vm *vm)
{
	for (size_t i = 0; i < vm->spec.nic_count; i++) {
		const struct vmspec_nic *n = &vm->spec.nics[i];
		struct agent_nic *nic = &vm->nics[i];
		int rc;

		nic->vm = vm;
		nic->listener.fd = -1;
		if (n->has_mac)
			memcpy(nic->mac, n->mac, sizeof(nic->mac));
		else
			text_mac_derive(vm->spec.name, (unsigned)i, nic->mac);
		if (n->kind != VMSPEC_NIC_NET || !vm->agent->net)
			continue;
		rc = nic_open(nic, i);
		if (rc)
			return rc;
	}
	return 0;
}

void agent_nics_close(struct agent_vm *vm)
{
	for (size_t i = 0; i < vm->spec.nic_count; i++) {
		struct agent_nic *nic = &vm->nics[i];

		if (!nic->vm)
			continue;
		if (nic->port)
			node_switch_port_remove(nic->port);
		nic->port = NULL;
		if (nic->listener.fd >= 0) {
			base_loop_remove(&nic->listener);
			close(nic->listener.fd);
			nic->listener.fd = -1;
		}
	}
}
