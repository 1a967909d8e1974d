#include "pvm/mp_pack.h"

#include <limits.h>
#include <string.h>
#include <sys/time.h>

#include "pvm/include/pvm3.h"
#include "pvm/include/pvmtev.h"
#include "pvm/mp_copy.h"

/* Bytes that strided and split items pass through. */
enum { BOUNCE = 4096 };

struct mp_type {
	uint8_t unit;  /* bytes of one number in memory */
	uint8_t xunit; /* in XDR */
	uint8_t units; /* numbers per item */
	uint8_t trace; /* TEV_DATA_* */
};

static const struct mp_type types[MP_K_COUNT] = {
	[MP_K_BYTE] = {1, 1, 1, TEV_DATA_BYTE},	    [MP_K_SHORT] = {2, 4, 1, TEV_DATA_SHORT},
	[MP_K_USHORT] = {2, 4, 1, TEV_DATA_USHORT}, [MP_K_INT] = {4, 4, 1, TEV_DATA_INT},
	[MP_K_UINT] = {4, 4, 1, TEV_DATA_UINT},	    [MP_K_LONG] = {8, 4, 1, TEV_DATA_LONG},
	[MP_K_ULONG] = {8, 4, 1, TEV_DATA_ULONG},   [MP_K_FLOAT] = {4, 4, 1, TEV_DATA_FLOAT},
	[MP_K_CPLX] = {4, 4, 2, TEV_DATA_CPLX},	    [MP_K_DOUBLE] = {8, 8, 1, TEV_DATA_DOUBLE},
	[MP_K_DCPLX] = {8, 8, 2, TEV_DATA_DCPLX},
};

/*
 * A long stands in XDR as the 4 bytes that PVM 3.4 gives it, when they hold it. Others follow in
 * full, 8 bytes, behind this mark, which is therefore also written in full itself.
 */
#define LONG_MARK ((int32_t)INT32_MIN)

size_t mp_kind_size(enum mp_kind kind)
{
	return (size_t)types[kind].unit * types[kind].units;
}

static bool is_xdr(const struct mp_msg *m)
{
	return m->head.enc == MP_ENC_XDR || m->head.enc == MP_ENC_TRACE;
}

static bool is_long(enum mp_kind kind)
{
	return kind == MP_K_LONG || kind == MP_K_ULONG;
}

/* Packing */

static void encode(enum mp_kind kind, uint8_t *to, const void *from, size_t count)
{
	const uint8_t *p = from;

	switch (kind) {
	case MP_K_SHORT:
	case MP_K_USHORT:
		for (size_t i = 0; i < count; i++) {
			int16_t v;
			uint32_t x;

			memcpy(&v, p + i * 2, 2);
			x = __builtin_bswap32((uint32_t)(int32_t)v);
			memcpy(to + i * 4, &x, 4);
		}
		break;
	case MP_K_DOUBLE:
	case MP_K_DCPLX: mp_xdr_swap64(to, from, count); break;
	default: mp_xdr_swap32(to, from, count);
	}
}

static bool long_is_short(enum mp_kind kind, uint64_t v)
{
	if (kind == MP_K_ULONG)
		return v <= UINT32_MAX && v != (uint32_t)LONG_MARK;
	return (int64_t)v == (int32_t)v && (int32_t)v != LONG_MARK;
}

/* Bytes that the longs take. */
static size_t long_size(enum mp_kind kind, const uint8_t *p, size_t count)
{
	size_t size = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t v;

		memcpy(&v, p + i * 8, 8);
		size += long_is_short(kind, v) ? 4 : 12;
	}
	return size;
}

static void encode_longs(enum mp_kind kind, uint8_t *to, const uint8_t *p, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t v;
		uint32_t x;

		memcpy(&v, p + i * 8, 8);
		if (long_is_short(kind, v)) {
			x = __builtin_bswap32((uint32_t)v);
			memcpy(to, &x, 4);
			to += 4;
			continue;
		}
		x = __builtin_bswap32((uint32_t)LONG_MARK);
		v = __builtin_bswap64(v);
		memcpy(to, &x, 4);
		memcpy(to + 4, &v, 8);
		to += 12;
	}
}

