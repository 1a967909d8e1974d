/*
 * A vCPU goes from one slice to another while the guest runs. The lead orders it, one at a time.
 *
 *   lead                    target (B)                source (A)
 *     |---PREPARE------------->| makes its vCPU, away      |
 *     |<--READY----------------|                           |
 *     |---LEAVE------------------------------------------->| the vCPU stands still
 *     |                        |<--STATE...----------------| its registers, LAPIC without requests
 *     |                        |---LOADED----------------->| commit: routes to B, is away here
 *     |                        |<--IRQ...------------------| the requests that its LAPIC had
 *     |                        |<--COMMIT------------------|
 *     |<--PLACE (to all)-------| runs there                |
 *
 * Until A commits it can run on at A, and does when B says REFUSED; from then on nothing can fail. A
 * slice keeps the vCPU's KVM descriptor, thread and LAPIC when it has left. Whoever does not know
 * yet that it has moved sends its interrupts to where it was; the LAPIC there keeps them, and the
 * vCPU's thread sends them on. So each request goes to exactly one LAPIC at a time, and from one to
 * the next by an atomic exchange.
 *
 * PLACE has a number, because two of them come by different links; so do IDS, which therefore count
 * only while their sender has the vCPU. Two messages for one vCPU that take the old and the new way may
 * overtake each other; only an INIT and its SIPI care, and those Linux sends twice.
 *
 * Receivers check and set under the lock; whatever waits or sends happens on the main thread or on the
 * vCPU's. A move between two pauses of the guest ends before the second, as control.c sees to.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/span_internal.h"

#include <xxhash.h>

/* Two slices' clocks are known to each other that well; beyond, something else is wrong. */
enum { CLOCK_WAIT_MS = 20, STATE_HEAD = 16 };

void span_move_init(struct vmm_span *s)
{
	unsigned slice = 0, count = vmm_span_first_vcpu(&s->slices, s->slices.count);

	for (unsigned i = 0; i < VMM_VCPU_MAX; i++) {
		while (i < count && i >= vmm_span_first_vcpu(&s->slices, slice + 1))
			slice++;
		atomic_store(&s->where[i], i < count ? (uint8_t)slice : UINT8_MAX);
	}
}

unsigned vmm_span_where(const struct vmm_span *s, uint32_t apic_id)
{
	return span_where(s, apic_id);
}

/* Not on the service thread. */
static void send(struct vmm_span *s, unsigned peer, const struct span_msg *m)
{
	if (peer != s->self) {
		span_send(s, peer, m);
		return;
	}
	if (span_move_handle(s, s->self, m))
		log_error("span: a move makes no sense to its own slice");
}

static void send_step(struct vmm_span *s, unsigned to, const struct span_move *v,
		      enum span_step step, const char *text)
{
	struct span_msg m = {
		.type = SPAN_MOVE,
		.number = v->vcpu,
		.move = {.move = v->number, .step = step, .peer = v->peer},
	};

	snprintf(m.move.text, sizeof(m.move.text), "%s", text);
	send(s, to, &m);
}

static struct span_move copy(struct vmm_span *s, const struct span_move *which)
{
	struct span_move v;

	pthread_mutex_lock(&s->lock);
	v = *which;
	pthread_mutex_unlock(&s->lock);
	return v;
}

static void set_phase(struct vmm_span *s, struct span_move *which, enum span_move_phase phase)
{
	pthread_mutex_lock(&s->lock);
	which->phase = phase;
	pthread_mutex_unlock(&s->lock);
}

/* ---- lead ---- */

int vmm_span_move(struct vmm_span *s, uint32_t apic_id, unsigned slice)
{
	unsigned count = vmm_span_first_vcpu(&s->slices, s->slices.count);
	struct span_move v = {.phase = SPAN_MOVE_ASKED, .vcpu = apic_id, .peer = (uint8_t)slice};
	struct span_move to_target;
	bool busy;

	if (apic_id >= count || vmm_span_is_gone(s, slice))
		return -EINVAL;
	if (span_where(s, apic_id) == slice)
		return -EALREADY;
	pthread_mutex_lock(&s->lock);
	busy = s->led.phase != SPAN_MOVE_NONE;
	if (!busy) {
		v.number = s->led.number + 1;
		s->led = v;
		s->led_from = (uint8_t)span_where(s, apic_id);
		s->failure[0] = 0;
	}
	to_target = s->led;
	to_target.peer = s->led_from;
	pthread_mutex_unlock(&s->lock);
	if (busy)
		return -EBUSY;
	send_step(s, slice, &to_target, SPAN_STEP_PREPARE, "");
	return 0;
}

