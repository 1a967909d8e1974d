/* What vm.c, vm_state.c and machine.c share. */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include <stdatomic.h>

#include "node/vmm/boot.h"
#include "node/vmm/fill.h"
#include "node/vmm/gather.h"
#include "node/vmm/populate.h"
#include "node/vmm/span.h"
#include "node/vmm/vm.h"

/* What other threads ask of the main thread. */
enum vm_request {
	VM_REQUEST_RESET = 1 << 0,
	VM_REQUEST_POWEROFF = 1 << 1,
	VM_REQUEST_FAILED = 1 << 2,
	VM_REQUEST_DEBUG = 1 << 3,
	VM_REQUEST_QUIT = 1 << 4, /* by the person at the terminal */
};

enum {
	VM_REASON_MAX = 320,
	/* Hosts whose TSC rates differ by more than 1 in this need scaling: 250 in a million. */
	VM_TSC_TOLERANCE = 4000,
};

/* A slice that is about to leave: vm_empty.c. */
struct vm_empty {
	int phase; /* 0: none is */
	unsigned slice, to;
	uint64_t rate;
	uint64_t moved; /* vCPUs that have been sent off; bits */
	int64_t stood_ns;
	char why[VM_REASON_MAX];
	void (*done)(void *arg, int err, const char *why);
	void *arg;
};

/* A slice that is about to join: vm_join.c. */
struct vm_join {
	bool on;
	unsigned slice;
	int64_t stood_ns;
	struct base_timer timer;
	void (*done)(void *arg, int err, const char *why);
	void *arg;
};

struct vmm_vm {
	struct vmm_config config;
	const struct vmm_vm_ops *ops;
	void *arg;
	struct base_loop *main_loop;
	enum vmm_state state;
	char reason[VM_REASON_MAX];
	int64_t started_ns;
	bool incoming;		       /* the machine is still to come, by migration */
	struct vmm_populate *populate; /* runs ahead of it, or NULL */
	struct vmm_gather *gather;     /* puts it in huge pages, or NULL */
	struct vmm_huge_plan huge;     /* what the kernel's loader has left to do */
	struct vmm_fill *fill;	       /* for the case of post-copy; NULL: not possible */
	_Atomic(bool) filling;	       /* it runs, and pages are missing */
	unsigned when_filled;	       /* enum vm_request that wait for them */

	struct vmm_kvm kvm;
	struct vmm_mem *mem;
	struct vmm_bus *pio, *mmio;
	struct vmm_irqchip *irq;
	struct vmm_vcpus vcpus;
	bool vcpus_ready;
	struct vmm_entry entry; /* of the boot vCPU, at the next reset */
	struct vmm_span *span;	/* NULL: a guest on one host */
	bool lost;		/* its memory */
	bool resume_when_linked;
	/* The lead's thread that saves or loads memory waits for pages, and cannot be stopped. */
	_Atomic(bool) transfer;
	int restore_fd; /* until all slices are there; -1 */
	pthread_t loader;
	int load_error;
	char load_why[VMM_WHY_MAX];
	bool reset_after_move;				    /* asked for while a vCPU moved */
	void (*moved)(void *arg, int err, const char *why); /* of vmm_vm_move_vcpu() */
	void *moved_arg;
	struct vm_empty empty;
	struct vm_join join;
	bool ending;		     /* a follower that has asked the lead for the end */
	struct base_timer end_timer; /* then it ends without the lead */

	struct vmm_env env;
	struct base_loop *device_loop;
	pthread_t device_thread;
	bool device_thread_started;
	struct base_list devices;
	struct vmm_device *serial, *pm; /* of the list, for what only they can do */
	struct vmm_device *hvc;		/* virtio-console */
	struct vmm_device *balloon;	/* NULL in a spanning guest */
	struct vmm_console *console;	/* on the device loop */
	struct vmm_device *channel_dev; /* the second virtio-console: the guest channel */
	struct vmm_console *channel;	/* who talks to the guest's helper through it */
	bool serial_listened;		/* of the device loop's thread */
	struct vmm_virtio_slot slots[VMM_VIRTIO_MAX]; /* taken by virtio devices */
	unsigned slot_count;
	int kernel_fd, initrd_fd;

