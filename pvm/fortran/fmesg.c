/* The Fortran interface: buffers, packing, sending and receiving. */
#include "pvm/fortran/fpvm.h"

enum {
	F_STRING,
	F_BYTE1,
	F_INTEGER2,
	F_INTEGER4,
	F_REAL4,
	F_COMPLEX8,
	F_REAL8,
	F_COMPLEX16,
	F_INTEGER8
};

void pvmfpack_(const int *what, void *data, const int *count, const int *stride, int *info)
{
	int n = *count, step = *stride;

	switch (*what) {
	case F_STRING:
	case F_BYTE1: *info = pvm_pkbyte(data, n, step); break;
	case F_INTEGER2: *info = pvm_pkshort(data, n, step); break;
	case F_INTEGER4: *info = pvm_pkint(data, n, step); break;
	case F_REAL4: *info = pvm_pkfloat(data, n, step); break;
	case F_COMPLEX8: *info = pvm_pkcplx(data, n, step); break;
	case F_REAL8: *info = pvm_pkdouble(data, n, step); break;
	case F_COMPLEX16: *info = pvm_pkdcplx(data, n, step); break;
	case F_INTEGER8: *info = pvm_pklong(data, n, step); break;
	default: *info = PvmBadParam;
	}
}

void pvmfunpack_(const int *what, void *data, const int *count, const int *stride, int *info)
{
	int n = *count, step = *stride;

	switch (*what) {
	case F_STRING:
	case F_BYTE1: *info = pvm_upkbyte(data, n, step); break;
	case F_INTEGER2: *info = pvm_upkshort(data, n, step); break;
	case F_INTEGER4: *info = pvm_upkint(data, n, step); break;
	case F_REAL4: *info = pvm_upkfloat(data, n, step); break;
	case F_COMPLEX8: *info = pvm_upkcplx(data, n, step); break;
	case F_REAL8: *info = pvm_upkdouble(data, n, step); break;
	case F_COMPLEX16: *info = pvm_upkdcplx(data, n, step); break;
	case F_INTEGER8: *info = pvm_upklong(data, n, step); break;
	default: *info = PvmBadParam;
	}
}

void pvmfinitsend_(const int *encoding, int *mid)
{
	*mid = pvm_initsend(*encoding);
}

void pvmfmkbuf_(const int *encoding, int *mid)
{
	*mid = pvm_mkbuf(*encoding);
}

void pvmffreebuf_(const int *mid, int *info)
{
	*info = pvm_freebuf(*mid);
}

void pvmfgetsbuf_(int *mid)
{
	*mid = pvm_getsbuf();
}

void pvmfgetrbuf_(int *mid)
{
	*mid = pvm_getrbuf();
}

void pvmfsetsbuf_(const int *mid, int *old)
{
	*old = pvm_setsbuf(*mid);
}

void pvmfsetrbuf_(const int *mid, int *old)
{
	*old = pvm_setrbuf(*mid);
}

void pvmfbufinfo_(const int *mid, int *len, int *tag, int *tid, int *info)
{
	*info = pvm_bufinfo(*mid, len, tag, tid);
}

void pvmfpkmesg_(const int *mid, int *info)
{
	*info = pvm_pkmesg(*mid);
}

void pvmfpkmesgbody_(const int *mid, int *info)
{
	*info = pvm_pkmesgbody(*mid);
}

void pvmfupkmesg_(const int *mid, int *inner)
{
	int old = pvm_setrbuf(*mid);

	*inner = pvm_upkmesg();
	pvm_setrbuf(old);
}

void pvmfgetminfo_(const int *mid, int *len, int *ctx, int *tag, int *wid, int *enc, int *crc,
		   int *src, int *dst, int *info)
{
	struct pvmminfo mi;
	int rc = pvm_getminfo(*mid, &mi);

	*info = rc;
	if (rc < 0)
		return;
	*len = mi.len;
	*ctx = mi.ctx;
	*tag = mi.tag;
	*wid = mi.wid;
	*enc = mi.enc;
	*crc = mi.crc;
	*src = mi.src;
	*dst = mi.dst;
}

void pvmfsetminfo_(const int *mid, const int *ctx, const int *tag, const int *wid, const int *src,
		   const int *dst, int *info)
{
	struct pvmminfo mi = {.ctx = *ctx, .tag = *tag, .wid = *wid, .src = *src, .dst = *dst};

	*info = pvm_setminfo(*mid, &mi);
}

void pvmfsend_(const int *tid, const int *tag, int *info)
{
	*info = pvm_send(*tid, *tag);
}

void pvmfmcast_(const int *count, int *tids, const int *tag, int *info)
{
	*info = pvm_mcast(tids, *count, *tag);
}

void pvmfpsend_(const int *tid, const int *tag, void *data, const int *count, const int *type,
		int *info)
{
	*info = pvm_psend(*tid, *tag, data, *count, *type);
}

void pvmfprecv_(const int *tid, const int *tag, void *data, const int *count, const int *type,
		int *rtid, int *rtag, int *rcount, int *info)
{
	*info = pvm_precv(*tid, *tag, data, *count, *type, rtid, rtag, rcount);
}

void pvmfrecv_(const int *tid, const int *tag, int *mid)
{
	*mid = pvm_recv(*tid, *tag);
}

void pvmfnrecv_(const int *tid, const int *tag, int *mid)
{
	*mid = pvm_nrecv(*tid, *tag);
}

void pvmftrecv_(const int *tid, const int *tag, const int *sec, const int *usec, int *mid)
{
	struct timeval t = {.tv_sec = *sec, .tv_usec = *usec};

	*mid = pvm_trecv(*tid, *tag, *sec < 0 ? NULL : &t);
}

void pvmfprobe_(const int *tid, const int *tag, int *mid)
{
	*mid = pvm_probe(*tid, *tag);
}

void pvmfaddmhf_(const int *src, const int *tag, const int *ctx, int (*handler)(int mid), int *mhid)
{
	*mhid = pvm_addmhf(*src, *tag, *ctx, handler);
}

void pvmfdelmhf_(const int *mhid, int *info)
{
	*info = pvm_delmhf(*mhid);
}

void pvmfgetcontext_(int *ctx)
{
	*ctx = pvm_getcontext();
}

void pvmfsetcontext_(const int *ctx, int *old)
{
	*old = pvm_setcontext(*ctx);
}

void pvmfnewcontext_(int *ctx)
{
	*ctx = pvm_newcontext();
}

void pvmffreecontext_(const int *ctx, int *info)
{
	*info = pvm_freecontext(*ctx);
}