/* `count` numbers, contiguous in memory. */
static int pack_xdr_run(struct mp_msg *m, enum mp_kind kind, const void *data, size_t count)
{
	size_t size = count * types[kind].xunit;
	uint8_t *to;

	if (is_long(kind))
		size = long_size(kind, data, count);
	to = mp_msg_reserve(m, size);
	if (!to)
		return PvmNoMem;
	if (kind == MP_K_BYTE)
		mp_copy_shared(to, data, count);
	else if (is_long(kind))
		encode_longs(kind, to, data, count);
	else
		encode(kind, to, data, count);
	return PvmOk;
}

static int pack_run(struct mp_msg *m, enum mp_kind kind, const void *data, size_t items)
{
	size_t numbers = items * types[kind].units;

	if (is_xdr(m))
		return pack_xdr_run(m, kind, data, numbers);
	return mp_msg_append(m, data, numbers * types[kind].unit);
}

static int pack_strided(struct mp_msg *m, enum mp_kind kind, const uint8_t *p, size_t items,
			ptrdiff_t step)
{
	size_t size = mp_kind_size(kind), run;
	uint8_t bounce[BOUNCE];
	int rc;

	for (; items; items -= run) {
		run = BASE_MIN(items, BOUNCE / size);
		for (size_t i = 0; i < run; i++, p += step)
			memcpy(bounce + i * size, p, size);
		rc = pack_run(m, kind, bounce, run);
		if (rc)
			return rc;
	}
	return PvmOk;
}

/* XDR aligns every run of bytes to 4. */
static int pack_pad(struct mp_msg *m, size_t len)
{
	static const uint8_t zero[4];

	return is_xdr(m) && len % 4 ? mp_msg_append(m, zero, 4 - len % 4) : PvmOk;
}

static int pack_u32(struct mp_msg *m, uint32_t v)
{
	v = __builtin_bswap32(v);
	return mp_msg_append(m, &v, sizeof(v));
}

static int pack_descriptor(struct mp_msg *m, int type, int count)
{
	int rc;

	if (count == 1)
		return pack_u32(m, type | TEV_DATA_SCALAR);
	rc = pack_u32(m, type | TEV_DATA_ARRAY);
	return rc ? rc : pack_u32(m, count);
}

/* The first item after the message was read starts a new body. */
static void pack_start(struct mp_msg *m)
{
	if (m->mode != MP_MODE_PACK)
		mp_msg_clear(m);
	m->mode = MP_MODE_PACK;
}

int mp_pack(struct mp_msg *m, enum mp_kind kind, const void *data, int count, int stride)
{
	size_t size = mp_kind_size(kind);
	int rc = PvmOk;

	if (count < 0)
		return PvmBadParam;
	if (!is_xdr(m) && m->head.enc != MP_ENC_NATIVE && m->head.enc != MP_ENC_INPLACE)
		return PvmBadMsg;
	pack_start(m);
	if (m->head.enc == MP_ENC_INPLACE) {
		if (stride != 1)
			return PvmNotImpl;
		return mp_msg_append_place(m, data, size * count);
	}
	if (!count)
		return PvmOk;
	if (m->head.enc == MP_ENC_TRACE)
		rc = pack_descriptor(m, types[kind].trace, count);
	if (rc)
		return rc;
	if (stride == 1)
		rc = pack_run(m, kind, data, count);
	else
		rc = pack_strided(m, kind, data, count, (ptrdiff_t)stride * (ptrdiff_t)size);
	if (!rc && kind == MP_K_BYTE)
		rc = pack_pad(m, count);
	return rc;
}

int mp_pack_value(struct mp_msg *m, enum mp_kind kind, const void *value)
{
	if (m->head.enc != MP_ENC_INPLACE)
		return mp_pack(m, kind, value, 1, 1);
	pack_start(m);
	return mp_msg_append(m, value, mp_kind_size(kind));
}

int mp_pack_bytes(struct mp_msg *m, const void *data, size_t len)
{
	int rc;

	pack_start(m);
	rc = mp_msg_append(m, data, len);
	return rc ? rc : pack_pad(m, len);
}

