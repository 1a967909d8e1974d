/*
 * Tasks that take over a part of the daemon's work: resource manager, hoster, tasker (pvm_reg_*).
 * They speak in messages with the tags SM_* of PVM 3.4, packed as XDR.
 */
#include <endian.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/pvmd/mpd.h"

enum {
	SM_FIRST = (int)0x80040001,
	SM_TASKX = SM_FIRST + 10,
	SM_HOSTX = SM_FIRST + 11,
	SM_STTASK = SM_FIRST + 16,
};

static void xdr_int(struct base_wbuf *b, int32_t v)
{
	base_wbuf_u32(b, htobe32((uint32_t)v));
}

/* As pvm_pkstr: length with the final 0, then the bytes, padded to 4. */
static void xdr_str(struct base_wbuf *b, const char *s)
{
	size_t n = strlen(s) + 1;

	xdr_int(b, (int32_t)n);
	base_wbuf_bytes(b, s, n);
	base_wbuf_bytes(b, "\0\0\0", -n & 3);
}

void mpd_op_register(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int32_t role = (int32_t)base_rbuf_u32(b);

	if (b->error || role < MP_ROLE_RM || role > MP_ROLE_TRACER) {
		mpd_call_reply(pd, from, PvmBadParam, NULL, -1);
		return;
	}
	if (role == MP_ROLE_HOSTER && mpd_coordinator(pd) != pd->self) {
		mpd_call_reply(pd, from, PvmHostrNMstr, NULL, -1);
		return;
	}
	if (pd->role_tid[role] && pd->role_tid[role] != from->tid) {
		mpd_call_reply(pd, from, PvmAlready, NULL, -1);
		return;
	}
	pd->role_tid[role] = from->tid;
	mpd_call_reply(pd, from, 0, NULL, -1);
}

void mpd_role_taskx(struct mpd *pd, int32_t tid)
{
	struct base_wbuf b;

	base_wbuf_init(&b, 64);
	xdr_int(&b, tid);
	mpd_route_message(pd, pd->role_tid[MP_ROLE_RM], mp_tid_of_daemon(pd->self), 0, SM_TASKX, 0,
			  b.data, b.len);
	base_wbuf_fini(&b);
}

int mpd_role_start_task(struct mpd *pd, struct mpd_task *t, const char *path, uint32_t argc,
			char **argv, uint32_t envc, char **env)
{
	struct base_wbuf b;
	char cookie[32];

	snprintf(cookie, sizeof(cookie), MP_ENV_EPID "=%u", t->cookie);
	base_wbuf_init(&b, MP_FRAME_MAX);
	xdr_int(&b, t->tid);
	xdr_int(&b, t->flags);
	xdr_str(&b, path);
	xdr_int(&b, (int32_t)argc);
	for (uint32_t i = 0; i < argc; i++)
		xdr_str(&b, argv[i]);
	xdr_int(&b, (int32_t)envc + 1);
	for (uint32_t i = 0; i < envc; i++)
		xdr_str(&b, env[i]);
	xdr_str(&b, cookie);
	if (b.error) {
		base_wbuf_fini(&b);
		mpd_task_gone(t);
		return PvmNoMem;
	}
	mpd_route_message(pd, pd->role_tid[MP_ROLE_TASKER], mp_tid_of_daemon(pd->self), 0,
			  SM_STTASK, 0, b.data, b.len);
	base_wbuf_fini(&b);
	return t->tid;
}
