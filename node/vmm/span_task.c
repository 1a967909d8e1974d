/*
 * A slice leaves a guest that runs. Its vCPUs have gone (span_move.c); then
 *
 *   lead                                     others
 *     QUIET ------------------------------>  no request of this slice is under way      (all stand)
 *     REHOME, when all are quiet ---------->  the directory of its pages moves           (all stand)
 *     EVICT ------------------------------>  what it has of pages at home here comes here; DONE again
 *                                            and again, EINPROGRESS until there is nothing left
 *     FORGET, when all have finished ------>  the end of its link will be no failure
 *     LEAVE to the slice, when all know it    it ends
 *
 * Each is a TASK, answered by DONE; one at a time, in the order of the number. A slice does them on
 * its main thread, where the first two wait for other slices, for VMM_SPAN_HALT_MS at most. From REHOME
 * on the guest cannot go on without all.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/span_internal.h"

enum { LOOK_MS = 100 };

/* ---- every slice: doing one ---- */

static void answer(struct vmm_span *s, const struct span_msg *task, int err, uint64_t done,
		   uint64_t total)
{
	struct span_msg m = {
		.type = SPAN_DONE,
		.number = task->number,
		.done = {.op = task->task.op, .error = (uint8_t)-err, .done = done, .total = total},
	};

	if (!span_leads(s))
		span_send(s, SPAN_LEAD, &m);
	else if (span_task_done(s, s->self, &m))
		log_error("span: a task makes no sense to the lead itself");
}

void span_task_answer(struct vmm_span *s, const struct span_msg *task, int err)
{
	answer(s, task, err, 0, 0);
}

/* Nothing of ours is under way; and where a slice is to join, it is still there. */
static int quiet(struct vmm_span *s, unsigned timeout_ms)
{
	int err = dsm_quiesce(s->dsm, timeout_ms);

	return err ? err : span_join_there(s);
}

/* A slice that joins is a member from here on: the end of its link is no news that could be missed. */
static int rehome(struct vmm_span *s, const uint8_t home[VMM_SLICE_MAX])
{
	struct dsm_home homes[VMM_SLICE_MAX];
	const struct vmm_slice_config *c = &s->slices;
	int err = span_join_keep(s);

	if (err)
		return err;
	for (unsigned i = 0; i < c->count; i++)
		homes[i] = (struct dsm_home){vmm_span_first_byte(c, i) / DSM_PAGE_SIZE,
					     c->part[i].memory_bytes / DSM_PAGE_SIZE, home[i]};
	err = dsm_rehome(s->dsm, homes, c->count, VMM_SPAN_HALT_MS);
	if (err)
		return err;
	memcpy(s->home, home, sizeof(s->home));
	span_tell(s, VMM_SPAN_PLACES, NULL);
	return 0;
}

static void look_at_evict(struct base_timer *t)
{
	struct vmm_span *s = base_container_of(t, struct vmm_span, task_timer);
	uint64_t asked, total;
	bool busy = dsm_evict_progress(s->dsm, &asked, &total);

	if (busy)
		base_loop_timer(s->config.main_loop, t, base_clock_ns() + LOOK_MS * BASE_NS_PER_MS);
	answer(s, &s->task, busy ? -EINPROGRESS : 0, asked, total);
}

static void evict(struct vmm_span *s)
{
	int err = dsm_evict(s->dsm, (uint16_t)(1u << s->task.task.slice), s->task.task.rate);

	if (err) {
		answer(s, &s->task, err, 0, 0);
		return;
	}
	s->task_timer.fire = look_at_evict;
	base_loop_timer(s->config.main_loop, &s->task_timer, base_clock_ns());
}

static int forget(struct vmm_span *s, uint8_t slice)
{
	int err = dsm_forget(s->dsm, slice);

	if (err)
		return err;
	atomic_fetch_or(&s->gone, (uint16_t)(1u << slice));
	span_tell(s, VMM_SPAN_PLACES, NULL);
	return 0;
}

/* Main thread. */
static void do_task(void *arg)
{
	struct vmm_span *s = arg;
	struct span_msg m;
	int err = 0;

	pthread_mutex_lock(&s->lock);
	m = s->task = s->next_task;
	pthread_mutex_unlock(&s->lock);
	switch (m.task.op) {
	case SPAN_TASK_QUIET: err = quiet(s, VMM_SPAN_HALT_MS); break;
	case SPAN_TASK_REHOME: err = rehome(s, m.task.home); break;
	case SPAN_TASK_EVICT: evict(s); return;
	case SPAN_TASK_FORGET: err = forget(s, m.task.slice); break;
	case SPAN_TASK_ADMIT:
		err = span_join_admit(s, &m);
		if (!err)
			return;
		break;
	case SPAN_TASK_WELCOME:
	case SPAN_TASK_DROP: err = span_join_task(s, &m); break;
	default: span_tell(s, VMM_SPAN_LEFT, NULL); return;
	}
	answer(s, &m, err, 0, 0);
}

