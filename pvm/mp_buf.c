#include "pvm/mp_buf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_copy.h"
#include "pvm/mp_task.h"

enum { FIRST_BLOCK = 512, BLOCK_GROW_MAX = 4 << 20 };

int mp_enc_native(void)
{
	return MP_ENC_NATIVE;
}

int mp_enc_from_api(int encoding)
{
	switch (encoding) {
	case PvmDataDefault: return MP_ENC_XDR;
	case PvmDataRaw: return MP_ENC_NATIVE;
	case PvmDataInPlace: return MP_ENC_INPLACE;
	case PvmDataTrace: return MP_ENC_TRACE;
	default: return PvmBadParam;
	}
}

/* What nearly each message needs, and so is kept for the next one. One thread, as all of this. */

#ifdef __SANITIZE_ADDRESS__
enum { SPARE_MAX = 0 };
#else
enum { SPARE_MAX = 64 };
#endif

struct spare {
	void *first; /* each begins with a pointer to the next */
	unsigned count;
};

static struct spare spare_msgs, spare_blocks;

static inline void *spare_take(struct spare *s, size_t size)
{
	void *p = s->first;

	if (!p)
		return malloc(size);
	memcpy(&s->first, p, sizeof(s->first));
	s->count--;
	return p;
}

static inline void spare_give(struct spare *s, void *p)
{
	if (s->count + 1 > SPARE_MAX) {
		free(p);
		return;
	}
	memcpy(p, &s->first, sizeof(s->first));
	s->first = p;
	s->count++;
}

/* Blocks */

static void free_own(struct mp_block *b)
{
	mp_block_free(b->data);
	free(b);
}

static void free_adopted(struct mp_block *b)
{
	free(b->data);
	free(b);
}

static struct mp_block *block_wrap(void *data, size_t cap, void (*free_fn)(struct mp_block *))
{
	struct mp_block *b = malloc(sizeof(*b));

	if (b)
		*b = (struct mp_block){.refs = 1, .data = data, .cap = cap, .free_fn = free_fn};
	return b;
}

static void free_whole(struct mp_block *b)
{
	free(b);
}

static void free_first(struct mp_block *b)
{
	spare_give(&spare_blocks, b);
}

/* Of FIRST_BLOCK bytes. */
static struct mp_block *block_first(void)
{
	struct mp_block *b = spare_take(&spare_blocks, sizeof(*b) + FIRST_BLOCK);

	if (b)
		*b = (struct mp_block){.refs = 1,
				       .data = (uint8_t *)(b + 1),
				       .cap = FIRST_BLOCK,
				       .free_fn = free_first};
	return b;
}

/* Too small for shared memory: block and data in one piece. */
static struct mp_block *block_small(size_t cap)
{
	struct mp_block *b = malloc(sizeof(*b) + cap);

	if (b)
		*b = (struct mp_block){
			.refs = 1, .data = (uint8_t *)(b + 1), .cap = cap, .free_fn = free_whole};
	return b;
}

struct mp_block *mp_block_new(size_t cap)
{
	struct mp_block *b;
	void *data;

	if (cap <= FIRST_BLOCK)
		return block_first();
	if (cap < MP_SHM_MIN)
		return block_small(cap);
	data = mp_block_alloc(cap);
	b = data ? block_wrap(data, cap, free_own) : NULL;
	if (!b)
		mp_block_free(data);
	return b;
}

struct mp_block *mp_block_adopt(void *data, size_t cap)
{
	return block_wrap(data, cap, free_adopted);
}

void mp_block_ref(struct mp_block *b)
{
	b->refs++;
}

void mp_block_unref(struct mp_block *b)
{
	if (b && --b->refs == 0)
		b->free_fn(b);
}

/* Messages */

struct mp_msg *mp_msg_new(int enc)
{
	struct mp_msg *m = spare_take(&spare_msgs, sizeof(*m));

