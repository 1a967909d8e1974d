/*
 * Calls and notices inside REQ, REP and CTL frames. Numbers are never reused. Integers are
 * little-endian, strings are base_wbuf_str(). A result below zero is a PVM error code.
 */
#ifndef PVM_WIRE_MP_OPS_H
#define PVM_WIRE_MP_OPS_H

#include <stdbool.h>
#include <stdint.h>

/* Calls of a task; most are also forwarded between daemons, with the caller's tid before the
 * arguments. */
enum mp_op {
	/* u32 version, u32 epid, str program, u32 flags; + segment descriptor.
	 * Reply: struct in mp_enrol.c order. */
	MP_OP_ENROL = 1,
	MP_OP_EXIT = 2,
	MP_OP_CONFIG = 3,   /* -> u32 n, n x {i32 tid, str name, str arch, i32 speed, i32 dsig} */
	MP_OP_TASKS = 4,    /* i32 where -> u32 n, n x {i32 tid ptid host flag pid, str name} */
	MP_OP_SPAWN = 5,    /* see mpd_spawn.c -> u32 n, n x i32 tid or error */
	MP_OP_SIGNAL = 6,   /* i32 tid, i32 signal */
	MP_OP_NOTIFY = 7,   /* i32 what, tag, ctx, count, u32 n, n x i32 tid */
	MP_OP_ADDHOSTS = 8, /* u32 n, n x str -> u32 n, n x i32 tid or error */
	MP_OP_DELHOSTS = 9, /* u32 n, n x str -> u32 n, n x i32 */
	MP_OP_PSTAT = 10,   /* i32 tid */
	MP_OP_MSTAT = 11,   /* str host */
	MP_OP_TICKLE = 12,  /* u32 n, n x i32 -> u32 n, n x i32 */
	MP_OP_HALT = 13,
	MP_OP_MBOX_PUT = 14, /* str name, i32 index, i32 flags, i32 enc, blob body -> index */
	MP_OP_MBOX_GET = 15, /* str name, i32 index, i32 flags -> i32 enc, blob body */
	MP_OP_MBOX_DEL = 16, /* str name, i32 index */
	/* str pattern -> u32 n, n x {str name, u32 m, m x {i32 index, owner, flags}} */
	MP_OP_MBOX_INFO = 17,
	MP_OP_CONTEXT = 18,  /* i32 0: new -> id; else: free */
	MP_OP_HOSTSYNC = 19, /* i32 host -> u64 seconds, u64 microseconds */
	MP_OP_SETOPT = 20,   /* i32 what (PvmSelf...), i32 value */
	MP_OP_REGISTER = 21, /* i32 role */
	/* i32 tid -> 0 and a descriptor: the segment of a task of this host, and u32 slot; or a new
	 * connection to a task elsewhere. 1: use the connection that it made. */
	MP_OP_CONNECT = 22,
	MP_OP_STARTED = 23, /* answers when no host is being started */
	MP_OP_MBOX_RESET =
		24, /* u32 n, n x i32 tid whose entries stay; or 0, str class or *, i32 index or -1: what is nobody's */
	MP_OP_TASK_LAST = 31,

	/* Daemons only. */
	MP_OP_EXEC = 32,  /* one host's share of a spawn */
	MP_OP_HOSTS = 33, /* the coordinator's table of hosts */
	MP_OP_JOIN = 34,  /* first words of a link: who I am */
	/* i32 tid (of the callee's host), u32 0 -> u16 port, u64 ticket, 32 bytes key; 1: the caller's
	 * task will send on the connection that the other one made -> nothing. */
	MP_OP_DIRECT = 35,
	MP_OP_LAST = 35,
};

enum mp_role { MP_ROLE_RM = 1, MP_ROLE_HOSTER = 2, MP_ROLE_TASKER = 3, MP_ROLE_TRACER = 4 };

/* Notices from a daemon to a task. */
enum mp_ctl {
	MP_C_PEER = 1,	    /* u32 slot, i32 tid; + descriptor of its segment */
	MP_C_PEER_GONE = 2, /* i32 tid */
	MP_C_SIBLINGS = 3,  /* u32 n, n x i32 */
	MP_C_POKE = 4,	    /* nothing: look at the shared memory */
	MP_C_SLOT_FREE = 5, /* task to daemon: u32 slot: its ring is empty, its sender is gone */
	MP_C_POKE_TASK = 6, /* task to daemon: i32 tid: poke it */
	MP_C_LOOK = 10,	    /* task to daemon: i32 0: its segment has a call */

	MP_C_NET = 7,	   /* i32 tid; + descriptor: it sends on this connection from now on */
	MP_C_NET_OPEN = 8, /* i32 tid: it sends on the connection that we asked for, too */
	MP_C_NET_GONE =
		9, /* i32 tid, u32 1: its task ended, read until the end; 0: its host died */

	/* Between daemons. */
	MP_C_BEAT = 32,	   /* u32 busy per mille, u32 tasks */
	MP_C_SUSPECT = 33, /* i32 host */
	MP_C_HALT = 34,
	MP_C_MBOX = 35,	      /* one change of the mailbox */
	MP_C_CHOKE = 36,      /* i32 tid, u32 on: senders to this task wait */
	MP_C_TASK_GONE = 37,  /* i32 tid: end of its mailbox entries */
	MP_C_LOG = 38,	      /* i32 tid, blob: task output for the log */
	MP_C_TO_TASK = 39,    /* i32 tid, u16 ctl, rest: a notice for a task of that host */
	MP_C_TASK_ENDED = 40, /* i32 tid: whom a task of that host wanted to know about */
};

/* Those that may go by the shared memory, see mp_seg.h. */
static inline bool mp_op_is_quick(uint16_t op)
{
	return op == MP_OP_MBOX_PUT || op == MP_OP_MBOX_GET || op == MP_OP_MBOX_DEL;
}

/* A class of the mailbox that every daemon answers itself, by the number of a host: what it knows of
 * that host's load, as XDR: cores, cores in use per mille, tasks. */
#define MP_LOAD_CLASS "###_PVM_LOAD_###"

/* Spawned tasks find their place by these. */
#define MP_ENV_EPID "PVMEPID"

#endif
