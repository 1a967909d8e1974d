/*
 * The public interface of the Parallel Virtual Machine, version 3.4. Names, numbers, structure
 * layouts and prototypes are those that programs and binaries for PVM 3.4.6 were built with; they
 * are frozen. Errors are negative returns; pvm_perror() prints the last one. Messages are named by
 * positive buffer numbers, tasks and daemons by positive tids. The library is for one thread.
 */
#ifndef _PVM3_H_
#define _PVM3_H_

#include <sys/time.h>

#define PVM_VER		  "3.4.6"
#define PVM_MAJOR_VERSION 3
#define PVM_MINOR_VERSION 4
#define PVM_PATCH_VERSION 6

/* pvm_initsend, pvm_mkbuf: how data is encoded. XDR is understood by every kind of host. */
#define PvmDataDefault 0
#define PvmDataRaw     1
#define PvmDataInPlace 2 /* the data is read when the message is sent */
#define PvmDataFoo     PvmDataDefault
#define PvmDataTrace   4 /* each item carries its type and count */

/* pvm_spawn: where, and how (a set) */
#define PvmTaskDefault	 0
#define PvmTaskHost	 1 /* on the host named */
#define PvmTaskArch	 2 /* on a host of the architecture named */
#define PvmTaskDebug	 4
#define PvmTaskTrace	 8
#define PvmMppFront	 16
#define PvmHostCompl	 32 /* on any host that is not named */
#define PvmNoSpawnParent 64

/* pvm_notify */
#define PvmTaskExit	1
#define PvmHostDelete	2
#define PvmHostAdd	3
#define PvmRouteAdd	4
#define PvmRouteDelete	5
#define PvmNotifyCancel 256 /* added to one of the above */

/* pvm_setopt, pvm_getopt: options, and below some the values that they take */
#define PvmRoute	     1
#define PvmDontRoute	     1
#define PvmAllowDirect	     2
#define PvmRouteDirect	     3
#define PvmDebugMask	     2
#define PvmAutoErr	     3
#define PvmOutputTid	     4
#define PvmOutputCode	     5
#define PvmTraceTid	     6
#define PvmTraceCode	     7
#define PvmTraceBuffer	     8
#define PvmTraceOptions	     9
#define PvmTraceFull	     1
#define PvmTraceTime	     2
#define PvmTraceCount	     3
#define PvmFragSize	     10
#define PvmResvTids	     11
#define PvmSelfOutputTid     12
#define PvmSelfOutputCode    13
#define PvmSelfTraceTid	     14
#define PvmSelfTraceCode     15
#define PvmSelfTraceBuffer   16
#define PvmSelfTraceOptions  17
#define PvmShowTids	     18
#define PvmPollType	     19
#define PvmPollConstant	     1
#define PvmPollSleep	     2
#define PvmPollTime	     20
#define PvmOutputContext     21
#define PvmTraceContext	     22
#define PvmSelfOutputContext 23
#define PvmSelfTraceContext  24
#define PvmNoReset	     25

/* pvm_settmask, pvm_gettmask */
#define PvmTaskSelf    0
#define PvmTaskChild   1

#define PvmBaseContext 0

/* pvm_putinfo, pvm_recvinfo: flags of the mailbox */
#define PvmMboxDefault	     0
#define PvmMboxPersistent    1 /* stays when the owner has gone */
#define PvmMboxMultiInstance 2
#define PvmMboxOverWritable  4
#define PvmMboxFirstAvail    8
#define PvmMboxReadAndDelete 16
#define PvmMboxWaitForInfo   32
#define PvmMboxMaxFlag	     512
/* An index may ride above the flags: the bits from here up. */
#define PvmMboxDirectIndexShift 10
#define PvmMboxMaxDirectIndex	(1U << (31 - PvmMboxDirectIndexShift))
#define PvmMboxDirectIndexOf(_flags)                                                               \
	(((_flags) & ((PvmMboxMaxDirectIndex - 1) << PvmMboxDirectIndexShift)) >>                  \
	 PvmMboxDirectIndexShift)
#define PvmMboxDirectIndex(_index)                                                                 \
	((_index) < PvmMboxMaxDirectIndex                                                          \
		 ? (_index) << PvmMboxDirectIndexShift                                             \
		 : (fprintf(stderr, "Mbox Direct Index Too Large: %d >= %d\n", (int)(_index),      \
			    (int)PvmMboxMaxDirectIndex),                                           \
		    0))

/* Mailbox classes of the system itself */
#define PVMNORESETCLASS "###_PVM_NO_RESET_###"
#define PVMHOSTERCLASS	"###_PVM_HOSTER_###"
#define PVMTASKERCLASS	"###_PVM_TASKER_###"
#define PVMTRACERCLASS	"###_PVM_TRACER_###"
#define PVMRMCLASS	"###_PVM_RM_###"

