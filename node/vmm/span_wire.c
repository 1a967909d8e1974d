#include "node/vmm/span_wire.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"

enum { IRQ_LOGICAL = 1, IRQ_LEVEL = 2, IRQ_ASSERT = 4, IRQ_X2APIC = 8 };
enum { IO_PIO = 1, IO_WRITE = 2 };

/* ---- out: into a buffer that holds any message ---- */

struct put {
	uint8_t *at;
};

static void put(struct put *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*p->at++ = (uint8_t)(v >> (8 * i));
}

static void put_irq(struct put *p, const struct vmm_irq_msg *q)
{
	put(p, q->dest, 4);
	put(p, q->source, 4);
	put(p, q->vector, 1);
	put(p, q->delivery, 1);
	put(p, q->shorthand, 1);
	put(p,
	    (q->logical ? IRQ_LOGICAL : 0) | (q->level_triggered ? IRQ_LEVEL : 0) |
		    (q->assert_level ? IRQ_ASSERT : 0) | (q->x2apic_dest ? IRQ_X2APIC : 0),
	    1);
}

static void put_io(struct put *p, const struct span_msg *m)
{
	put(p, (m->io.pio ? IO_PIO : 0) | (m->io.write ? IO_WRITE : 0), 1);
	put(p, m->io.len, 1);
	put(p, m->io.addr, 8);
	memcpy(p->at, m->io.data, sizeof(m->io.data));
	p->at += sizeof(m->io.data);
}

static void put_hello(struct put *p, const struct span_msg *m)
{
	put(p, m->hello.version, 2);
	put(p, m->hello.slice, 2);
	put(p, m->hello.vcpus, 4);
	put(p, m->hello.memory_bytes, 8);
	put(p, m->hello.tsc_hz, 8);
}

static void put_text(struct put *p, const char *text)
{
	size_t len = strnlen(text, SPAN_TEXT_MAX - 1);

	memcpy(p->at, text, len);
	p->at += len;
}

static void put_end(struct put *p, const struct span_msg *m)
{
	put(p, m->end.failed, 1);
	put_text(p, m->end.text);
}

static void put_entry(struct put *p, const struct vmm_entry *e)
{
	put(p, e->mode, 1);
	put(p, e->rip, 8);
	put(p, e->rsp, 8);
	put(p, e->rbx, 8);
	put(p, e->rsi, 8);
	put(p, e->cr3, 8);
	put(p, e->gdt, 8);
	put(p, e->gdt_len, 2);
	put(p, e->cs, 2);
	put(p, e->ds, 2);
}

static void put_move(struct put *p, const struct span_msg *m)
{
	put(p, m->move.move, 4);
	put(p, m->move.step, 1);
	put(p, m->move.peer, 1);
	put_text(p, m->move.text);
}

static void put_state(struct put *p, const struct span_msg *m)
{
	put(p, m->state.move, 4);
	put(p, m->state.offset, 4);
	put(p, m->state.total, 4);
	memcpy(p->at, m->state.data, m->state.len);
	p->at += m->state.len;
}

static void put_task(struct put *p, const struct span_msg *m)
{
	put(p, m->task.op, 1);
	put(p, m->task.slice, 1);
	put(p, m->task.rate, 8);
	memcpy(p->at, m->task.home, sizeof(m->task.home));
	p->at += sizeof(m->task.home);
	put(p, m->task.group, 8);
	memcpy(p->at, m->task.address, sizeof(m->task.address));
	p->at += sizeof(m->task.address);
}

static void put_done(struct put *p, const struct span_msg *m)
{
	put(p, m->done.op, 1);
	put(p, m->done.error, 1);
	put(p, m->done.done, 8);
	put(p, m->done.total, 8);
}

