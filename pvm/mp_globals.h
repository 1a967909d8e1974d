/*
 * Variables that libpvm3 exports, because programs for PVM 3.4 read some of them, and the reporting
 * of errors. One thread, as all of libpvm3.
 */
#ifndef PVM_MP_GLOBALS_H
#define PVM_MP_GLOBALS_H

#include <stdarg.h>

#include "base/cleanup.h"
#include "pvm/mp_api.h"

extern int pvmmytid;  /* -1: not enrolled */
extern int pvmmyptid; /* parent, 0: none */
extern int pvmmyupid; /* process id once enrolled */
extern int pvmmyctx;  /* context of sends and receives */
extern int pvmmydsig; /* data signature once enrolled */
extern int pvm_useruid;
extern int pvmautoerr; /* PvmAutoErr: 0 silent, 1 print, 2 print and exit, 3 abort */
extern int pvmdebmask;
extern int pvmrouteopt;
extern int pvmfrgsiz, pvmudpmtu;
extern int pvmnsibs; /* -1: not known */
extern int *pvmsibtids;
extern int pvmtoplvl; /* 0 inside a call of the library */
extern int pvmshowtaskid;
extern int pvmnoreset, pvmnoresetindex;
extern int pvmschedtid;
extern int pvmrescode;
extern char *pvmmytaskname;
extern int pvm_errno;
extern int pvm_nerr;
extern const char *pvm_errlist[];

/* Enrols when that has not happened yet: 0, or a negative Pvm code. */
int pvmbeatask(void);

/* Records `code`, says so as PvmAutoErr wants, and returns it. */
int lpvmerr(const char *function, int code);

/* To standard error, with "libpvm [tTID]: " in front. */
void pvmlogprintf(const char *fmt, ...) BASE_PRINTF(1, 2);
void vpvmlogprintf(const char *fmt, va_list ap) BASE_PRINTF(1, 0);
void pvmlogerror(const char *text);
/* with the text of errno behind */
void pvmlogperror(const char *text);

#endif
