/* The mailbox, and the older insert, lookup, delete on top of it. */
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"

static void put_body(struct base_wbuf *b, const struct mp_msg *m)
{
	void *p;

	base_wbuf_u32(b, (uint32_t)m->len);
	p = base_wbuf_reserve(b, m->len);
	if (p && m->len)
		mp_msg_copy_out(m, 0, p, m->len);
}

/* That there is no such entry is an answer, not an error to be told. */
static int report(const char *function, int rc)
{
	return rc < 0 && rc != PvmNotFound ? lpvmerr(function, rc) : rc;
}

/* As with the original, so is that an entry belongs to somebody else, to who wants to change it. */
static int report_change(const char *function, int rc)
{
	return rc == PvmDenied ? rc : report(function, rc);
}

/* 0 or more: where it went. */
static int put(const char *name, int index, const struct mp_msg *m, int flags)
{
	struct base_wbuf args;
	int rc;

	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_str(&args, name);
	base_wbuf_u32(&args, (uint32_t)index);
	base_wbuf_u32(&args, (uint32_t)flags);
	base_wbuf_u32(&args, (uint32_t)(m ? mp_msg_wire_enc(m) : MP_ENC_XDR));
	if (m)
		put_body(&args, m);
	else
		base_wbuf_u32(&args, 0);
	rc = mp_rt_call(MP_OP_MBOX_PUT, &args, NULL, NULL);
	base_wbuf_fini(&args);
	return rc;
}

int mp_api_putinfo(char *name, int mid, int flags)
{
	struct mp_msg *m = NULL;
	int rc = pvmbeatask();

	if (!rc && (!name || !*name || mid < 0))
		rc = PvmBadParam;
	if (!rc && mid && !(m = mp_mid_get(mid)))
		rc = PvmNoSuchBuf;
	if (!rc && m && m->len > MP_FRAME_MAX - 8192)
		rc = PvmOverflow;
	if (!rc)
		rc = put(name, PvmMboxDirectIndexOf(flags), m, flags);
	return report_change("pvm_putinfo", rc);
}

/* The entry as a message; *index gets its number. */
static int take_entry(struct base_wbuf *body, struct mp_msg **out)
{
	struct base_rbuf b;
	size_t len = 0;
	const void *p;
	struct mp_msg *m;
	int enc, owner;

	base_rbuf_init(&b, body->data, body->len);
	enc = (int32_t)base_rbuf_u32(&b);
	owner = (int32_t)base_rbuf_u32(&b);
	p = base_rbuf_blob(&b, MP_FRAME_MAX, &len);
	if (!p)
		return PvmDSysErr;
	m = mp_msg_new(enc);
	if (!m || mp_msg_append(m, p, len)) {
		mp_msg_unref(m);
		return PvmNoMem;
	}
	m->head.src = owner;
	*out = m;
	return 0;
}

static int get_entry(const char *name, int index, int flags, struct mp_msg **out)
{
	struct base_wbuf args, body;
	int rc;

	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_init(&body, MP_FRAME_MAX);
	base_wbuf_str(&args, name);
	base_wbuf_u32(&args, (uint32_t)index);
	base_wbuf_u32(&args, (uint32_t)flags);
	rc = mp_rt_call(MP_OP_MBOX_GET, &args, &body, NULL);
	if (rc >= 0) {
		int got = take_entry(&body, out);

		rc = got < 0 ? got : rc;
	}
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	return rc;
}

int mp_api_recvinfo(char *name, int index, int flags)
{
	struct mp_msg *m;
	int rc = pvmbeatask();

	if (!rc && (!name || !*name || index < 0))
		rc = PvmBadParam;
	if (!rc)
		rc = get_entry(name, index, flags, &m);
	if (rc >= 0) {
		rc = mp_rbuf_deliver(m);
		if (rc < 0)
			mp_msg_unref(m);
	}
	return report("pvm_recvinfo", rc);
}

int mp_api_delinfo(char *name, int index, int flags)
{
	struct base_wbuf args;
	int rc = pvmbeatask();

	if (!rc && (!name || !*name || index < 0))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_delinfo", rc);
	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_str(&args, name);
	base_wbuf_u32(&args, (uint32_t)index);
	rc = mp_rt_call(MP_OP_MBOX_DEL, &args, NULL, NULL);
	base_wbuf_fini(&args);
	return report_change("pvm_delinfo", rc);
}

static struct pvmmboxinfo *classes;
static int class_count;

static void classes_free(void)
{
	for (int i = 0; i < class_count; i++) {
		free(classes[i].mi_name);
		free(classes[i].mi_indices);
		free(classes[i].mi_owners);
		free(classes[i].mi_flags);
	}
	free(classes);
	classes = NULL;
	class_count = 0;
}

