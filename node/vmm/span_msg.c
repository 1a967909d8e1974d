/* What a slice does with the messages of the others. All of it on the DSM's service thread. */
#include <errno.h>
#include <stdio.h>
#include <x86intrin.h>

#include "base/log.h"
#include "node/vmm/span_internal.h"

/* Rates that differ by more than 1 in this need TSC scaling. */
enum { TSC_TOLERANCE = 4000 };

/* Why a slice that says this cannot be one of this guest's; false: it can. */
static bool does_not_fit(const struct vmm_span *s, uint8_t peer, const struct span_msg *m,
			 char why[SPAN_TEXT_MAX])
{
	uint64_t ours = s->config.clock->tsc_hz, theirs = m->hello.tsc_hz;
	uint64_t apart = ours > theirs ? ours - theirs : theirs - ours;

	why[0] = 0;
	if (m->hello.version != SPAN_VERSION ||
	    m->hello.vcpus != vmm_span_first_vcpu(&s->slices, s->slices.count) ||
	    m->hello.memory_bytes != vmm_mem_size(s->config.mem)) {
		snprintf(why, SPAN_TEXT_MAX,
			 "the slices were started for different guests, or by different "
			 "versions of pangaea-vmm");
	} else if (apart > ours / TSC_TOLERANCE) {
		snprintf(why, SPAN_TEXT_MAX,
			 "the TSC of slice %u (%s) runs at %llu kHz, here at %llu: a guest "
			 "spans hosts of one rate only ('pangaea node doctor' shows them)",
			 peer, s->slices.peer[peer], (unsigned long long)theirs / 1000,
			 (unsigned long long)ours / 1000);
	}
	return why[0];
}

static int on_hello(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	uint16_t all = (uint16_t)(((1u << s->slices.count) - 1) & ~1u);
	char why[SPAN_TEXT_MAX];
	bool complete, joins;

	if (!span_leads(s) || m->hello.slice != peer)
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	joins = s->joining == peer;
	pthread_mutex_unlock(&s->lock);
	if (does_not_fit(s, peer, m, why) && !joins)
		span_lost(s, why);
	if (joins)
		span_join_hello(s, peer, why);
	if (joins || why[0])
		return 0;
	pthread_mutex_lock(&s->lock);
	s->hello |= (uint16_t)(1u << peer);
	complete = s->hello == all;
	pthread_mutex_unlock(&s->lock);
	if (complete)
		span_tell(s, VMM_SPAN_LINKED, NULL);
	return 0;
}

/* Of the lead to us. */
static int on_order(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	if (span_leads(s) || peer != SPAN_LEAD)
		return -EPROTO;
	if (m->type == SPAN_RESET) {
		pthread_mutex_lock(&s->lock);
		s->reset_entry = m->entry;
		pthread_mutex_unlock(&s->lock);
		span_tell(s, VMM_SPAN_RESET, NULL);
		return 0;
	}
	pthread_mutex_lock(&s->lock);
	if (m->type == SPAN_HALT) {
		s->halt_number = m->number;
	} else {
		s->go_number = m->number;
		s->lead_base = m->go.base;
		s->lead_tsc_hz = m->go.tsc_hz;
	}
	pthread_mutex_unlock(&s->lock);
	if (m->type == SPAN_GO && m->go.tsc_hz < 1000000)
		return -EPROTO;
	span_tell(s, m->type == SPAN_HALT ? VMM_SPAN_HALT : VMM_SPAN_GO, NULL);
	return 0;
}

