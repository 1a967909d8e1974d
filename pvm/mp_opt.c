/* Options, contexts, roles, descriptors, and the output of children. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_net.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_tev.h"

/* Context and tag of messages with output: the numbers of PVM 3.4. */
enum { CTX_OUTPUT = 0x7ffff, TAG_OUTPUT = (int)0x80030005, OUT_EOF = 0, OUT_NEW = -2 };

/* A child whose output is caught. */
struct source {
	struct base_list link;
	int tid;
	bool begun;
	char *line; /* not ended yet */
	size_t len;
};

static struct {
	struct base_list sources;
	FILE *to;
} catch;

static struct source *source_get(int tid)
{
	struct source *s;

	base_list_foreach (o, &catch.sources, struct source, link)
		if (o->tid == tid)
			return o;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->tid = tid;
	base_list_add_tail(&catch.sources, &s->link);
	return s;
}

static void source_begin(struct source *s)
{
	if (!s->begun && pvmshowtaskid)
		fprintf(catch.to, "[t%x] BEGIN\n", (unsigned)s->tid);
	s->begun = true;
}

static void source_text(struct source *s, const char *p, size_t n)
{
	source_begin(s);
	if (!pvmshowtaskid) {
		fwrite(p, 1, n, catch.to);
		return;
	}
	while (n) {
		const char *end = memchr(p, '\n', n);
		size_t part = end ? (size_t)(end - p) : n;

		if (end) {
			fprintf(catch.to, "[t%x] %.*s%.*s\n", (unsigned)s->tid, (int)s->len,
				s->line ? s->line : "", (int)part, p);
			s->len = 0;
		} else {
			char *line = realloc(s->line, s->len + part);

			if (!line)
				return;
			s->line = line;
			memcpy(s->line + s->len, p, part);
			s->len += part;
		}
		p += part + (end != NULL);
		n -= part + (end != NULL);
	}
}

static void source_end(struct source *s)
{
	if (s->len)
		source_text(s, "\n", 1);
	source_begin(s);
	if (pvmshowtaskid)
		fprintf(catch.to, "[t%x] EOF\n", (unsigned)s->tid);
	base_list_del(&s->link);
	free(s->line);
	free(s);
}

