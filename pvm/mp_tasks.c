/* Calls about tasks: spawn, identity, signals, lists, notify. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rm.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_tev.h"

extern struct Pvmtracer pvmctrc;

int mp_api_mytid(void)
{
	int rc = pvmbeatask();

	return rc ? lpvmerr("pvm_mytid", rc) : pvmmytid;
}

int mp_api_parent(void)
{
	int rc = pvmbeatask();

	if (rc)
		return lpvmerr("pvm_parent", rc);
	if (pvmmyptid)
		return pvmmyptid;
	return mp_rt.flags & PvmNoSpawnParent ? PvmParentNotSet : PvmNoParent;
}

int mp_api_siblings(int **tids)
{
	static int alone;
	int rc = pvmbeatask();

	/* The news of the whole group follows the spawn. */
	while (!rc && (pvmmyptid || mp_rt.flags & PvmNoSpawnParent) && !mp_rt.siblings_known)
		rc = mp_rt_pump(-1);
	if (rc)
		return lpvmerr("pvm_siblings", rc);
	if (!mp_rt.siblings_known) {
		alone = pvmmytid;
		if (tids)
			*tids = &alone;
		return 1;
	}
	if (tids)
		*tids = pvmsibtids;
	return pvmnsibs;
}

int mp_api_exit(void)
{
	int rc;

	if (mp_rt.fd < 0)
		return PvmOk;
	mp_tev_finish();
	rc = mp_catch_finish();
	if (!rc && mp_rt.fd >= 0)
		rc = mp_rt_call(MP_OP_EXIT, NULL, NULL, NULL);
	if (mp_rt.fd >= 0)
		mp_rt_lost();
	return PvmOk;
}

static void put_name(struct base_wbuf *b, const char *name, size_t n, uint32_t *count)
{
	char key[256];
	const char *v;
	uint32_t len;

	if (!n || n >= sizeof(key))
		return;
	memcpy(key, name, n);
	key[n] = 0;
	v = getenv(key);
	if (!v)
		return;
	len = (uint32_t)(n + 1 + strlen(v));
	base_wbuf_u32(b, len);
	base_wbuf_bytes(b, key, n);
	base_wbuf_u8(b, '=');
	base_wbuf_bytes(b, v, strlen(v));
	(*count)++;
}

static void put_text(struct base_wbuf *b, const char *text, uint32_t *count)
{
	base_wbuf_str(b, text);
	(*count)++;
}

/* PVM_EXPORT and what it names, and what the child must know of us. */
static void put_env(struct base_wbuf *out)
{
	const char *p = getenv("PVM_EXPORT");
	char text[64];
	struct base_wbuf b;
	uint32_t n = 0;

	base_wbuf_init(&b, MP_FRAME_MAX);
	if (p) {
		put_name(&b, "PVM_EXPORT", strlen("PVM_EXPORT"), &n);
		while (*p) {
			size_t k = strcspn(p, ":");

			put_name(&b, p, k, &n);
			p += k + (p[k] == ':');
		}
	}
	snprintf(text, sizeof(text), "PVMCTX=0x%x", (unsigned)pvmmyctx);
	put_text(&b, text, &n);
	snprintf(text, sizeof(text), "PVMTRCBUF=%d", mp_rt.trace.buffer);
	put_text(&b, text, &n);
	snprintf(text, sizeof(text), "PVMTRCOPT=%d", mp_rt.trace.options);
	put_text(&b, text, &n);
	base_wbuf_u32(out, n);
	base_wbuf_bytes(out, b.data, b.len);
	if (b.error)
		out->error = b.error;
	base_wbuf_fini(&b);
}

