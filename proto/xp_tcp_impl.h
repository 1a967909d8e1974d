/* The parts of the TCP transport; for xp_tcp.c and xp_address.c only. */
#ifndef PROTO_XP_TCP_IMPL_H
#define PROTO_XP_TCP_IMPL_H

#include <sys/socket.h>

#include "proto/xp_address.h"
#include "proto/xp_hello.h"
#include "proto/xp_link.h"

#define TCP_RX_BYTES (512u << 10)

enum conn_state { CONN_FREE, CONN_CONNECTING, CONN_HELLO, CONN_PROOF, CONN_UP };

struct conn {
	int fd;
	enum conn_state state;
	bool connector;
	struct peer *peer; /* set by us when we connect, by its hello otherwise */
	uint32_t events;
	int64_t deadline_ns; /* of the handshake */
	uint8_t *rx;
	size_t rx_len;
	uint8_t eph_public[32], eph_secret[32];
	uint8_t own_hello[XP_HELLO_LEN], peer_hello[XP_HELLO_LEN];
};

struct peer {
	uint8_t node;
	bool up, down, bye;
	bool complained; /* said once in the log that it is not authentic */
	struct conn *conn;
	struct xp_link link;
	uint64_t session;
	int64_t window_end_ns, retry_ns, last_in_ns, last_out_ns;
	struct sockaddr_storage addr;
	socklen_t addr_len;
};

struct tcp {
	struct xp xp;
	const struct xp_handler *handler;
	void *ctx;
	uint8_t self;
	uint16_t peers;
	uint64_t group;
	uint8_t key[XP_KEY_LEN];
	bool encrypt, stopped;
	uint32_t window_ms, dead_ms;
	int epoll_fd, listen_fd;
	int64_t now_ns, next_ns;
	unsigned polls;
	struct peer peer[XP_NODE_MAX];
	struct conn conns[2 * XP_NODE_MAX];
};

#endif
