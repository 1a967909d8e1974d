/* The LAPIC's timer. Everything here runs on the vCPU's thread. */
#include "node/vmm/lapic_internal.h"

/* A shorter period would keep the vCPU from running at all. */
#define PERIOD_MIN_NS 50000u
/* vmm_lapic_let_breathe(): the rest after a tick, in times of what it took, and its limit. */
#define REST_TIMES  7
#define REST_MAX_MS 1000

static uint64_t timer_scale(uint64_t v, uint64_t mul, uint64_t div)
{
	unsigned __int128 r = (unsigned __int128)v * mul / div;

	return r > UINT64_MAX ? UINT64_MAX : (uint64_t)r;
}

static uint64_t timer_divisor(const struct vmm_lapic *l)
{
	unsigned code = (l->divide & 3) | (l->divide >> 1 & 4);

	return code == 7 ? 1 : UINT64_C(2) << code;
}

static uint64_t timer_period_tsc(const struct vmm_lapic *l)
{
	uint64_t ticks = l->initial_count * timer_divisor(l);

	if (lapic_timer_mode(l) == LVT_PERIODIC)
		ticks = BASE_MAX(ticks, PERIOD_MIN_NS * (VMM_LAPIC_TIMER_HZ / 1000000000));
	return BASE_MAX(timer_scale(ticks, l->tsc_hz, VMM_LAPIC_TIMER_HZ), UINT64_C(1));
}

void vmm_lapic_let_breathe(struct vmm_lapic *l)
{
	l->breathes = true;
}

/* A tick's last act is to set the next one: that tells how long it took. */
static uint64_t timer_rest(struct vmm_lapic *l, uint64_t tsc)
{
	uint64_t now = l->ops->tsc(l->cpu), max = l->tsc_hz / 1000 * REST_MAX_MS;

	if (l->fired && now > l->fired)
		l->rest_until = now + BASE_MIN(REST_TIMES * (now - l->fired), max);
	else if (l->rest_until > now + max) /* the clock was set back */
		l->rest_until = 0;
	l->fired = 0;
	return tsc ? BASE_MAX(tsc, l->rest_until) : 0;
}

void lapic_timer_set_deadline(struct vmm_lapic *l, uint64_t tsc)
{
	if (l->breathes && lapic_timer_mode(l) != LVT_PERIODIC)
		tsc = timer_rest(l, tsc);
	if (l->deadline == 0 && tsc == 0)
		return;
	l->deadline = tsc;
	l->ops->arm(l->cpu, tsc);
}

void lapic_timer_set_count(struct vmm_lapic *l, uint32_t count)
{
	if (lapic_timer_mode(l) == LVT_TSC_DEADLINE)
		return;
	l->initial_count = count;
	lapic_timer_set_deadline(l, count ? l->ops->tsc(l->cpu) + timer_period_tsc(l) : 0);
}

uint32_t lapic_timer_count(struct vmm_lapic *l)
{
	uint64_t now, left;

	if (l->deadline == 0 || lapic_timer_mode(l) == LVT_TSC_DEADLINE)
		return 0;
	now = l->ops->tsc(l->cpu);
	if (now >= l->deadline)
		return 0;
	left = timer_scale(l->deadline - now, VMM_LAPIC_TIMER_HZ, l->tsc_hz) / timer_divisor(l);
	return (uint32_t)BASE_MIN(left, (uint64_t)l->initial_count);
}

void lapic_timer_set_lvt(struct vmm_lapic *l, uint32_t value)
{
	uint32_t old = lapic_timer_mode(l);

	/* The mode 3 is reserved. */
	if ((value & LVT_MODE) == LVT_MODE)
		value &= ~(uint32_t)LVT_MODE;
	l->lvt[LVT_TIMER] = value;
	if (old != lapic_timer_mode(l) &&
	    (old == LVT_TSC_DEADLINE || lapic_timer_mode(l) == LVT_TSC_DEADLINE)) {
		l->initial_count = 0;
		lapic_timer_set_deadline(l, 0);
	}
}

void lapic_timer_set_divide(struct vmm_lapic *l, uint32_t value)
{
	uint32_t count = lapic_timer_count(l);

	l->divide = value & 11;
	if (count)
		lapic_timer_set_deadline(l, l->ops->tsc(l->cpu) +
						    timer_scale(count * timer_divisor(l), l->tsc_hz,
								VMM_LAPIC_TIMER_HZ));
}

/* The first deadline of the raster that lies ahead: ticks missed while the guest was stopped are
 * not made up for. */
static uint64_t timer_next_period(const struct vmm_lapic *l, uint64_t now)
{
	uint64_t period = timer_period_tsc(l);
	uint64_t next = l->deadline + period;

	return next > now ? next : now + period - (now - l->deadline) % period;
}

void vmm_lapic_timer_expired(struct vmm_lapic *l)
{
	uint64_t now = l->ops->tsc(l->cpu);
	uint32_t lvt = l->lvt[LVT_TIMER];

	if (l->deadline == 0)
		return;
	if (now < l->deadline) {
		l->ops->arm(l->cpu, l->deadline);
		return;
	}
	if (lapic_timer_mode(l) == LVT_PERIODIC) {
		lapic_timer_set_deadline(l, timer_next_period(l, now));
	} else {
		/* The timer that called has fired: nothing is left to disarm. */
		l->deadline = 0;
	}
	if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= VECTOR_MIN) {
		lapic_request(l, (uint8_t)lvt, false);
		l->fired = now;
	}
}