static void put_spawn(struct base_wbuf *b, const char *file, char **argv, int flags,
		      const char *where, int count)
{
	uint32_t n = 0;

	base_wbuf_str(b, file);
	base_wbuf_str(b, where ? where : "");
	base_wbuf_u32(b, (uint32_t)flags);
	base_wbuf_u32(b, (uint32_t)count);
	while (argv && argv[n])
		n++;
	base_wbuf_u32(b, n);
	for (uint32_t i = 0; i < n; i++)
		base_wbuf_str(b, argv[i]);
	put_env(b);
	base_wbuf_u32(b, (uint32_t)mp_rt.out_tid);
	base_wbuf_u32(b, (uint32_t)mp_rt.out_ctx);
	base_wbuf_u32(b, (uint32_t)mp_rt.out_code);
	base_wbuf_u32(b, (uint32_t)mp_rt.trace.tid);
	base_wbuf_u32(b, (uint32_t)mp_rt.trace.ctx);
	base_wbuf_u32(b, (uint32_t)mp_rt.trace.code);
	base_wbuf_u32(b, (uint32_t)mp_rt.trace.buffer);
	base_wbuf_u32(b, (uint32_t)mp_rt.trace.options);
	base_wbuf_str(b, pvmctrc.tmask);
}

/* Good ones first, then the errors; how many are good. */
static int spawn_results(struct base_wbuf *body, int count, int *tids)
{
	struct base_rbuf b;
	int good = 0, bad = 0;
	int *errors;

	base_rbuf_init(&b, body->data, body->len);
	if (base_rbuf_u32(&b) != (uint32_t)count)
		return PvmDSysErr;
	errors = calloc((size_t)count, sizeof(*errors));
	if (!errors)
		return PvmNoMem;
	for (int i = 0; i < count; i++) {
		int v = (int32_t)base_rbuf_u32(&b);

		if (v < 0) {
			errors[bad++] = v;
			continue;
		}
		if (tids)
			tids[good] = v;
		good++;
	}
	for (int i = 0; i < bad && tids; i++)
		tids[good + i] = errors[i];
	free(errors);
	return good;
}

/* Nothing was started, for the one reason `code`. */
static int spawn_nothing(int code, int count, int *tids)
{
	for (int i = 0; i < count && tids; i++)
		tids[i] = code;
	return 0;
}

int mp_api_spawn(char *file, char **argv, int flags, char *where, int count, int *tids)
{
	struct base_wbuf args, body;
	const char *more = getenv("PVMTASK");
	int rc = pvmbeatask();

	if (!rc && (count < 1 || !file))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_spawn", rc);
	if (more)
		flags |= (int)strtoul(more, NULL, 0);
	if (!*file)
		return spawn_nothing(PvmNoFile, count, tids);
	if ((flags & (PvmTaskHost | PvmTaskArch)) && (!where || !*where))
		return spawn_nothing(PvmNoHost, count, tids);
	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_init(&body, MP_FRAME_MAX);
	put_spawn(&args, file, argv, flags, where, count);
	rc = mp_rm_spawn(file, argv, flags, where, count, &body);
	if (rc == MP_RM_NONE)
		rc = mp_rt_call(MP_OP_SPAWN, &args, &body, NULL);
	if (rc >= 0)
		rc = spawn_results(&body, count, tids);
	else if (rc == PvmNoHost)
		rc = spawn_nothing(rc, count, tids);
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	return rc < 0 ? lpvmerr("pvm_spawn", rc) : rc;
}

int pvm_export(char *name)
{
	const char *old = getenv("PVM_EXPORT");
	size_t n = name ? strlen(name) : 0;
	char *text;

	if (!n)
		return PvmOk;
	for (const char *p = old; p && *p;) {
		size_t k = strcspn(p, ":");

		if (k == n && !strncmp(p, name, n))
			return PvmOk;
		p += k + (p[k] == ':');
	}
	if (asprintf(&text, "%s%s%s", old ? old : "", old && *old ? ":" : "", name) < 0)
		return PvmNoMem;
	setenv("PVM_EXPORT", text, 1);
	free(text);
	return PvmOk;
}

