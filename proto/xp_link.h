/*
 * What a stream transport keeps for one peer across its connections: the ring of frames that are
 * written, sent and acknowledged, the sequence numbers both ways, and the keys. No I/O.
 */
#ifndef PROTO_XP_LINK_H
#define PROTO_XP_LINK_H

#include <sodium.h>
#include <sys/uio.h>

#include "proto/xp.h"

struct xp_cipher {
	bool on, aes;
	uint8_t tx[32], rx[32];
	crypto_aead_aes256gcm_state *tx_state, *rx_state;
};

struct xp_link {
	/* A ring; the positions only grow, modulo cap they are places in it. */
	uint8_t *ring;
	size_t cap, limit;
	uint64_t head, sent, acked;
	uint64_t seq_out; /* of the last frame written */
	uint64_t seq_in;  /* of the last frame received */
	uint64_t seq_in_acked;
	uint32_t since_ack_bytes;
	bool ack_due; /* frames of the user came that we have not acknowledged */
	struct xp_cipher cipher;
	struct xp_counters counters;
};

void xp_link_init(struct xp_link *l, size_t limit_bytes);
void xp_link_fini(struct xp_link *l);

/* Derived once for the life of the link. -ENOMEM. */
BASE_MUST_CHECK int xp_link_keys(struct xp_link *l, const uint8_t tx[32], const uint8_t rx[32],
				 bool aes);

/* Appends a frame. -ENOBUFS beyond the limit, -ENOMEM. */
BASE_MUST_CHECK int xp_link_put(struct xp_link *l, const struct xp_out *o);
/* What is to be written to the socket: up to 2 pieces; and how much of it was. */
int xp_link_pending(const struct xp_link *l, struct iovec iov[2]);
void xp_link_sent(struct xp_link *l, size_t bytes);

/* The peer has all frames up to seq. -EPROTO when we never sent it. */
BASE_MUST_CHECK int xp_link_acked(struct xp_link *l, uint64_t seq);
/* A new connection: send again what the peer has not received. */
BASE_MUST_CHECK int xp_link_rewind(struct xp_link *l, uint64_t peer_seq_in);

/* Acknowledges what came in, if `force` or if it is much. */
BASE_MUST_CHECK int xp_link_ack(struct xp_link *l, bool force);

/*
 * Takes one frame from data[0..len). Returns the bytes consumed, 0 when it is not complete, -EPROTO
 * or -EBADMSG (not authentic). out->type is 0 for a frame that is not the user's or came twice. An
 * encrypted frame is decrypted into `plain`, to which out points then.
 */
BASE_MUST_CHECK ssize_t xp_link_take(struct xp_link *l, const uint8_t *data, size_t len,
				     uint8_t plain[WIRE_LENGTH_MAX], struct xp_frame *out,
				     bool *bye);

#endif