/* What calls return when they fail; pvm_perror() has a sentence for each. */
#define PvmOk		0
#define PvmBadParam	-2
#define PvmMismatch	-3
#define PvmOverflow	-4
#define PvmNoData	-5
#define PvmNoHost	-6
#define PvmNoFile	-7
#define PvmDenied	-8
#define PvmNoMem	-10
#define PvmBadMsg	-12
#define PvmSysErr	-14
#define PvmNoBuf	-15
#define PvmNoSuchBuf	-16
#define PvmNullGroup	-17
#define PvmDupGroup	-18
#define PvmNoGroup	-19
#define PvmNotInGroup	-20
#define PvmNoInst	-21
#define PvmHostFail	-22
#define PvmNoParent	-23
#define PvmNotImpl	-24
#define PvmDSysErr	-25
#define PvmBadVersion	-26
#define PvmOutOfRes	-27
#define PvmDupHost	-28
#define PvmCantStart	-29
#define PvmAlready	-30
#define PvmNoTask	-31
#define PvmNotFound	-32
#define PvmExists	-33
#define PvmHostrNMstr	-34
#define PvmParentNotSet -35
#define PvmIPLoopback	-36
#define PvmNoEntry	PvmNotFound
#define PvmDupEntry	PvmDenied

/* Data types of pvm_psend, pvm_precv and the group calls */
#define PVM_STR	   0
#define PVM_BYTE   1
#define PVM_SHORT  2
#define PVM_INT	   3
#define PVM_FLOAT  4
#define PVM_CPLX   5
#define PVM_DOUBLE 6
#define PVM_DCPLX  7
#define PVM_LONG   8
#define PVM_USHORT 9
#define PVM_UINT   10
#define PVM_ULONG  11

/* One per host, from pvm_config(); the array is the library's until the next call. */
struct pvmhostinfo {
	int hi_tid; /* of its daemon */
	char *hi_name;
	char *hi_arch;
	int hi_speed; /* relative, 1000 is usual */
	int hi_dsig;  /* data representation */
};

/* One per task, from pvm_tasks(); the array is the library's until the next call. */
struct pvmtaskinfo {
	int ti_tid;
	int ti_ptid; /* parent, or 0 */
	int ti_host; /* tid of the daemon there */
	int ti_flag;
	char *ti_a_out;
	int ti_pid;
};

/* pvm_getminfo, pvm_setminfo: the head of a message */
struct pvmminfo {
	int len;
	int ctx;
	int tag;
	int wid;
	int enc;
	int crc;
	int src;
	int dst;
};

/* One per mailbox class, from pvm_getmboxinfo(); the arrays have mi_nentries elements. */
struct pvmmboxinfo {
	char *mi_name;
	int mi_nentries;
	int *mi_indices;
	int *mi_owners;
	int *mi_flags;
};

#ifdef NOTMPNAM
#define PVMTMPNAMFUN(x) pvmtmpnam(x)
#define PVMTMPNAMLEN	128
#else
#define PVMTMPNAMFUN(x) tmpnam(x)
#ifdef L_tmpnam
#define PVMTMPNAMLEN L_tmpnam
#else
#define PVMTMPNAMLEN 128
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The parallel virtual machine: hosts, tasks, options */
int pvm_addhosts(char **names, int count, int *infos);
int pvm_archcode(char *arch);
int pvm_config(int *nhost, int *narch, struct pvmhostinfo **hosts);
int pvm_delhosts(char **names, int count, int *infos);
int pvm_exit(void);
int pvm_export(char *name);
int pvm_getnoresets(int **tids, int *count);
int pvm_getopt(int what);
int pvm_halt(void);
int pvm_hostsync(int host, struct timeval *clk, struct timeval *delta);
int pvm_kill(int tid);
int pvm_mstat(char *host);
int pvm_mytid(void);
int pvm_notify(int what, int tag, int count, int *tids);
int pvm_parent(void);
int pvm_pstat(int tid);
int pvm_reg_hoster(void);
int pvm_reg_rm(struct pvmhostinfo **hosts);
int pvm_reg_tasker(void);
int pvm_reg_tracer(int tctx, int ttag, int octx, int otag, char *tmask, int tbuf, int topt);
int pvm_sendsig(int tid, int signum);
int pvm_setopt(int what, int value);
int pvm_siblings(int **tids);
int pvm_spawn(char *task, char **argv, int flag, char *where, int count, int *tids);
int pvm_start_pvmd(int argc, char **argv, int block);
int pvm_tasks(int where, int *count, struct pvmtaskinfo **tasks);
int pvm_tickle(int narg, int *args, int *nres, int *res);
int pvm_tidtohost(int tid);
int pvm_unexport(char *name);
char *pvm_version(void);
#ifdef EOF /* stdio.h was included */
int pvm_catchout(FILE *f);
#endif

/* Errors */
int pvm_perror(char *prefix);
char *pvm_strerror(void);