static bool makes_sense(const struct vmm_span *s, const struct span_msg *m)
{
	unsigned slice = m->task.slice;

	for (unsigned i = 0; i < s->slices.count; i++)
		if (m->task.home[i] >= s->slices.count)
			return false;
	if (m->task.op == SPAN_TASK_LEAVE)
		return slice == s->self && slice != SPAN_LEAD;
	return slice < s->slices.count && slice != SPAN_LEAD &&
	       !(slice == s->self && m->task.op >= SPAN_TASK_EVICT);
}

int span_task_asked(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	if (peer != SPAN_LEAD || !makes_sense(s, m))
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	s->next_task = *m;
	pthread_mutex_unlock(&s->lock);
	return base_loop_post(s->config.main_loop, do_task, s);
}

/* ---- lead: having all do one ---- */

static uint16_t bit(unsigned slice)
{
	return (uint16_t)(1u << slice);
}

static uint16_t all_but(const struct vmm_span *s, uint16_t bits)
{
	return (uint16_t)(((1u << s->slices.count) - 1) &
			  ~(unsigned)(bits | atomic_load(&s->gone)));
}

/* Numbers it and sends it to `slices`, without the lead; the lead's own bit is for the caller. */
static void send_out(struct vmm_span *s, uint16_t slices, struct span_msg *m)
{
	pthread_mutex_lock(&s->lock);
	m->number = ++s->task_number;
	s->task_op = m->task.op;
	s->task_slice = m->task.slice;
	s->task_open = slices;
	s->task_error = 0;
	if (m->task.op == SPAN_TASK_EVICT) {
		memset(s->task_done, 0, sizeof(s->task_done));
		memset(s->task_total, 0, sizeof(s->task_total));
	}
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->slices.count; i++)
		if (slices & bit(i) && i != s->self)
			span_send(s, i, m);
}

static void give(struct vmm_span *s, uint16_t slices, enum span_task op, unsigned slice,
		 uint64_t rate, const uint8_t home[VMM_SLICE_MAX], struct span_msg *m)
{
	*m = (struct span_msg){.type = SPAN_TASK,
			       .task = {.op = op, .slice = (uint8_t)slice, .rate = rate}};
	memcpy(m->task.home, home, VMM_SLICE_MAX);
	send_out(s, slices, m);
}

void span_task_give(struct vmm_span *s, uint16_t but, struct span_msg *m)
{
	send_out(s, all_but(s, but), m);
}

/* The main thread takes note of what all have done in the background. */
static void task_is_over(void *arg)
{
	struct vmm_span *s = arg;
	enum span_task op;
	uint8_t slice;
	char why[SPAN_TEXT_MAX] = "";
	struct span_msg m;
	bool over;
	int err;

	pthread_mutex_lock(&s->lock);
	op = s->task_op;
	slice = s->task_slice;
	err = s->task_error;
	over = !s->task_open && op;
	if (over)
		s->task_op = SPAN_TASK_NONE;
	pthread_mutex_unlock(&s->lock);
	if (!over)
		return;
	if (op == SPAN_TASK_ADMIT) {
		span_join_admitted(s, err);
		return;
	}
	if (err)
		snprintf(why, sizeof(why), "slice %u cannot be emptied: %s", slice, strerror(-err));
	if (op == SPAN_TASK_FORGET && !err)
		give(s, bit(slice), SPAN_TASK_LEAVE, slice, 0, s->home, &m);
	span_tell(s, op == SPAN_TASK_EVICT ? VMM_SPAN_EMPTIED : VMM_SPAN_DISMISSED, why);
}

int span_task_done(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	bool background, over;
	int err = 0;

	if (!span_leads(s))
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	/* The answer to a task that has been given up. */
	if ((int32_t)(m->number - s->task_number) < 0 ||
	    (m->number == s->task_number && !s->task_op)) {
		pthread_mutex_unlock(&s->lock);
		return 0;
	}
	if (m->number != s->task_number || m->done.op != s->task_op || !(s->task_open & bit(peer)))
		err = -EPROTO;
	background = s->task_op == SPAN_TASK_EVICT || s->task_op == SPAN_TASK_FORGET ||
		     s->task_op == SPAN_TASK_ADMIT;
	if (!err && m->done.op == SPAN_TASK_EVICT) {
		s->task_done[peer] = m->done.done;
		s->task_total[peer] = m->done.total;
	}
	if (!err && m->done.error != EINPROGRESS) {
		s->task_open &= (uint16_t)~bit(peer);
		s->task_error = m->done.error && !s->task_error ? -m->done.error : s->task_error;
		pthread_cond_broadcast(&s->changed);
	}
	over = !err && !s->task_open;
	pthread_mutex_unlock(&s->lock);
	return over && background ? base_loop_post(s->config.main_loop, task_is_over, s) : err;
}

