/* Prototypes of the Fortran interface, for our own files only: Fortran needs none. */
#ifndef PVM_FPVM_H
#define PVM_FPVM_H

#include <stddef.h>
#include <stdio.h>

#include "pvm/include/pvm3.h"

void pvmfaddhost_(const char *host, int *info, size_t len);
void pvmfdelhost_(const char *host, int *info, size_t len);
void pvmfarchcode_(const char *arch, int *code, size_t len);
void pvmfcatchout_(const int *on, int *info);
void pvmfconfig_(int *nhost, int *narch, int *dtid, char *name, char *arch, int *speed, int *info,
		 size_t name_len, size_t arch_len);
void pvmfexit_(int *info);
void pvmfhalt_(int *info);
void pvmfhostsync_(const int *host, int *clk_sec, int *clk_usec, int *d_sec, int *d_usec,
		   int *info);
void pvmfkill_(const int *tid, int *info);
void pvmfmstat_(const char *host, int *status, size_t len);
void pvmfmytid_(int *tid);
void pvmfnotify_(const int *what, const int *tag, const int *count, int *tids, int *info);
void pvmfparent_(int *tid);
void pvmfperror_(const char *text, int *info, size_t len);
void pvmfpstat_(const int *tid, int *status);
void pvmfsendsig_(const int *tid, const int *sig, int *info);
void pvmfgetopt_(const int *what, int *value);
void pvmfsetopt_(const int *what, const int *value, int *old);
void pvmfsiblings_(int *count, const int *which, int *tid);
void pvmfsleep_(const int *seconds);
void pvmfspawn_(const char *task, const int *flag, const char *where, const int *count, int *tids,
		int *started, size_t task_len, size_t where_len);
void pvmfstartpvmd_(const char *args, const int *block, int *info, size_t len);
void pvmftasks_(const int *which, int *count, int *tid, int *parent, int *dtid, int *flag,
		char *name, int *info, size_t name_len);
void pvmftidtohost_(const int *tid, int *dtid);
void pvmfdelinfo_(const char *name, const int *index, const int *flags, int *info, size_t len);
void pvmfputinfo_(const char *name, const int *mid, const int *flags, int *index, size_t len);
void pvmfrecvinfo_(const char *name, const int *index, const int *flags, int *mid, size_t len);
void pvmfgetmboxinfo_(const char *pattern, char *name, int *nclasses, int *nentries, int *index,
		      int *owner, int *flags, int *info, size_t pattern_len, size_t name_len);
void pvmfpack_(const int *what, void *data, const int *count, const int *stride, int *info);
void pvmfunpack_(const int *what, void *data, const int *count, const int *stride, int *info);
void pvmfinitsend_(const int *encoding, int *mid);
void pvmfmkbuf_(const int *encoding, int *mid);
void pvmffreebuf_(const int *mid, int *info);
void pvmfgetsbuf_(int *mid);
void pvmfgetrbuf_(int *mid);
void pvmfsetsbuf_(const int *mid, int *old);
void pvmfsetrbuf_(const int *mid, int *old);
void pvmfbufinfo_(const int *mid, int *len, int *tag, int *tid, int *info);
void pvmfpkmesg_(const int *mid, int *info);
void pvmfpkmesgbody_(const int *mid, int *info);
void pvmfupkmesg_(const int *mid, int *inner);
void pvmfgetminfo_(const int *mid, int *len, int *ctx, int *tag, int *wid, int *enc, int *crc,
		   int *src, int *dst, int *info);
void pvmfsetminfo_(const int *mid, const int *ctx, const int *tag, const int *wid, const int *src,
		   const int *dst, int *info);
void pvmfsend_(const int *tid, const int *tag, int *info);
void pvmfmcast_(const int *count, int *tids, const int *tag, int *info);
void pvmfpsend_(const int *tid, const int *tag, void *data, const int *count, const int *type,
		int *info);
void pvmfprecv_(const int *tid, const int *tag, void *data, const int *count, const int *type,
		int *rtid, int *rtag, int *rcount, int *info);
void pvmfrecv_(const int *tid, const int *tag, int *mid);
void pvmfnrecv_(const int *tid, const int *tag, int *mid);
void pvmftrecv_(const int *tid, const int *tag, const int *sec, const int *usec, int *mid);
void pvmfprobe_(const int *tid, const int *tag, int *mid);
void pvmfaddmhf_(const int *src, const int *tag, const int *ctx, int (*handler)(int mid),
		 int *mhid);
void pvmfdelmhf_(const int *mhid, int *info);
void pvmfgetcontext_(int *ctx);
void pvmfsetcontext_(const int *ctx, int *old);
void pvmfnewcontext_(int *ctx);
void pvmffreecontext_(const int *ctx, int *info);
void pvmfjoingroup_(const char *group, int *inst, size_t len);
void pvmflvgroup_(const char *group, int *info, size_t len);
void pvmfgetinst_(const char *group, const int *tid, int *inst, size_t len);
void pvmfgettid_(const char *group, const int *inst, int *tid, size_t len);
void pvmfgsize_(const char *group, int *size, size_t len);
void pvmfbarrier_(const char *group, const int *count, int *info, size_t len);
void pvmfbcast_(const char *group, const int *tag, int *info, size_t len);
void pvmffreezegroup_(const char *group, const int *size, int *info, size_t len);
void pvmfgather_(void *result, void *data, const int *count, const int *type, const int *tag,
		 const char *group, const int *root, int *info, size_t len);
void pvmfscatter_(void *result, void *data, const int *count, const int *type, const int *tag,
		  const char *group, const int *root, int *info, size_t len);
void pvmfreduce_(void (*op)(int *, void *, void *, int *, int *), void *data, const int *count,
		 const int *type, const int *tag, const char *group, const int *root, int *info,
		 size_t len);
void pvmmax_(int *type, void *x, void *y, int *count, int *info);
void pvmmin_(int *type, void *x, void *y, int *count, int *info);
void pvmsum_(int *type, void *x, void *y, int *count, int *info);
void pvmproduct_(int *type, void *x, void *y, int *count, int *info);

#endif
