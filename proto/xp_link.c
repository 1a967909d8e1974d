#include "proto/xp_link.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#define RING_MIN	(256u << 10)
#define ACK_EVERY_BYTES (128u << 10)

void xp_link_init(struct xp_link *l, size_t limit_bytes)
{
	*l = (struct xp_link){.limit = limit_bytes};
}

static void cipher_fini(struct xp_cipher *c)
{
	sodium_free(c->tx_state);
	sodium_free(c->rx_state);
	sodium_memzero(c, sizeof(*c));
}

void xp_link_fini(struct xp_link *l)
{
	free(l->ring);
	l->ring = NULL;
	cipher_fini(&l->cipher);
}

int xp_link_keys(struct xp_link *l, const uint8_t tx[32], const uint8_t rx[32], bool aes)
{
	struct xp_cipher *c = &l->cipher;

	c->on = true;
	c->aes = aes;
	memcpy(c->tx, tx, sizeof(c->tx));
	memcpy(c->rx, rx, sizeof(c->rx));
	if (!aes)
		return 0;
	c->tx_state = sodium_malloc(sizeof(*c->tx_state));
	c->rx_state = sodium_malloc(sizeof(*c->rx_state));
	if (!c->tx_state || !c->rx_state)
		return -ENOMEM;
	crypto_aead_aes256gcm_beforenm(c->tx_state, tx);
	crypto_aead_aes256gcm_beforenm(c->rx_state, rx);
	return 0;
}

/* A sequence number is used for one frame only, and a replay sends the same bytes again. */
static void nonce_of(uint8_t out[12], uint64_t seq)
{
	uint64_t le = htole64(seq);

	memset(out, 0, 12);
	memcpy(out, &le, sizeof(le));
}

static void encrypt(const struct xp_cipher *c, uint8_t *out, const uint8_t *in, size_t len,
		    const uint8_t *header, uint64_t seq)
{
	uint8_t nonce[12];

	nonce_of(nonce, seq);
	if (c->aes)
		crypto_aead_aes256gcm_encrypt_afternm(out, NULL, in, len, header, WIRE_HEADER_LEN,
						      NULL, nonce, c->tx_state);
	else
		crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, in, len, header,
							  WIRE_HEADER_LEN, NULL, nonce, c->tx);
}

static int decrypt(const struct xp_cipher *c, uint8_t *out, const uint8_t *in, size_t len,
		   const uint8_t *header, uint64_t seq)
{
	uint8_t nonce[12];
	int bad;

	nonce_of(nonce, seq);
	if (c->aes)
		bad = crypto_aead_aes256gcm_decrypt_afternm(out, NULL, NULL, in, len, header,
							    WIRE_HEADER_LEN, nonce, c->rx_state);
	else
		bad = crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, in, len, header,
								WIRE_HEADER_LEN, nonce, c->rx);
	return bad ? -EBADMSG : 0;
}

static int ring_room(struct xp_link *l, size_t need)
{
	size_t used = l->head - l->acked, cap = l->cap ? l->cap : RING_MIN;

	if (l->cap && used + need <= l->cap)
		return 0;
	while (cap < used + need)
		cap *= 2;
	if (cap > l->limit)
		return -ENOBUFS;
	uint8_t *p = malloc(cap);

	if (!p)
		return -ENOMEM;
	for (uint64_t at = l->acked; at < l->head;) {
		size_t from = at & (l->cap - 1), to = at & (cap - 1);
		size_t n = BASE_MIN(l->head - at, BASE_MIN(l->cap - from, cap - to));

		memcpy(p + to, l->ring + from, n);
		at += n;
	}
	free(l->ring);
	l->ring = p;
	l->cap = cap;
	return 0;
}

static void ring_put(struct xp_link *l, const void *data, size_t len)
{
	size_t at = l->head & (l->cap - 1), first = BASE_MIN(len, l->cap - at);

	memcpy(l->ring + at, data, first);
	memcpy(l->ring, (const uint8_t *)data + first, len - first);
	l->head += len;
}

static void ring_get(const struct xp_link *l, uint64_t pos, void *out, size_t len)
{
	size_t at = pos & (l->cap - 1), first = BASE_MIN(len, l->cap - at);

	memcpy(out, l->ring + at, first);
	memcpy((uint8_t *)out + first, l->ring, len - first);
}

static void put_encrypted(struct xp_link *l, const struct xp_out *o, const uint8_t *header,
			  size_t plain_len)
{
	uint8_t plain[WIRE_BODY_MAX + WIRE_PAGE_LEN], sealed[WIRE_LENGTH_MAX];

	memcpy(plain, o->body, o->body_len);
	if (o->page)
		memcpy(plain + o->body_len, o->page, WIRE_PAGE_LEN);
	encrypt(&l->cipher, sealed, plain, plain_len, header, l->seq_out);
	ring_put(l, sealed, plain_len + WIRE_TAG_LEN);
}

int xp_link_put(struct xp_link *l, const struct xp_out *o)
{
	size_t plain_len = o->body_len + (o->page ? WIRE_PAGE_LEN : 0u);
	struct wire_header h = {
		.version = 1,
		.type = o->type,
		.flags = (uint16_t)((o->page ? WIRE_F_PAGE : 0) |
				    (l->cipher.on ? WIRE_F_ENCRYPTED : 0)),
		.length = (uint16_t)(plain_len + (l->cipher.on ? WIRE_TAG_LEN : 0)),
		.seq = l->seq_out + 1,
	};
	uint8_t header[WIRE_HEADER_LEN];
	int err = ring_room(l, WIRE_HEADER_LEN + h.length);

	if (err)
		return err;
	l->seq_out++;
	wire_header_put(header, &h);
	ring_put(l, header, sizeof(header));
	if (l->cipher.on) {
		put_encrypted(l, o, header, plain_len);
	} else {
		ring_put(l, o->body, o->body_len);
		if (o->page)
			ring_put(l, o->page, WIRE_PAGE_LEN);
	}
	l->counters.frames_out++;
	return 0;
}

