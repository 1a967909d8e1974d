/* What the parts of the control channel share; nobody else includes this. */
#ifndef PROTO_CHAN_IMPL_H
#define PROTO_CHAN_IMPL_H

#include <zmq.h>

#include "base/clock.h"
#include "base/list.h"
#include "proto/chan.h"
#include "proto/chan_wire.h"

enum {
	CHAN_MAX_SESSIONS = 256,
	CHAN_MAX_CALLS = 256,
	CHAN_MAX_OUT = 128,
	CHAN_PING_MS = 5000,
	CHAN_EXPIRE_MS = 20000,
	CHAN_CONNECT_MS = 5000,
};

/*
 * A ZeroMQ socket in an event loop. ZMQ_FD only signals changes of state, and any call on the
 * socket may swallow the signal: so after every wake-up, and after every send (chan_sock_kick),
 * everything that ZMQ_EVENTS reports is taken.
 */
struct chan_sock {
	void *zmq;
	struct base_loop *loop;
	struct base_watch watch;
	struct base_timer kick;
	/* Takes one message off the socket. Must not close it. */
	void (*readable)(struct chan_sock *s);
	/* On every wake-up, before reading; or NULL. */
	void (*woken)(struct chan_sock *s);
};

struct chan {
	struct chan_config config;
	void *zmq;
	struct chan_sock zap;
	unsigned monitor_count;
};

/* The log of connections of one socket. */
struct chan_monitor {
	struct chan_sock sock;
	void (*event)(struct chan_monitor *m, unsigned event, uint32_t value);
};

BASE_MUST_CHECK int chan_sock_open(struct chan *c, int type, struct chan_sock *s);
BASE_MUST_CHECK int chan_sock_watch(struct chan_sock *s);
void chan_sock_close(struct chan_sock *s, int linger_ms);
void chan_sock_kick(struct chan_sock *s);
BASE_MUST_CHECK int chan_sock_set(struct chan_sock *s, int option, int value);
/* Options that every socket of the channel has: bounds, heartbeats, keys, time limits. */
BASE_MUST_CHECK int chan_sock_common(struct chan *c, struct chan_sock *s);

BASE_MUST_CHECK int chan_monitor_open(struct chan *c, struct chan_sock *of, int events,
				      struct chan_monitor *m);
void chan_monitor_close(struct chan_sock *of, struct chan_monitor *m);

/* Sends rid (may be NULL) and the envelope, without waiting. -errno of zmq_msg_send(3). */
BASE_MUST_CHECK int chan_sock_send(struct chan_sock *s, const void *rid, size_t rid_len,
				   const struct chan_env *env);

BASE_MUST_CHECK int chan_zap_open(struct chan *c);

#endif
