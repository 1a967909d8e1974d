#include "pvm/wire/mp_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)v);
	put16(p + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

void mp_frame_put(uint8_t out[MP_FRAME_HDR], const struct mp_frame *f)
{
	put16(out, MP_WIRE_MAGIC);
	out[2] = MP_WIRE_VERSION;
	out[3] = f->type;
	put32(out + 4, f->req);
	put64(out + 8, f->len);
}

int mp_frame_get(const uint8_t in[MP_FRAME_HDR], struct mp_frame *f)
{
	struct mp_frame v = {.type = in[3], .req = get32(in + 4), .len = get64(in + 8)};
	uint64_t max =
		v.type == MP_F_MSG ? MP_PIECE_MAX + MP_ROUTE_LEN + MP_MSGHDR_LEN : MP_FRAME_MAX;

	if ((in[0] | in[1] << 8) != MP_WIRE_MAGIC || in[2] != MP_WIRE_VERSION)
		return -EPROTO;
	if (v.type < MP_F_MSG || v.type > MP_F_LAST || v.len > max)
		return -EPROTO;
	*f = v;
	return 0;
}

size_t mp_piece_put(uint8_t out[MP_PIECE_HDR_MAX], const struct mp_route *r,
		    const struct mp_msghdr *h, size_t body_len)
{
	bool first = r->flags & MP_PIECE_FIRST;
	size_t hdr = MP_ROUTE_LEN + (first ? (size_t)MP_MSGHDR_LEN : 0);
	struct mp_frame f = {.type = MP_F_MSG, .len = hdr + body_len};
	uint8_t *p = out + MP_FRAME_HDR;

	mp_frame_put(out, &f);
	put32(p, (uint32_t)r->dst);
	put32(p + 4, (uint32_t)r->src);
	put32(p + 8, r->flags);
	if (first) {
		p += MP_ROUTE_LEN;
		put32(p, (uint32_t)h->ctx);
		put32(p + 4, (uint32_t)h->tag);
		put32(p + 8, (uint32_t)h->enc);
		put32(p + 12, (uint32_t)h->wid);
		put32(p + 16, (uint32_t)h->crc);
		put64(p + 20, h->total);
	}
	return MP_FRAME_HDR + hdr;
}

int mp_piece_get(const uint8_t *p, size_t len, struct mp_route *r, struct mp_msghdr *h,
		 const uint8_t **body, size_t *body_len)
{
	struct mp_route v;

	if (len < MP_ROUTE_LEN)
		return -EPROTO;
	v.dst = (int32_t)get32(p);
	v.src = (int32_t)get32(p + 4);
	v.flags = get32(p + 8);
	p += MP_ROUTE_LEN;
	len -= MP_ROUTE_LEN;
	if (v.flags & ~(uint32_t)(MP_PIECE_FIRST | MP_PIECE_LAST))
		return -EPROTO;
	if (v.flags & MP_PIECE_FIRST) {
		if (len < MP_MSGHDR_LEN)
			return -EPROTO;
		h->ctx = (int32_t)get32(p);
		h->tag = (int32_t)get32(p + 4);
		h->enc = (int32_t)get32(p + 8);
		h->wid = (int32_t)get32(p + 12);
		h->crc = (int32_t)get32(p + 16);
		h->total = get64(p + 20);
		p += MP_MSGHDR_LEN;
		len -= MP_MSGHDR_LEN;
	}
	*r = v;
	*body = p;
	*body_len = len;
	return 0;
}

const char *mp_path_tmp(void)
{
	const char *tmp = getenv("PVM_TMP");

	if (!tmp || !*tmp)
		tmp = getenv("TMPDIR");
	return tmp && *tmp ? tmp : "/tmp";
}

/* Without printf, whose pages a task that starts would touch for this alone. */
static int path_make(char *out, size_t cap, const char *stem, const char *tail)
{
	const char *vmid = getenv("PVM_VMID");
	bool has = vmid && *vmid;
	char digits[12], *uid = digits + sizeof(digits);
	unsigned id = getuid();
	size_t at = 0;

	if (has && strchr(vmid, '/'))
		return -EINVAL;
	*--uid = 0;
	do
		*--uid = (char)('0' + id % 10);
	while (id /= 10);
	const char *const parts[] = {mp_path_tmp(),   "/", stem, ".", uid, has ? "." : "",
				     has ? vmid : "", tail};
	for (size_t i = 0; i < BASE_ARRAY_LEN(parts); i++) {
		size_t len = strlen(parts[i]);

		if (len >= cap - at)
			return -ENAMETOOLONG;
		memcpy(out + at, parts[i], len + 1);
		at += len;
	}
	return 0;
}

int mp_path_dir(char *out, size_t cap)
{
	return path_make(out, cap, "pvmd", ".d");
}

int mp_path_socket(char *out, size_t cap)
{
	return path_make(out, BASE_MIN(cap, sizeof(((struct sockaddr_un *)0)->sun_path)), "pvmd",
			 ".d/sock");
}

int mp_path_log(char *out, size_t cap)
{
	return path_make(out, cap, "pvml", "");
}
