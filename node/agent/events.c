/*
 * What has happened on this node: a ring of the newest, and those who follow. A follower of the
 * whole cluster also follows every other node and passes on what comes; a node that was away is
 * followed again when it is back.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/agent.h"

enum { BATCH = 64, AGAIN_MS = 1000 };

/* One other node of a follower. */
struct source {
	struct follower *follower;
	struct agent_peer *peer;
	struct chan_out *out; /* NULL: not followed now */
	bool again;	      /* its old events have been seen: only new ones from now on */
	uint64_t last_seq;
};

struct follower {
	struct base_list link;
	struct agent *agent;
	struct chan_call *call;
	char vm[TEXT_NAME_MAX];
	bool follow, local;
	uint64_t next;		 /* of our own ring */
	struct base_timer timer; /* looks for nodes that are back */
	size_t source_count, open;
	struct source sources[CLUSTER_MAX_NODES];
};

static bool follower_push(struct follower *f);
static void follower_end(struct follower *f, enum control_code code, const char *text);

/* ---- the ring ---- */

void agent_event(struct agent *a, const char *vm, const char *kind, const char *fmt, ...)
{
	struct agent_event *e = &a->events[(a->event_seq + 1) % AGENT_EVENT_MAX];
	struct timespec now;
	va_list ap;

	clock_gettime(CLOCK_REALTIME, &now);
	e->seq = a->event_seq + 1;
	e->time_ns = (uint64_t)now.tv_sec * (uint64_t)BASE_NS_PER_SEC + (uint64_t)now.tv_nsec;
	snprintf(e->vm, sizeof(e->vm), "%.63s", vm);
	snprintf(e->kind, sizeof(e->kind), "%s", kind);
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	text_clean(e->text);
	a->event_seq++;
	log_info("%s%s%s: %s", e->vm, e->vm[0] ? ": " : "", e->kind, e->text);
	base_list_foreach_safe (f, &a->followers, struct follower, link)
		if (f->follow)
			follower_push(f);
}

/* ---- our own events ---- */

static size_t take_batch(struct follower *f, struct control_event *out)
{
	struct agent *a = f->agent;
	size_t count = 0;

	/* What fell out of the ring is gone. */
	if (f->next + AGENT_EVENT_MAX <= a->event_seq)
		f->next = a->event_seq - AGENT_EVENT_MAX + 1;
	for (; f->next <= a->event_seq && count < BATCH; f->next++) {
		const struct agent_event *e = &a->events[f->next % AGENT_EVENT_MAX];

		if (!f->vm[0] || !strcmp(f->vm, e->vm))
			out[count++] = (struct control_event){e->seq, e->time_ns, a->self->name,
							      e->vm,  e->kind,	  e->text};
	}
	return count;
}

/* Sends what is new; false: the follower has ended. */
static bool follower_push(struct follower *f)
{
	struct control_event batch[BATCH];

	while (f->next <= f->agent->event_seq) {
		uint64_t from = f->next;
		size_t count = take_batch(f, batch);
		int rc = count ? agent_item(f->call, &(struct control_reply){.events = batch,
									     .event_count = count})
			       : 0;

		if (rc == -EAGAIN) {
			f->next = from;
			return true;
		}
		if (rc) {
			follower_end(f, CONTROL_FAILED, "");
			return false;
		}
	}
	return true;
}

/* ---- the other nodes' events ---- */

static void source_item(void *arg, const void *body, size_t len)
{
	struct source *s = arg;
	struct follower *f = s->follower;
	struct control_reply r;
	int rc = control_reply_decode(body, len, &r);
	struct control_event *events;
	size_t count = 0;

	chan_out_grant(s->out, 1);
	if (rc)
		return;
	events = calloc(r.event_count + 1, sizeof(*events));
	for (size_t i = 0; events && i < r.event_count; i++) {
		/* After a reconnection the node tells all that it has: skip what was passed on. */
		if (s->again && r.events[i].seq <= s->last_seq)
			continue;
		s->last_seq = r.events[i].seq;
		events[count++] = r.events[i];
	}
	/* A terminal that cannot follow loses events rather than holding them for ever here. */
	if (count)
		rc = agent_item(f->call,
				&(struct control_reply){.events = events, .event_count = count});
	control_reply_fini(&r);
	free(events);
	if (rc && rc != -EAGAIN)
		follower_end(f, CONTROL_FAILED, "");
}

