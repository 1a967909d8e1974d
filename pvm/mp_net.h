/*
 * Messages between tasks of two hosts on a TCP connection of their own. The daemons make it and hand
 * it over (pvmd/mpd_direct.c); where there is none messages go through the daemons.
 *
 * One thread, as all of libpvm3. A connection carries messages one after another: struct
 * mp_net_head, then the body. The other end is authenticated, what comes from it is checked all the
 * same: nonsense ends the connection.
 */
#ifndef PVM_MP_NET_H
#define PVM_MP_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "pvm/mp_buf.h"
#include "pvm/wire/mp_wire.h"

enum { MP_NET_MAGIC = 0x4e56504d };

/* Little-endian, as all hosts that we run on. */
struct mp_net_head {
	uint32_t magic;
	int32_t tag, ctx, enc, wid, crc;
	uint64_t total;
};

_Static_assert(sizeof(struct mp_net_head) == 32, "on the wire");

/* True while there is a connection: then waiting must look at it. */
bool mp_net_active(void);
/* 1: sent (or the receiver is dead); 0: not by this way; below 0: an error. */
BASE_MUST_CHECK int mp_net_send(int dst, const struct mp_msg *m, const struct mp_msghdr *h);
/* Takes in what is there; how many messages. */
int mp_net_poll(void);
/* True once after mp_net_poll() saw something at the daemon's socket; always without connections. */
bool mp_net_daemon(void);
/* Something is there, or at the daemon's socket. No waiting. */
bool mp_net_ready(void);
/* Sleeps until something is there, at most `ns`; with `out_fd` >= 0 also until that can be written. */
void mp_net_block(int64_t ns, int out_fd);
/* Wakes a task of this host that sleeps in mp_net_block(). */
void mp_net_ring(int tid);
/* Makes the descriptor that is readable when there is news of any kind, now and later. */
bool mp_net_watch(void);
int mp_net_fd(void);

/* Notices of the daemon. mp_net_peer takes the descriptor. */
void mp_net_peer(int tid, int fd);
void mp_net_peer_open(int tid);
void mp_net_peer_gone(int tid, bool drain);
/* Forgets everything; also in a child of fork. */
void mp_net_close(void);

/*
 * Where the body of the next message that fits goes (pvm_precv), so that it is not copied. While
 * `msg` is set it is under way to there and nothing else may be taken.
 */
struct mp_landing {
	bool on;
	int tid, tag;
	void *buf;
	size_t cap;
	const struct mp_msg *msg;
};

extern struct mp_landing mp_landing;

#endif
