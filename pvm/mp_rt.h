/*
 * Inside of the task runtime: the socket to the daemon, the queue of messages that have arrived,
 * and the shared memory of mp_chan.c. One per process, one thread. Every function here may be
 * entered again from a message handler of the program.
 */
#ifndef PVM_MP_RT_H
#define PVM_MP_RT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/list.h"
#include "pvm/mp_buf.h"
#include "pvm/wire/mp_ops.h"
#include "pvm/wire/mp_wire.h"

struct mp_seg_head;

/* A message in the queue of arrivals. */
struct mp_item {
	struct base_list link;
	struct mp_msg *msg;
};

struct mp_trace_to {
	int tid, ctx, code, buffer, options;
};

struct mp_rt {
	int fd; /* to the daemon, -1: not enrolled */
	pid_t pid;
	uint8_t *in;
	size_t in_len, in_cap;
	bool parsing;
	struct base_list queue;	  /* mp_item, in order of arrival */
	struct base_list partial; /* of messages that come in pieces */
	struct base_list spare;	  /* mp_item to use again */
	unsigned arrivals;	  /* messages so far */
	struct mp_wait *waits;
	uint32_t next_req;
	int flags; /* of our spawn */

	/* Settings: ours, and what children will get. */
	int out_tid, out_ctx, out_code;
	int my_out_tid, my_out_ctx, my_out_code;
	struct mp_trace_to trace, my_trace;
	int resv_tids;
	int poll_type, poll_us;
	int next_mhf;
	struct base_list handlers;
	struct base_list todo; /* items that a handler gets */
	bool in_handler;
	/* The daemon counts what it sends, so the socket need not be looked at again before that; now
	 * and then it is all the same, for the daemon may die. */
	uint32_t mail_seen;
	unsigned unlooked;
	bool look_due;
	int (*match)(int mid, int tid, int tag); /* pvm_recvf; NULL: the usual */
	bool siblings_known;
};

extern struct mp_rt mp_rt;

/* Enrols; 0 or a Pvm code. Not reported. */
BASE_MUST_CHECK int mp_rt_begin(void);
/* The same if need be: what nearly every call does first. */
BASE_MUST_CHECK static inline int mp_rt_need(void)
{
	return mp_rt.fd >= 0 ? 0 : mp_rt_begin();
}

/* The daemon is gone: everything about it is forgotten. */
void mp_rt_lost(void);

/* One call to the daemon: the result, or PvmSysErr. `body` (may be NULL) gets the answer's data as
 * malloc'd bytes; *fd the descriptor that came along. */
int mp_rt_call(uint16_t op, const struct base_wbuf *args, struct base_wbuf *body, int *fd);
BASE_MUST_CHECK int mp_rt_notice(uint16_t what, const void *p, size_t len);
/* Sends all bytes of the vectors; takes in what arrives meanwhile. 0 or PvmSysErr. */
BASE_MUST_CHECK int mp_rt_write(struct iovec *iov, int n, int pass_fd);

/*
 * Takes in what is there, waiting for it until `deadline_ns` (0: not at all, -1: without limit).
 * Returns when something came, and at the deadline. PvmSysErr when the daemon is gone.
 */
BASE_MUST_CHECK int mp_rt_pump(int64_t deadline_ns);
/* Takes in what is there, without waiting and without running handlers. 0 or PvmSysErr. */
BASE_MUST_CHECK int mp_rt_take(void);
/* A whole message has arrived: queue or handler. Takes over the reference. */
void mp_rt_arrived(struct mp_msg *m);
/* The message from `src` with this tag and wait number, out of the queue; *out NULL when it has not
 * come in time. PvmSysErr when the daemon is gone. */
BASE_MUST_CHECK int mp_rt_await_wid(int src, int tag, int wid, int64_t deadline_ns,
				    struct mp_msg **out);
/* As pvm_send(), in the current context; the message stays the caller's. 0 or a Pvm code. */
BASE_MUST_CHECK int mp_rt_send(int dst, const struct mp_msg *m, int tag);
/* The same in a context of its own. */
BASE_MUST_CHECK int mp_rt_send_in(int ctx, int dst, const struct mp_msg *m, int tag);
/* Runs what handlers are due; not from inside one. */
void mp_rt_run_handlers(void);
void mp_item_free(struct mp_item *it);

/* One call with integers as arguments. */
int mp_rt_call_ints(uint16_t op, const int *v, int n);

/* mp_opt.c: output of children. True: the message was such, and is used up. */
bool mp_catch_message(struct mp_msg *m);
/* Before an exit: waits until all children whose output is caught have ended. */
BASE_MUST_CHECK int mp_catch_finish(void);

/* mp_chan.c */

/* A segment for this task: its descriptor, or -1 (then all goes through the daemon). */
int mp_chan_open(void);
/* The daemon took the segment (or not) and gave the host page. */
void mp_chan_enrolled(int tid, int page_fd, bool accepted);
void mp_chan_close(void);
/* In a child of fork, before mp_chan_close(): nothing shared may be touched. */
void mp_chan_forked(void);
/* 1: sent; 0: not by this way; below 0: an error. */
BASE_MUST_CHECK int mp_chan_send(int dst, const struct mp_msg *m, const struct mp_msghdr *h);
/* Takes in all that is in the rings, or MP_CHAN_HANDFUL of it at most; how many messages. */
int mp_chan_poll(bool all);
void mp_chan_peer(uint32_t slot, int tid, int fd);
void mp_chan_peer_gone(int tid, int slot);
/* The bell before the last poll, and sleeping until it rings. */
uint32_t mp_chan_bell(void);
/* What the daemon has sent, to be asked after the bell: it rings that last. */
uint32_t mp_chan_mail(void);
bool mp_chan_active(void);
/* False: time is up. Also for connections of mp_net.c, and then without a segment as well. */
bool mp_chan_sleep(uint32_t bell, int64_t deadline_ns);
/* Sleeps until there is news or `out_fd` can be written. The caller has taken in what was there. */
void mp_chan_sleep_out(int out_fd);
/*
 * A body by reference may still be on its way from its sender: wait for all of it, or copy out its
 * first `len` bytes as they come. False: the sender died before, the message is lost.
 */
BASE_MUST_CHECK bool mp_chan_filled(const struct mp_msg *m);
BASE_MUST_CHECK bool mp_chan_copy_out(const struct mp_msg *m, void *dst, size_t len);
void mp_chan_want_poke(void);
void mp_chan_poked(void);
/* mp_quick.c: a call without the socket, if it can be. */
bool mp_quick_ask(uint16_t op, uint32_t req, const struct base_wbuf *args);
/* It went to sleep, maybe without having seen the call. */
bool mp_quick_unseen(void);
/* Its answer, valid until mp_quick_end(); false when it is not there yet. */
bool mp_quick_answer(uint32_t *req, struct base_rbuf *out);
void mp_quick_end(void);
/* Tells the daemon which slots are free again; not while frames are being handed out. */
void mp_chan_tidy(void);

#endif
