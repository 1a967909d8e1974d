/* The public calls on messages and buffers: each is the call of mp_api.h between two trace events. */
#include <limits.h>
#include <stdarg.h>

#include "pvm/mp_buf.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_traced.h"

/* Of what is to be sent; in place counts nothing, as pvm_bufinfo() says. */
static int send_len(void)
{
	int len = -1;

	if (mp_sbuf())
		mp_api_bufinfo(mp_sbuf_mid(), &len, NULL, NULL);
	return len;
}

/* What a receive has got. */
struct got {
	int mid, len, tag, ctx, src;
};

static struct got got(int mid)
{
	struct got g = {mid > 0 ? mid : 0, -1, -1, pvmmyctx, -1};

	if (mid < 0)
		g.mid = mid;
	else if (mid > 0)
		mp_api_bufinfo(mid, &g.len, &g.tag, &g.src);
	return g;
}

#define PACK(name, type, KIND)                                                                     \
	TRACED(pk##name, PK##KIND, (type * data, int count, int stride), (data, count, stride),    \
	       (ADDRESS(PDA, data), INT(PC, count), INT(PSD, stride)), (INT(CC, rc)))              \
	TRACED(upk##name, UPK##KIND, (type * data, int count, int stride), (data, count, stride),  \
	       (ADDRESS(PDA, data), INT(PC, count), INT(PSD, stride)), (INT(CC, rc)))

PACK(byte, char, BYTE)
PACK(cplx, float, CPLX)
PACK(dcplx, double, DCPLX)
PACK(double, double, DOUBLE)
PACK(float, float, FLOAT)
PACK(int, int, INT)
PACK(long, long, LONG)
PACK(short, short, SHORT)
PACK(uint, unsigned int, UINT)
PACK(ulong, unsigned long, ULONG)
PACK(ushort, unsigned short, USHORT)
TRACED(pkstr, PKSTR, (char *s), (s), (ADDRESS(PDA, s)), (INT(CC, rc)))
TRACED(upkstr, UPKSTR, (char *s), (s), (ADDRESS(PDA, s)), (INT(CC, rc)))

int pvm_packf(const char *format, ...)
{
	bool traced = mp_tev_enter(true);
	va_list ap;
	int rc;

	if (traced)
		MP_TEV(TEV_PACKF | TEV_EVENT_ENTRY, STRING(PF, format));
	va_start(ap, format);
	rc = mp_api_packf(format, ap);
	va_end(ap);
	if (traced) {
		MP_TEV(TEV_PACKF | TEV_EVENT_EXIT, INT(CC, rc));
		mp_tev_leave();
	}
	return rc;
}

int pvm_unpackf(const char *format, ...)
{
	bool traced = mp_tev_enter(true);
	va_list ap;
	int rc;

	if (traced)
		MP_TEV(TEV_UNPACKF | TEV_EVENT_ENTRY, STRING(PF, format));
	va_start(ap, format);
	rc = mp_api_unpackf(format, ap);
	va_end(ap);
	if (traced) {
		MP_TEV(TEV_UNPACKF | TEV_EVENT_EXIT, INT(CC, rc));
		mp_tev_leave();
	}
	return rc;
}

/* Buffers */

TRACED(mkbuf, MKBUF, (int enc), (enc), (INT(ME, enc)), (INT(MB, rc)))
TRACED(initsend, INITSEND, (int enc), (enc), (INT(ME, enc)), (INT(MSB, rc)))
TRACED(freebuf, FREEBUF, (int mid), (mid), (INT(MB, mid)), (INT(CC, rc)))
TRACED(getsbuf, GETSBUF, (void), (), (), (INT(MSB, rc)))
TRACED(getrbuf, GETRBUF, (void), (), (), (INT(MRB, rc)))
TRACED(setsbuf, SETSBUF, (int mid), (mid), (INT(MB, mid)), (INT(MSB, rc)))
TRACED(setrbuf, SETRBUF, (int mid), (mid), (INT(MB, mid)), (INT(MRB, rc)))
TRACED(getminfo, GETMINFO, (int mid, struct pvmminfo *info), (mid, info), (INT(MB, mid)),
       (INT(CC, rc)))
TRACED(setminfo, SETMINFO, (int mid, struct pvmminfo *info), (mid, info), (INT(MB, mid)),
       (INT(CC, rc)))

/* The event tells all three, whoever wants to know. */
int pvm_bufinfo(int mid, int *len, int *tag, int *tid)
{
	bool traced = mp_tev_enter(true);
	int l = -1, t = -1, src = -1, rc;

	if (traced)
		MP_TEV(TEV_BUFINFO | TEV_EVENT_ENTRY, INT(MB, mid));
	rc = mp_api_bufinfo(mid, &l, &t, &src);
	if (!rc && len)
		*len = l;
	if (!rc && tag)
		*tag = t;
	if (!rc && tid)
		*tid = src;
	if (traced) {
		MP_TEV(TEV_BUFINFO | TEV_EVENT_EXIT, INT(CC, rc), INT(INB, l), INT(IMC, t),
		       INT(IST, src));
		mp_tev_leave();
	}
	return rc;
}

