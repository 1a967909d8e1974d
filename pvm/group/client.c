/* Requests to the group server, which is started when there is none. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "pvm/group/group.h"

/* Exported by the original, too. The tid of the server, -1 when not known. */
int gstid = -1;
/* How long a reply may take; NULL: as long as the server lives. */
struct timeval *pvmgs_tmout;

int gs_getgstid(void);

void gs_aside_begin(struct gs_aside *a, int ctx)
{
	a->sbuf = pvm_setsbuf(0);
	a->rbuf = pvm_setrbuf(0);
	a->ctx = pvm_setcontext(ctx);
}

void gs_aside_end(const struct gs_aside *a)
{
	int left = pvm_getrbuf();

	if (left > 0)
		pvm_freebuf(left);
	left = pvm_getsbuf();
	if (left > 0)
		pvm_freebuf(left);
	pvm_setcontext(a->ctx);
	pvm_setsbuf(a->sbuf);
	pvm_setrbuf(a->rbuf);
}

int gs_name_check(const char *group)
{
	return group && *group ? PvmOk : PvmNullGroup;
}

/* The server's entry in the mailbox; with `flags` it is waited for. */
static int look_up(int flags)
{
	int err = pvm_setopt(PvmAutoErr, 0);
	char class[] = GS_CLASS;
	int mid = pvm_recvinfo(class, 0, flags);
	int tid = mid > 0 ? 0 : mid;

	pvm_setopt(PvmAutoErr, err);
	if (mid > 0) {
		int old = pvm_setrbuf(mid);

		if (pvm_upkint(&tid, 1, 1))
			tid = PvmBadMsg;
		pvm_setrbuf(old);
		pvm_freebuf(mid);
	}
	return tid;
}

/* Of several tasks that start one at once, the first server in the mailbox stays. */
static int start(void)
{
	char task[] = GS_TASK;
	int tid = 0, n;
	/* Nobody's child in particular: its output and its calls are for nobody to see. */
	int out = pvm_setopt(PvmOutputTid, 0), trace = pvm_setopt(PvmTraceTid, 0);

	n = pvm_spawn(task, NULL, PvmTaskDefault, NULL, 1, &tid);
	pvm_setopt(PvmOutputTid, out);
	pvm_setopt(PvmTraceTid, trace);
	if (n < 1)
		return tid < 0 ? tid : PvmSysErr;
	return look_up(PvmMboxWaitForInfo);
}

int gs_getgstid(void)
{
	struct gs_aside aside;
	int tid;

	if (gstid > 0)
		return gstid;
	if (pvm_mytid() < 0)
		return PvmSysErr;
	gs_aside_begin(&aside, GS_CTX);
	tid = look_up(PvmMboxDefault);
	if (tid <= 0)
		tid = start();
	if (tid > 0 && pvm_notify(PvmTaskExit, GS_GONE, 1, &tid) < 0)
		tid = PvmSysErr;
	gs_aside_end(&aside);
	if (tid > 0)
		gstid = tid;
	return tid;
}

static int send_request(int server, enum gs_op op, const char *group, int arg)
{
	int rc = pvm_initsend(PvmDataDefault);

	if (rc < 0)
		return rc;
	rc = pvm_pkstr((char *)(uintptr_t)group);
	if (!rc)
		rc = pvm_pkint(&arg, 1, 1);
	return rc ? rc : pvm_send(server, op);
}

/* The next message of the server itself. */
static int receive(int server, int *tag)
{
	int mid, src = 0;

	do {
		mid = pvmgs_tmout ? pvm_trecv(-1, -1, pvmgs_tmout) : pvm_recv(-1, -1);
		if (mid <= 0)
			return mid ? mid : PvmSysErr;
		if (pvm_bufinfo(mid, NULL, tag, &src))
			return PvmSysErr;
	} while (*tag != GS_GONE && !(src == server && *tag == GS_REPLY));
	return mid;
}

static int ask(int server, enum gs_op op, const char *group, int arg, int (*more)(void *arg),
	       void *more_arg)
{
	int result = 0, tag = 0;
	int rc = send_request(server, op, group, arg);

	if (rc < 0)
		return rc;
	rc = receive(server, &tag);
	if (rc < 0)
		return rc;
	if (tag == GS_GONE) {
		gstid = -1;
		return PvmSysErr;
	}
	rc = pvm_upkint(&result, 1, 1);
	if (!rc && result >= 0 && more)
		rc = more(more_arg);
	return rc ? rc : result;
}

int gs_ask(enum gs_op op, const char *group, int arg, int (*more)(void *arg), void *more_arg)
{
	struct gs_aside aside;
	int rc, server;

	if (strlen(group) >= GS_NAME_MAX)
		return PvmBadParam;
	server = gs_getgstid();
	if (server < 0)
		return server;
	gs_aside_begin(&aside, GS_CTX);
	rc = ask(server, op, group, arg, more, more_arg);
	gs_aside_end(&aside);
	return rc;
}
