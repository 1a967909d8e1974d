#include "pvm/mp_rm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_pack.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_tev.h"

extern struct Pvmtracer pvmctrc;

enum {
	SM_FIRST = (int)0x80040001,
	SM_SPAWN = SM_FIRST,
	SM_TASK = SM_FIRST + 3,
	SM_CONFIG = SM_FIRST + 4,
	SM_ADDHOST = SM_FIRST + 5,
	SM_DELHOST = SM_FIRST + 6,
	SM_NOTIFY = SM_FIRST + 9,
	ENV_MAX = 64,
	TEXT_MAX = 4096,
	ALIVE_MS = 1000, /* so often a silent resource manager is looked for */
};

/* A request that is being packed: the first error stays. */
struct request {
	struct mp_msg *m;
	int rc;
};

static struct request begin(void)
{
	struct request r = {mp_msg_new(MP_ENC_XDR), 0};

	r.rc = r.m ? 0 : PvmNoMem;
	return r;
}

static void put_int(struct request *r, int v)
{
	if (!r->rc)
		r->rc = mp_pack(r->m, MP_K_INT, &v, 1, 1);
}

static void put_str(struct request *r, const char *s)
{
	if (!r->rc)
		r->rc = mp_pack_string(r->m, s ? s : "");
}

static void put_names(struct request *r, char **names, int count)
{
	put_int(r, count);
	for (int i = 0; i < count; i++)
		put_str(r, names[i]);
}

static bool have_rm(void)
{
	return !pvmbeatask() && pvmschedtid && pvmschedtid != pvmmytid;
}

static int send_request(struct request *r, int tag, int wid)
{
	int ctx = pvmmyctx;

	if (!r->rc) {
		r->m->head.wid = wid;
		pvmmyctx = PvmBaseContext;
		r->rc = mp_rt_send(pvmschedtid, r->m, tag);
		pvmmyctx = ctx;
	}
	mp_msg_unref(r->m);
	return r->rc;
}

/* 0; MP_RM_NONE when the resource manager has ended, which is then forgotten; or an error. */
static int rm_lives(void)
{
	int rm = pvmschedtid, rc = mp_rt_call_ints(MP_OP_PSTAT, &rm, 1);

	if (rc >= 0 || rc == PvmSysErr)
		return BASE_MIN(rc, 0);
	pvmschedtid = 0;
	return MP_RM_NONE;
}

/* The answer, without its number; MP_RM_NONE when the resource manager ends before. */
static int await_answer(int tag, int wid, struct mp_msg **out)
{
	for (;;) {
		int rc = mp_rt_await_wid(pvmschedtid, tag, wid,
					 base_clock_ns() + ALIVE_MS * BASE_NS_PER_MS, out);
		if (rc || *out)
			return rc;
		rc = rm_lives();
		if (rc)
			return rc;
	}
}

static int ask(struct request *r, int tag, struct mp_msg **out)
{
	static int wids;
	int wid = ++wids, rc = send_request(r, tag, wid);

	*out = NULL;
	return rc < 0 ? rc : await_answer(tag, wid, out);
}

static int get_int(struct mp_msg *m, int *rc)
{
	int v = 0;

	if (!*rc)
		*rc = mp_unpack(m, MP_K_INT, &v, 1, 1);
	return v;
}

static void pass_int(struct mp_msg *m, struct base_wbuf *body, int *rc)
{
	base_wbuf_u32(body, (uint32_t)get_int(m, rc));
}

static void pass_str(struct mp_msg *m, struct base_wbuf *body, int *rc)
{
	int n = get_int(m, rc);
	char text[TEXT_MAX];

	if (!*rc && (n < 1 || n > TEXT_MAX))
		*rc = PvmBadMsg;
	if (!*rc)
		*rc = mp_unpack_bytes(m, text, (size_t)n);
	if (!*rc)
		base_wbuf_blob(body, text, (uint32_t)strnlen(text, (size_t)n));
}

static int finish(struct mp_msg *m, const struct base_wbuf *body, int rc)
{
	mp_msg_unref(m);
	if (rc)
		return rc;
	return body->error ? PvmNoMem : 0;
}

/* `count` results; Debian's srm.pvm leaves some away. */
static int pass_results(struct mp_msg *m, int count, struct base_wbuf *body)
{
	int rc = 0;

	get_int(m, &rc);
	base_wbuf_u32(body, (uint32_t)count);
	for (int i = 0; i < count && !rc; i++)
		base_wbuf_u32(body,
			      m->read_left ? (uint32_t)get_int(m, &rc) : (uint32_t)PvmDSysErr);
	return finish(m, body, rc);
}

static void put_env(struct request *r)
{
	const char *p = getenv("PVM_EXPORT");
	char *env[ENV_MAX], text[4][128 + sizeof(pvmctrc.tmask)];
	int n = 0;

	snprintf(text[0], sizeof(text[0]), "PVMTMASK=%s", pvmctrc.tmask);
	snprintf(text[1], sizeof(text[1]), "PVMTRCBUF=%d", mp_rt.trace.buffer);
	snprintf(text[2], sizeof(text[2]), "PVMTRCOPT=%d", mp_rt.trace.options);
	snprintf(text[3], sizeof(text[3]), "PVMCTX=0x%x", (unsigned)pvmmyctx);
	if (p && asprintf(&env[n], "PVM_EXPORT=%s", p) > 0)
		n++;
	while (p && *p && n < ENV_MAX) {
		char name[256];
		size_t k = strcspn(p, ":");
		const char *v;

		snprintf(name, sizeof(name), "%.*s", (int)BASE_MIN(k, sizeof(name) - 1), p);
		v = k && k < sizeof(name) ? getenv(name) : NULL;
		if (v && asprintf(&env[n], "%s=%s", name, v) > 0)
			n++;
		p += k + (p[k] == ':');
	}
	put_int(r, n + 4);
	for (int i = 0; i < n; i++) {
		put_str(r, env[i]);
		free(env[i]);
	}
	for (int i = 0; i < 4; i++)
		put_str(r, text[i]);
}