size_t span_msg_put(uint8_t out[SPAN_WIRE_MAX], const struct span_msg *m)
{
	struct put p = {out};

	put(&p, m->type, 1);
	put(&p, m->number, 4);
	switch (m->type) {
	case SPAN_HELLO: put_hello(&p, m); break;
	case SPAN_GO:
		put(&p, m->go.base, 8);
		put(&p, m->go.tsc_hz, 8);
		break;
	case SPAN_END:
	case SPAN_LOADED: put_end(&p, m); break;
	case SPAN_FLUSH: put(&p, m->round, 1); break;
	case SPAN_TIME_TELL: put(&p, m->tsc, 8); break;
	case SPAN_IDS: put(&p, m->ids, 8); break;
	case SPAN_IRQ: put_irq(&p, &m->irq); break;
	case SPAN_IO_ASK:
	case SPAN_IO_DONE: put_io(&p, m); break;
	case SPAN_RESET: put_entry(&p, &m->entry); break;
	case SPAN_MOVE: put_move(&p, m); break;
	case SPAN_STATE:
	case SPAN_PART: put_state(&p, m); break;
	case SPAN_PLACE:
		put(&p, m->place.move, 4);
		put(&p, m->place.ids, 8);
		break;
	case SPAN_TASK: put_task(&p, m); break;
	case SPAN_DONE: put_done(&p, m); break;
	default: break;
	}
	return (size_t)(p.at - out);
}

/* ---- in ---- */

static void get_irq(struct base_rbuf *b, struct vmm_irq_msg *q)
{
	uint8_t flags;

	q->dest = base_rbuf_u32(b);
	q->source = base_rbuf_u32(b);
	q->vector = base_rbuf_u8(b);
	q->delivery = base_rbuf_u8(b);
	q->shorthand = base_rbuf_u8(b);
	flags = base_rbuf_u8(b);
	q->logical = flags & IRQ_LOGICAL;
	q->level_triggered = flags & IRQ_LEVEL;
	q->assert_level = flags & IRQ_ASSERT;
	q->x2apic_dest = flags & IRQ_X2APIC;
}

static void get_io(struct base_rbuf *b, struct span_msg *m)
{
	uint8_t flags = base_rbuf_u8(b);

	m->io.pio = flags & IO_PIO;
	m->io.write = flags & IO_WRITE;
	m->io.len = base_rbuf_u8(b);
	m->io.addr = base_rbuf_u64(b);
	base_rbuf_bytes(b, m->io.data, sizeof(m->io.data));
}

static void get_hello(struct base_rbuf *b, struct span_msg *m)
{
	m->hello.version = base_rbuf_u16(b);
	m->hello.slice = base_rbuf_u16(b);
	m->hello.vcpus = base_rbuf_u32(b);
	m->hello.memory_bytes = base_rbuf_u64(b);
	m->hello.tsc_hz = base_rbuf_u64(b);
}

/* Text for people's eyes: what a terminal could obey is replaced. */
static void clean(char *text)
{
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
}

static void get_text(struct base_rbuf *b, char out[SPAN_TEXT_MAX])
{
	size_t len = BASE_MIN(base_rbuf_left(b), (size_t)SPAN_TEXT_MAX - 1);

	base_rbuf_bytes(b, out, len);
	out[len] = 0;
	clean(out);
}

static void get_end(struct base_rbuf *b, struct span_msg *m)
{
	m->end.failed = base_rbuf_u8(b) != 0;
	get_text(b, m->end.text);
}

static void get_entry(struct base_rbuf *b, struct vmm_entry *e)
{
	e->mode = base_rbuf_u8(b);
	e->rip = base_rbuf_u64(b);
	e->rsp = base_rbuf_u64(b);
	e->rbx = base_rbuf_u64(b);
	e->rsi = base_rbuf_u64(b);
	e->cr3 = base_rbuf_u64(b);
	e->gdt = base_rbuf_u64(b);
	e->gdt_len = base_rbuf_u16(b);
	e->cs = base_rbuf_u16(b);
	e->ds = base_rbuf_u16(b);
}

static void get_move(struct base_rbuf *b, struct span_msg *m)
{
	m->move.move = base_rbuf_u32(b);
	m->move.step = base_rbuf_u8(b);
	m->move.peer = base_rbuf_u8(b);
	get_text(b, m->move.text);
}

