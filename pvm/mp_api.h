/*
 * The calls of pvm3.h without their trace events: what the library itself uses. mp_traced.c and
 * mp_traced_vm.c make the public ones of them.
 */
#ifndef PVM_MP_API_H
#define PVM_MP_API_H

#include <stdarg.h>

#include "pvm/include/pvm3.h"

int mp_api_addhosts(char **names, int count, int *infos);
int mp_api_archcode(char *arch);
int mp_api_bufinfo(int mid, int *len, int *tag, int *tid);
int mp_api_config(int *nhost, int *narch, struct pvmhostinfo **hosts);
int mp_api_delete(char *name, int index);
int mp_api_delhosts(char **names, int count, int *infos);
int mp_api_exit(void);
int mp_api_freebuf(int mid);
int mp_api_getfds(int **fds);
int mp_api_getopt(int what);
int mp_api_getrbuf(void);
int mp_api_getsbuf(void);
int mp_api_halt(void);
int mp_api_initsend(int encoding);
int mp_api_insert(char *name, int index, int value);
int mp_api_kill(int tid);
int mp_api_lookup(char *name, int index, int *value);
int mp_api_mcast(int *tids, int count, int tag);
int mp_api_mkbuf(int encoding);
int mp_api_mstat(char *host);
int mp_api_mytid(void);
int mp_api_notify(int what, int tag, int count, int *tids);
int mp_api_nrecv(int tid, int tag);
int mp_api_parent(void);
int mp_api_pkstr(char *string);
int mp_api_probe(int tid, int tag);
int mp_api_pstat(int tid);
int mp_api_recv(int tid, int tag);
int (*mp_api_recvf(int (*match)(int mid, int tid, int tag)))(int, int, int);
int mp_api_send(int tid, int tag);
int mp_api_sendsig(int tid, int signum);
int mp_api_setopt(int what, int value);
int mp_api_setrbuf(int mid);
int mp_api_setsbuf(int mid);
int mp_api_spawn(char *task, char **argv, int flag, char *where, int count, int *tids);
int mp_api_start_pvmd(int argc, char **argv, int block);
int mp_api_tasks(int where, int *count, struct pvmtaskinfo **tasks);
int mp_api_tickle(int narg, int *args, int *nres, int *res);
int mp_api_trecv(int tid, int tag, struct timeval *timeout);
int mp_api_upkstr(char *string);
int mp_api_reg_hoster(void);
int mp_api_reg_rm(struct pvmhostinfo **hosts);
int mp_api_reg_tasker(void);
int mp_api_reg_tracer(int tctx, int ttag, int octx, int otag, char *tmask, int tbuf, int topt);
int mp_api_precv(int tid, int tag, void *data, int count, int type, int *rtid, int *rtag,
		 int *rcount);
int mp_api_psend(int tid, int tag, void *data, int count, int type);
int mp_api_putinfo(char *name, int mid, int flags);
int mp_api_recvinfo(char *name, int index, int flags);
int mp_api_delinfo(char *name, int index, int flags);
int mp_api_getmboxinfo(char *pattern, int *nclasses, struct pvmmboxinfo **classes);
int mp_api_newcontext(void);
int mp_api_freecontext(int ctx);
int mp_api_setcontext(int ctx);
int mp_api_getcontext(void);
int mp_api_siblings(int **tids);
int mp_api_getminfo(int mid, struct pvmminfo *info);
int mp_api_setminfo(int mid, struct pvmminfo *info);
int mp_api_addmhf(int src, int tag, int ctx, int (*handler)(int mid));
int mp_api_delmhf(int mhid);
int mp_api_pkbyte(char *data, int count, int stride);
int mp_api_pkcplx(float *data, int count, int stride);
int mp_api_pkdcplx(double *data, int count, int stride);
int mp_api_pkdouble(double *data, int count, int stride);
int mp_api_pkfloat(float *data, int count, int stride);
int mp_api_pkint(int *data, int count, int stride);
int mp_api_pklong(long *data, int count, int stride);
int mp_api_pkshort(short *data, int count, int stride);
int mp_api_pkuint(unsigned int *data, int count, int stride);
int mp_api_pkulong(unsigned long *data, int count, int stride);
int mp_api_pkushort(unsigned short *data, int count, int stride);
int mp_api_upkbyte(char *data, int count, int stride);
int mp_api_upkcplx(float *data, int count, int stride);
int mp_api_upkdcplx(double *data, int count, int stride);
int mp_api_upkdouble(double *data, int count, int stride);
int mp_api_upkfloat(float *data, int count, int stride);
int mp_api_upkint(int *data, int count, int stride);
int mp_api_upklong(long *data, int count, int stride);
int mp_api_upkshort(short *data, int count, int stride);
int mp_api_upkuint(unsigned int *data, int count, int stride);
int mp_api_upkulong(unsigned long *data, int count, int stride);
int mp_api_upkushort(unsigned short *data, int count, int stride);
/* of the variable arguments */
int mp_api_packf(const char *format, va_list ap);
int mp_api_unpackf(const char *format, va_list ap);

#endif