int mp_rm_spawn(const char *file, char **argv, int flags, const char *where, int count,
		struct base_wbuf *body)
{
	struct request r;
	struct mp_msg *m;
	int args = 0, rc;

	if (!have_rm())
		return MP_RM_NONE;
	r = begin();
	while (argv && argv[args])
		args++;
	put_str(&r, file);
	put_int(&r, flags);
	put_str(&r, where);
	put_int(&r, count);
	put_names(&r, argv, args);
	put_int(&r, mp_rt.out_tid);
	put_int(&r, mp_rt.out_ctx);
	put_int(&r, mp_rt.out_code);
	put_int(&r, mp_rt.trace.tid);
	put_int(&r, mp_rt.trace.ctx);
	put_int(&r, mp_rt.trace.code);
	put_env(&r);
	rc = ask(&r, SM_SPAWN, &m);
	return rc ? rc : pass_results(m, count, body);
}

int mp_rm_config(struct base_wbuf *body)
{
	struct request r;
	struct mp_msg *m;
	int rc, n;

	if (!have_rm())
		return MP_RM_NONE;
	r = begin();
	rc = ask(&r, SM_CONFIG, &m);
	if (rc)
		return rc;
	n = get_int(m, &rc);
	get_int(m, &rc); /* how many kinds; we count them */
	base_wbuf_u32(body, (uint32_t)n);
	for (int i = 0; i < n && !rc; i++) {
		pass_int(m, body, &rc);
		pass_str(m, body, &rc);
		pass_str(m, body, &rc);
		pass_int(m, body, &rc);
		pass_int(m, body, &rc);
	}
	return finish(m, body, rc);
}

int mp_rm_tasks(int where, struct base_wbuf *body)
{
	struct base_wbuf list;
	struct request r;
	struct mp_msg *m;
	uint32_t n = 0;
	int rc, code;

	if (!have_rm())
		return MP_RM_NONE;
	r = begin();
	put_int(&r, where);
	rc = ask(&r, SM_TASK, &m);
	if (rc)
		return rc;
	code = get_int(m, &rc);
	base_wbuf_init(&list, MP_FRAME_MAX);
	/* Theirs has the program before the process; they go on to the end. */
	for (; !rc && code >= 0 && m->read_left; n++) {
		struct base_wbuf name;
		int v[4];

		for (int i = 0; i < 4; i++)
			v[i] = get_int(m, &rc);
		base_wbuf_init(&name, TEXT_MAX + 8);
		pass_str(m, &name, &rc);
		for (int i = 0; i < 4; i++)
			base_wbuf_u32(&list, (uint32_t)v[i]);
		pass_int(m, &list, &rc);
		base_wbuf_bytes(&list, name.data, name.len);
		base_wbuf_fini(&name);
	}
	base_wbuf_u32(body, n);
	base_wbuf_bytes(body, list.data, list.len);
	base_wbuf_fini(&list);
	rc = finish(m, body, rc);
	return rc ? rc : BASE_MIN(code, 0);
}

int mp_rm_addhosts(char **names, int count, struct base_wbuf *body)
{
	struct base_wbuf unused;
	struct request r;
	struct mp_msg *m;
	int rc, n;

	if (!have_rm())
		return MP_RM_NONE;
	r = begin();
	put_names(&r, names, count);
	rc = ask(&r, SM_ADDHOST, &m);
	if (rc)
		return rc;
	n = get_int(m, &rc);
	get_int(m, &rc);
	base_wbuf_u32(body, (uint32_t)n);
	base_wbuf_init(&unused, MP_FRAME_MAX);
	for (int i = 0; i < n && !rc; i++) {
		pass_int(m, body, &rc);
		pass_str(m, &unused, &rc);
		pass_str(m, &unused, &rc);
		pass_int(m, &unused, &rc);
		pass_int(m, &unused, &rc);
	}
	base_wbuf_fini(&unused);
	return finish(m, body, rc);
}

int mp_rm_delhosts(char **names, int count, struct base_wbuf *body)
{
	struct request r;
	struct mp_msg *m;
	int rc;

	if (!have_rm())
		return MP_RM_NONE;
	r = begin();
	put_names(&r, names, count);
	rc = ask(&r, SM_DELHOST, &m);
	return rc ? rc : pass_results(m, count, body);
}

/* The resource manager sends the notice itself when the time comes. */
int mp_rm_notify(int what, int tag, int count, const int *tids)
{
	struct request r;
	int rc;

	if (!have_rm())
		return MP_RM_NONE;
	rc = rm_lives();
	if (rc)
		return rc;
	r = begin();
	put_int(&r, what);
	put_int(&r, pvmmyctx);
	put_int(&r, tag);
	put_int(&r, count);
	for (int i = 0; tids && i < count; i++)
		put_int(&r, tids[i]);
	return send_request(&r, SM_NOTIFY, 0);
}