	if (!m)
		return NULL;
	/* One by one: all of it is zeroed by `rep stos`, which took a seventh of a message's time. */
	m->head = (struct mp_head){.enc = enc};
	m->refs = 1;
	m->mid = 0;
	m->mode = MP_MODE_PACK;
	m->segs = m->few;
	m->seg_count = 0;
	m->seg_cap = BASE_ARRAY_LEN(m->few);
	m->len = 0;
	mp_msg_rewind(m);
	return m;
}

void mp_msg_ref(struct mp_msg *m)
{
	m->refs++;
}

void mp_msg_clear(struct mp_msg *m)
{
	for (unsigned i = 0; i < m->seg_count; i++)
		mp_block_unref(m->segs[i].block);
	m->seg_count = 0;
	m->len = 0;
	mp_msg_rewind(m);
}

void mp_msg_unref(struct mp_msg *m)
{
	if (!m || --m->refs)
		return;
	assert(!m->mid);
	mp_msg_clear(m);
	if (m->segs != m->few)
		free(m->segs);
	spare_give(&spare_msgs, m);
}

/* Takes over the reference of `block` (which may be NULL). */
static int add_seg(struct mp_msg *m, uint8_t *data, size_t len, struct mp_block *block)
{
	if (m->seg_count == m->seg_cap) {
		unsigned cap = m->seg_cap * 2;
		bool own = m->segs != m->few;
		struct mp_seg *segs = reallocarray(own ? m->segs : NULL, cap, sizeof(*segs));

		if (!segs)
			return PvmNoMem;
		if (!own)
			memcpy(segs, m->few, sizeof(m->few));
		m->segs = segs;
		m->seg_cap = cap;
	}
	m->segs[m->seg_count++] = (struct mp_seg){data, len, block};
	m->len += len;
	return PvmOk;
}

int mp_msg_from_block(int enc, struct mp_block *block, size_t off, size_t len, struct mp_msg **out)
{
	struct mp_msg *m = mp_msg_new(enc);

	if (!m)
		return PvmNoMem;
	if (len && add_seg(m, block->data + off, len, block)) {
		mp_msg_unref(m);
		return PvmNoMem;
	}
	if (!len)
		mp_block_unref(block);
	mp_msg_rewind(m);
	*out = m;
	return PvmOk;
}

int mp_msg_from_bytes(int enc, void *data, size_t len, struct mp_msg **out)
{
	struct mp_block *b = mp_block_adopt(data, len);
	int rc = b ? mp_msg_from_block(enc, b, 0, len, out) : PvmNoMem;

	if (rc && b)
		free(b);
	return rc;
}

/* The unused end of the last segment's block, which only its one owner may extend. */
static size_t tail_room(const struct mp_msg *m)
{
	const struct mp_seg *s;

	if (!m->seg_count)
		return 0;
	s = &m->segs[m->seg_count - 1];
	if (!s->block || s->block->refs != 1)
		return 0;
	return s->block->data + s->block->cap - (s->data + s->len);
}

static int add_block(struct mp_msg *m, size_t need)
{
	size_t cap = BASE_MIN(BASE_MAX(m->len, (size_t)FIRST_BLOCK), (size_t)BLOCK_GROW_MAX);
	struct mp_block *b = mp_block_new(BASE_MAX(cap, need));

	if (!b)
		return PvmNoMem;
	if (add_seg(m, b->data, 0, b)) {
		mp_block_unref(b);
		return PvmNoMem;
	}
	return PvmOk;
}

void *mp_msg_reserve(struct mp_msg *m, size_t len)
{
	struct mp_seg *s;
	uint8_t *at;

	if (tail_room(m) < len && add_block(m, len))
		return NULL;
	s = &m->segs[m->seg_count - 1];
	at = s->data + s->len;
	s->len += len;
	m->len += len;
	return at;
}

int mp_msg_append(struct mp_msg *m, const void *data, size_t len)
{
	void *at;

	if (!len)
		return PvmOk;
	at = mp_msg_reserve(m, len);
	if (!at)
		return PvmNoMem;
	mp_copy_shared(at, data, len);
	return PvmOk;
}

