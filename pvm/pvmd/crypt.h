/*
 * The secure channel between two daemons: an X25519 exchange of one-time keys, authenticated by the
 * secret of the virtual machine (Noise NNpsk0 in shape), then records under AES-256-GCM where both
 * processors have it, else ChaCha20-Poly1305. The nonce is a counter per direction, so a record
 *that is lost, repeated, reordered or changed ends the connection.
 *
 *	hello   "PVM" version(1) flags(1) public key(32) random(32)
 *	record  u32 length of what follows, ciphertext, 16-byte tag
 */
#ifndef PVM_PVMD_CRYPT_H
#define PVM_PVMD_CRYPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

enum {
	MPD_KEY_LEN = 32,
	MPD_HELLO_LEN = 3 + 1 + 1 + 32 + 32,
	MPD_RECORD_EXTRA = 4 + 16,
	MPD_RECORD_MAX = 1 << 20,
};

enum { MPD_MAC_LEN = 32 };

struct mpd_crypt;

/* Once per process. -EIO. */
BASE_MUST_CHECK int mpd_crypt_setup(void);
void mpd_crypt_random(void *out, size_t len);
/* A keyed hash, and its comparison in constant time. */
void mpd_crypt_mac(const uint8_t key[MPD_KEY_LEN], const void *p, size_t len,
		   uint8_t out[MPD_MAC_LEN]);
bool mpd_crypt_equal(const uint8_t a[MPD_MAC_LEN], const uint8_t b[MPD_MAC_LEN]);

/*
 * One message between two who know each other's public keys, and only they: a nonce in front of a
 * box of X25519 and XSalsa20-Poly1305.
 */
enum { MPD_BOX_EXTRA = 24 + 16 };
void mpd_crypt_box_keys(uint8_t public[MPD_KEY_LEN], uint8_t secret[MPD_KEY_LEN]);
/* out needs len + MPD_BOX_EXTRA bytes, which it returns; 0: the key is not one. */
size_t mpd_crypt_box_seal(uint8_t *out, const void *p, size_t len, const uint8_t peer[MPD_KEY_LEN],
			  const uint8_t secret[MPD_KEY_LEN]);
/* `len` of the sealed message, above MPD_BOX_EXTRA. -EPROTO: of somebody else, or changed. */
BASE_MUST_CHECK int mpd_crypt_box_open(void *out, const uint8_t *in, size_t len,
				       const uint8_t peer[MPD_KEY_LEN],
				       const uint8_t secret[MPD_KEY_LEN]);

/* Starts a handshake and writes our hello. -ENOMEM. */
BASE_MUST_CHECK int mpd_crypt_new(struct mpd_crypt **out, bool initiator,
				  const uint8_t key[MPD_KEY_LEN], uint8_t hello[MPD_HELLO_LEN]);
void mpd_crypt_free(struct mpd_crypt *c);
/* Takes the peer's hello; then records flow. -EPROTO. A wrong secret shows at the first record. */
BASE_MUST_CHECK int mpd_crypt_hello(struct mpd_crypt *c, const uint8_t hello[MPD_HELLO_LEN]);

/* out needs len + MPD_RECORD_EXTRA bytes; returns how many were written. */
size_t mpd_crypt_seal(struct mpd_crypt *c, const void *p, size_t len, uint8_t *out);
/*
 * `in` begins with a record. 1: opened, *used bytes of `in` are consumed and *len bytes stand in
 * out (which needs MPD_RECORD_MAX); 0: not complete yet; -EPROTO: garbage, forged or replayed.
 */
BASE_MUST_CHECK int mpd_crypt_open(struct mpd_crypt *c, const uint8_t *in, size_t in_len,
				   size_t *used, uint8_t *out, size_t *len);

#endif
