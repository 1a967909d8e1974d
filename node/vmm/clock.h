/*
 * The guest's one clock: its TSC runs at the host's rate with one offset for all vCPUs, and stands
 * still while the guest is paused. kvmclock is a linear function of that TSC for all time, so its
 * pages need no update, and are ordinary guest memory that is saved and moved with the rest.
 */
#ifndef VMM_CLOCK_H
#define VMM_CLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <x86intrin.h>

struct vmm_clock {
	uint64_t tsc_hz;
	bool stable; /* the host's TSC may be trusted: see vmm_kvm.tsc_stable */
	/* The guest sees the host's TSC and nothing can be done about it: offset stays 0, and the
	 * time of a pause passes for the guest. */
	bool fixed;
	/* Guest TSC = host TSC + offset (mod 2^64). Written while no vCPU runs, but for a follower's
	 * small steps: see span_clock.c. */
	_Atomic(uint64_t) offset;
	uint64_t base; /* guest TSC at guest time 0 */
	/* Nanoseconds = (TSC - base) * mul >> (32 - shift), the form that kvmclock gives to the
	 * guest. */
	uint32_t mul;
	int8_t shift;
};

/* Guest time begins now, with a TSC of 0 where that can be. */
void vmm_clock_init(struct vmm_clock *c, uint64_t tsc_hz, bool stable, bool fixed);
/* As init, later: what passed meanwhile did not pass for the guest. Returns the TSC now. */
uint64_t vmm_clock_begin(struct vmm_clock *c);
/* The clock of another slice of this guest, which began it: its rate and base, for all slices. */
void vmm_clock_follow(struct vmm_clock *c, uint64_t tsc_hz, uint64_t base);
/* The guest's TSC is `tsc` now. */
void vmm_clock_set(struct vmm_clock *c, uint64_t tsc);

static inline uint64_t vmm_clock_tsc(const struct vmm_clock *c)
{
	return __rdtsc() + atomic_load_explicit(&c->offset, memory_order_relaxed);
}

/* Guest time of a guest TSC value: what kvmclock shows. */
uint64_t vmm_clock_tsc_to_ns(const struct vmm_clock *c, uint64_t tsc);
/* Nanoseconds that `ticks` last, rounded up. */
uint64_t vmm_clock_ticks_to_ns(const struct vmm_clock *c, uint64_t ticks);

#endif