int pvm_unexport(char *name)
{
	const char *old = getenv("PVM_EXPORT");
	size_t n = name ? strlen(name) : 0, at = 0;
	char *text;

	if (!old || !n)
		return PvmOk;
	text = malloc(strlen(old) + 2);
	if (!text)
		return PvmNoMem;
	for (const char *p = old; *p;) {
		size_t k = strcspn(p, ":");

		if (k && (k != n || strncmp(p, name, n))) {
			if (at)
				text[at++] = ':';
			memcpy(text + at, p, k);
			at += k;
		}
		p += k + (p[k] == ':');
	}
	text[at] = 0;
	setenv("PVM_EXPORT", text, 1);
	free(text);
	return PvmOk;
}

/* One call with integers as arguments. */
int mp_rt_call_ints(uint16_t op, const int *v, int n)
{
	struct base_wbuf args;
	int rc;

	base_wbuf_init(&args, 256);
	for (int i = 0; i < n; i++)
		base_wbuf_u32(&args, (uint32_t)v[i]);
	rc = mp_rt_call(op, &args, NULL, NULL);
	base_wbuf_fini(&args);
	return rc;
}

int mp_api_sendsig(int tid, int sig)
{
	int rc = pvmbeatask(), v[2] = {tid, sig};

	if (!rc && !mp_tid_is_task(tid))
		rc = PvmBadParam;
	/* Ours to deliver, so that it has happened when we return. */
	if (!rc && tid == pvmmytid)
		return raise(sig) ? lpvmerr("pvm_sendsig", PvmBadParam) : PvmOk;
	if (!rc)
		rc = mp_rt_call_ints(MP_OP_SIGNAL, v, 2);
	return rc < 0 ? lpvmerr("pvm_sendsig", rc) : PvmOk;
}

int mp_api_kill(int tid)
{
	int rc = pvmbeatask(), v[2] = {tid, SIGTERM};

	if (!rc && !mp_tid_is_task(tid))
		rc = PvmBadParam;
	if (!rc)
		rc = mp_rt_call_ints(MP_OP_SIGNAL, v, 2);
	return rc < 0 ? lpvmerr("pvm_kill", rc) : PvmOk;
}

int mp_api_pstat(int tid)
{
	int rc = pvmbeatask();

	if (!rc && !mp_tid_is_task(tid))
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_pstat", rc);
	if (tid == pvmmytid)
		return PvmOk;
	rc = mp_rt_call_ints(MP_OP_PSTAT, &tid, 1);
	return rc == PvmSysErr ? lpvmerr("pvm_pstat", rc) : rc;
}

int pvm_tidtohost(int tid)
{
	return tid & MP_TID_HOST;
}

static int notify_check(int what, int count, const int *tids)
{
	switch (what & ~PvmNotifyCancel) {
	case PvmTaskExit:
	case PvmHostDelete:
	case PvmRouteDelete:
		if (count < 1 || !tids)
			return PvmBadParam;
		for (int i = 0; i < count; i++)
			if ((what & ~PvmNotifyCancel) == PvmHostDelete ? !(tids[i] & MP_TID_HOST)
								       : !mp_tid_is_task(tids[i]))
				return PvmBadParam;
		return 0;
	case PvmHostAdd:
	case PvmRouteAdd: return 0;
	default: return PvmBadParam;
	}
}

/* Routes are our own affair: none is ever added for a program to see, and a task without one is told at once. */
static int notify_route(int what, int tag, int count)
{
	struct mp_msg *m;
	int rc = 0;

	if (what != PvmRouteDelete)
		return 0;
	m = mp_msg_new(MP_ENC_XDR);
	if (!m)
		return PvmNoMem;
	while (!rc && count-- > 0)
		rc = mp_rt_send(pvmmytid, m, tag);
	mp_msg_unref(m);
	return rc;
}