bool vmm_span_moves(struct vmm_span *s)
{
	return copy(s, &s->led).phase != SPAN_MOVE_NONE;
}

/* Main thread. */
static void lead_goes_on(void *arg)
{
	struct vmm_span *s = arg;
	struct span_move v = copy(s, &s->led);
	char failure[SPAN_TEXT_MAX];

	if (v.phase == SPAN_MOVE_READY) {
		set_phase(s, &s->led, SPAN_MOVE_LEAVING);
		send_step(s, s->led_from, &v, SPAN_STEP_LEAVE, "");
	} else if (v.phase == SPAN_MOVE_OVER) {
		pthread_mutex_lock(&s->lock);
		s->led.phase = SPAN_MOVE_NONE;
		memcpy(failure, s->failure, sizeof(failure));
		pthread_mutex_unlock(&s->lock);
		span_tell(s, VMM_SPAN_MOVED, failure);
	}
}

/* What the two say to the lead. Under the lock. */
static int tell_lead(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	struct span_move *v = &s->led;

	if (!span_leads(s) || v->number != m->move.move || v->vcpu != m->number ||
	    v->phase == SPAN_MOVE_NONE || v->phase == SPAN_MOVE_OVER ||
	    (peer != v->peer && peer != s->led_from))
		return -EPROTO;
	if (m->move.step == SPAN_STEP_FAILED) {
		snprintf(s->failure, sizeof(s->failure), "%s",
			 m->move.text[0] ? m->move.text : "it failed");
		v->phase = SPAN_MOVE_OVER;
	} else if (v->phase != SPAN_MOVE_ASKED || peer != v->peer) {
		return -EPROTO;
	} else {
		v->phase = SPAN_MOVE_READY;
	}
	return 0;
}

static int lead_hears(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	int err;

	pthread_mutex_lock(&s->lock);
	err = tell_lead(s, peer, m);
	pthread_mutex_unlock(&s->lock);
	return err ? err : base_loop_post(s->config.main_loop, lead_goes_on, s);
}

/* ---- source ---- */

static void source_fails(struct vmm_span *s, const char *text)
{
	struct span_move v = copy(s, &s->out);

	set_phase(s, &s->out, SPAN_MOVE_NONE);
	send_step(s, SPAN_LEAD, &v, SPAN_STEP_FAILED, text);
}

static void fail_text(struct vmm_span *s, const char *what, const char *why,
		      char text[SPAN_TEXT_MAX])
{
	snprintf(text, SPAN_TEXT_MAX, "slice %u (%.60s): %.60s: %.60s", s->self,
		 s->slices.peer[s->self], what, why);
}

static void send_state(struct vmm_span *s, const struct span_move *v, const struct base_wbuf *b)
{
	struct span_msg m = {.type = SPAN_STATE,
			     .number = v->vcpu,
			     .state = {.move = v->number, .total = (uint32_t)b->len}};

	for (size_t at = 0; at < b->len; at += m.state.len) {
		m.state.offset = (uint32_t)at;
		m.state.len = (uint8_t)BASE_MIN(b->len - at, (size_t)SPAN_STATE_MAX);
		memcpy(m.state.data, b->data + at, m.state.len);
		span_send(s, v->peer, &m);
	}
}

