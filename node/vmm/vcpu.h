/*
 * A virtual CPU: its KVM descriptor, its thread and its LAPIC. Only the vCPUs of this slice exist
 * here; those of other slices are APIC ids that the interrupt router forwards to.
 *
 * A vCPU thread runs the guest, serves its exits from the buses and does nothing else. Any thread
 * may kick it; a kick is never lost. A pause is acknowledged by each vCPU with all its I/O
 * finished, and only then may other threads look at or change its state.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include <pthread.h>

#include "base/buf.h"
#include "node/vmm/bus.h"
#include "node/vmm/clock.h"
#include "node/vmm/irqchip.h"
#include "node/vmm/kvm.h"

struct vmm_vcpu;

/* What all vCPUs of this slice share; outlives them. Zero it, then vmm_vcpus_init(). */
struct vmm_vcpus {
	struct vmm_kvm *kvm;
	struct vmm_mem *mem;
	struct vmm_bus *pio, *mmio;
	struct vmm_irqchip *irq;
	struct vmm_clock clock;
	unsigned guest_vcpu_count; /* of the whole guest */
	unsigned package_vcpus;	   /* see cpuid.h */
	/* Memory is shared with other slices: an access may find a page away. */
	bool shared;
	/* The same, for pages that follow a post-copy switch. */
	_Atomic(bool) filling;
	/* Devices are on another slice: does one access of up to 8 bytes there. NULL: pio and mmio. */
	void (*io)(void *opaque, uint32_t apic_id, bool pio, bool write, uint64_t addr,
		   unsigned len, uint8_t *data);

	/*
	 * On the vCPU's thread. failed: it cannot go on; `reason` is one line. debug: it hit a
	 * breakpoint or finished a step. It then holds until it is paused and resumed, so the
	 * callee only passes the news on.
	 */
	void (*failed)(void *opaque, struct vmm_vcpu *v, const char *reason);
	void (*debug)(void *opaque, struct vmm_vcpu *v);
	/* It shut down (triple fault): the machine is to be reset. It holds meanwhile. NULL, or too
	 * often at once: failed() instead. */
	void (*shutdown)(void *opaque, struct vmm_vcpu *v);
	void *opaque;

	struct vmm_vcpu **vcpu;	 /* local ones, and those that have been here; only grows */
	_Atomic(unsigned) count; /* any thread may look at so many of them */

	/* The pause gate. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool paused, stopping; /* under lock */
	bool held_back;	       /* vmm_vcpus_hold_back(); under lock */
	_Atomic(bool) closed;  /* one of them: look under the lock. Set before the kick. */
	unsigned parked;       /* threads at the gate */
	uint64_t paused_tsc;   /* the guest's TSC stands here while paused */
	unsigned shutdowns;    /* in the second from shutdown_tsc on; under lock */
	uint64_t shutdown_tsc;
	bool started, restored; /* paused_tsc was loaded: the start must not take its own */
};

enum vmm_vcpu_exit_kind {
	VMM_EXIT_PIO,
	VMM_EXIT_MMIO,
	VMM_EXIT_LAPIC,
	VMM_EXIT_MSR,
	VMM_EXIT_HLT,
	VMM_EXIT_WINDOW,
	VMM_EXIT_KICK,
	VMM_EXIT_OTHER,
	VMM_EXIT_KINDS,
};

/* How the guest starts: the boot vCPU's registers, everything else as at power-up. */
enum vmm_entry_mode { VMM_ENTRY_RESET_VECTOR, VMM_ENTRY_PROTECTED32, VMM_ENTRY_LONG64 };

struct vmm_entry {
	enum vmm_entry_mode mode;
	uint64_t rip, rsp;
	uint64_t rbx, rsi; /* PVH: start info; Linux 64-bit: boot_params */
	uint64_t cr3;	   /* LONG64: page tables that map the first 4 GiB one to one */
	uint64_t gdt;	   /* guest address of a table of gdt_len bytes */
	uint16_t gdt_len;
	uint16_t cs, ds; /* selectors in it: flat code of the mode, flat data */
};

