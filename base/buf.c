#include "base/buf.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

void base_wbuf_init(struct base_wbuf *b, size_t max)
{
	*b = (struct base_wbuf){.max = max};
}

void base_wbuf_fini(struct base_wbuf *b)
{
	free(b->data);
	*b = (struct base_wbuf){.max = b->max};
}

static bool wbuf_grow(struct base_wbuf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 256;
	uint8_t *data;

	if (b->error)
		return false;
	if (more > b->max - b->len) {
		b->error = -E2BIG;
		return false;
	}
	if (more <= b->cap - b->len)
		return true;
	while (cap - b->len < more)
		cap = cap > b->max / 2 ? b->max : cap * 2;
	data = realloc(b->data, cap);
	if (!data) {
		b->error = -ENOMEM;
		return false;
	}
	b->data = data;
	b->cap = cap;
	return true;
}

void *base_wbuf_reserve(struct base_wbuf *b, size_t len)
{
	uint8_t *at;

	if (!wbuf_grow(b, len))
		return NULL;
	at = b->data + b->len;
	memset(at, 0, len);
	b->len += len;
	return at;
}

void base_wbuf_bytes(struct base_wbuf *b, const void *p, size_t len)
{
	if (!len || !wbuf_grow(b, len))
		return;
	memcpy(b->data + b->len, p, len);
	b->len += len;
}

void base_wbuf_u8(struct base_wbuf *b, uint8_t v)
{
	base_wbuf_bytes(b, &v, sizeof(v));
}

void base_wbuf_u16(struct base_wbuf *b, uint16_t v)
{
	v = htole16(v);
	base_wbuf_bytes(b, &v, sizeof(v));
}

void base_wbuf_u32(struct base_wbuf *b, uint32_t v)
{
	v = htole32(v);
	base_wbuf_bytes(b, &v, sizeof(v));
}

void base_wbuf_u64(struct base_wbuf *b, uint64_t v)
{
	v = htole64(v);
	base_wbuf_bytes(b, &v, sizeof(v));
}

void base_wbuf_blob(struct base_wbuf *b, const void *p, uint32_t len)
{
	base_wbuf_u32(b, len);
	base_wbuf_bytes(b, p, len);
}

void base_wbuf_str(struct base_wbuf *b, const char *s)
{
	size_t len = strlen(s);

	assert(len < UINT32_MAX);
	base_wbuf_blob(b, s, (uint32_t)len);
}

void base_rbuf_init(struct base_rbuf *b, const void *data, size_t len)
{
	*b = (struct base_rbuf){.data = data ? data : (const void *)"", .len = len};
}

size_t base_rbuf_left(const struct base_rbuf *b)
{
	return b->error ? 0 : b->len - b->pos;
}

const void *base_rbuf_take(struct base_rbuf *b, size_t len)
{
	const uint8_t *at;

	if (b->error)
		return NULL;
	if (len > b->len - b->pos) {
		b->error = -EBADMSG;
		return NULL;
	}
	at = b->data + b->pos;
	b->pos += len;
	return at;
}

void base_rbuf_bytes(struct base_rbuf *b, void *out, size_t len)
{
	const void *p = base_rbuf_take(b, len);

	if (p)
		memcpy(out, p, len);
	else
		memset(out, 0, len);
}

uint8_t base_rbuf_u8(struct base_rbuf *b)
{
	uint8_t v;

	base_rbuf_bytes(b, &v, sizeof(v));
	return v;
}

uint16_t base_rbuf_u16(struct base_rbuf *b)
{
	uint16_t v;

	base_rbuf_bytes(b, &v, sizeof(v));
	return le16toh(v);
}

uint32_t base_rbuf_u32(struct base_rbuf *b)
{
	uint32_t v;

	base_rbuf_bytes(b, &v, sizeof(v));
	return le32toh(v);
}

uint64_t base_rbuf_u64(struct base_rbuf *b)
{
	uint64_t v;

	base_rbuf_bytes(b, &v, sizeof(v));
	return le64toh(v);
}

const void *base_rbuf_blob(struct base_rbuf *b, size_t max, size_t *len)
{
	uint32_t n = base_rbuf_u32(b);
	const void *p;

	if (n > max && !b->error)
		b->error = -EBADMSG;
	p = base_rbuf_take(b, n);
	*len = p ? n : 0;
	return p;
}

void base_rbuf_str(struct base_rbuf *b, char *out, size_t cap)
{
	size_t len;
	const char *p = base_rbuf_blob(b, cap - 1, &len);

	if (p && memchr(p, 0, len)) {
		b->error = -EBADMSG;
		p = NULL;
	}
	if (!p)
		len = 0;
	else
		memcpy(out, p, len);
	out[len] = 0;
}

int base_rbuf_end(const struct base_rbuf *b)
{
	if (b->error)
		return b->error;
	return b->pos == b->len ? 0 : -EBADMSG;
}