/* The vCPU's thread. */
static void leave(void *arg, struct vmm_vcpu *vcpu)
{
	struct vmm_span *s = arg;
	struct span_move v = copy(s, &s->out);
	char text[SPAN_TEXT_MAX];
	struct base_wbuf b;
	uint64_t sum;

	if (vmm_vcpu_is_held(vcpu)) {
		fail_text(s, "the vCPU cannot move", "it has failed or is being debugged", text);
		source_fails(s, text);
		return;
	}
	vmm_vcpu_take_seat(vcpu, VMM_SEAT_LEAVING);
	base_wbuf_init(&b, VMM_VCPU_PACK_MAX);
	/* When it stood still, and a checksum of what comes behind both. */
	base_wbuf_u64(&b, vmm_clock_tsc(s->config.clock));
	base_wbuf_u64(&b, 0);
	vmm_vcpu_pack(vcpu, &b);
	if (b.error) {
		vmm_vcpu_take_seat(vcpu, VMM_SEAT_HERE);
		fail_text(s, "the vCPU's state cannot be read", strerror(-b.error), text);
		source_fails(s, text);
	} else {
		sum = XXH3_64bits(b.data + STATE_HEAD, b.len - STATE_HEAD);
		for (unsigned i = 0; i < 8; i++)
			b.data[8 + i] = (uint8_t)(sum >> (8 * i));
		set_phase(s, &s->out, SPAN_MOVE_READY);
		send_state(s, &v, &b);
	}
	base_wbuf_fini(&b);
}

static void stay(void *arg, struct vmm_vcpu *vcpu)
{
	struct vmm_span *s = arg;
	char why[SPAN_TEXT_MAX];

	pthread_mutex_lock(&s->lock);
	memcpy(why, s->failure, sizeof(why));
	pthread_mutex_unlock(&s->lock);
	vmm_vcpu_take_seat(vcpu, VMM_SEAT_HERE);
	source_fails(s, why);
}

static void send_request(void *arg, const struct vmm_irq_msg *irq)
{
	struct vmm_span *s = arg;
	struct span_msg m = {.type = SPAN_IRQ, .number = irq->dest, .irq = *irq};

	span_send(s, span_where(s, irq->dest), &m);
}

static void hand_over(void *arg, struct vmm_vcpu *vcpu)
{
	struct vmm_span *s = arg;
	struct span_move v = copy(s, &s->out);

	pthread_mutex_lock(&s->lock);
	atomic_store(&s->where[v.vcpu], v.peer);
	s->placed[v.vcpu] = v.number;
	s->out.phase = SPAN_MOVE_NONE;
	pthread_mutex_unlock(&s->lock);
	vmm_irqchip_detach(s->config.irq, v.vcpu);
	vmm_lapic_take_requests(vmm_vcpu_lapic(vcpu), send_request, s);
	vmm_vcpu_take_seat(vcpu, VMM_SEAT_AWAY);
	send_step(s, v.peer, &v, SPAN_STEP_COMMIT, "");
}

static int source_asked(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	struct vmm_vcpu *vcpu = vmm_vcpus_find(s->config.vcpus, m->number);
	bool fits;

	pthread_mutex_lock(&s->lock);
	fits = peer == SPAN_LEAD && vcpu && span_where(s, m->number) == s->self &&
	       s->out.phase == SPAN_MOVE_NONE && m->move.peer < s->slices.count &&
	       m->move.peer != s->self;
	if (fits)
		s->out = (struct span_move){.phase = SPAN_MOVE_ASKED,
					    .number = m->move.move,
					    .vcpu = m->number,
					    .peer = m->move.peer};
	pthread_mutex_unlock(&s->lock);
	if (!fits)
		return -EPROTO;
	vmm_vcpu_call(vcpu, leave, s);
	return 0;
}

/* The target has loaded the state, or cannot. */
static int source_answered(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	bool loaded = m->move.step == SPAN_STEP_LOADED, fits;

	pthread_mutex_lock(&s->lock);
	fits = s->out.phase == SPAN_MOVE_READY && peer == s->out.peer && m->number == s->out.vcpu &&
	       m->move.move == s->out.number;
	if (fits && !loaded)
		memcpy(s->failure, m->move.text, sizeof(s->failure));
	if (fits)
		s->out.phase = SPAN_MOVE_LEAVING;
	pthread_mutex_unlock(&s->lock);
	if (!fits)
		return -EPROTO;
	vmm_vcpu_call(vmm_vcpus_find(s->config.vcpus, m->number), loaded ? hand_over : stay, s);
	return 0;
}

/* ---- target ---- */

static void target_text(struct vmm_span *s, const char *what, int err, char text[SPAN_TEXT_MAX])
{
	fail_text(s, what, err == -ENOTSUP ? "its CPU lacks features of the guest" : strerror(-err),
		  text);
}