BASE_MUST_CHECK int vmm_vcpus_init(struct vmm_vcpus *all);
/* Ends all threads of vCPUs. */
void vmm_vcpus_stop(struct vmm_vcpus *all);
/* Stops and frees all vCPUs. */
void vmm_vcpus_fini(struct vmm_vcpus *all);

/*
 * Makes the vCPU with this APIC id (all->count grows); the first one made fixes all->clock. The
 * slice starts paused. -errno.
 */
BASE_MUST_CHECK int vmm_vcpu_new(struct vmm_vcpus *all, uint32_t apic_id, struct vmm_vcpu **out);
/* Starts all threads, at the gate. */
BASE_MUST_CHECK int vmm_vcpus_start(struct vmm_vcpus *all);
/* Returns when each vCPU has acknowledged. Not from a vCPU's thread. Nested calls do not count. */
void vmm_vcpus_pause(struct vmm_vcpus *all);
void vmm_vcpus_resume(struct vmm_vcpus *all);
/* As resume, but the guest's TSC has gone on elsewhere: it is the host's plus `offset`. */
void vmm_vcpus_resume_with(struct vmm_vcpus *all, uint64_t offset);
/* Any thread: clock.offset has changed while vCPUs run; each takes it over before it runs on. */
void vmm_vcpus_new_offset(struct vmm_vcpus *all);
/* Closes the gate and kicks, without waiting: for a slice whose memory has gone away. */
void vmm_vcpus_close(struct vmm_vcpus *all);

/*
 * When it returns no vCPU can get any further in the guest, wherever it is, nor take a page that comes from
 * now on for an instruction, until vmm_vcpus_let_go(). Does not wait: one that sleeps in a page fault goes to
 * the gate when its page has come. Counts as neither pause nor halt. Any thread but a vCPU's.
 */
void vmm_vcpus_hold_back(struct vmm_vcpus *all);
void vmm_vcpus_let_go(struct vmm_vcpus *all);

/* After close, for memory that has come back: whoever did reach the gate goes on, with the clock as it is. */
void vmm_vcpus_reopen(struct vmm_vcpus *all);

/* Any thread. */
void vmm_vcpu_kick(struct vmm_vcpu *v);
uint32_t vmm_vcpu_apic_id(const struct vmm_vcpu *v);
struct vmm_lapic *vmm_vcpu_lapic(const struct vmm_vcpu *v);
uint64_t vmm_vcpu_exits(const struct vmm_vcpu *v, enum vmm_vcpu_exit_kind kind);
/* Where the guest's kernel has its data of this processor; 0: not known. Only of shared memory. */
uint64_t vmm_vcpu_percpu(const struct vmm_vcpu *v);
const char *vmm_vcpu_exit_name(enum vmm_vcpu_exit_kind kind);

/* ---- vCPUs that move between slices: see span_move.c ---- */

enum vmm_vcpu_seat {
	VMM_SEAT_HERE,
	VMM_SEAT_LEAVING,  /* stands still here, while its state goes elsewhere */
	VMM_SEAT_AWAY,	   /* lives elsewhere; interrupts that come here are sent on */
	VMM_SEAT_ARRIVING, /* its state is here, but it may still stay where it was */
};

/* Makes one that is away, with its thread where the others have theirs. Main thread. -errno. */
BASE_MUST_CHECK int vmm_vcpu_new_away(struct vmm_vcpus *all, uint32_t apic_id,
				      struct vmm_vcpu **out);