	pthread_mutex_t request_lock; /* guards what follows */
	unsigned requests;	      /* enum vm_request */
	char failure[VM_REASON_MAX];
	struct vmm_vcpu *debug_vcpu;
};

/* vm.c: any thread. */
void vm_request(struct vmm_vm *vm, enum vm_request what);

/* vm.c: the last missing page is here. Main thread. */
void vm_filled(struct vmm_vm *vm);

/* vm.c: all of this slice; states. Main thread. */
/* Everything stands (or vm->lost), and goes on. */
void vm_halt_all(struct vmm_vm *vm);
BASE_MUST_CHECK int vm_go_all(struct vmm_vm *vm);
/* The vCPUs that are here to their power-up state; the boot vCPU to vm->entry. */
BASE_MUST_CHECK int vm_reset_vcpus(struct vmm_vm *vm);
/* The file of --restore, at the machine. */
BASE_MUST_CHECK int vm_open_restore(struct vmm_vm *vm, int *fd, char *why);
void vm_set_state(struct vmm_vm *vm, enum vmm_state state, const char *reason);
bool vm_is_final(const struct vmm_vm *vm);
void vm_finish(struct vmm_vm *vm, enum vmm_state state, const char *reason);

/* vm_span.c: what is different for a slice of a spanning guest; all fine without a span. */
BASE_MUST_CHECK int vm_span_new(struct vmm_vm *vm, char *why);
BASE_MUST_CHECK int vm_span_start(struct vmm_vm *vm, bool resume);
static inline bool vm_follows(const struct vmm_vm *vm)
{
	return vmm_config_follows(&vm->config);
}
/* vm_empty.c: what the slices have done; without a slice that leaves all of it is nothing. */
void vm_empty_moved(struct vmm_vm *vm, const char *why);
void vm_empty_evicted(struct vmm_vm *vm, const char *why);
void vm_empty_dismissed(struct vmm_vm *vm, const char *why);
void vm_empty_end(struct vmm_vm *vm);
bool vm_empty_is_on(const struct vmm_vm *vm);
bool vm_empty_moves_vcpus(const struct vmm_vm *vm);
/* vm_join.c: the same for one that joins. */
void vm_join_admitted(struct vmm_vm *vm, const char *why);
void vm_join_end(struct vmm_vm *vm);
bool vm_join_is_on(const struct vmm_vm *vm);
/* A vCPU that was moving does not any more, because the guest has ended. */
void vm_span_end_move(struct vmm_vm *vm);
/* Follower: the end is the lead's to decide; true: it was asked, and the caller does nothing. */
bool vm_span_ask_end(struct vmm_vm *vm, enum vmm_state state, const char *reason);

/* machine.c: the console alone, for a slice without devices. */
BASE_MUST_CHECK int vm_make_console(struct vmm_vm *vm, char *why);
/* machine.c: the devices of this machine. `why` gets one line on failure. */
BASE_MUST_CHECK int vm_make_devices(struct vmm_vm *vm, char *why);
/* Loads the kernel into zeroed memory and puts all vCPUs at their start. */
BASE_MUST_CHECK int vm_boot(struct vmm_vm *vm, char *why);
BASE_MUST_CHECK int vm_press_power_button(struct vmm_vm *vm);

/* vm_state.c: everything of a saved machine from `fd`; all but the memory to `fd`. Paused. */
BASE_MUST_CHECK int vm_load(struct vmm_vm *vm, int fd, char *why);

/* Images that another host is to use (virtio_blk.h), while the guest stands, or runs still. Waits some seconds for
 * who has one and is about to end. */
void vm_disks_release_soon(struct vmm_vm *vm);
BASE_MUST_CHECK int vm_disks_release(struct vmm_vm *vm);
BASE_MUST_CHECK int vm_disks_acquire(struct vmm_vm *vm, char *why);
BASE_MUST_CHECK int vm_save_machine(struct vmm_vm *vm, int fd);

#endif
