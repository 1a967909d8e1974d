/*
 * The control channel: authenticated, encrypted calls and streams between agents, and from the
 * command to an agent. ZeroMQ ROUTER (server) and DEALER (link) with CURVE; only known keys get in.
 * One message of ours is one protobuf Envelope (proto/chan.proto) of at most CHAN_MAX_BYTES.
 *
 *   link                              server
 *     HELLO{min,max,name}  ---------->
 *                          <----------  WELCOME{version,name} (or an error text)
 *     REQUEST{id,body}     ---------->  request()
 *                          <----------  ITEM{id,body} ...       streams only
 *     INPUT{id,body} ...   ---------->                          streams only
 *     CREDIT{id,n}         <--------->                          how many more ITEMs or INPUTs
 *     CANCEL{id}           ---------->
 *                          <----------  REPLY{id,body}          ends every call, once
 *     PING                 <--------->  PONG                    when there is nothing else
 *
 * Every call ends: with its reply, when its time is up, or when the connection is lost. Both sides
 * of a stream start with CHAN_WINDOW credits; the receiver gives them back as it consumes.
 *
 * Everything belongs to the thread of the event loop.
 */
#ifndef PROTO_CHAN_H
#define PROTO_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "proto/keys.h"

enum {
	CHAN_MIN_VERSION = 1,
	CHAN_MAX_VERSION = 1,
	CHAN_MAX_BYTES = 1 << 20,
	CHAN_MAX_BODY = CHAN_MAX_BYTES - 1024,
	CHAN_WINDOW = 64,
	CHAN_NAME_MAX = 64, /* of users and nodes, with the final 0 */
};

struct chan;

struct chan_config {
	struct base_loop *loop;
	const char *name; /* ours, told to peers at hello; borrowed */
	struct keys_pair keys;
	/* Server only: is this key let in, and as whom? Refusals are logged here. */
	bool (*known)(void *ctx, const struct keys_key *key, char user[CHAN_NAME_MAX]);
	void *ctx;
};

BASE_MUST_CHECK int chan_new(const struct chan_config *config, struct chan **out);
/* After its servers and links. Waits at most half a second for what is still being sent. */
void chan_free(struct chan *c);

/* ---- server ---- */

struct chan_server;
struct chan_call;

struct chan_server_ops {
	/* Answer each call once by chan_call_reply(), at once or later. `body` is valid during
	 * this. */
	void (*request)(void *ctx, struct chan_call *call, const void *body, size_t len);
};

/* What a handler of a stream wants to hear of its call. NULL slots are skipped. */
struct chan_call_ops {
	void (*input)(void *arg, const void *body, size_t len);
	void (*credit)(void *arg, uint32_t n); /* this many more items may be sent */
	/* Nobody waits any more (cancelled or lost): end by chan_call_reply(), now or soon. */
	void (*cancel)(void *arg);
};

/* -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL: from binding tcp://address:port. */
BASE_MUST_CHECK int chan_server_new(struct chan *c, const char *address, uint16_t port,
				    const struct chan_server_ops *ops, void *ctx,
				    struct chan_server **out);
/* Open calls are cancelled first. */
void chan_server_free(struct chan_server *s);

/* The authenticated name that `known` gave. */
const char *chan_call_user(const struct chan_call *call);
/* From now on inputs go to `ops`, from the loop; those that came before go first. */
void chan_call_stream(struct chan_call *call, const struct chan_call_ops *ops, void *arg);
/* -EAGAIN: no credit left, wait for credit(); -ECONNRESET: nobody is there; -EMSGSIZE. */
BASE_MUST_CHECK int chan_call_item(struct chan_call *call, const void *body, size_t len);
/* Gives the other side `n` more inputs. */
void chan_call_grant(struct chan_call *call, uint32_t n);
/* Ends and frees the call. A body that is too long becomes an empty one, and is logged. */
void chan_call_reply(struct chan_call *call, const void *body, size_t len);

/* ---- link: the client ---- */

struct chan_link;
struct chan_out; /* a call that is under way */

struct chan_link_ops {
	/* Up, or down with -errno as in chan_out_ops.done; NULL: not wanted. */
	void (*state)(void *ctx, bool up, int error);
};

struct chan_out_ops {
	void (*item)(void *arg, const void *body, size_t len);
	void (*credit)(void *arg, uint32_t n); /* this many more inputs may be sent */
	/*
	 * The end of the call, once: error 0 and the reply, or -ETIMEDOUT, -EHOSTUNREACH (nobody
	 * answers there), -EACCES (our key is refused, or theirs is another), -ECONNRESET (lost
	 * half way), -EPROTONOSUPPORT (no version in common), -ECANCELED. The chan_out is gone
	 * after this. Must not free the link.
	 */
	void (*done)(void *arg, int error, const void *body, size_t len);
};

/*
 * Connects and keeps connecting, with back-off. With `patient`, calls wait for a connection until
 * their time is up; otherwise they fail with the first failed attempt.
 */
BASE_MUST_CHECK int chan_link_new(struct chan *c, const char *address, uint16_t port,
				  const struct keys_key *server_key, bool patient,
				  const struct chan_link_ops *ops, void *ctx,
				  struct chan_link **out);
/* Open calls end with -ECANCELED. */
void chan_link_free(struct chan_link *l);
bool chan_link_up(const struct chan_link *l);
/* The last attempt has failed, and the next is still to come. */
bool chan_link_down(const struct chan_link *l);
/* The name and software version that the server gave at hello; "" before. */
const char *chan_link_peer(const struct chan_link *l);
const char *chan_link_software(const struct chan_link *l);

/*
 * `timeout_ms` is until the first answer, item or reply; with `stream` there is none after it.
 * done() is never called from inside. -EMSGSIZE, -EAGAIN (too many open calls), -ENOMEM.
 */
BASE_MUST_CHECK int chan_link_call(struct chan_link *l, const void *body, size_t len,
				   int timeout_ms, bool stream, const struct chan_out_ops *ops,
				   void *arg, struct chan_out **out);
/* -EAGAIN: no credit left, wait for credit(); -EMSGSIZE; -ENOTCONN. */
BASE_MUST_CHECK int chan_out_input(struct chan_out *o, const void *body, size_t len);
void chan_out_grant(struct chan_out *o, uint32_t n);
/* Tells the server that nobody waits; done() is not called; `o` is gone. */
void chan_out_cancel(struct chan_out *o);

#endif