/* After that much both the slices' own waiting and what comes by the links are over. */
enum { DONE_MS = 2 * VMM_SPAN_HALT_MS };

static struct timespec until(unsigned ms)
{
	return base_clock_timespec(base_clock_ns() + ms * BASE_NS_PER_MS);
}

/* Main thread: has done it here (err); waits for all others that it was given to. */
static int await(struct vmm_span *s, int err, struct timespec end)
{
	pthread_mutex_lock(&s->lock);
	while (!err && s->task_open && !s->lost)
		if (pthread_cond_timedwait(&s->changed, &s->lock, &end) == ETIMEDOUT)
			break;
	if (!err)
		err = s->task_open ? -ETIMEDOUT : s->task_error;
	s->task_op = SPAN_TASK_NONE;
	pthread_mutex_unlock(&s->lock);
	return err;
}

int span_task_do(struct vmm_span *s, enum span_task op, unsigned slice)
{
	struct timespec end = until(DONE_MS);
	struct span_msg m;

	give(s, all_but(s, bit(SPAN_LEAD) | bit(slice)), op, slice, 0, s->home, &m);
	return await(s, span_join_task(s, &m), end);
}

/* `slices` without the lead, which takes part in any case. */
static int quiet_all(struct vmm_span *s, uint16_t slices, unsigned slice, unsigned ms)
{
	struct timespec end = until(ms);
	struct span_msg m;

	give(s, slices, SPAN_TASK_QUIET, slice, 0, s->home, &m);
	return await(s, quiet(s, BASE_MIN(ms, (unsigned)VMM_SPAN_HALT_MS)), end);
}

static int rehome_now(struct vmm_span *s, uint16_t slices, unsigned slice,
		      const uint8_t home[VMM_SLICE_MAX])
{
	struct timespec end = until(DONE_MS);
	struct span_msg m;

	give(s, slices, SPAN_TASK_REHOME, slice, 0, home, &m);
	return await(s, rehome(s, home), end);
}

int vmm_span_rehome(struct vmm_span *s, unsigned from, unsigned to)
{
	uint8_t home[VMM_SLICE_MAX];

	uint16_t slices = all_but(s, bit(SPAN_LEAD));
	int err = quiet_all(s, slices, from, DONE_MS);

	/* Nothing has changed yet. */
	if (err)
		return err == -ETIMEDOUT ? -EAGAIN : err;
	memcpy(home, s->home, sizeof(home));
	for (unsigned i = 0; i < s->slices.count; i++)
		if (home[i] == from)
			home[i] = (uint8_t)to;
	return rehome_now(s, slices, from, home);
}

/* ---- lead: one that is not counted yet ---- */

int vmm_span_is_there(struct vmm_span *s, unsigned slice)
{
	struct timespec end = until(VMM_SPAN_READY_MS);
	struct span_msg m;

	give(s, bit(slice), SPAN_TASK_QUIET, slice, 0, s->home, &m);
	return await(s, span_join_there(s), end);
}

int span_task_ready(struct vmm_span *s, unsigned slice)
{
	return quiet_all(s, all_but(s, bit(SPAN_LEAD)) | bit(slice), slice, VMM_SPAN_READY_MS);
}

int vmm_span_take_in(struct vmm_span *s, unsigned slice)
{
	uint16_t slices = all_but(s, bit(SPAN_LEAD)) | bit(slice);
	uint8_t home[VMM_SLICE_MAX];

	memcpy(home, s->home, sizeof(home));
	home[slice] = (uint8_t)slice;
	return rehome_now(s, slices, slice, home);
}

void vmm_span_evict(struct vmm_span *s, unsigned slice, uint64_t pages_per_s)
{
	struct span_msg m;

	give(s, all_but(s, bit(slice)), SPAN_TASK_EVICT, slice, pages_per_s, s->home, &m);
	s->task = m;
	evict(s);
}

void vmm_span_evicted(struct vmm_span *s, uint64_t *done, uint64_t *total)
{
	*done = *total = 0;
	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < s->slices.count; i++) {
		*done += s->task_done[i];
		*total += s->task_total[i];
	}
	pthread_mutex_unlock(&s->lock);
}

void vmm_span_dismiss(struct vmm_span *s, unsigned slice)
{
	struct span_msg m;

	give(s, all_but(s, bit(slice)), SPAN_TASK_FORGET, slice, 0, s->home, &m);
	answer(s, &m, forget(s, (uint8_t)slice), 0, 0);
}

bool vmm_span_is_gone(const struct vmm_span *s, unsigned slice)
{
	return slice >= s->slices.count || atomic_load(&s->gone) & bit(slice);
}

unsigned vmm_span_home(const struct vmm_span *s, unsigned part)
{
	return s->home[part];
}

bool vmm_span_is_over(const struct vmm_span *s)
{
	return s->dsm && dsm_is_released(s->dsm);
}