static int32_t get_be32(const uint8_t *p)
{
	return (int32_t)((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
}

/* True: the message was output of a child, and is used up. */
bool mp_catch_message(struct mp_msg *m)
{
	uint8_t head[8], *text;
	struct source *s;
	int32_t len;

	if (m->head.tag != TAG_OUTPUT || m->head.ctx != CTX_OUTPUT || !catch.to || m->len < 8)
		return false;
	mp_msg_copy_out(m, 0, head, 8);
	len = get_be32(head + 4);
	s = source_get(get_be32(head));
	if (s && len == OUT_EOF) {
		source_end(s);
	} else if (s && len > 0 && (size_t)len <= m->len - 8 && (text = malloc((size_t)len))) {
		mp_msg_copy_out(m, 8, text, (size_t)len);
		source_text(s, (char *)text, (size_t)len);
		free(text);
	} else if (s && len == OUT_NEW) {
		source_begin(s);
	}
	fflush(catch.to);
	mp_msg_unref(m);
	return true;
}

int pvm_catchout(FILE *to)
{
	int rc = pvmbeatask();

	if (rc)
		return lpvmerr("pvm_catchout", rc);
	if (!catch.sources.next)
		base_list_init(&catch.sources);
	if (to) {
		catch.to = to;
		mp_rt.out_tid = pvmmytid;
		mp_rt.out_ctx = CTX_OUTPUT;
		mp_rt.out_code = TAG_OUTPUT;
	} else {
		/* Children that run go on being caught. */
		mp_rt.out_tid = mp_rt.out_ctx = mp_rt.out_code = 0;
	}
	return PvmOk;
}

int mp_catch_finish(void)
{
	int rc = 0;

	if (!catch.sources.next || mp_rt.out_tid != pvmmytid)
		return 0;
	if (!base_list_empty(&catch.sources))
		rc = mp_rt_pump(0);
	if (!base_list_empty(&catch.sources))
		pvmlogerror("child task(s) still running.  waiting...\n");
	while (!rc && !base_list_empty(&catch.sources))
		rc = mp_rt_pump(-1);
	return rc;
}

static int *option(int what)
{
	switch (what) {
	case PvmRoute: return &pvmrouteopt;
	case PvmDebugMask: return &pvmdebmask;
	case PvmAutoErr: return &pvmautoerr;
	case PvmOutputTid: return &mp_rt.out_tid;
	case PvmOutputCode: return &mp_rt.out_code;
	case PvmOutputContext: return &mp_rt.out_ctx;
	case PvmTraceTid: return &mp_rt.trace.tid;
	case PvmTraceCode: return &mp_rt.trace.code;
	case PvmTraceContext: return &mp_rt.trace.ctx;
	case PvmTraceBuffer: return &mp_rt.trace.buffer;
	case PvmTraceOptions: return &mp_rt.trace.options;
	case PvmFragSize: return &pvmfrgsiz;
	case PvmResvTids: return &mp_rt.resv_tids;
	case PvmSelfOutputTid: return &mp_rt.my_out_tid;
	case PvmSelfOutputCode: return &mp_rt.my_out_code;
	case PvmSelfOutputContext: return &mp_rt.my_out_ctx;
	case PvmSelfTraceTid: return &mp_rt.my_trace.tid;
	case PvmSelfTraceCode: return &mp_rt.my_trace.code;
	case PvmSelfTraceContext: return &mp_rt.my_trace.ctx;
	case PvmSelfTraceBuffer: return &mp_rt.my_trace.buffer;
	case PvmSelfTraceOptions: return &mp_rt.my_trace.options;
	case PvmShowTids: return &pvmshowtaskid;
	case PvmPollType: return &mp_rt.poll_type;
	case PvmPollTime: return &mp_rt.poll_us;
	case PvmNoReset: return &pvmnoreset;
	default: return NULL;
	}
}

/* What the value may be: 0 or PvmBadParam. */
static int option_check(int what, int v)
{
	switch (what) {
	case PvmRoute:
		return v == PvmDontRoute || v == PvmAllowDirect || v == PvmRouteDirect
			       ? 0
			       : PvmBadParam;
	case PvmAutoErr: return v >= 0 && v <= 3 ? 0 : PvmBadParam;
	/* Nobody, the caller, or what it has from its own spawn. */
	case PvmOutputTid: return !v || v == pvmmytid || v == mp_rt.my_out_tid ? 0 : PvmBadParam;
	case PvmTraceTid: return !v || v == pvmmytid || v == mp_rt.my_trace.tid ? 0 : PvmBadParam;
	case PvmFragSize: return v >= 1 && v <= 1048576 ? 0 : PvmBadParam;
	case PvmPollType: return v == PvmPollConstant || v == PvmPollSleep ? 0 : PvmBadParam;
	case PvmPollTime: return v >= 0 ? 0 : PvmBadParam;
	default: return 0;
	}
}

static bool daemon_keeps(int what)
{
	return (what >= PvmSelfOutputTid && what <= PvmSelfTraceOptions) ||
	       what == PvmSelfOutputContext || what == PvmSelfTraceContext;
}

int mp_api_getopt(int what)
{
	int *field, rc = 0;

	/* These need no daemon. */
	if (what != PvmAutoErr && what != PvmRoute && what != PvmDebugMask)
		rc = pvmbeatask();
	field = option(what);
	if (!rc && !field)
		rc = PvmBadParam;
	return rc ? lpvmerr("pvm_getopt", rc) : *field;
}

/* Tasks that a reset leaves alone have an entry in the mailbox, which goes with them. */
static int noreset_set(bool on)
{
	char class[] = PVMNORESETCLASS;
	int mid, old, rc;

	if (on == (pvmnoresetindex >= 0))
		return 0;
	if (!on) {
		rc = mp_api_delinfo(class, pvmnoresetindex, 0);
		pvmnoresetindex = -1;
		return rc < 0 && rc != PvmNotFound ? rc : 0;
	}
	mid = mp_api_mkbuf(PvmDataDefault);
	if (mid < 0)
		return mid;
	old = mp_api_setsbuf(mid);
	rc = mp_api_pkint(&pvmmytid, 1, 1);
	if (rc >= 0)
		rc = mp_api_putinfo(class, mid, PvmMboxMultiInstance);
	mp_api_setsbuf(old);
	mp_api_freebuf(mid);
	if (rc >= 0)
		pvmnoresetindex = rc;
	return rc < 0 ? rc : 0;
}

static bool tracing(int what)
{
	return (what >= PvmTraceTid && what <= PvmTraceOptions) || what == PvmTraceContext ||
	       (what >= PvmSelfTraceTid && what <= PvmSelfTraceOptions) ||
	       what == PvmSelfTraceContext;
}

int mp_api_setopt(int what, int v)
{
	int *field, rc = 0, old, args[2] = {what, v};

	if (what != PvmAutoErr && what != PvmRoute && what != PvmDebugMask)
		rc = pvmbeatask();
	field = option(what);
	if (!rc && !field)
		rc = PvmBadParam;
	if (!rc)
		rc = option_check(what, v);
	if (!rc && daemon_keeps(what))
		rc = mp_rt_call_ints(MP_OP_SETOPT, args, 2);
	if (!rc && what == PvmNoReset)
		rc = noreset_set(v != 0);
	if (rc)
		return lpvmerr("pvm_setopt", rc);
	old = *field;
	/* What was collected is for the old sink. */
	if (tracing(what))
		mp_tev_finish();
	*field = v;
	if (tracing(what))
		mp_tev_changed();
	return old;
}

int mp_api_getcontext(void)
{
	int rc = pvmbeatask();

	return rc ? lpvmerr("pvm_getcontext", rc) : pvmmyctx;
}

int mp_api_setcontext(int ctx)
{
	int old = pvmmyctx, rc = pvmbeatask();

	if (!rc && ctx < 0)
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_setcontext", rc);
	pvmmyctx = ctx;
	return old;
}

int mp_api_newcontext(void)
{
	int rc = pvmbeatask(), zero = 0;

	if (!rc)
		rc = mp_rt_call_ints(MP_OP_CONTEXT, &zero, 1);
	return rc < 0 ? lpvmerr("pvm_newcontext", rc) : rc;
}

int mp_api_freecontext(int ctx)
{
	int rc = pvmbeatask();

	if (!rc && ctx <= 0)
		rc = PvmBadParam;
	if (!rc)
		rc = mp_rt_call_ints(MP_OP_CONTEXT, &ctx, 1);
	if (rc < 0)
		return lpvmerr("pvm_freecontext", rc);
	/* Nobody may stay in a context that others will get. */
	if (pvmmyctx == ctx)
		pvmmyctx = PvmBaseContext;
	return PvmOk;
}

int mp_api_getfds(int **fds)
{
	static int fd;
	int rc = pvmbeatask();

	if (rc)
		return lpvmerr("pvm_getfds", rc);
	/* The program may now select: from here on news by shared memory also shows there. */
	mp_chan_want_poke();
	fd = mp_net_watch() ? mp_net_fd() : mp_rt.fd;
	if (fds)
		*fds = &fd;
	return 1;
}

static int reg(const char *name, int role)
{
	int rc = pvmbeatask();

	if (!rc)
		rc = mp_rt_call_ints(MP_OP_REGISTER, &role, 1);
	return rc < 0 ? lpvmerr(name, rc) : PvmOk;
}

int mp_api_reg_tasker(void)
{
	return reg("pvm_reg_tasker", MP_ROLE_TASKER);
}

int mp_api_reg_hoster(void)
{
	return reg("pvm_reg_hoster", MP_ROLE_HOSTER);
}

/* For all to see in the mailbox. */
static int put_own_tid(char *class)
{
	int old, rc, mid = mp_api_mkbuf(PvmDataDefault);

	if (mid < 0)
		return mid;
	old = mp_api_setsbuf(mid);
	rc = mp_api_pkint(&pvmmytid, 1, 1);
	mp_api_setsbuf(old);
	if (!rc)
		rc = mp_api_putinfo(class, mid, PvmMboxMultiInstance);
	mp_api_freebuf(mid);
	return rc < 0 ? rc : PvmOk;
}

int mp_api_reg_rm(struct pvmhostinfo **hip)
{
	static struct pvmhostinfo first;
	struct pvmhostinfo *hosts;
	int rc = reg("pvm_reg_rm", MP_ROLE_RM), n = 0;
	char class[] = PVMRMCLASS;

	if (rc < 0)
		return rc;
	pvmschedtid = pvmmytid;
	rc = mp_api_config(&n, NULL, &hosts);
	if (rc < 0 || !n)
		return rc;
	/* A copy, which later calls of pvm_config() leave alone. */
	free(first.hi_name);
	free(first.hi_arch);
	first = hosts[0];
	first.hi_name = strdup(hosts[0].hi_name);
	first.hi_arch = strdup(hosts[0].hi_arch);
	if (!first.hi_name || !first.hi_arch)
		return lpvmerr("pvm_reg_rm", PvmNoMem);
	if (hip)
		*hip = &first;
	return put_own_tid(class);
}

char *pvm_version(void)
{
	return (char *)(uintptr_t)PVM_VER;
}

/* The tasks that a reset leaves alone: each has put its tid in the mailbox. */
int pvm_getnoresets(int **tids, int *count)
{
	static int *list;
	struct pvmmboxinfo *info;
	int n, rc = mp_api_getmboxinfo((char *)(uintptr_t)PVMNORESETCLASS, &n, &info);

	if (rc < 0)
		return rc;
	free(list);
	list = calloc(n && info->mi_nentries ? (size_t)info->mi_nentries : 1, sizeof(*list));
	if (!list)
		return lpvmerr("pvm_getnoresets", PvmNoMem);
	if (n)
		memcpy(list, info->mi_owners, (size_t)info->mi_nentries * sizeof(*list));
	if (tids)
		*tids = list;
	if (count)
		*count = n ? info->mi_nentries : 0;
	return PvmOk;
}
