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
	/* Guest TSC = host TSC + offset (mod 2^64). Written while no vCPU runs. */
	_Atomic(uint64_t) offset;
	/* Nanoseconds = TSC * mul >> (32 - shift), the form that kvmclock gives to the guest. */
	uint32_t mul;
	int8_t shift;
};

/* The guest's TSC is `tsc` now. */
void vmm_clock_init(struct vmm_clock *c, uint64_t tsc_hz, bool stable, uint64_t tsc);
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