/* Sending and receiving */
int pvm_addmhf(int src, int tag, int ctx, int (*handler)(int mid));
int pvm_delmhf(int mhid);
int pvm_freecontext(int ctx);
int pvm_getcontext(void);
int pvm_getfds(int **fds);
int pvm_mcast(int *tids, int count, int tag);
int pvm_newcontext(void);
int pvm_nrecv(int tid, int tag);
int pvm_precv(int tid, int tag, void *data, int count, int type, int *rtid, int *rtag, int *rcount);
int pvm_probe(int tid, int tag);
int pvm_psend(int tid, int tag, void *data, int count, int type);
int pvm_recv(int tid, int tag);
int (*pvm_recvf(int (*match)(int mid, int tid, int tag)))(int, int, int);
int pvm_send(int tid, int tag);
int pvm_setcontext(int ctx);
int pvm_trecv(int tid, int tag, struct timeval *timeout);

/* Message buffers */
int pvm_bufinfo(int mid, int *len, int *tag, int *tid);
int pvm_freebuf(int mid);
int pvm_getminfo(int mid, struct pvmminfo *info);
int pvm_getrbuf(void);
int pvm_getsbuf(void);
int pvm_initsend(int encoding);
int pvm_mkbuf(int encoding);
int pvm_setminfo(int mid, struct pvmminfo *info);
int pvm_setrbuf(int mid);
int pvm_setsbuf(int mid);

/* Packing into the send buffer and unpacking from the receive buffer; stride 1 is contiguous. */
int pvm_packf(const char *format, ...);
int pvm_pkbyte(char *data, int count, int stride);
int pvm_pkcplx(float *data, int count, int stride);
int pvm_pkdcplx(double *data, int count, int stride);
int pvm_pkdouble(double *data, int count, int stride);
int pvm_pkfloat(float *data, int count, int stride);
int pvm_pkint(int *data, int count, int stride);
int pvm_pklong(long *data, int count, int stride);
int pvm_pkmesg(int mid);
int pvm_pkmesgbody(int mid);
int pvm_pkshort(short *data, int count, int stride);
int pvm_pkstr(char *string);
int pvm_pkuint(unsigned int *data, int count, int stride);
int pvm_pkulong(unsigned long *data, int count, int stride);
int pvm_pkushort(unsigned short *data, int count, int stride);
int pvm_unpackf(const char *format, ...);
int pvm_upkbyte(char *data, int count, int stride);
int pvm_upkcplx(float *data, int count, int stride);
int pvm_upkdcplx(double *data, int count, int stride);
int pvm_upkdouble(double *data, int count, int stride);
int pvm_upkfloat(float *data, int count, int stride);
int pvm_upkint(int *data, int count, int stride);
int pvm_upklong(long *data, int count, int stride);
int pvm_upkmesg(void);
int pvm_upkshort(short *data, int count, int stride);
int pvm_upkstr(char *string);
int pvm_upkuint(unsigned int *data, int count, int stride);
int pvm_upkulong(unsigned long *data, int count, int stride);
int pvm_upkushort(unsigned short *data, int count, int stride);

/* The mailbox: messages kept under a name */
int pvm_delinfo(char *name, int index, int flags);
int pvm_getmboxinfo(char *pattern, int *nclasses, struct pvmmboxinfo **classes);
int pvm_putinfo(char *name, int mid, int flags);
int pvm_recvinfo(char *name, int index, int flags);
/* its older form */
int pvm_delete(char *name, int index);
int pvm_insert(char *name, int index, int value);
int pvm_lookup(char *name, int index, int *value);

/* Groups (link with -lgpvm3) */
int pvm_barrier(char *group, int count);
int pvm_bcast(char *group, int tag);
int pvm_freezegroup(char *group, int size);
int pvm_gather(void *result, void *data, int count, int type, int tag, char *group, int root);
int pvm_getinst(char *group, int tid);
int pvm_gettid(char *group, int inst);
int pvm_gsize(char *group);
int pvm_joingroup(char *group);
int pvm_lvgroup(char *group);
int pvm_reduce(void (*op)(int *type, void *x, void *y, int *count, int *info), void *data,
	       int count, int type, int tag, char *group, int root);
int pvm_scatter(void *result, void *data, int count, int type, int tag, char *group, int root);
void PvmMax(int *type, void *x, void *y, int *count, int *info);
void PvmMin(int *type, void *x, void *y, int *count, int *info);
void PvmSum(int *type, void *x, void *y, int *count, int *info);
void PvmProduct(int *type, void *x, void *y, int *count, int *info);

/* What the environment says, with defaults */
#ifdef NOTMPNAM
char *pvmtmpnam(char *name);
#endif
char *pvmgetrsh(void);
char *pvmgettmp(void);

#ifdef PVM33COMPAT
int pvm_getmwid(int mid);
int pvm_setmwid(int mid, int wid);
#endif

#ifdef __cplusplus
}
#endif

#endif