int xp_link_pending(const struct xp_link *l, struct iovec iov[2])
{
	size_t len = l->head - l->sent;

	if (!len)
		return 0;
	size_t at = l->sent & (l->cap - 1), first = BASE_MIN(len, l->cap - at);

	iov[0] = (struct iovec){.iov_base = l->ring + at, .iov_len = first};
	iov[1] = (struct iovec){.iov_base = l->ring, .iov_len = len - first};
	return first < len ? 2 : 1;
}

void xp_link_sent(struct xp_link *l, size_t bytes)
{
	l->sent += bytes;
	l->counters.bytes_out += bytes;
	assert(l->sent <= l->head);
}

/* The ring holds whole frames that we wrote ourselves. */
static uint64_t frame_end(const struct xp_link *l, uint64_t pos, uint64_t *seq)
{
	struct wire_header h;
	uint8_t raw[WIRE_HEADER_LEN];

	ring_get(l, pos, raw, sizeof(raw));
	if (wire_header_get(raw, &h))
		assert(!"our own frame");
	*seq = h.seq;
	return pos + WIRE_HEADER_LEN + h.length;
}

int xp_link_acked(struct xp_link *l, uint64_t seq)
{
	if (seq > l->seq_out)
		return -EPROTO;
	while (l->acked < l->head) {
		uint64_t frame_seq, end = frame_end(l, l->acked, &frame_seq);

		if (frame_seq > seq)
			break;
		if (end > l->sent)
			return -EPROTO; /* it cannot have what was not sent */
		l->acked = end;
	}
	return 0;
}

int xp_link_rewind(struct xp_link *l, uint64_t peer_seq_in)
{
	uint64_t seq, before = l->counters.frames_out;

	if (peer_seq_in > l->seq_out)
		return -EPROTO;
	l->sent = l->head; /* a frame that the dead connection took in part may have arrived */
	int err = xp_link_acked(l, peer_seq_in);

	if (err)
		return err;
	/* Frames that the peer lacks but that we have dropped: it lies. */
	if (l->acked < l->head && (frame_end(l, l->acked, &seq), seq != peer_seq_in + 1))
		return -EPROTO;
	l->counters.replayed += before ? l->seq_out - peer_seq_in : 0;
	l->sent = l->acked;
	return 0;
}

int xp_link_ack(struct xp_link *l, bool force)
{
	if (!l->ack_due || (!force && l->since_ack_bytes < ACK_EVERY_BYTES))
		return 0;
	uint64_t seq = htole64(l->seq_in);
	int err = xp_link_put(
		l, &(struct xp_out){.type = WIRE_TYPE_ACK, .body = &seq, .body_len = sizeof(seq)});

	if (err)
		return err;
	l->seq_in_acked = l->seq_in;
	l->since_ack_bytes = 0;
	l->ack_due = false;
	return 0;
}

static int transport_frame(struct xp_link *l, const struct xp_frame *f, bool *bye)
{
	uint64_t seq;

	switch (f->type) {
	case WIRE_TYPE_ACK:
		if (f->body_len != sizeof(seq))
			return -EPROTO;
		memcpy(&seq, f->body, sizeof(seq));
		return xp_link_acked(l, le64toh(seq));
	case WIRE_TYPE_PING: return 0;
	case WIRE_TYPE_BYE: *bye = true; return 0;
	default: return -EPROTO;
	}
}

static int open_frame(struct xp_link *l, const uint8_t *data, const struct wire_header *h,
		      uint8_t *plain, struct xp_frame *out)
{
	const uint8_t *body = data + WIRE_HEADER_LEN;
	size_t len = h->length;

	if (!!(h->flags & WIRE_F_ENCRYPTED) != l->cipher.on || h->flags & WIRE_F_PLACED)
		return -EPROTO;
	if (l->cipher.on) {
		int err = decrypt(&l->cipher, plain, body, len, data, h->seq);

		if (err)
			return err;
		body = plain;
		len -= WIRE_TAG_LEN;
	}
	bool page = h->flags & WIRE_F_PAGE;

	*out = (struct xp_frame){.type = h->type,
				 .body = body,
				 .body_len = (uint16_t)(len - (page ? WIRE_PAGE_LEN : 0))};
	out->page = page ? body + out->body_len : NULL;
	return 0;
}

ssize_t xp_link_take(struct xp_link *l, const uint8_t *data, size_t len,
		     uint8_t plain[WIRE_LENGTH_MAX], struct xp_frame *out, bool *bye)
{
	struct wire_header h;

	if (len < WIRE_HEADER_LEN)
		return 0;
	int err = wire_header_get(data, &h);

	if (err)
		return err;
	size_t total = WIRE_HEADER_LEN + h.length;

	if (len < total)
		return 0;
	if (h.seq == 0 || h.seq > l->seq_in + 1)
		return -EPROTO;
	l->counters.bytes_in += total;
	if (h.seq <= l->seq_in) {
		l->counters.duplicates++;
		out->type = 0;
		return (ssize_t)total;
	}
	err = open_frame(l, data, &h, plain, out);
	if (err)
		return err;
	l->seq_in = h.seq;
	if (h.type >= WIRE_TYPE_HELLO) {
		err = transport_frame(l, out, bye);
		out->type = 0;
		return err ? err : (ssize_t)total;
	}
	l->counters.frames_in++;
	l->since_ack_bytes += (uint32_t)total;
	l->ack_due = true;
	return (ssize_t)total;
}