static void get_state(struct base_rbuf *b, struct span_msg *m)
{
	size_t len;

	m->state.move = base_rbuf_u32(b);
	m->state.offset = base_rbuf_u32(b);
	m->state.total = base_rbuf_u32(b);
	len = base_rbuf_left(b);
	m->state.len = (uint8_t)BASE_MIN(len, (size_t)SPAN_STATE_MAX);
	base_rbuf_bytes(b, m->state.data, m->state.len);
}

static void get_task(struct base_rbuf *b, struct span_msg *m)
{
	m->task.op = base_rbuf_u8(b);
	m->task.slice = base_rbuf_u8(b);
	m->task.rate = base_rbuf_u64(b);
	base_rbuf_bytes(b, m->task.home, sizeof(m->task.home));
	m->task.group = base_rbuf_u64(b);
	base_rbuf_bytes(b, m->task.address, sizeof(m->task.address));
	m->task.address[sizeof(m->task.address) - 1] = 0;
	clean(m->task.address);
}

static void get_done(struct base_rbuf *b, struct span_msg *m)
{
	m->done.op = base_rbuf_u8(b);
	m->done.error = base_rbuf_u8(b);
	m->done.done = base_rbuf_u64(b);
	m->done.total = base_rbuf_u64(b);
}

static bool sane(const struct span_msg *m)
{
	switch (m->type) {
	case SPAN_IO_ASK:
	case SPAN_IO_DONE: return m->io.len >= 1 && m->io.len <= 8;
	case SPAN_IRQ: return m->irq.delivery <= VMM_IRQ_EXTINT;
	case SPAN_RESET: return m->entry.mode <= VMM_ENTRY_LONG64;
	case SPAN_MOVE:
		return m->move.step >= SPAN_STEP_PREPARE && m->move.step < SPAN_STEP_END &&
		       m->move.peer < VMM_SLICE_MAX;
	case SPAN_TASK: return m->task.op > SPAN_TASK_NONE && m->task.op < SPAN_TASK_END;
	case SPAN_DONE: return m->done.op > SPAN_TASK_NONE && m->done.op < SPAN_TASK_END;
	case SPAN_STATE:
	case SPAN_PART:
		return m->state.len >= 1 &&
		       (m->type == SPAN_PART || m->state.total <= VMM_VCPU_PACK_MAX) &&
		       m->state.offset < m->state.total &&
		       m->state.len <= m->state.total - m->state.offset;
	default: return true;
	}
}

int span_msg_get(const void *data, size_t len, struct span_msg *m)
{
	struct base_rbuf b;

	base_rbuf_init(&b, data, len);
	*m = (struct span_msg){.type = base_rbuf_u8(&b)};
	m->number = base_rbuf_u32(&b);
	if (b.error || m->type == 0 || m->type >= SPAN_TYPE_END)
		return -EPROTO;
	switch (m->type) {
	case SPAN_HELLO: get_hello(&b, m); break;
	case SPAN_GO:
		m->go.base = base_rbuf_u64(&b);
		m->go.tsc_hz = base_rbuf_u64(&b);
		break;
	case SPAN_END:
	case SPAN_LOADED: get_end(&b, m); break;
	case SPAN_FLUSH: m->round = base_rbuf_u8(&b); break;
	case SPAN_TIME_TELL: m->tsc = base_rbuf_u64(&b); break;
	case SPAN_IDS: m->ids = base_rbuf_u64(&b); break;
	case SPAN_IRQ: get_irq(&b, &m->irq); break;
	case SPAN_IO_ASK:
	case SPAN_IO_DONE: get_io(&b, m); break;
	case SPAN_RESET: get_entry(&b, &m->entry); break;
	case SPAN_MOVE: get_move(&b, m); break;
	case SPAN_STATE:
	case SPAN_PART: get_state(&b, m); break;
	case SPAN_PLACE:
		m->place.move = base_rbuf_u32(&b);
		m->place.ids = base_rbuf_u64(&b);
		break;
	case SPAN_TASK: get_task(&b, m); break;
	case SPAN_DONE: get_done(&b, m); break;
	default: break;
	}
	return base_rbuf_end(&b) || !sane(m) ? -EPROTO : 0;
}