int mp_msg_append_place(struct mp_msg *m, const void *data, size_t len)
{
	return len ? add_seg(m, (uint8_t *)(uintptr_t)data, len, NULL) : PvmOk;
}

int mp_msg_append_block(struct mp_msg *m, struct mp_block *block, size_t off, size_t len)
{
	return add_seg(m, block->data + off, len, block);
}

int mp_msg_append_msg(struct mp_msg *m, const struct mp_msg *from)
{
	for (unsigned i = 0; i < from->seg_count; i++) {
		const struct mp_seg *s = &from->segs[i];

		if (!s->len)
			continue;
		if (!s->block) {
			if (mp_msg_append(m, s->data, s->len))
				return PvmNoMem;
			continue;
		}
		if (add_seg(m, s->data, s->len, s->block))
			return PvmNoMem;
		mp_block_ref(s->block);
	}
	return PvmOk;
}

int mp_msg_wire_enc(const struct mp_msg *m)
{
	return m->head.enc == MP_ENC_INPLACE ? MP_ENC_NATIVE : m->head.enc;
}

int mp_msg_own(struct mp_msg *m)
{
	for (unsigned i = 0; i < m->seg_count; i++) {
		struct mp_seg *s = &m->segs[i];
		struct mp_block *b;

		if (s->block)
			continue;
		b = mp_block_new(s->len);
		if (!b)
			return PvmNoMem;
		mp_copy(b->data, s->data, s->len);
		s->data = b->data;
		s->block = b;
	}
	return PvmOk;
}

int mp_msg_iov(const struct mp_msg *m, size_t off, size_t limit, struct iovec *iov, int max)
{
	int n = 0;

	for (unsigned i = 0; i < m->seg_count && n < max && limit; i++) {
		const struct mp_seg *s = &m->segs[i];
		size_t take;

		if (off >= s->len) {
			off -= s->len;
			continue;
		}
		take = BASE_MIN(s->len - off, limit);
		iov[n++] = (struct iovec){s->data + off, take};
		limit -= take;
		off = 0;
	}
	return n;
}

void mp_msg_copy_out(const struct mp_msg *m, size_t off, void *dst, size_t len)
{
	uint8_t *to = dst;

	for (unsigned i = 0; i < m->seg_count && len; i++) {
		const struct mp_seg *s = &m->segs[i];
		size_t take;

		if (off >= s->len) {
			off -= s->len;
			continue;
		}
		take = BASE_MIN(s->len - off, len);
		mp_copy(to, s->data + off, take);
		to += take;
		len -= take;
		off = 0;
	}
	assert(!len);
}

/* Reading */

void mp_msg_rewind(struct mp_msg *m)
{
	m->read_seg = 0;
	m->read_off = 0;
	m->read_left = m->len;
}

void mp_msg_skip(struct mp_msg *m, size_t len)
{
	assert(len <= m->read_left);
	m->read_left -= len;
	while (len) {
		size_t here = m->segs[m->read_seg].len - m->read_off;

		if (len < here) {
			m->read_off += len;
			return;
		}
		len -= here;
		m->read_seg++;
		m->read_off = 0;
	}
}

int mp_msg_read(struct mp_msg *m, void *dst, size_t len)
{
	uint8_t *to = dst;

	if (len > m->read_left)
		return PvmNoData;
	while (len) {
		const struct mp_seg *s = &m->segs[m->read_seg];
		size_t take = BASE_MIN(s->len - m->read_off, len);

		mp_copy(to, s->data + m->read_off, take);
		to += take;
		len -= take;
		mp_msg_skip(m, take);
		if (!take)
			m->read_seg++; /* an empty segment */
	}
	return PvmOk;
}

const void *mp_msg_peek(const struct mp_msg *m, size_t len)
{
	const struct mp_seg *s;

	if (!len || len > m->read_left)
		return NULL;
	s = &m->segs[m->read_seg];
	return s->len - m->read_off >= len ? s->data + m->read_off : NULL;
}