/* Sending and receiving */

TRACED(send, SEND, (int tid, int tag), (tid, tag),
       (INT(MNB, send_len()), INT(DST, tid), INT(MC, tag), INT(MCX, pvmmyctx)), (INT(CC, rc)))
TRACED(mcast, MCAST, (int *tids, int count, int tag), (tids, count, tag),
       (INT(MNB, send_len()), INT(MC, tag), INT(MCX, pvmmyctx), INTS(MDL, tids, count)),
       (INT(CC, rc)))
TRACED(psend, PSEND, (int tid, int tag, void *buf, int len, int type), (tid, tag, buf, len, type),
       (INT(DST, tid), INT(MC, tag), INT(MCX, pvmmyctx), ADDRESS(PDA, buf), INT(PC, len),
	INT(PDT, type)),
       (INT(CC, rc)))
TRACED(probe, PROBE, (int tid, int tag), (tid, tag),
       (INT(RST, tid), INT(RMC, tag), INT(RCX, pvmmyctx)), (INT(CC, rc)))

#define GOT(rc)                                                                                    \
	INT(MB, got(rc).mid), INT(MNB, got(rc).len), INT(MC, got(rc).tag), INT(MCX, got(rc).ctx),  \
		INT(SRC, got(rc).src)

TRACED(recv, RECV, (int tid, int tag), (tid, tag),
       (INT(RST, tid), INT(RMC, tag), INT(RCX, pvmmyctx)), (GOT(rc)))
TRACED(nrecv, NRECV, (int tid, int tag), (tid, tag),
       (INT(RST, tid), INT(RMC, tag), INT(RCX, pvmmyctx)), (GOT(rc)))
TRACED(trecv, TRECV, (int tid, int tag, struct timeval *t), (tid, tag, t),
       (INT(RST, tid), INT(RMC, tag), INT(RCX, pvmmyctx), INT(MTS, t ? (int)t->tv_sec : -1),
	INT(MTU, t ? (int)t->tv_usec : -1)),
       (GOT(rc)))

int pvm_precv(int tid, int tag, void *buf, int count, int type, int *rtid, int *rtag, int *rlen)
{
	bool traced = mp_tev_enter(true);
	int src = -1, t = -1, len = -1, rc;

	if (traced)
		MP_TEV(TEV_PRECV | TEV_EVENT_ENTRY, INT(RST, tid), INT(RMC, tag),
		       INT(RCX, pvmmyctx), ADDRESS(PDA, buf), INT(PC, count), INT(PDT, type));
	rc = mp_api_precv(tid, tag, buf, count, type, &src, &t, &len);
	if (!rc && rtid)
		*rtid = src;
	if (!rc && rtag)
		*rtag = t;
	if (!rc && rlen)
		*rlen = len;
	if (traced) {
		MP_TEV(TEV_PRECV | TEV_EVENT_EXIT, INT(CC, rc), INT(MNB, len), INT(MC, t),
		       INT(MCX, pvmmyctx), INT(SRC, src));
		mp_tev_leave();
	}
	return rc;
}

int (*pvm_recvf(int (*match)(int, int, int)))(int, int, int)
{
	bool traced = mp_tev_enter(false);
	int (*old)(int, int, int);

	if (traced)
		MP_TEV(TEV_RECVF | TEV_EVENT_ENTRY);
	old = mp_api_recvf(match);
	if (traced) {
		MP_TEV(TEV_RECVF | TEV_EVENT_EXIT);
		mp_tev_leave();
	}
	return old;
}

TRACED(newcontext, NEWCONTEXT, (void), (), (), (INT(CXN, rc)))
TRACED(freecontext, FREECONTEXT, (int ctx), (ctx), (INT(CXF, ctx)), (INT(CC, rc)))
TRACED(setcontext, SETCONTEXT, (int ctx), (ctx), (INT(CXS, ctx)), (INT(CC, rc)))
TRACED(getcontext, GETCONTEXT, (void), (), (), (INT(CXC, rc)))
TRACED(addmhf, ADDMHF, (int src, int tag, int ctx, int (*func)(int)), (src, tag, ctx, func),
       (INT(RST, src), INT(RMC, tag), INT(RCX, ctx)), (INT(MHI, rc)))
TRACED_LOCAL(delmhf, DELMHF, (int id), (id), (INT(MHI, id)), (INT(CC, rc)))