int mp_pack_string(struct mp_msg *m, const char *s)
{
	size_t len = strlen(s) + 1;
	int rc, count = (int)len;

	if (len > INT_MAX)
		return PvmOverflow;
	pack_start(m);
	/* A trace event holds a string as an array of bytes, without the 0. */
	if (m->head.enc == MP_ENC_TRACE)
		return mp_pack(m, MP_K_BYTE, s, count - 1, 1);
	rc = mp_pack_value(m, MP_K_INT, &count);
	return rc ? rc : mp_pack_bytes(m, s, len);
}

int mp_trace_begin(struct mp_msg *m)
{
	static const char name[] = "user_defined";
	struct timeval now;
	int rc;

	gettimeofday(&now, NULL);
	rc = pack_u32(m, TEV_MARK_USER_EVENT_RECORD);
	if (!rc)
		rc = pack_u32(m, TEV_USER_DEFINED);
	if (!rc)
		rc = pack_u32(m, sizeof(name));
	if (!rc)
		rc = mp_pack_bytes(m, name, sizeof(name));
	if (!rc)
		rc = pack_u32(m, now.tv_sec);
	return rc ? rc : pack_u32(m, now.tv_usec);
}

int mp_trace_end(struct mp_msg *m)
{
	return pack_u32(m, TEV_MARK_USER_EVENT_RECORD_END);
}

/* Unpacking */

static void decode(enum mp_kind kind, void *to, const uint8_t *from, size_t count)
{
	uint8_t *p = to;

	switch (kind) {
	case MP_K_BYTE: mp_copy(to, from, count); break;
	case MP_K_SHORT:
	case MP_K_USHORT:
		for (size_t i = 0; i < count; i++)
			memcpy(p + i * 2, (uint8_t[]){from[i * 4 + 3], from[i * 4 + 2]}, 2);
		break;
	case MP_K_DOUBLE:
	case MP_K_DCPLX: mp_xdr_swap64(to, from, count); break;
	default: mp_xdr_swap32(to, from, count);
	}
}

static void decode_raw(enum mp_kind kind, void *to, const uint8_t *from, size_t count)
{
	mp_copy(to, from, count * types[kind].unit);
}

/* Reads `count` numbers of `wire` bytes each through `fn`, wherever the segments end. */
typedef void (*decode_fn)(enum mp_kind kind, void *to, const uint8_t *from, size_t count);

/*
 * What is left of a body that ends inside a number is used up, and reaches the program as far as
 * PVM 3.4 lets it: raw bytes, and the first half of an XDR double.
 */
static void read_rest(struct mp_msg *m, uint8_t *to, size_t wire, decode_fn fn)
{
	uint8_t rest[16];
	size_t len = m->read_left;

	if (mp_msg_read(m, rest, len))
		return;
	if (fn == decode_raw)
		memcpy(to, rest, len);
	else if (fn == decode && wire == 8 && len >= 4)
		mp_xdr_swap32(to + 4, rest, 1);
}

static int read_numbers(struct mp_msg *m, enum mp_kind kind, uint8_t *to, size_t count, size_t wire,
			decode_fn fn)
{
	size_t have = BASE_MIN(count, m->read_left / wire), rest = have;
	uint8_t bounce[16];

	while (rest) {
		const struct mp_seg *s = &m->segs[m->read_seg];
		size_t run = BASE_MIN((s->len - m->read_off) / wire, rest);

		if (run) {
			fn(kind, to, s->data + m->read_off, run);
			mp_msg_skip(m, run * wire);
		} else {
			run = 1;
			if (mp_msg_read(m, bounce, wire))
				return PvmNoData;
			fn(kind, to, bounce, 1);
		}
		to += run * types[kind].unit;
		rest -= run;
	}
	if (have == count)
		return PvmOk;
	read_rest(m, to, wire, fn);
	return PvmNoData;
}

static int read_u32(struct mp_msg *m, uint32_t *v)
{
	uint32_t x;
	int rc = mp_msg_read(m, &x, sizeof(x));

	if (!rc)
		*v = __builtin_bswap32(x);
	return rc;
}

