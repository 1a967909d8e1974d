/*
 * The guest's one TSC. A follower takes the lead's at GO, as the host's TSC plus an offset, and keeps
 * it in step while the guest runs: two hosts' clocks drift apart by microseconds each second.
 *
 * What is known is what the quickest of several round trips tells (Cristian 1989): the offset, give
 * or take half that round trip. Nothing is changed within that: what a slice tells another takes at
 * least the half round trip by which their clocks may differ, so no message arrives before it was sent.
 * Forward, a step is what any interruption looks like. Backward, it is less than what each vCPU needs
 * to leave and enter the guest, which a step makes it do; only two vCPUs of one slice may be apart by
 * one step, from when the first takes it over until the last does. Linux takes that for no time at all.
 */
#include <errno.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/span_internal.h"

enum {
	START_SAMPLES = 32,
	KEEP_SAMPLES = 8,
	/* A link that breaks meanwhile comes back, or is lost, within that time. */
	SAMPLE_WAIT_MS = VMM_SPAN_WINDOW_MS,
	KEEP_EVERY_MS = 1000,
	STEP_EVERY_MS = 20,
	/* Ticks. An exit, a system call and an entry take more. */
	STEP_BACK_MAX = 2000,
};

/* One sample: the lead's guest TSC, and the host's TSC here before and after. */
static int sample_clock(struct vmm_span *s, uint64_t *before, uint64_t *after, uint64_t *lead)
{
	struct span_msg m = {.type = SPAN_TIME_ASK};
	struct timespec until =
		base_clock_timespec(base_clock_ns() + SAMPLE_WAIT_MS * BASE_NS_PER_MS);
	int err = 0;

	pthread_mutex_lock(&s->lock);
	s->time_told = false;
	m.number = ++s->time_number;
	pthread_mutex_unlock(&s->lock);
	*before = __rdtsc();
	span_send(s, SPAN_LEAD, &m);
	pthread_mutex_lock(&s->lock);
	while (!s->time_told && !s->lost && !err)
		err = pthread_cond_timedwait(&s->changed, &s->lock, &until);
	err = s->time_told ? 0 : -ETIMEDOUT;
	*after = s->time_at;
	*lead = s->time_lead;
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* The offset, give or take *half. */
static int estimate(struct vmm_span *s, int samples, uint64_t *offset, uint64_t *half)
{
	uint64_t best = UINT64_MAX;
	int err = 0;

	pthread_mutex_lock(&s->sampling);
	for (int i = 0; i < samples && !err; i++) {
		uint64_t before, after, lead;

		err = sample_clock(s, &before, &after, &lead);
		if (err || after - before >= best)
			continue;
		best = after - before;
		*offset = lead - (before + best / 2);
		*half = best / 2;
	}
	pthread_mutex_unlock(&s->sampling);
	return err;
}

int vmm_span_sync_clock(struct vmm_span *s, uint64_t *offset)
{
	uint64_t hz, base, half = 0;
	int err = estimate(s, START_SAMPLES, offset, &half);

	if (err)
		return err;
	pthread_mutex_lock(&s->lock);
	hz = s->lead_tsc_hz;
	base = s->lead_base;
	s->clock_runs = true;
	s->clock_number++;
	pthread_mutex_unlock(&s->lock);
	vmm_clock_follow(s->config.clock, hz, base);
	log_debug("span: the lead's clock, known to %llu ticks", (unsigned long long)half);
	return 0;
}

int64_t vmm_span_clock_step(int64_t off, uint64_t half)
{
	int64_t h = half > INT64_MAX ? INT64_MAX : (int64_t)half;

	if (off > h)
		return off - h;
	if (off < -h)
		return BASE_MAX(off + h, -(int64_t)STEP_BACK_MAX);
	return 0;
}

/* Waits for the time to pass. The number of the run of the guest, or 0: it stands. False: the end. */
static bool wait_run(struct vmm_span *s, int64_t ms, uint32_t *number)
{
	struct timespec until = base_clock_timespec(base_clock_ns() + ms * BASE_NS_PER_MS);
	bool go_on;

	pthread_mutex_lock(&s->lock);
	while (!s->lost && !s->stopping)
		if (pthread_cond_timedwait(&s->changed, &s->lock, &until) == ETIMEDOUT)
			break;
	go_on = !s->lost && !s->stopping;
	*number = s->clock_runs ? s->clock_number : 0;
	pthread_mutex_unlock(&s->lock);
	return go_on;
}

/* By what `off` was, unless the guest has stood since. */
static void step_clock(struct vmm_span *s, uint32_t number, uint64_t from, int64_t step)
{
	pthread_mutex_lock(&s->lock);
	if (s->clock_runs && s->clock_number == number &&
	    atomic_compare_exchange_strong(&s->config.clock->offset, &from, from + (uint64_t)step))
		s->config.clock_stepped(s->config.arg);
	s->clock_steps++;
	pthread_mutex_unlock(&s->lock);
}

void span_clock_keep(struct vmm_span *s)
{
	int64_t wait_ms = KEEP_EVERY_MS;
	uint32_t number;

	while (wait_run(s, wait_ms, &number)) {
		uint64_t offset, half, now;
		int64_t step;

		wait_ms = KEEP_EVERY_MS;
		if (!number || s->config.clock->fixed ||
		    estimate(s, KEEP_SAMPLES, &offset, &half) < 0)
			continue;
		now = atomic_load(&s->config.clock->offset);
		step = vmm_span_clock_step((int64_t)(offset - now), half);
		if (step == 0)
			continue;
		step_clock(s, number, now, step);
		wait_ms = STEP_EVERY_MS;
	}
}
