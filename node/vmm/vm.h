/*
 * One virtual machine (its slice on this host): memory, buses, vCPUs, devices, and its life.
 *
 * Two loops: the main loop, whose thread owns everything here and the control socket, and the
 * device loop with a thread of its own (struct vmm_env). vCPU and device threads only post to the
 * main loop.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include "base/loop.h"
#include "node/vmm/config.h"
#include "node/vmm/console.h"
#include "node/vmm/device.h"
#include "node/vmm/vcpu.h"

enum vmm_state { VMM_STARTING = 1, VMM_RUNNING, VMM_PAUSED, VMM_STOPPED, VMM_FAILED };

struct vmm_vm;

struct vmm_vm_ops {
	/* The state or its reason changed; STOPPED and FAILED are final. Main thread. */
	void (*changed)(void *arg, enum vmm_state state, const char *reason);
	/* vmm_vm_places() says something else. */
	void (*places)(void *arg);
	/* A vCPU stopped for the debugger; the VM is paused. */
	void (*debug)(void *arg, struct vmm_vcpu *v);
};

/*
 * Opens, allocates, makes all devices and loads the kernel (or the saved machine); all files that
 * it needs are open afterwards. The guest does not run yet. -errno with one line in why.
 */
BASE_MUST_CHECK int vmm_vm_new(const struct vmm_config *config, struct base_loop *main_loop,
			       const struct vmm_vm_ops *ops, void *arg, char *why,
			       struct vmm_vm **out);
void vmm_vm_free(struct vmm_vm *vm);

/*
 * Makes the threads; the VM is PAUSED then, and stays so until vmm_vm_resume(). A slice of a spanning
 * guest is STARTING until all slices have found each other; then the lead is PAUSED, or with
 * `resume` all of them run.
 */
BASE_MUST_CHECK int vmm_vm_start(struct vmm_vm *vm, bool resume);

/* -EINVAL in a state that has no such step; `why` (may be NULL) says so. */
BASE_MUST_CHECK int vmm_vm_pause(struct vmm_vm *vm);
BASE_MUST_CHECK int vmm_vm_resume(struct vmm_vm *vm);
BASE_MUST_CHECK int vmm_vm_reset(struct vmm_vm *vm);
/* Presses the ACPI power button. */
BASE_MUST_CHECK int vmm_vm_powerdown(struct vmm_vm *vm);
/* Ends the guest at once: STOPPED. */
void vmm_vm_kill(struct vmm_vm *vm, const char *reason);
/* Writes the paused machine to `fd`. */
BASE_MUST_CHECK int vmm_vm_save(struct vmm_vm *vm, int fd);
/*
 * The same of a running machine: it goes on while its memory is written, then pause() is called to
 * stop it for the rest. On a thread of its own; the caller resumes it.
 */
BASE_MUST_CHECK int vmm_vm_save_live(struct vmm_vm *vm, int fd, int (*pause)(void *arg), void *arg);

/*
 * Lead of a spanning guest that runs: has a vCPU go on on another slice. Later calls moved() once,
 * with 0 or -EIO and why the vCPU is where it was. Or -EOPNOTSUPP, -EINVAL, -EALREADY, -EBUSY.
 */
BASE_MUST_CHECK int vmm_vm_move_vcpu(struct vmm_vm *vm, uint32_t apic_id, unsigned slice,
				     void (*moved)(void *arg, int err, const char *why), void *arg);
/*
 * The same for all that a slice has: its vCPUs and its memory go to the slice `to`, at most so many
 * pages a second (0: no limit), and it ends. Meanwhile places() shows how far it is.
 */
BASE_MUST_CHECK int vmm_vm_empty(struct vmm_vm *vm, unsigned slice, unsigned to,
				 uint64_t pages_per_s,
				 void (*done)(void *arg, int err, const char *why), void *arg);
/*
 * The inverse: a slice that has left, or its successor, joins with neither vCPUs nor pages; its part's
 * pages are at home with it from then on. address: where it listens; group: see span.h.
 */
BASE_MUST_CHECK int vmm_vm_join(struct vmm_vm *vm, unsigned slice, const char *address,
				uint64_t group, void (*done)(void *arg, int err, const char *why),
				void *arg);
bool vmm_vm_joins(const struct vmm_vm *vm);
/* It is not to come, and done() says `why`. -EALREADY: it is not joining, or has joined. */
BASE_MUST_CHECK int vmm_vm_join_cancel(struct vmm_vm *vm, unsigned slice, const char *why);
/* What VMMCTL_LINKS says. -EOPNOTSUPP: it leads no guest that spans hosts; -E2BIG. */
BASE_MUST_CHECK int vmm_vm_links(struct vmm_vm *vm, uint8_t key[VMM_SLICE_KEY_LEN], char *addresses,
				 size_t cap);
/* Other slices have, or had until a moment ago, parts of it. */
bool vmm_vm_spans(const struct vmm_vm *vm);
/* Spanning guests: which slice has what. */
void vmm_vm_places(struct vmm_vm *vm, void (*put)(void *arg, const char *name, uint64_t value),
		   void *arg);
/* While vCPUs move, pause, resume and reset are not possible. */
bool vmm_vm_moves(const struct vmm_vm *vm);

enum vmm_state vmm_vm_state(const struct vmm_vm *vm);
const char *vmm_vm_reason(const struct vmm_vm *vm);
const struct vmm_config *vmm_vm_config(const struct vmm_vm *vm);
/* Threads may wait for ever in memory that is gone: the process must end by _exit(2). */
bool vmm_vm_is_lost(const struct vmm_vm *vm);
/* The process must stay who it is: see vmm_span_keeps_user(). */
bool vmm_vm_keeps_user(const struct vmm_vm *vm);
uint64_t vmm_vm_uptime_ns(const struct vmm_vm *vm);
struct vmm_console *vmm_vm_console(struct vmm_vm *vm);
/* The guest channel; NULL where a slice has no devices. */
struct vmm_console *vmm_vm_channel(struct vmm_vm *vm);
/* Tells the guest the size of its terminal; the serial port has none. */
void vmm_vm_console_resize(struct vmm_vm *vm, uint16_t cols, uint16_t rows);
struct vmm_vcpus *vmm_vm_vcpus(struct vmm_vm *vm);
struct vmm_mem *vmm_vm_mem(struct vmm_vm *vm);
/* The head of the list of struct vmm_device.link. */
const struct base_list *vmm_vm_devices(const struct vmm_vm *vm);
void vmm_vm_stats(struct vmm_vm *vm, void (*put)(void *arg, const char *name, uint64_t value),
		  void *arg);
/* As vmm_span_pagemap(); false: all of it is here. */
bool vmm_vm_pagemap(struct vmm_vm *vm, unsigned parts, uint8_t *out);
/* Of so many pages of guest memory from gpa on, the bytes that are here: their number, see VMMCTL_PEEK.
 * Waits for no page. -EFAULT: no memory there. Main thread. */
BASE_MUST_CHECK ssize_t vmm_vm_peek(struct vmm_vm *vm, uint64_t gpa, unsigned pages, uint8_t *out);
/* Registers of all vCPUs as text; pauses a running VM for a moment. */
void vmm_vm_dump(struct vmm_vm *vm, char *out, size_t cap);

#endif