static int read_longs(struct mp_msg *m, enum mp_kind kind, uint8_t *to, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t x;
		uint64_t v;
		int rc = read_u32(m, &x);

		if (rc)
			return rc;
		v = kind == MP_K_LONG ? (uint64_t)(int64_t)(int32_t)x : x;
		if ((int32_t)x == LONG_MARK) {
			rc = mp_msg_read(m, &v, sizeof(v));
			if (rc)
				return rc;
			v = __builtin_bswap64(v);
		}
		memcpy(to + i * 8, &v, 8);
	}
	return PvmOk;
}

static void decode_swapped(enum mp_kind kind, void *to, const uint8_t *from, size_t count)
{
	size_t unit = types[kind].unit;
	uint8_t *p = to;

	for (size_t i = 0; i < count * unit; i += unit)
		for (size_t k = 0; k < unit; k++)
			p[i + k] = from[i + unit - 1 - k];
}

static bool readable(const struct mp_msg *m, enum mp_kind kind)
{
	int enc = m->head.enc;

	return is_xdr(m) || enc == MP_ENC_NATIVE || enc == MP_ENC_SWAPPED ||
	       (kind == MP_K_BYTE && enc != MP_ENC_INPLACE);
}

static int unpack_run(struct mp_msg *m, enum mp_kind kind, void *data, size_t items)
{
	size_t numbers = items * types[kind].units;

	if (is_xdr(m)) {
		if (is_long(kind))
			return read_longs(m, kind, data, numbers);
		return read_numbers(m, kind, data, numbers, types[kind].xunit, decode);
	}
	if (m->head.enc == MP_ENC_NATIVE || kind == MP_K_BYTE)
		return read_numbers(m, kind, data, numbers, types[kind].unit, decode_raw);
	return read_numbers(m, kind, data, numbers, types[kind].unit, decode_swapped);
}

static int unpack_strided(struct mp_msg *m, enum mp_kind kind, uint8_t *p, size_t items,
			  ptrdiff_t step)
{
	size_t size = mp_kind_size(kind), run;
	uint8_t bounce[BOUNCE];
	int rc = PvmOk;

	for (; items && !rc; items -= run) {
		/* One by one where they may run out, so that only what came is written. */
		run = m->read_left / 12 > BOUNCE / size ? BASE_MIN(items, BOUNCE / size) : 1;
		memcpy(bounce, p, size);
		rc = unpack_run(m, kind, bounce, run);
		for (size_t i = 0; i < run; i++, p += step)
			memcpy(p, bounce + i * size, size);
	}
	return rc;
}

static void skip_pad(struct mp_msg *m, size_t len)
{
	if (is_xdr(m) && len % 4)
		mp_msg_skip(m, BASE_MIN(m->read_left, 4 - len % 4));
}

int mp_unpack(struct mp_msg *m, enum mp_kind kind, void *data, int count, int stride)
{
	size_t size = mp_kind_size(kind);
	int rc;

	if (count < 0)
		return PvmBadParam;
	if (!readable(m, kind))
		return PvmBadMsg;
	if (stride == 1)
		rc = unpack_run(m, kind, data, count);
	else
		rc = unpack_strided(m, kind, data, count, (ptrdiff_t)stride * (ptrdiff_t)size);
	if (kind == MP_K_BYTE)
		skip_pad(m, count);
	return rc;
}

int mp_unpack_bytes(struct mp_msg *m, void *data, size_t len)
{
	int rc = mp_msg_read(m, data, len);

	if (!rc)
		skip_pad(m, len);
	return rc;
}

int mp_unpack_string_len(struct mp_msg *m, int *len)
{
	int n = 0, rc = mp_unpack(m, MP_K_INT, &n, 1, 1);

	if (rc)
		return rc;
	*len = n;
	return n < 0 ? PvmBadMsg : PvmOk;
}

int mp_unpack_string(struct mp_msg *m, char *s)
{
	int len = 0, rc = mp_unpack_string_len(m, &len);

	if (rc)
		return rc;
	/* Raw, what there is of it arrives. */
	if ((size_t)len > m->read_left && !is_xdr(m))
		return mp_unpack(m, MP_K_BYTE, s, len, 1);
	return mp_unpack_bytes(m, s, len);
}