static int take_class(struct base_rbuf *b, struct pvmmboxinfo *c)
{
	size_t len = 0;
	const char *p = base_rbuf_blob(b, 65536, &len);
	uint32_t n = base_rbuf_u32(b);

	if (!p || b->error || n > base_rbuf_left(b) / 12)
		return PvmDSysErr;
	c->mi_name = strndup(p, len);
	c->mi_indices = calloc((size_t)n + 1, sizeof(int));
	c->mi_owners = calloc((size_t)n + 1, sizeof(int));
	c->mi_flags = calloc((size_t)n + 1, sizeof(int));
	if (!c->mi_name || !c->mi_indices || !c->mi_owners || !c->mi_flags)
		return PvmNoMem;
	c->mi_nentries = (int)n;
	for (uint32_t i = 0; i < n; i++) {
		c->mi_indices[i] = (int32_t)base_rbuf_u32(b);
		c->mi_owners[i] = (int32_t)base_rbuf_u32(b);
		c->mi_flags[i] = (int32_t)base_rbuf_u32(b);
	}
	return 0;
}

static int take_classes(struct base_wbuf *body)
{
	struct base_rbuf b;
	uint32_t n;
	int rc = 0;

	classes_free();
	base_rbuf_init(&b, body->data, body->len);
	n = base_rbuf_u32(&b);
	if (b.error || n > base_rbuf_left(&b) / 8)
		return PvmDSysErr;
	classes = calloc((size_t)n + 1, sizeof(*classes));
	if (!classes)
		return PvmNoMem;
	for (uint32_t i = 0; !rc && i < n; i++) {
		class_count++;
		rc = take_class(&b, &classes[i]);
	}
	return rc;
}

int mp_api_getmboxinfo(char *pattern, int *count, struct pvmmboxinfo **info)
{
	struct base_wbuf args, body;
	int rc = pvmbeatask();

	if (rc)
		return lpvmerr("pvm_getmboxinfo", rc);
	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_init(&body, MP_FRAME_MAX);
	base_wbuf_str(&args, pattern ? pattern : "");
	rc = mp_rt_call(MP_OP_MBOX_INFO, &args, &body, NULL);
	if (rc >= 0)
		rc = take_classes(&body);
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	if (rc < 0)
		return lpvmerr("pvm_getmboxinfo", rc);
	if (count)
		*count = class_count;
	if (info)
		*info = classes;
	return PvmOk;
}

/* A message with one integer, as the old calls keep it. */
static int put_int(const char *name, int index, int value)
{
	int old = mp_api_setsbuf(0), mid = mp_api_mkbuf(PvmDataDefault), rc;

	if (mid < 0)
		return mid;
	mp_api_setsbuf(mid);
	mp_api_pkint(&value, 1, 1);
	rc = put(name, BASE_MAX(index, 0), mp_mid_get(mid),
		 PvmMboxPersistent | PvmMboxMultiInstance);
	mp_api_setsbuf(old);
	mp_api_freebuf(mid);
	return rc;
}

int mp_api_insert(char *name, int index, int data)
{
	int rc = pvmbeatask();

	if (!rc && (!name || !*name || index < -1))
		rc = PvmBadParam;
	if (!rc)
		rc = put_int(name, index, data);
	if (rc < 0)
		return lpvmerr("pvm_insert", rc);
	/* The place was taken: the entry went to the next one. */
	if (rc >= 0 && index >= 0 && rc != index) {
		rc = mp_api_delinfo(name, rc, 0);
		return rc < 0 ? rc : PvmDupEntry;
	}
	return rc;
}

int mp_api_lookup(char *name, int index, int *data)
{
	struct mp_msg *m;
	int rc = pvmbeatask(), v = 0;

	if (!rc && (!name || !*name || index < -1))
		rc = PvmBadParam;
	if (!rc)
		rc = get_entry(name, index < 0 ? 0 : index, index < 0 ? PvmMboxFirstAvail : 0, &m);
	if (rc < 0)
		return report("pvm_lookup", rc);
	if (m->len >= 4) {
		uint8_t b[4];

		mp_msg_copy_out(m, 0, b, 4);
		v = (int)((uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]);
	}
	mp_msg_unref(m);
	if (data)
		*data = v;
	return rc;
}

int mp_api_delete(char *name, int index)
{
	int rc = pvmbeatask();

	if (!rc && (!name || !*name || index < 0))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_delete", rc);
	rc = mp_api_delinfo(name, index, 0);
	return rc < 0 ? rc : index;
}
