#include "node/vmm/clock.h"

#include "base/clock.h"

/* shift and mul such that ns = (tsc << shift) * mul >> 32, with mul in [2^31, 2^32). */
static void clock_scale(struct vmm_clock *c)
{
	unsigned __int128 ratio = ((unsigned __int128)BASE_NS_PER_SEC << 32) / c->tsc_hz;

	c->shift = 0;
	while (ratio >> 32) {
		ratio >>= 1;
		c->shift++;
	}
	/* Recomputed from the start, to keep the bits that the integer division dropped. */
	while (!(ratio >> 31)) {
		c->shift--;
		ratio = ((unsigned __int128)BASE_NS_PER_SEC << (32 - c->shift)) / c->tsc_hz;
	}
	c->mul = (uint32_t)ratio;
}

void vmm_clock_init(struct vmm_clock *c, uint64_t tsc_hz, bool stable, bool fixed)
{
	c->tsc_hz = tsc_hz;
	c->stable = stable;
	clock_scale(c);
	c->fixed = fixed;
	atomic_store(&c->offset, 0);
	(void)vmm_clock_begin(c);
}

uint64_t vmm_clock_begin(struct vmm_clock *c)
{
	vmm_clock_set(c, 0);
	c->base = c->fixed ? __rdtsc() : 0;
	return c->base;
}

void vmm_clock_follow(struct vmm_clock *c, uint64_t tsc_hz, uint64_t base)
{
	c->tsc_hz = tsc_hz;
	c->base = base;
	clock_scale(c);
}

void vmm_clock_set(struct vmm_clock *c, uint64_t tsc)
{
	if (c->fixed)
		return;
	atomic_store_explicit(&c->offset, tsc - __rdtsc(), memory_order_relaxed);
}

uint64_t vmm_clock_tsc_to_ns(const struct vmm_clock *c, uint64_t tsc)
{
	tsc -= c->base;
	tsc = c->shift < 0 ? tsc >> -c->shift : tsc << c->shift;
	return (uint64_t)(((unsigned __int128)tsc * c->mul) >> 32);
}

uint64_t vmm_clock_ticks_to_ns(const struct vmm_clock *c, uint64_t ticks)
{
	unsigned __int128 ns = (unsigned __int128)ticks * BASE_NS_PER_SEC / c->tsc_hz + 1;

	return ns > INT64_MAX ? INT64_MAX : (uint64_t)ns;
}
