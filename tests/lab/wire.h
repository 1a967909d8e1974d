/*
 * The lab's Ethernet switch: a port for each host, joined by Unix datagram sockets "NAME.sw" (ours)
 * and "NAME.net" (QEMU's) in the working directory. Learns addresses; a port that is cut loses
 * every frame silently, as behind a failed switch. One thread.
 */
#ifndef LAB_WIRE_H
#define LAB_WIRE_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

enum { WIRE_PORTS_MAX = 32, WIRE_NAME_MAX = 32, WIRE_FRAME_MAX = 65552 };

struct wire_port {
	int fd;
	char name[WIRE_NAME_MAX];
	bool connected, cut;
	uint64_t frames, dropped;
	struct wire_frame *head, *tail; /* what the host did not take yet */
	unsigned queued;
};

struct wire {
	struct wire_port port[WIRE_PORTS_MAX];
	unsigned count;
	struct {
		uint8_t mac[6];
		uint8_t port;
		bool used;
	} learned[1024]; /* by hash; a collision forgets the older one */
};

/* Adds a port: its number or -errno. */
BASE_MUST_CHECK int wire_add(struct wire *w, const char *name);
/* Fills one pollfd for each port. */
void wire_poll(const struct wire *w, struct pollfd *p);
/* Moves what is ready. */
void wire_handle(struct wire *w, const struct pollfd *p);
/* Forgets the peer of a port whose host ended, and what waits for it. */
void wire_reset(struct wire *w, unsigned port);

#endif
