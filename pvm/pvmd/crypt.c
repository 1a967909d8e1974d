#include "pvm/pvmd/crypt.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, FLAG_AES = 1, TAG = 16, PLAIN_MAX = MPD_RECORD_MAX };

struct dir {
	uint8_t key[32];
	uint64_t counter;
};

struct mpd_crypt {
	bool initiator, aes, ready;
	uint8_t psk[MPD_KEY_LEN];
	uint8_t secret[32];
	uint8_t hello[MPD_HELLO_LEN];
	struct dir tx, rx;
	crypto_aead_aes256gcm_state aes_tx, aes_rx;
};

int mpd_crypt_setup(void)
{
	return sodium_init() < 0 ? -EIO : 0;
}

void mpd_crypt_random(void *out, size_t len)
{
	randombytes_buf(out, len);
}

void mpd_crypt_mac(const uint8_t key[MPD_KEY_LEN], const void *p, size_t len,
		   uint8_t out[MPD_MAC_LEN])
{
	crypto_generichash(out, MPD_MAC_LEN, p, len, key, MPD_KEY_LEN);
}

bool mpd_crypt_equal(const uint8_t a[MPD_MAC_LEN], const uint8_t b[MPD_MAC_LEN])
{
	return !sodium_memcmp(a, b, MPD_MAC_LEN);
}

void mpd_crypt_box_keys(uint8_t public[MPD_KEY_LEN], uint8_t secret[MPD_KEY_LEN])
{
	crypto_box_keypair(public, secret);
}

size_t mpd_crypt_box_seal(uint8_t *out, const void *p, size_t len, const uint8_t peer[MPD_KEY_LEN],
			  const uint8_t secret[MPD_KEY_LEN])
{
	randombytes_buf(out, crypto_box_NONCEBYTES);
	if (crypto_box_easy(out + crypto_box_NONCEBYTES, p, len, out, peer, secret))
		return 0;
	return len + MPD_BOX_EXTRA;
}

int mpd_crypt_box_open(void *out, const uint8_t *in, size_t len, const uint8_t peer[MPD_KEY_LEN],
		       const uint8_t secret[MPD_KEY_LEN])
{
	static_assert(MPD_BOX_EXTRA == crypto_box_NONCEBYTES + crypto_box_MACBYTES, "box");
	if (crypto_box_open_easy(out, in + crypto_box_NONCEBYTES, len - crypto_box_NONCEBYTES, in,
				 peer, secret))
		return -EPROTO;
	return 0;
}

int mpd_crypt_new(struct mpd_crypt **out, bool initiator, const uint8_t key[MPD_KEY_LEN],
		  uint8_t hello[MPD_HELLO_LEN])
{
	struct mpd_crypt *c = sodium_malloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	c->initiator = initiator;
	memcpy(c->psk, key, MPD_KEY_LEN);
	memcpy(c->hello, "PVM", 3);
	c->hello[3] = VERSION;
	c->hello[4] = crypto_aead_aes256gcm_is_available() ? FLAG_AES : 0;
	crypto_box_keypair(c->hello + 5, c->secret);
	randombytes_buf(c->hello + 37, 32);
	memcpy(hello, c->hello, MPD_HELLO_LEN);
	*out = c;
	return 0;
}

void mpd_crypt_free(struct mpd_crypt *c)
{
	/* Wipes as well. */
	sodium_free(c);
}

int mpd_crypt_hello(struct mpd_crypt *c, const uint8_t hello[MPD_HELLO_LEN])
{
	const uint8_t *first = c->initiator ? c->hello : hello;
	const uint8_t *second = c->initiator ? hello : c->hello;
	uint8_t shared[32], keys[64];
	crypto_generichash_state st;

	if (memcmp(hello, "PVM", 3) || hello[3] != VERSION)
		return -EPROTO;
	/* Our own hello sent back would give both directions one key. */
	if (!memcmp(hello, c->hello, MPD_HELLO_LEN))
		return -EPROTO;
	if (crypto_scalarmult(shared, c->secret, hello + 5))
		return -EPROTO;
	crypto_generichash_init(&st, c->psk, sizeof(c->psk), sizeof(keys));
	crypto_generichash_update(&st, shared, sizeof(shared));
	crypto_generichash_update(&st, first, MPD_HELLO_LEN);
	crypto_generichash_update(&st, second, MPD_HELLO_LEN);
	crypto_generichash_final(&st, keys, sizeof(keys));
	memcpy(c->tx.key, c->initiator ? keys : keys + 32, 32);
	memcpy(c->rx.key, c->initiator ? keys + 32 : keys, 32);
	c->aes = (hello[4] & FLAG_AES) && (c->hello[4] & FLAG_AES);
	if (c->aes) {
		crypto_aead_aes256gcm_beforenm(&c->aes_tx, c->tx.key);
		crypto_aead_aes256gcm_beforenm(&c->aes_rx, c->rx.key);
	}
	sodium_memzero(keys, sizeof(keys));
	sodium_memzero(shared, sizeof(shared));
	sodium_memzero(c->secret, sizeof(c->secret));
	sodium_memzero(c->psk, sizeof(c->psk));
	c->ready = true;
	return 0;
}

static void nonce_next(struct dir *d, uint8_t nonce[12])
{
	uint64_t n = d->counter++;

	memset(nonce, 0, 12);
	memcpy(nonce, &n, sizeof(n));
}

size_t mpd_crypt_seal(struct mpd_crypt *c, const void *p, size_t len, uint8_t *out)
{
	uint32_t body = (uint32_t)len + TAG;
	unsigned long long n = 0;
	uint8_t nonce[12];

	assert(c->ready && len <= PLAIN_MAX);
	nonce_next(&c->tx, nonce);
	memcpy(out, &body, 4);
	if (c->aes)
		crypto_aead_aes256gcm_encrypt_afternm(out + 4, &n, p, len, out, 4, NULL, nonce,
						      &c->aes_tx);
	else
		crypto_aead_chacha20poly1305_ietf_encrypt(out + 4, &n, p, len, out, 4, NULL, nonce,
							  c->tx.key);
	return 4 + (size_t)n;
}

int mpd_crypt_open(struct mpd_crypt *c, const uint8_t *in, size_t in_len, size_t *used,
		   uint8_t *out, size_t *len)
{
	unsigned long long n = 0;
	uint8_t nonce[12];
	uint32_t body;
	int rc;

	if (!c->ready)
		return -EPROTO;
	if (in_len < 4)
		return 0;
	memcpy(&body, in, 4);
	if (body < TAG || body > PLAIN_MAX + TAG)
		return -EPROTO;
	if (in_len - 4 < body)
		return 0;
	nonce_next(&c->rx, nonce);
	if (c->aes)
		rc = crypto_aead_aes256gcm_decrypt_afternm(out, &n, NULL, in + 4, body, in, 4,
							   nonce, &c->aes_rx);
	else
		rc = crypto_aead_chacha20poly1305_ietf_decrypt(out, &n, NULL, in + 4, body, in, 4,
							       nonce, c->rx.key);
	if (rc)
		return -EPROTO;
	*used = 4 + body;
	*len = (size_t)n;
	return 1;
}
