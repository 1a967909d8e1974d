/* What vcpu.c, vcpu_exit.c and vcpu_state.c share. */
#ifndef VMM_VCPU_INTERNAL_H
#define VMM_VCPU_INTERNAL_H

#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "node/vmm/msr.h"
#include "node/vmm/vcpu.h"

enum vcpu_activity { VCPU_RUNS = 1, VCPU_HALTED, VCPU_WAIT_SIPI };

/* Where the thread is, so that a kick knows what it takes. */
enum vcpu_place { VCPU_OUTSIDE, VCPU_IN_GUEST, VCPU_ASLEEP };

struct vmm_vcpu {
	struct vmm_vcpus *all;
	uint32_t apic_id;
	int fd;
	struct kvm_run *run;
	struct vmm_lapic *lapic;
	struct vmm_msr_ctx msr;
	struct kvm_cpuid2 *cpuid;
	struct base_wbuf power_up; /* its state as made */

	pthread_t thread;
	bool thread_started;
	pid_t tid;
	timer_t timer;

	_Atomic(uint32_t) pending; /* a futex: 1 after a kick, until the thread looks */
	_Atomic(int) place;	   /* enum vcpu_place */
	_Atomic(uint64_t) exits[VMM_EXIT_KINDS];
	_Atomic(uint64_t) percpu; /* vmm_vcpu_percpu() */

	_Atomic(int) seat; /* enum vmm_vcpu_seat; set by the thread */
	_Atomic(bool) called;
	void (*call)(void *arg, struct vmm_vcpu *v); /* under all->lock */
	void *call_arg;

	/* The thread's own; others only while paused. */
	enum vcpu_activity activity;
	bool held;	    /* failed, or stopped for the debugger */
	bool failed;	    /* until the next reset or load */
	bool excluded;	    /* another vCPU is single-stepped */
	bool io_unfinished; /* KVM_RUN must be called once more to finish the instruction */
	uint64_t deadline;  /* guest TSC of the LAPIC timer, or 0 */
	uint64_t armed;	    /* what the POSIX timer is set for */
	uint64_t offset;    /* of the TSC, as KVM has it */
	unsigned refaults;  /* of shared memory, since the last exit */
	struct kvm_debug_exit_arch debug;
};

/* vcpu_exit.c: serves run->exit_reason. Own thread. */
void vcpu_handle_exit(struct vmm_vcpu *v);
void vcpu_fail(struct vmm_vcpu *v, const char *fmt, ...) BASE_PRINTF(2, 3);
/* Finishes the instruction whose I/O was served, so that the registers are whole. */
void vcpu_finish_io(struct vmm_vcpu *v);

/* vcpu.c */
BASE_MUST_CHECK int vcpu_start(struct vmm_vcpu *v);
/* vcpu_move.c, own thread: what another thread asked for; what came for one that is away. */
void vcpu_take_call(struct vmm_vcpu *v);
void vcpu_pass_on(struct vmm_vcpu *v);

/* vcpu_state.c */
BASE_MUST_CHECK int vcpu_load_power_up(struct vmm_vcpu *v);
BASE_MUST_CHECK int vcpu_enter_sipi(struct vmm_vcpu *v, uint8_t vector);

static inline bool vcpu_sits_here(const struct vmm_vcpu *v)
{
	return atomic_load_explicit(&v->seat, memory_order_relaxed) == VMM_SEAT_HERE;
}

static inline bool vcpu_pages_away(const struct vmm_vcpu *v)
{
	return v->all->shared || atomic_load_explicit(&v->all->filling, memory_order_relaxed);
}

static inline void vcpu_count(struct vmm_vcpu *v, enum vmm_vcpu_exit_kind kind)
{
	/* One writer: no need for a locked add. */
	uint64_t n = atomic_load_explicit(&v->exits[kind], memory_order_relaxed);

	atomic_store_explicit(&v->exits[kind], n + 1, memory_order_relaxed);
}

#endif