/* Main thread. */
static void prepare(void *arg)
{
	struct vmm_span *s = arg;
	struct span_move v = copy(s, &s->in);
	struct vmm_vcpu *vcpu = vmm_vcpus_find(s->config.vcpus, v.vcpu);
	char text[SPAN_TEXT_MAX];
	int err = vcpu ? 0 : vmm_vcpu_new_away(s->config.vcpus, v.vcpu, &vcpu);

	if (!err) {
		send_step(s, SPAN_LEAD, &v, SPAN_STEP_READY, "");
		return;
	}
	set_phase(s, &s->in, SPAN_MOVE_NONE);
	target_text(s, "no vCPU can be made", err, text);
	send_step(s, SPAN_LEAD, &v, SPAN_STEP_FAILED, text);
}

static int target_asked(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	bool fits;

	pthread_mutex_lock(&s->lock);
	fits = peer == SPAN_LEAD && span_where(s, m->number) < s->slices.count &&
	       span_where(s, m->number) != s->self && m->move.peer < s->slices.count &&
	       m->move.peer != s->self &&
	       (s->in.phase == SPAN_MOVE_NONE || s->in.phase == SPAN_MOVE_ASKED);
	if (fits) {
		s->in = (struct span_move){.phase = SPAN_MOVE_ASKED,
					   .number = m->move.move,
					   .vcpu = m->number,
					   .peer = m->move.peer};
		s->state_len = s->state_total = 0;
	}
	pthread_mutex_unlock(&s->lock);
	return fits ? base_loop_post(s->config.main_loop, prepare, s) : -EPROTO;
}

static int unpack(struct vmm_span *s, struct vmm_vcpu *vcpu, uint64_t *tsc)
{
	struct base_rbuf b;
	uint64_t sum;

	base_rbuf_init(&b, s->state, s->state_total);
	*tsc = base_rbuf_u64(&b);
	sum = base_rbuf_u64(&b);
	if (b.error || sum != XXH3_64bits(b.data + b.pos, base_rbuf_left(&b)))
		return -EBADMSG;
	base_rbuf_init(&b, s->state + STATE_HEAD, s->state_total - STATE_HEAD);
	return vmm_vcpu_unpack(vcpu, &b, false);
}

/* The vCPU's thread, like all below. */
static void load(void *arg, struct vmm_vcpu *vcpu)
{
	struct vmm_span *s = arg;
	struct span_move v = copy(s, &s->in);
	char text[SPAN_TEXT_MAX];
	uint64_t tsc;
	int err = unpack(s, vcpu, &tsc);

	if (!err) {
		vmm_vcpu_take_seat(vcpu, VMM_SEAT_ARRIVING);
		set_phase(s, &s->in, SPAN_MOVE_LOADED);
		send_step(s, v.peer, &v, SPAN_STEP_LOADED, "");
		return;
	}
	vmm_vcpu_take_seat(vcpu, VMM_SEAT_AWAY);
	set_phase(s, &s->in, SPAN_MOVE_NONE);
	target_text(s, "the vCPU's state cannot be loaded", err, text);
	send_step(s, v.peer, &v, SPAN_STEP_REFUSED, text);
}

/* Its clock does not go back: ours may be behind by what two hosts can know of each other's. */
static void wait_clock(struct vmm_span *s, uint64_t tsc)
{
	const struct timespec pause = {.tv_nsec = 20000};
	int64_t until = base_clock_ns() + CLOCK_WAIT_MS * BASE_NS_PER_MS;

	while ((int64_t)(tsc - vmm_clock_tsc(s->config.clock)) > 0) {
		if (base_clock_ns() > until) {
			log_warn("span: a vCPU comes from a slice whose clock is far ahead");
			return;
		}
		nanosleep(&pause, NULL);
	}
}

static void take_over(void *arg, struct vmm_vcpu *vcpu)
{
	struct vmm_span *s = arg;
	struct span_move v = copy(s, &s->in);
	struct span_msg m = {.type = SPAN_PLACE,
			     .number = v.vcpu,
			     .place = {.move = v.number,
				       .ids = vmm_irqchip_ids(s->config.irq, v.vcpu)}};
	struct base_rbuf b;

	base_rbuf_init(&b, s->state, s->state_total);
	wait_clock(s, base_rbuf_u64(&b));
	vmm_irqchip_attach(s->config.irq, v.vcpu, vmm_vcpu_lapic(vcpu));
	pthread_mutex_lock(&s->lock);
	s->in.phase = SPAN_MOVE_NONE;
	pthread_mutex_unlock(&s->lock);
	/* Before anything else of this vCPU's. */
	span_send_all(s, &m);
	send(s, s->self, &m);
	vmm_vcpu_take_seat(vcpu, VMM_SEAT_HERE);
}

