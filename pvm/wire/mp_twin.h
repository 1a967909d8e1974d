/*
 * Twins: the first task of a large spawn makes the others, before its own main(). A copy of a process that
 * has its libraries in place costs a fraction of a new one (exec, loader, page faults).
 *
 * The daemon gives the first task a socket (SOCK_SEQPACKET); $PVMTWIN names its descriptor and inode. What
 * libpvm3 (mp_twin.c) finds before main() it either offers, or leaves alone, and then the daemon starts all
 * tasks itself (pvmd/mpd_twin.c). One packet each:
 *
 *	task -> daemon  mp_twin_hello and the path by which it was executed: here I am
 *	daemon -> task  mp_twin_ask, with the descriptor of the new task's output: make a copy
 *	task -> daemon  mp_twin_made: the copy's pid, or -errno
 *
 * The end of the socket ends it: the task goes on to its main().
 */
#ifndef PVM_WIRE_MP_TWIN_H
#define PVM_WIRE_MP_TWIN_H

#include <stdint.h>

#define MP_ENV_TWIN   "PVMTWIN"	   /* FD:INODE */
#define MP_ENV_NOTWIN "PVM_NOTWIN" /* not empty: each task is started for itself */

enum {
	MP_TWIN_MAGIC = 0x4e495754,
	MP_TWIN_PATH_MAX = 4096,
	MP_TWIN_WAIT_MS = 5000,	    /* neither waits longer for the other */
	MP_TWIN_COOKIE_DIGITS = 10, /* of $PVMEPID, so that a copy can write its own over it */
};

struct mp_twin_hello {
	uint32_t magic;
	int32_t pid;
};

struct mp_twin_ask {
	uint32_t seq, cookie;
};

struct mp_twin_made {
	uint32_t seq;
	int32_t pid;
};

#endif