/* Any thread. NULL: it has never been here. */
struct vmm_vcpu *vmm_vcpus_find(const struct vmm_vcpus *all, uint32_t apic_id);
enum vmm_vcpu_seat vmm_vcpu_seat(const struct vmm_vcpu *v);
static inline bool vmm_vcpu_is_here(const struct vmm_vcpu *v)
{
	return vmm_vcpu_seat(v) < VMM_SEAT_AWAY;
}
/*
 * Has its own thread call fn, between two instructions of the guest and while the guest is not
 * paused. Any thread; the next call may be asked for when fn has begun.
 */
void vmm_vcpu_call(struct vmm_vcpu *v, void (*fn)(void *arg, struct vmm_vcpu *v), void *arg);

/* While paused: interrupts that came to vCPUs which have left go after them. */
void vmm_vcpus_pass_on(struct vmm_vcpus *all);

/* ---- from such a call, or while paused ---- */

void vmm_vcpu_take_seat(struct vmm_vcpu *v, enum vmm_vcpu_seat seat);
/* It has failed, or waits for the debugger or a reset: no state to move. */
bool vmm_vcpu_is_held(const struct vmm_vcpu *v);
/*
 * All of it, LAPIC included: {u32 version, blob} of CPUID, vCPU and LAPIC. unpack, into one that is
 * away, or paused: as the loads; the requests of its LAPIC are those of the pack, or else stay those
 * that came here. Where it fails the vCPU is not to run.
 */
enum { VMM_VCPU_PACK_MAX = 160 << 10 };
void vmm_vcpu_pack(struct vmm_vcpu *v, struct base_wbuf *out);
BASE_MUST_CHECK int vmm_vcpu_unpack(struct vmm_vcpu *v, struct base_rbuf *in, bool requests);

/* ---- only while paused ---- */

/* Power-up state; the boot vCPU (APIC id 0) will start at `entry`, the others wait for SIPI. */
BASE_MUST_CHECK int vmm_vcpu_reset(struct vmm_vcpu *v, const struct vmm_entry *entry);
/* One vCPU without its LAPIC: a few kilobytes. load: -EBADMSG, -EPROTO, -EINVAL (KVM refused). */
enum { VMM_VCPU_STATE_VERSION = 1 };
void vmm_vcpu_save(struct vmm_vcpu *v, struct base_wbuf *out);
BASE_MUST_CHECK int vmm_vcpu_load(struct vmm_vcpu *v, struct base_rbuf *in, uint32_t version);
/*
 * The CPUID leaves that the guest has seen. load, before vmm_vcpu_load() and before it ever ran:
 * -ENOTSUP where they promise what this host has not, -EBADMSG, -EPROTO.
 */
enum { VMM_VCPU_CPUID_VERSION = 1 };
void vmm_vcpu_save_cpuid(struct vmm_vcpu *v, struct base_wbuf *out);
BASE_MUST_CHECK int vmm_vcpu_load_cpuid(struct vmm_vcpu *v, struct base_rbuf *in, uint32_t version);
/* Registers as text. Also from the failed() callback. */
void vmm_vcpu_dump(struct vmm_vcpu *v, char *out, size_t cap);

/* For the debugger. */
BASE_MUST_CHECK int vmm_vcpu_get_regs(struct vmm_vcpu *v, struct kvm_regs *r, struct kvm_sregs *s);
BASE_MUST_CHECK int vmm_vcpu_set_regs(struct vmm_vcpu *v, const struct kvm_regs *r);
BASE_MUST_CHECK int vmm_vcpu_set_debug(struct vmm_vcpu *v, const struct kvm_guest_debug *d);
BASE_MUST_CHECK int vmm_vcpu_translate(struct vmm_vcpu *v, uint64_t linear, uint64_t *gpa);
/* While a step is on, the others stay at the gate: only `v` runs after the next resume; NULL: all.
 */
void vmm_vcpus_run_only(struct vmm_vcpus *all, struct vmm_vcpu *v);
/* Why it last stopped for the debugger, as KVM told it. */
const struct kvm_debug_exit_arch *vmm_vcpu_debug_exit(const struct vmm_vcpu *v);

#endif
