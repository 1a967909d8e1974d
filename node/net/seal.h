/*
 * One direction of an encrypted datagram channel between two nodes whose Curve25519 public keys are
 * known to each other (the keys of the control channel). ChaCha20-Poly1305 (RFC 8439) under a key
 * derived for each session: BLAKE2b(X25519(secret, peer), sender, receiver, session). A session id
 * is wall-clock time and random bytes, new at every start of the sender, so a (key, counter) pair
 * never repeats; the receiver keeps the newest session and a sliding window of its counters
 * (RFC 4303, 3.4.3), so a replayed or older datagram is dropped.
 *
 * Datagram: u32 magic "PGN1", u32 network, 24 bytes session, u64 counter, then the sealed frame and
 * its 16-byte tag. The first 40 bytes are authenticated. Little-endian.
 */
#ifndef NODE_NET_SEAL_H
#define NODE_NET_SEAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

enum {
	NODE_SEAL_KEY_LEN = 32,
	NODE_SEAL_SESSION_LEN = 24,
	NODE_SEAL_HEADER_LEN = 4 + 4 + NODE_SEAL_SESSION_LEN + 8,
	NODE_SEAL_TAG_LEN = 16,
	NODE_SEAL_OVERHEAD = NODE_SEAL_HEADER_LEN + NODE_SEAL_TAG_LEN,
	NODE_SEAL_WINDOW = 1024, /* datagrams that may arrive out of order */
};

struct node_seal_keys {
	uint8_t public_key[NODE_SEAL_KEY_LEN];
	uint8_t secret_key[NODE_SEAL_KEY_LEN];
};

struct node_sealer {
	uint8_t key[NODE_SEAL_KEY_LEN];
	uint8_t session[NODE_SEAL_SESSION_LEN];
	uint64_t counter;
};

struct node_opener {
	uint8_t shared[NODE_SEAL_KEY_LEN]; /* input of the session keys */
	uint8_t key[NODE_SEAL_KEY_LEN];
	uint8_t session[NODE_SEAL_SESSION_LEN];
	uint64_t highest; /* counters start at 1; 0: no session yet */
	uint64_t window[NODE_SEAL_WINDOW / 64];
};

/* -EINVAL for a degenerate peer key, -EIO where the library cannot start. */
BASE_MUST_CHECK int node_sealer_init(struct node_sealer *s, const struct node_seal_keys *own,
				     const uint8_t peer[NODE_SEAL_KEY_LEN]);
BASE_MUST_CHECK int node_opener_init(struct node_opener *o, const struct node_seal_keys *own,
				     const uint8_t peer[NODE_SEAL_KEY_LEN]);

/* out[len + NODE_SEAL_OVERHEAD]; returns the datagram's length. */
size_t node_seal(struct node_sealer *s, uint32_t network, const void *frame, size_t len,
		 uint8_t *out);
/* Opens into frame[cap]; the frame's length, or -EBADMSG: not from the peer, or seen before. */
BASE_MUST_CHECK ssize_t node_open(struct node_opener *o, const uint8_t *datagram, size_t len,
				  uint32_t *network, uint8_t *frame, size_t cap);

#endif
