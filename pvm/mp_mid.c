/* Message numbers and the active buffers. The free numbers form a stack inside the table. */
#include "pvm/mp_buf.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "pvm/include/pvm3.h"

union slot {
	struct mp_msg *msg;
	uintptr_t next_free; /* index << 1 | 1, so that it is told from a pointer; 1: end */
};

static struct {
	union slot *slots; /* slot i is mid i; slot 0 is not used */
	unsigned cap;
	unsigned free_head; /* 0: none */
	struct mp_msg *sbuf, *rbuf;
} table;

static int table_grow(void)
{
	unsigned cap = table.cap ? table.cap * 2 : 32;
	union slot *slots;

	if (cap > INT_MAX / 2)
		return PvmNoMem;
	slots = reallocarray(table.slots, cap, sizeof(*slots));
	if (!slots)
		return PvmNoMem;
	/* The lowest new number ends up on top. */
	for (unsigned i = cap; i-- > BASE_MAX(table.cap, 1u);) {
		slots[i].next_free = (uintptr_t)table.free_head << 1 | 1;
		table.free_head = i;
	}
	table.slots = slots;
	table.cap = cap;
	return PvmOk;
}

int mp_mid_add(struct mp_msg *m)
{
	unsigned mid;

	assert(!m->mid);
	if (!table.free_head && table_grow())
		return PvmNoMem;
	mid = table.free_head;
	table.free_head = table.slots[mid].next_free >> 1;
	table.slots[mid].msg = m;
	m->mid = mid;
	return PvmOk;
}

struct mp_msg *mp_mid_get(int mid)
{
	if (mid <= 0 || (unsigned)mid >= table.cap || table.slots[mid].next_free & 1)
		return NULL;
	return table.slots[mid].msg;
}

struct mp_msg *mp_mid_take(int mid)
{
	struct mp_msg *m = mp_mid_get(mid);

	if (!m)
		return NULL;
	if (table.sbuf == m)
		table.sbuf = NULL;
	if (table.rbuf == m)
		table.rbuf = NULL;
	m->mid = 0;
	table.slots[mid].next_free = (uintptr_t)table.free_head << 1 | 1;
	table.free_head = mid;
	return m;
}

void mp_mid_free(int mid)
{
	mp_msg_unref(mp_mid_take(mid));
}

void mp_mid_reset(void)
{
	for (unsigned i = 1; i < table.cap; i++)
		mp_mid_free(i);
	free(table.slots);
	table.slots = NULL;
	table.cap = table.free_head = 0;
}

struct mp_msg *mp_sbuf(void)
{
	return table.sbuf;
}

struct mp_msg *mp_rbuf(void)
{
	return table.rbuf;
}

int mp_sbuf_mid(void)
{
	return table.sbuf ? table.sbuf->mid : 0;
}

int mp_rbuf_mid(void)
{
	return table.rbuf ? table.rbuf->mid : 0;
}

void mp_sbuf_set(int mid)
{
	table.sbuf = mp_mid_get(mid);
	if (!table.sbuf)
		return;
	if (table.rbuf == table.sbuf)
		table.rbuf = NULL;
	if (table.sbuf->mode == MP_MODE_READ)
		table.sbuf->mode = MP_MODE_READ_SENT;
}

void mp_rbuf_set(int mid)
{
	table.rbuf = mp_mid_get(mid);
	if (!table.rbuf)
		return;
	if (table.sbuf == table.rbuf)
		table.sbuf = NULL;
	if (table.rbuf->mode != MP_MODE_READ)
		mp_msg_rewind(table.rbuf);
	table.rbuf->mode = MP_MODE_READ;
}

int mp_rbuf_deliver(struct mp_msg *m)
{
	struct mp_msg *old = table.rbuf;
	int rc = mp_mid_add(m);

	if (rc)
		return rc;
	if (old)
		mp_mid_free(old->mid);
	m->mode = MP_MODE_READ;
	mp_msg_rewind(m);
	table.rbuf = m;
	return m->mid;
}
