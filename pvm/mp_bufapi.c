/* The calls that make, choose and describe message buffers. */
#include <limits.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_buf.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_pack.h"
#include "pvm/mp_rt.h"

/* Enrols, as nearly every call of the library does. */
#define ENROL(name)                                                                                \
	do {                                                                                       \
		int enrol_code = mp_rt_need();                                                     \
		if (enrol_code < 0)                                                                \
			return lpvmerr(name, enrol_code);                                          \
	} while (0)

/* *out is set when the number is good. */
static int find(int mid, struct mp_msg **out)
{
	struct mp_msg *m;

	if (mid <= 0)
		return PvmBadParam;
	m = mp_mid_get(mid);
	if (!m)
		return PvmNoSuchBuf;
	*out = m;
	return PvmOk;
}

/* A new message with a number, or a negative code. */
static int make(int encoding)
{
	int enc = mp_enc_from_api(encoding);
	struct mp_msg *m;

	if (enc < 0)
		return enc;
	m = mp_msg_new(enc);
	if (!m)
		return PvmNoMem;
	m->head.src = pvmmytid;
	if ((enc == MP_ENC_TRACE && mp_trace_begin(m)) || mp_mid_add(m)) {
		mp_msg_unref(m);
		return PvmNoMem;
	}
	return m->mid;
}

int mp_api_mkbuf(int encoding)
{
	int mid;

	ENROL("pvm_mkbuf");
	mid = make(encoding);
	return mid < 0 ? lpvmerr("pvm_mkbuf", mid) : mid;
}

int mp_api_initsend(int encoding)
{
	int mid, old = mp_sbuf_mid();

	ENROL("pvm_initsend");
	mid = mp_api_mkbuf(encoding);
	if (mid < 0)
		return lpvmerr("pvm_initsend", mid);
	if (old)
		mp_mid_free(old);
	mp_sbuf_set(mid);
	return mid;
}

int mp_api_freebuf(int mid)
{
	struct mp_msg *m;
	int rc;

	ENROL("pvm_freebuf");
	if (!mid)
		return PvmOk;
	rc = find(mid, &m);
	if (rc)
		return lpvmerr("pvm_freebuf", rc);
	mp_mid_free(mid);
	return PvmOk;
}

int mp_api_getsbuf(void)
{
	ENROL("pvm_getsbuf");
	return mp_sbuf_mid();
}

int mp_api_getrbuf(void)
{
	ENROL("pvm_getrbuf");
	return mp_rbuf_mid();
}

/* The number of the buffer that was active before. */
static int choose(const char *name, int mid, int old, void (*set)(int mid))
{
	struct mp_msg *m;
	int rc;

	if (mid) {
		rc = find(mid, &m);
		if (rc)
			return lpvmerr(name, rc);
	}
	set(mid);
	return old;
}

int mp_api_setsbuf(int mid)
{
	ENROL("pvm_setsbuf");
	return choose("pvm_setsbuf", mid, mp_sbuf_mid(), mp_sbuf_set);
}

int mp_api_setrbuf(int mid)
{
	ENROL("pvm_setrbuf");
	return choose("pvm_setrbuf", mid, mp_rbuf_mid(), mp_rbuf_set);
}

/* What is in place does not count until it has arrived, as in the original. */
static int shown_len(const struct mp_msg *m)
{
	if (m->head.enc == MP_ENC_INPLACE)
		return 0;
	return m->len > INT_MAX ? INT_MAX : (int)m->len;
}

int mp_api_bufinfo(int mid, int *len, int *tag, int *tid)
{
	struct mp_msg *m;
	int rc;

	ENROL("pvm_bufinfo");
	rc = find(mid, &m);
	if (rc)
		return lpvmerr("pvm_bufinfo", rc);
	if (len)
		*len = shown_len(m);
	if (tag)
		*tag = m->head.tag;
	if (tid)
		*tid = m->head.src;
	return PvmOk;
}

int mp_api_getminfo(int mid, struct pvmminfo *info)
{
	struct mp_msg *m;
	int rc;

	ENROL("pvm_getminfo");
	rc = find(mid, &m);
	if (rc)
		return lpvmerr("pvm_getminfo", rc);
	if (!info)
		return lpvmerr("pvm_getminfo", PvmBadParam);
	*info = (struct pvmminfo){
		.len = shown_len(m),
		.ctx = m->head.ctx,
		.tag = m->head.tag,
		.wid = m->head.wid,
		.enc = m->head.enc,
		.crc = m->head.crc,
		.src = m->head.src,
		.dst = m->head.dst,
	};
	return PvmOk;
}

/* Length, encoding and checksum follow from the body and stay. */
int mp_api_setminfo(int mid, struct pvmminfo *info)
{
	struct mp_msg *m;
	int rc;

	ENROL("pvm_setminfo");
	rc = find(mid, &m);
	if (rc)
		return lpvmerr("pvm_setminfo", rc);
	if (!info)
		return lpvmerr("pvm_setminfo", PvmBadParam);
	m->head.ctx = info->ctx;
	m->head.tag = info->tag;
	m->head.wid = info->wid;
	m->head.src = info->src;
	m->head.dst = info->dst;
	return PvmOk;
}
