#include "node/net/seal.h"

#include <endian.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <time.h>

#define SEAL_MAGIC UINT32_C(0x314e4750) /* "PGN1" */

_Static_assert(NODE_SEAL_HEADER_LEN == 40, "wire format");
_Static_assert(NODE_SEAL_TAG_LEN == crypto_aead_chacha20poly1305_ietf_ABYTES, "tag");

/* Sender first, so that the two directions have different keys. */
static int seal_shared(uint8_t out[NODE_SEAL_KEY_LEN], const struct node_seal_keys *own,
		       const uint8_t peer[NODE_SEAL_KEY_LEN], int sending)
{
	uint8_t secret[crypto_scalarmult_BYTES];
	crypto_generichash_state st;

	if (sodium_init() < 0)
		return -EIO;
	if (crypto_scalarmult(secret, own->secret_key, peer))
		return -EINVAL;
	crypto_generichash_init(&st, secret, sizeof(secret), NODE_SEAL_KEY_LEN);
	crypto_generichash_update(&st, sending ? own->public_key : peer, NODE_SEAL_KEY_LEN);
	crypto_generichash_update(&st, sending ? peer : own->public_key, NODE_SEAL_KEY_LEN);
	crypto_generichash_final(&st, out, NODE_SEAL_KEY_LEN);
	sodium_memzero(secret, sizeof(secret));
	return 0;
}

static void seal_session_key(uint8_t key[NODE_SEAL_KEY_LEN],
			     const uint8_t shared[NODE_SEAL_KEY_LEN],
			     const uint8_t session[NODE_SEAL_SESSION_LEN])
{
	crypto_generichash(key, NODE_SEAL_KEY_LEN, session, NODE_SEAL_SESSION_LEN, shared,
			   NODE_SEAL_KEY_LEN);
}

int node_sealer_init(struct node_sealer *s, const struct node_seal_keys *own,
		     const uint8_t peer[NODE_SEAL_KEY_LEN])
{
	struct timespec now;
	uint8_t shared[NODE_SEAL_KEY_LEN];
	uint64_t ns;
	int rc = seal_shared(shared, own, peer, 1);

	if (rc)
		return rc;
	clock_gettime(CLOCK_REALTIME, &now);
	/* Big-endian, so that sessions compare by memcmp in order of time. */
	ns = htobe64((uint64_t)now.tv_sec * 1000000000u + now.tv_nsec);
	memcpy(s->session, &ns, sizeof(ns));
	randombytes_buf(s->session + sizeof(ns), sizeof(s->session) - sizeof(ns));
	seal_session_key(s->key, shared, s->session);
	s->counter = 0;
	sodium_memzero(shared, sizeof(shared));
	return 0;
}

int node_opener_init(struct node_opener *o, const struct node_seal_keys *own,
		     const uint8_t peer[NODE_SEAL_KEY_LEN])
{
	memset(o, 0, sizeof(*o));
	return seal_shared(o->shared, own, peer, 0);
}

static void seal_nonce(uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES], uint64_t counter)
{
	uint64_t le = htole64(counter);

	memset(nonce, 0, crypto_aead_chacha20poly1305_ietf_NPUBBYTES);
	memcpy(nonce + 4, &le, sizeof(le));
}

size_t node_seal(struct node_sealer *s, uint32_t network, const void *frame, size_t len,
		 uint8_t *out)
{
	uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES];
	uint32_t magic = htole32(SEAL_MAGIC), net = htole32(network);
	uint64_t counter = htole64(++s->counter);

	memcpy(out, &magic, 4);
	memcpy(out + 4, &net, 4);
	memcpy(out + 8, s->session, NODE_SEAL_SESSION_LEN);
	memcpy(out + 8 + NODE_SEAL_SESSION_LEN, &counter, 8);
	seal_nonce(nonce, s->counter);
	crypto_aead_chacha20poly1305_ietf_encrypt(out + NODE_SEAL_HEADER_LEN, NULL, frame, len, out,
						  NODE_SEAL_HEADER_LEN, NULL, nonce, s->key);
	return len + NODE_SEAL_OVERHEAD;
}

static uint64_t window_bit(uint64_t counter)
{
	return UINT64_C(1) << (counter % 64);
}

static uint64_t *window_word(struct node_opener *o, uint64_t counter)
{
	return &o->window[counter / 64 % (NODE_SEAL_WINDOW / 64)];
}

static int window_seen(struct node_opener *o, uint64_t counter)
{
	if (counter > o->highest)
		return 0;
	/* The word that holds `highest` is partly reused: keep one word of slack. */
	if (o->highest - counter >= NODE_SEAL_WINDOW - 64)
		return 1;
	return (*window_word(o, counter) & window_bit(counter)) != 0;
}

static void window_mark(struct node_opener *o, uint64_t counter)
{
	if (counter > o->highest) {
		uint64_t from = o->highest / 64 + 1, to = counter / 64;

		if (to - from >= NODE_SEAL_WINDOW / 64 && to >= from)
			from = to - NODE_SEAL_WINDOW / 64 + 1;
		for (uint64_t w = from; w <= to; w++)
			o->window[w % (NODE_SEAL_WINDOW / 64)] = 0;
		o->highest = counter;
	}
	*window_word(o, counter) |= window_bit(counter);
}

ssize_t node_open(struct node_opener *o, const uint8_t *datagram, size_t len, uint32_t *network,
		  uint8_t *frame, size_t cap)
{
	uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES], fresh[NODE_SEAL_KEY_LEN];
	const uint8_t *session = datagram + 8, *key = o->key;
	uint32_t magic, net;
	uint64_t counter;
	int order;

	if (len < NODE_SEAL_OVERHEAD || len - NODE_SEAL_OVERHEAD > cap)
		return -EBADMSG;
	memcpy(&magic, datagram, 4);
	memcpy(&net, datagram + 4, 4);
	memcpy(&counter, datagram + 8 + NODE_SEAL_SESSION_LEN, 8);
	counter = le64toh(counter);
	order = memcmp(session, o->session, NODE_SEAL_SESSION_LEN);
	if (le32toh(magic) != SEAL_MAGIC || !counter || order < 0 ||
	    (order == 0 && window_seen(o, counter)))
		return -EBADMSG;
	if (order > 0) {
		seal_session_key(fresh, o->shared, session);
		key = fresh;
	}
	seal_nonce(nonce, counter);
	if (crypto_aead_chacha20poly1305_ietf_decrypt(
		    frame, NULL, NULL, datagram + NODE_SEAL_HEADER_LEN, len - NODE_SEAL_HEADER_LEN,
		    datagram, NODE_SEAL_HEADER_LEN, nonce, key))
		return -EBADMSG;
	if (order > 0) {
		memcpy(o->session, session, NODE_SEAL_SESSION_LEN);
		memcpy(o->key, fresh, sizeof(fresh));
		memset(o->window, 0, sizeof(o->window));
		o->highest = 0;
	}
	window_mark(o, counter);
	*network = le32toh(net);
	return (ssize_t)(len - NODE_SEAL_OVERHEAD);
}
