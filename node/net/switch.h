/*
 * The node's network for guests: a learning Ethernet switch in user space. Ports are sockets of VMs
 * (SOCK_SEQPACKET, one frame a message); the switches of the other nodes are reached over UDP, each
 * datagram sealed (seal.h). A network is a number: frames never cross from one to another. The
 * nodes are a full mesh, so what came from a peer goes to local ports only (split horizon).
 *
 * Ethernet semantics: a receiver that is full loses the frame, which is counted. Nothing here
 * blocks. All calls on the loop's thread.
 */
#ifndef NODE_NET_SWITCH_H
#define NODE_NET_SWITCH_H

#include <netinet/in.h>
#include <stdbool.h>

#include "base/loop.h"
#include "node/net/seal.h"

enum {
	NODE_SWITCH_FRAME_MIN = 14,
	NODE_SWITCH_FRAME_MAX = 9018, /* a jumbo frame; UDP fragments what the path cannot carry */
	NODE_SWITCH_PORTS_MAX = 256,
	NODE_SWITCH_PEERS_MAX = 256,
	/* What a guest's interface should be set to where the path carries 1500 bytes unfragmented.
	 */
	NODE_SWITCH_MTU = 1500 - 20 - 8 - 14 - NODE_SEAL_OVERHEAD,
};

struct node_switch_stats {
	uint64_t rx_frames, rx_bytes; /* from the port or peer into the switch */
	uint64_t tx_frames, tx_bytes;
	uint64_t tx_full;   /* the receiver did not keep up */
	uint64_t rx_forged; /* source address not the port's own; datagram not from the peer */
	uint64_t rx_bad;    /* too short or too long */
};

struct node_switch;
struct node_switch_port;
struct node_switch_peer;

/*
 * udp_fd: a bound UDP socket for the tunnels (the switch owns it), or -1 for a switch with local
 * ports only. own: copied. -errno.
 */
BASE_MUST_CHECK int node_switch_new(struct base_loop *loop, int udp_fd,
				    const struct node_seal_keys *own, struct node_switch **out);
void node_switch_free(struct node_switch *sw);

/*
 * Takes over a connected SOCK_SEQPACKET socket of a VM. mac: the only source address let in (NULL:
 * any). closed() is called, once, when the other side has gone; the port is removed after it
 * returns. -ENOSPC at the limit; on failure the descriptor stays the caller's.
 */
BASE_MUST_CHECK int node_switch_port_add(struct node_switch *sw, int fd, uint32_t network,
					 const uint8_t mac[6], void (*closed)(void *arg), void *arg,
					 struct node_switch_port **out);
void node_switch_port_remove(struct node_switch_port *port);
void node_switch_port_stats(const struct node_switch_port *port, struct node_switch_stats *out);

/* Adds a node; a datagram counts only from its address and when its key opens it. */
BASE_MUST_CHECK int node_switch_peer_add(struct node_switch *sw, const struct sockaddr_in *addr,
					 const uint8_t public_key[NODE_SEAL_KEY_LEN],
					 struct node_switch_peer **out);
void node_switch_peer_remove(struct node_switch_peer *peer);
void node_switch_peer_stats(const struct node_switch_peer *peer, struct node_switch_stats *out);

/*
 * Tells the network that `mac` now lives on this port: a RARP request in its name (as QEMU's
 * announce-self does), so that every switch learns the place before the guest first sends.
 */
void node_switch_port_announce(struct node_switch_port *port, const uint8_t mac[6]);

#endif