/* A follower has done what it was ordered to. */
static int on_obeyed(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	bool halted = m->type == SPAN_HALTED;

	if (!span_leads(s))
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	if (halted && m->number == s->halt_number)
		s->halted |= (uint16_t)(1u << peer);
	else if (!halted && m->number == s->go_number)
		s->going |= (uint16_t)(1u << peer);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int on_end(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	if (!span_leads(s) && peer != SPAN_LEAD)
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	s->end_wished = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	span_tell(s, m->end.failed ? VMM_SPAN_FAILED : VMM_SPAN_STOPPED, m->end.text);
	return 0;
}

static int on_wish(struct vmm_span *s)
{
	if (!span_leads(s))
		return -EPROTO;
	span_tell(s, VMM_SPAN_WISH_RESET, NULL);
	return 0;
}

static int on_time_ask(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	struct span_msg tell = {
		.type = SPAN_TIME_TELL, .number = m->number, .tsc = vmm_clock_tsc(s->config.clock)};

	uint8_t bytes[SPAN_WIRE_MAX];
	size_t len = span_msg_put(bytes, &tell);

	if (!span_leads(s))
		return -EPROTO;
	/* This thread empties the queue and must not wait for room; who gets no answer asks again. */
	if (dsm_message(s->dsm, peer, bytes, len) < 0)
		log_debug("span: no time for slice %u", peer);
	return 0;
}

static int on_time_tell(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	uint64_t now = __rdtsc();

	if (span_leads(s) || peer != SPAN_LEAD)
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	if (m->number == s->time_number && !s->time_told) {
		s->time_told = true;
		s->time_lead = m->tsc;
		s->time_at = now;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static bool is_vcpu_of(const struct vmm_span *s, unsigned slice, uint32_t apic_id)
{
	return span_where(s, apic_id) == slice;
}

/* One that has moved on since it was sent: its LAPIC here keeps it, and its thread sends it on. */
static int on_irq(struct vmm_span *s, const struct span_msg *m)
{
	struct vmm_vcpu *v = vmm_vcpus_find(s->config.vcpus, m->number);

	if (!v)
		return -EPROTO;
	vmm_lapic_accept(vmm_vcpu_lapic(v), &m->irq);
	return 0;
}

static int on_ids(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	if (m->number >= vmm_span_first_vcpu(&s->slices, s->slices.count))
		return -EPROTO;
	/* Else it was sent before a move of which we know already. */
	if (is_vcpu_of(s, peer, m->number))
		vmm_irqchip_set_ids(s->config.irq, m->number, m->ids);
	return 0;
}

static int on_io_ask(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	return is_vcpu_of(s, peer, m->number) ? span_io_asked(s, peer, m) : -EPROTO;
}

static int dispatch(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	switch (m->type) {
	case SPAN_HELLO: return on_hello(s, peer, m);
	case SPAN_GO:
	case SPAN_HALT:
	case SPAN_RESET: return on_order(s, peer, m);
	case SPAN_HALTED:
	case SPAN_GOING: return on_obeyed(s, peer, m);
	case SPAN_END: return on_end(s, peer, m);
	case SPAN_WISH: return on_wish(s);
	case SPAN_TIME_ASK: return on_time_ask(s, peer, m);
	case SPAN_TIME_TELL: return on_time_tell(s, peer, m);
	case SPAN_IRQ: return on_irq(s, m);
	case SPAN_IDS: return on_ids(s, peer, m);
	case SPAN_EOI: return span_leads(s) ? span_eoi(s, m) : -EPROTO;
	case SPAN_IO_ASK: return span_leads(s) ? on_io_ask(s, peer, m) : -EPROTO;
	case SPAN_IO_DONE:
		return !span_leads(s) && peer == SPAN_LEAD && is_vcpu_of(s, s->self, m->number)
			       ? span_io_done(s, m)
			       : -EPROTO;
	case SPAN_MOVE:
	case SPAN_STATE:
	case SPAN_PLACE: return span_move_handle(s, peer, m);
	case SPAN_TASK: return span_task_asked(s, peer, m);
	case SPAN_DONE: return span_task_done(s, peer, m);
	case SPAN_SAVE:
	case SPAN_LOOK:
	case SPAN_FLUSH:
	case SPAN_PART:
	case SPAN_LOADED: return span_save_handle(s, peer, m);
	default: return -EPROTO;
	}
}

void span_receive(void *arg, uint8_t peer, const void *data, size_t len)
{
	struct vmm_span *s = arg;
	struct span_msg m;
	char why[SPAN_TEXT_MAX];
	int err = span_msg_get(data, len, &m);

	if (!err)
		err = dispatch(s, peer, &m);
	if (!err)
		return;
	snprintf(why, sizeof(why), "slice %u (%s) broke the protocol", peer, s->slices.peer[peer]);
	span_lost(s, why);
}