static int target_told(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	bool fits;

	pthread_mutex_lock(&s->lock);
	fits = s->in.phase == SPAN_MOVE_LOADED && peer == s->in.peer && m->number == s->in.vcpu &&
	       m->move.move == s->in.number;
	if (fits)
		s->in.phase = SPAN_MOVE_OVER;
	pthread_mutex_unlock(&s->lock);
	if (!fits)
		return -EPROTO;
	vmm_vcpu_call(vmm_vcpus_find(s->config.vcpus, m->number), take_over, s);
	return 0;
}

/* Under the lock. 1: it is complete. */
static int add_state(struct vmm_span *s, const struct span_msg *m)
{
	if (s->in.phase == SPAN_MOVE_ASKED) {
		uint8_t *p = realloc(s->state, m->state.total);

		if (!p)
			return -ENOMEM;
		s->state = p;
		s->state_total = m->state.total;
		s->state_len = 0;
		s->in.phase = SPAN_MOVE_READY;
	}
	if (s->in.phase != SPAN_MOVE_READY || m->state.total != s->state_total ||
	    m->state.offset != s->state_len)
		return -EPROTO;
	memcpy(s->state + s->state_len, m->state.data, m->state.len);
	s->state_len += m->state.len;
	if (s->state_len < s->state_total)
		return 0;
	s->in.phase = SPAN_MOVE_LEAVING;
	return 1;
}

static int target_gets(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	struct vmm_vcpu *vcpu = vmm_vcpus_find(s->config.vcpus, m->number);
	int rc = -EPROTO;

	pthread_mutex_lock(&s->lock);
	if (vcpu && peer == s->in.peer && m->number == s->in.vcpu && m->state.move == s->in.number)
		rc = add_state(s, m);
	pthread_mutex_unlock(&s->lock);
	if (rc == 1)
		vmm_vcpu_call(vcpu, load, s);
	return BASE_MIN(rc, 0);
}

/* ---- all ---- */

/* A vCPU runs at `peer`, which alone can say so. */
static int placed(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	bool over, newer;

	if (m->number >= vmm_span_first_vcpu(&s->slices, s->slices.count))
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	newer = (int32_t)(m->place.move - s->placed[m->number]) >= 0;
	if (newer && peer != s->self && span_where(s, m->number) == s->self) {
		pthread_mutex_unlock(&s->lock);
		return -EPROTO; /* we have not given it away */
	}
	if (newer) {
		s->placed[m->number] = m->place.move;
		atomic_store(&s->where[m->number], peer);
		if (peer != s->self)
			vmm_irqchip_set_ids(s->config.irq, m->number, m->place.ids);
	}
	over = span_leads(s) && s->led.phase == SPAN_MOVE_LEAVING && s->led.vcpu == m->number &&
	       s->led.number == m->place.move && peer == s->led.peer;
	if (over)
		s->led.phase = SPAN_MOVE_OVER;
	pthread_mutex_unlock(&s->lock);
	if (newer)
		span_tell(s, VMM_SPAN_PLACES, NULL);
	return over ? base_loop_post(s->config.main_loop, lead_goes_on, s) : 0;
}

int span_move_handle(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	if (m->type == SPAN_STATE)
		return target_gets(s, peer, m);
	if (m->type == SPAN_PLACE)
		return placed(s, peer, m);
	switch (m->move.step) {
	case SPAN_STEP_PREPARE: return target_asked(s, peer, m);
	case SPAN_STEP_LEAVE: return source_asked(s, peer, m);
	case SPAN_STEP_LOADED:
	case SPAN_STEP_REFUSED: return source_answered(s, peer, m);
	case SPAN_STEP_COMMIT: return target_told(s, peer, m);
	case SPAN_STEP_READY:
	case SPAN_STEP_FAILED: return lead_hears(s, peer, m);
	default: return -EPROTO;
	}
}
