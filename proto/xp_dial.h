/*
 * The connections between the nodes of a group, for the transports over TCP and RDMA: who connects
 * and who accepts, hello and proof, when a connection counts as broken and a link as lost. What goes
 * over a connection once both ends are authentic is its user's.
 *
 *   FREE -> CONNECTING -> HELLO -> PROOF -> SETUP -> UP      (an accepted one begins at HELLO)
 *
 * Of two nodes the one with the higher number connects. Threads: the transport's.
 */
#ifndef PROTO_XP_DIAL_H
#define PROTO_XP_DIAL_H

#include <sys/socket.h>
#include <sys/types.h>

#include "proto/xp_address.h"
#include "proto/xp_hello.h"

#define XP_CONN_RX_BYTES (512u << 10)

enum xp_conn_state { CONN_FREE, CONN_CONNECTING, CONN_HELLO, CONN_PROOF, CONN_SETUP, CONN_UP };

struct xp_conn {
	int fd;
	enum xp_conn_state state;
	bool connector;
	struct xp_peer *peer; /* set by us when we connect, by its hello otherwise */
	uint32_t events;
	int64_t deadline_ns; /* to be UP */
	uint8_t *rx;
	size_t rx_len;
	uint8_t own_hello[XP_HELLO_LEN], peer_hello[XP_HELLO_LEN];
};

struct xp_peer {
	uint8_t node;
	bool up, down;
	bool bye;	 /* it stops on purpose */
	bool complained; /* said once in the log that it is not authentic */
	struct xp_conn *conn;
	uint64_t group, session, reconnects;
	/* Of all connections until the link is there: should one break when only one end has begun the
	 * link, the next tells both the same keys. */
	uint8_t eph_public[32], eph_secret[32];
	int64_t window_end_ns, retry_ns, last_in_ns, last_out_ns;
	int64_t up_ns;		  /* when the connection came up */
	int64_t window_before_ns; /* the window's end until then */
	unsigned vain;		  /* connections in a row that came up and brought nothing */
	struct sockaddr_storage addr;
	socklen_t addr_len;
};

/* Of a link whose ends are authentic now. */
struct xp_dial_link {
	bool resumed;	   /* the link was up before; else it has new keys */
	bool aes;	   /* both have AES in hardware; new links only */
	uint64_t received; /* the last frame that came to the peer */
	const uint8_t *tx, *rx;
};

/* All slots are required. */
struct xp_dial_ops {
	/* The last frame that came from the node. */
	uint64_t (*received)(void *ctx, uint8_t node);
	/* The connection is in SETUP; xp_dial_up() when it can carry frames. An error ends the link. */
	int (*ready)(void *ctx, struct xp_conn *c, const struct xp_dial_link *link);
	/* Bytes on it: how many were consumed, 0: not enough yet, or the error that ends the link. */
	ssize_t (*take)(void *ctx, struct xp_conn *c, const uint8_t *data, size_t len,
			unsigned *count);
	void (*writable)(void *ctx, struct xp_conn *c);
	/* It was in SETUP or UP and is closed now. */
	void (*lost)(void *ctx, struct xp_conn *c);
	/* From time to time while UP. An error ends the link. */
	int (*tick)(void *ctx, struct xp_conn *c);
};

struct xp_dial {
	const struct xp_dial_ops *ops;
	void *ops_ctx;
	const struct xp_handler *handler;
	void *ctx;
	uint8_t self;
	uint16_t peers;
	uint8_t key[XP_KEY_LEN];
	bool encrypt, stopped;
	uint32_t window_ms, dead_ms;
	int epoll_fd, listen_fd;
	int64_t now_ns, next_ns;
	struct xp_peer peer[XP_NODE_MAX];
	struct xp_conn conns[2 * XP_NODE_MAX];
};

/* Listens. The listening socket is taken over on success only. */
BASE_MUST_CHECK int xp_dial_open(struct xp_dial *d, const struct xp_config *config,
				 const struct xp_dial_ops *ops, void *ops_ctx);
/* Closes all connections; afterwards nothing calls back. */
void xp_dial_stop(struct xp_dial *d);
void xp_dial_fini(struct xp_dial *d);

/*
 * xp_admit() and xp_drop(), as far as connections go. The former before the user forgets what it has of the
 * node's last link.
 */
BASE_MUST_CHECK int xp_dial_admit(struct xp_dial *d, uint8_t node, const char *address,
				  uint64_t group);
void xp_dial_drop(struct xp_dial *d, uint8_t node);

/* Another descriptor that makes epoll_fd readable. -errno. */
BASE_MUST_CHECK int xp_dial_watch_fd(struct xp_dial *d, int fd);
BASE_MUST_CHECK int xp_conn_watch(struct xp_dial *d, struct xp_conn *c, uint32_t events);

/* Timers, when due. */
void xp_dial_time(struct xp_dial *d, int64_t now_ns);
/* What epoll has: new connections, handshakes, bytes. The number of frames that `take` counted. */
unsigned xp_dial_poll(struct xp_dial *d);
/* Reads one connection that is UP without asking epoll. */
unsigned xp_dial_receive(struct xp_dial *d, struct xp_conn *c);

void xp_dial_up(struct xp_dial *d, struct xp_conn *c);
/* The connection broke; the link waits for the next one. */
void xp_dial_lost(struct xp_dial *d, struct xp_conn *c);
/* The link is over. */
void xp_dial_down(struct xp_dial *d, struct xp_peer *p, int err);

/* The connection of a node when it is UP, or NULL. */
struct xp_conn *xp_dial_conn(struct xp_dial *d, uint8_t node);

#endif
