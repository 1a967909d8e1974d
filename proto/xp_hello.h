/*
 * How two nodes of a group make sure of each other, and agree on keys. No I/O.
 *
 *   connector                         acceptor
 *      | HELLO{versions, group, node, ephemeral key, session, received} |
 *      |------------------------------->|
 *      |<-------------------------------| HELLO
 *      | PROOF = keyed hash (group key) over both hellos, by role       |
 *      |------------------------------->|
 *      |<-------------------------------| PROOF
 *
 * The first connection of a link derives its keys from the ephemeral keys and the group key; later
 * ones keep them and prove themselves afresh.
 */
#ifndef PROTO_XP_HELLO_H
#define PROTO_XP_HELLO_H

#include <sodium.h>

#include "proto/xp.h"

#define XP_HELLO_LEN 96
#define XP_PROOF_LEN 32

struct xp_hello {
	uint8_t version_min, version_max;
	uint8_t node;
	bool encrypt, aes;
	uint64_t group;
	uint64_t session;  /* 0: the link is new */
	uint64_t received; /* sequence number of the last frame that came */
	uint8_t ephemeral[crypto_kx_PUBLICKEYBYTES];
	uint8_t nonce[32];
};

void xp_hello_put(uint8_t out[XP_HELLO_LEN], const struct xp_hello *h);
/* -EPROTO: malformed. */
BASE_MUST_CHECK int xp_hello_get(const uint8_t in[XP_HELLO_LEN], struct xp_hello *out);

void xp_hello_proof(uint8_t out[XP_PROOF_LEN], const uint8_t key[XP_KEY_LEN], bool by_connector,
		    const uint8_t connector[XP_HELLO_LEN], const uint8_t acceptor[XP_HELLO_LEN]);

/* Keys and name of a new link. -EACCES: the peer's ephemeral key is not acceptable. */
BASE_MUST_CHECK int xp_hello_keys(bool connector, const uint8_t key[XP_KEY_LEN],
				  const uint8_t own_public[32], const uint8_t own_secret[32],
				  const uint8_t peer_public[32], uint8_t tx[32], uint8_t rx[32],
				  uint64_t *session);

#endif
