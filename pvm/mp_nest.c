/*
 * A message inside a message: eight integers of its head, then the body in pieces, each with its
 * length in front, until the head's length is reached. The original does not report errors here.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_pack.h"

enum { HEAD_INTS = 8 };

/* The message `mid`, which must not be the send buffer itself. */
static int inner(int mid, struct mp_msg **out)
{
	if (mid <= 0)
		return PvmBadParam;
	if (!mp_mid_get(mid))
		return PvmNoSuchBuf;
	if (!mp_sbuf())
		return PvmNoBuf;
	if (mid == mp_sbuf_mid())
		return PvmBadParam;
	*out = mp_mid_get(mid);
	return PvmOk;
}

/* Bytes by value, through whatever segments they lie in. */
static int pack_body(struct mp_msg *to, const struct mp_msg *from)
{
	int rc, len = (int)from->len;
	uint8_t *flat;

	if (!len)
		return PvmOk;
	rc = mp_pack_value(to, MP_K_INT, &len);
	if (rc)
		return rc;
	flat = malloc(from->len);
	if (!flat)
		return PvmNoMem;
	mp_msg_copy_out(from, 0, flat, from->len);
	if (to->head.enc == MP_ENC_INPLACE)
		rc = mp_msg_append(to, flat, from->len);
	else
		rc = mp_pack(to, MP_K_BYTE, flat, len, 1);
	free(flat);
	return rc;
}

int pvm_pkmesg(int mid)
{
	struct mp_msg *from, *to;
	int rc = inner(mid, &from);

	if (rc)
		return rc;
	if (from->len > INT_MAX)
		return PvmOverflow;
	to = mp_sbuf();
	to->mode = MP_MODE_PACK;
	const struct mp_head *h = &from->head;
	const int head[HEAD_INTS] = {(int)from->len,	    h->ctx, h->tag, h->wid,
				     mp_msg_wire_enc(from), h->crc, h->src, h->dst};
	for (int i = 0; i < HEAD_INTS && !rc; i++)
		rc = mp_pack_value(to, MP_K_INT, &head[i]);
	return rc ? rc : pack_body(to, from);
}

int pvm_pkmesgbody(int mid)
{
	struct mp_msg *from, *to;
	int rc = inner(mid, &from);

	if (rc)
		return rc;
	to = mp_sbuf();
	if (from->head.enc != to->head.enc)
		return PvmMismatch;
	if (to->mode != MP_MODE_PACK)
		mp_msg_clear(to);
	to->mode = MP_MODE_PACK;
	return mp_msg_append_msg(to, from);
}

/* The pieces, into m. */
static int unpack_body(struct mp_msg *from, struct mp_msg *m, size_t want)
{
	while (m->len < want) {
		int len, rc = mp_unpack(from, MP_K_INT, &len, 1, 1);
		void *to;

		if (rc)
			return rc;
		if (len > 0 && (size_t)len > from->read_left) {
			mp_msg_skip(from, from->read_left);
			return PvmNoData;
		}
		if (len < 0 || (size_t)len > want - m->len)
			return PvmBadMsg;
		if (!len)
			continue;
		to = mp_msg_reserve(m, len);
		if (!to)
			return PvmNoMem;
		rc = mp_unpack_bytes(from, to, len);
		if (rc)
			return rc;
	}
	return PvmOk;
}

int pvm_upkmesg(void)
{
	struct mp_msg *from = mp_rbuf(), *m;
	int head[HEAD_INTS], rc;

	if (!from)
		return PvmNoBuf;
	rc = mp_unpack(from, MP_K_INT, head, HEAD_INTS, 1);
	if (rc)
		return rc;
	if (head[0] < 0)
		return PvmBadMsg;
	m = mp_msg_new(head[4]);
	if (!m)
		return PvmNoMem;
	m->head = (struct mp_head){.enc = head[4],
				   .tag = head[2],
				   .ctx = head[1],
				   .src = head[6],
				   .dst = head[7],
				   .wid = head[3],
				   .crc = head[5]};
	rc = unpack_body(from, m, head[0]);
	if (!rc)
		rc = mp_mid_add(m);
	if (rc) {
		mp_msg_unref(m);
		return rc;
	}
	m->mode = MP_MODE_READ;
	mp_msg_rewind(m);
	return m->mid;
}