static void source_done(void *arg, int error, const void *body, size_t len)
{
	struct source *s = arg;
	struct follower *f = s->follower;

	s->out = NULL;
	/* A restarted agent counts from 1 again. */
	if (error)
		s->last_seq = 0;
	s->again = !error;
	f->open--;
	if (!f->follow && f->open == 0)
		follower_end(f, CONTROL_OK, "");
}

static const struct chan_out_ops source_ops = {.item = source_item, .done = source_done};

static void source_start(struct source *s)
{
	struct control_request req = {.op = CONTROL_EVENTS, .local = true};
	uint8_t *body;
	size_t len;

	req.follow = s->follower->follow;
	memcpy(req.vm, s->follower->vm, sizeof(req.vm));
	if (control_request_encode(&req, &body, &len))
		return;
	if (!chan_link_call(s->peer->link, body, len, AGENT_PEER_MS, true, &source_ops, s, &s->out))
		s->follower->open++;
	free(body);
}

static void follower_again(struct base_timer *t)
{
	struct follower *f = base_container_of(t, struct follower, timer);

	for (size_t i = 0; i < f->source_count; i++)
		if (!f->sources[i].out && chan_link_up(f->sources[i].peer->link))
			source_start(&f->sources[i]);
	base_loop_timer(f->agent->loop, t, base_clock_ns() + AGAIN_MS * BASE_NS_PER_MS);
}

/* ---- followers ---- */

static void follower_end(struct follower *f, enum control_code code, const char *text)
{
	for (size_t i = 0; i < f->source_count; i++)
		if (f->sources[i].out)
			chan_out_cancel(f->sources[i].out);
	base_loop_timer_cancel(&f->timer);
	base_list_del(&f->link);
	agent_reply_text(f->call, code, "%s", text);
	free(f);
}

static void follower_credit(void *arg, uint32_t n)
{
	follower_push(arg);
}

static void follower_cancel(void *arg)
{
	follower_end(arg, CONTROL_OK, "");
}

static const struct chan_call_ops follower_ops = {.credit = follower_credit,
						  .cancel = follower_cancel};

static void follow_others(struct follower *f)
{
	struct agent *a = f->agent;

	for (size_t i = 0; i < a->cluster->node_count; i++) {
		struct source *s = &f->sources[f->source_count];

		if (!a->peers[i].link)
			continue;
		f->source_count++;
		s->follower = f;
		s->peer = &a->peers[i];
		source_start(s);
	}
	if (f->follow)
		base_loop_timer(a->loop, &f->timer, base_clock_ns() + AGAIN_MS * BASE_NS_PER_MS);
}

void agent_events(struct agent *a, struct chan_call *call, struct control_request *req)
{
	struct follower *f = calloc(1, sizeof(*f));

	if (!f) {
		control_request_fini(req);
		agent_reply_text(call, CONTROL_FAILED, "out of memory");
		return;
	}
	f->agent = a;
	f->call = call;
	f->follow = req->follow;
	f->local = req->local;
	f->next = 1;
	f->timer.fire = follower_again;
	memcpy(f->vm, req->vm, sizeof(f->vm));
	control_request_fini(req);
	base_list_add(&a->followers, &f->link);
	chan_call_stream(call, &follower_ops, f);
	/* At once, so that silence is not taken for a silent agent. */
	if (f->follow && agent_item(call, &(struct control_reply){0}))
		log_debug("%s does not follow any more", chan_call_user(call));
	if (!follower_push(f))
		return;
	if (!f->local)
		follow_others(f);
	if (!f->follow && f->open == 0)
		follower_end(f, CONTROL_OK, "");
}