int mp_api_notify(int what, int tag, int count, int *tids)
{
	struct base_wbuf args;
	bool list = (what & ~PvmNotifyCancel) != PvmHostAdd;
	int rc = pvmbeatask();

	if (!rc && tag < 0)
		rc = PvmBadParam;
	if (!rc)
		rc = notify_check(what, count, tids);
	if (rc)
		return lpvmerr("pvm_notify", rc);
	if ((what & ~PvmNotifyCancel) >= PvmRouteAdd) {
		rc = notify_route(what, tag, count);
		return rc < 0 ? lpvmerr("pvm_notify", rc) : PvmOk;
	}
	rc = mp_rm_notify(what, tag, count, list ? tids : NULL);
	if (rc != MP_RM_NONE)
		return rc < 0 ? lpvmerr("pvm_notify", rc) : PvmOk;
	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_u32(&args, (uint32_t)what);
	base_wbuf_u32(&args, (uint32_t)tag);
	base_wbuf_u32(&args, (uint32_t)pvmmyctx);
	base_wbuf_u32(&args, (uint32_t)count);
	base_wbuf_u32(&args, list ? (uint32_t)count : 0);
	for (int i = 0; list && i < count; i++)
		base_wbuf_u32(&args, (uint32_t)tids[i]);
	rc = mp_rt_call(MP_OP_NOTIFY, &args, NULL, NULL);
	base_wbuf_fini(&args);
	return rc < 0 ? lpvmerr("pvm_notify", rc) : PvmOk;
}

static struct pvmtaskinfo *task_list;
static int task_count;

static int take_tasks(struct base_wbuf *body)
{
	struct base_rbuf b;
	uint32_t n;

	for (int i = 0; i < task_count; i++)
		free(task_list[i].ti_a_out);
	free(task_list);
	task_list = NULL;
	task_count = 0;
	base_rbuf_init(&b, body->data, body->len);
	n = base_rbuf_u32(&b);
	if (b.error || n > base_rbuf_left(&b) / 24)
		return PvmDSysErr;
	task_list = calloc((size_t)n + 1, sizeof(*task_list));
	if (!task_list)
		return PvmNoMem;
	for (uint32_t i = 0; i < n; i++) {
		struct pvmtaskinfo *t = &task_list[i];
		size_t len = 0;
		const char *p;

		t->ti_tid = (int32_t)base_rbuf_u32(&b);
		t->ti_ptid = (int32_t)base_rbuf_u32(&b);
		t->ti_host = (int32_t)base_rbuf_u32(&b);
		t->ti_flag = (int32_t)base_rbuf_u32(&b);
		t->ti_pid = (int32_t)base_rbuf_u32(&b);
		p = base_rbuf_blob(&b, 65536, &len);
		t->ti_a_out = p ? strndup(p, len) : NULL;
		if (!t->ti_a_out)
			return p ? PvmNoMem : PvmDSysErr;
		task_count++;
	}
	return 0;
}

int mp_api_tasks(int where, int *count, struct pvmtaskinfo **list)
{
	struct base_wbuf args, body;
	int rc = pvmbeatask();

	if (!rc && where && !(where & ~MP_TID_DAEMON))
		rc = PvmNoHost;
	if (rc)
		return lpvmerr("pvm_tasks", rc);
	base_wbuf_init(&args, 64);
	base_wbuf_init(&body, MP_FRAME_MAX);
	base_wbuf_u32(&args, (uint32_t)(where & ~MP_TID_DAEMON));
	rc = mp_rm_tasks(where, &body);
	if (rc == MP_RM_NONE)
		rc = mp_rt_call(MP_OP_TASKS, &args, &body, NULL);
	if (rc >= 0)
		rc = take_tasks(&body);
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	if (rc < 0)
		return lpvmerr("pvm_tasks", rc);
	if (count)
		*count = task_count;
	if (list)
		*list = task_list;
	return PvmOk;
}
