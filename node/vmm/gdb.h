/*
 * A GDB server for the guest (GDB manual, appendix E): one client at a time on 127.0.0.1, each vCPU a
 * thread. While a client is attached and has not continued, the machine is paused.
 *
 * All calls on the loop's thread. Everything that the client sends is bounded and checked, but a
 * client can read and write all guest memory and registers: the port is for the host's own users.
 */
#ifndef VMM_GDB_H
#define VMM_GDB_H

#include "base/loop.h"
#include "node/vmm/vcpu.h"

struct vmm_gdb_ops {
	void (*pause)(void *arg);
	void (*resume)(void *arg);
};

struct vmm_gdb;

/* port 0: any free one, see vmm_gdb_port(). -errno of bind(2). */
BASE_MUST_CHECK int vmm_gdb_new(struct base_loop *loop, uint16_t port, struct vmm_vcpus *vcpus,
				const struct vmm_gdb_ops *ops, void *arg, struct vmm_gdb **out);
void vmm_gdb_free(struct vmm_gdb *g);
uint16_t vmm_gdb_port(const struct vmm_gdb *g);
/* A vCPU hit a breakpoint or finished its step; the machine is paused. */
void vmm_gdb_stopped(struct vmm_gdb *g, struct vmm_vcpu *v);

#endif
