/*
 * The ports of a VM's interfaces on the node's switch. Each is a pair of sockets: one end is the
 * VMM's interface, the other the switch's port. The VMM's process also keeps the switch's end open,
 * unused: so the guest's link stays up while no agent is there, and the next agent takes that end
 * back out of the process by pidfd_getfd(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>

#include "base/log.h"
#include "node/agent/vm.h"

/* Above what the descriptors become in the child, so that moving them there overwrites none. */
enum { PARK_FROM = 64 };

static void port_closed(void *arg)
{
	struct agent_nic *nic = arg;

	nic->port = NULL;
}

static bool on_switch(const struct agent_vm *vm, size_t i)
{
	return vm->spec.nics[i].kind == VMSPEC_NIC_NET && vm->agent->net;
}

/* Takes fd over, also on failure. */
static int nic_plug(struct agent_vm *vm, struct agent_nic *nic, int fd)
{
	int rc = node_switch_port_add(vm->agent->net, fd, AGENT_NETWORK, nic->mac, port_closed, nic,
				      &nic->port);

	if (rc) {
		close(fd);
		return rc;
	}
	/* A guest that is still to come is elsewhere until it runs here. */
	if (!vm->incoming)
		node_switch_port_announce(nic->port, nic->mac);
	return 0;
}

void agent_nics_announce(struct agent_vm *vm)
{
	for (size_t i = 0; i < vm->spec.nic_count; i++)
		if (vm->nics[i].port)
			node_switch_port_announce(vm->nics[i].port, vm->nics[i].mac);
}

static int park(int fd, int *out)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, PARK_FROM);

	if (high < 0)
		return -errno;
	*out = high;
	return 0;
}

static int nic_make(struct agent_vm *vm, struct agent_nic *nic)
{
	int fds[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds))
		return -errno;
	rc = park(fds[0], &nic->child_fd[0]);
	close(fds[0]);
	if (!rc)
		rc = park(fds[1], &nic->child_fd[1]);
	if (rc) {
		close(fds[1]);
		return rc;
	}
	return nic_plug(vm, nic, fds[1]);
}

static void nics_init(struct agent_vm *vm)
{
	for (size_t i = 0; i < vm->spec.nic_count; i++) {
		const struct vmspec_nic *n = &vm->spec.nics[i];
		struct agent_nic *nic = &vm->nics[i];

		nic->child_fd[0] = nic->child_fd[1] = -1;
		if (n->has_mac)
			memcpy(nic->mac, n->mac, sizeof(nic->mac));
		else
			text_mac_derive(vm->spec.name, (unsigned)i, nic->mac);
	}
}

int agent_nics_open(struct agent_vm *vm)
{
	int rc = 0;

	nics_init(vm);
	for (size_t i = 0; !rc && i < vm->spec.nic_count; i++)
		if (on_switch(vm, i))
			rc = nic_make(vm, &vm->nics[i]);
	return rc;
}

void agent_nics_unpark(struct agent_vm *vm)
{
	for (size_t i = 0; i < vm->spec.nic_count; i++) {
		for (int end = 0; end < 2; end++) {
			if (vm->nics[i].child_fd[end] >= 0)
				close(vm->nics[i].child_fd[end]);
			vm->nics[i].child_fd[end] = -1;
		}
	}
}

void agent_nics_take_back(struct agent_vm *vm)
{
	nics_init(vm);
	for (size_t i = 0; i < vm->spec.nic_count; i++) {
		int fd, type = 0, rc;
		socklen_t len = sizeof(type);

		if (!on_switch(vm, i))
			continue;
		fd = pidfd_getfd(vm->process.fd, AGENT_NIC_FD(i) + 1, 0);
		rc = fd < 0 ? -errno : 0;
		if (!rc &&
		    (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_SEQPACKET)) {
			close(fd);
			rc = -ENOTSOCK;
		}
		if (!rc)
			rc = nic_plug(vm, &vm->nics[i], fd);
		if (rc)
			log_warn("%s: interface %zu is cut off: %s", vm->spec.name, i,
				 strerror(-rc));
	}
}

void agent_nics_close(struct agent_vm *vm)
{
	for (size_t i = 0; i < vm->spec.nic_count; i++) {
		if (vm->nics[i].port)
			node_switch_port_remove(vm->nics[i].port);
		vm->nics[i].port = NULL;
	}
	agent_nics_unpark(vm);
}
