#include "proto/xp_hello.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"

#define HELLO_ENCRYPT 1
#define HELLO_AES     2

void xp_hello_put(uint8_t out[XP_HELLO_LEN], const struct xp_hello *h)
{
	struct base_wbuf b;

	base_wbuf_init(&b, XP_HELLO_LEN);
	base_wbuf_u8(&b, h->version_min);
	base_wbuf_u8(&b, h->version_max);
	base_wbuf_u8(&b, h->node);
	base_wbuf_u8(&b, (h->encrypt ? HELLO_ENCRYPT : 0) | (h->aes ? HELLO_AES : 0));
	base_wbuf_u32(&b, 0);
	base_wbuf_u64(&b, h->group);
	base_wbuf_u64(&b, h->session);
	base_wbuf_u64(&b, h->received);
	base_wbuf_bytes(&b, h->ephemeral, sizeof(h->ephemeral));
	base_wbuf_bytes(&b, h->nonce, sizeof(h->nonce));
	memset(out, 0, XP_HELLO_LEN);
	if (!b.error)
		memcpy(out, b.data, b.len);
	base_wbuf_fini(&b);
}

int xp_hello_get(const uint8_t in[XP_HELLO_LEN], struct xp_hello *out)
{
	struct base_rbuf b;
	struct xp_hello h = {0};

	base_rbuf_init(&b, in, XP_HELLO_LEN);
	h.version_min = base_rbuf_u8(&b);
	h.version_max = base_rbuf_u8(&b);
	h.node = base_rbuf_u8(&b);
	uint8_t flags = base_rbuf_u8(&b);

	(void)base_rbuf_u32(&b);
	h.encrypt = flags & HELLO_ENCRYPT;
	h.aes = flags & HELLO_AES;
	h.group = base_rbuf_u64(&b);
	h.session = base_rbuf_u64(&b);
	h.received = base_rbuf_u64(&b);
	base_rbuf_bytes(&b, h.ephemeral, sizeof(h.ephemeral));
	base_rbuf_bytes(&b, h.nonce, sizeof(h.nonce));
	if (base_rbuf_end(&b) || !h.version_min || h.version_min > h.version_max ||
	    h.node >= XP_NODE_MAX)
		return -EPROTO;
	*out = h;
	return 0;
}

void xp_hello_proof(uint8_t out[XP_PROOF_LEN], const uint8_t key[XP_KEY_LEN], bool by_connector,
		    const uint8_t connector[XP_HELLO_LEN], const uint8_t acceptor[XP_HELLO_LEN])
{
	static const uint8_t roles[2][16] = {"pangaea accept", "pangaea connect"};
	crypto_generichash_state st;

	crypto_generichash_init(&st, key, XP_KEY_LEN, XP_PROOF_LEN);
	crypto_generichash_update(&st, roles[by_connector], sizeof(roles[0]));
	crypto_generichash_update(&st, connector, XP_HELLO_LEN);
	crypto_generichash_update(&st, acceptor, XP_HELLO_LEN);
	crypto_generichash_final(&st, out, XP_PROOF_LEN);
}

int xp_hello_keys(bool connector, const uint8_t key[XP_KEY_LEN], const uint8_t own_public[32],
		  const uint8_t own_secret[32], const uint8_t peer_public[32], uint8_t tx[32],
		  uint8_t rx[32], uint64_t *session)
{
	uint8_t raw_tx[32], raw_rx[32], name[16];
	int bad = connector ? crypto_kx_client_session_keys(raw_rx, raw_tx, own_public, own_secret,
							    peer_public)
			    : crypto_kx_server_session_keys(raw_rx, raw_tx, own_public, own_secret,
							    peer_public);

	if (bad)
		return -EACCES;
	crypto_generichash(tx, 32, raw_tx, sizeof(raw_tx), key, XP_KEY_LEN);
	crypto_generichash(rx, 32, raw_rx, sizeof(raw_rx), key, XP_KEY_LEN);
	/* The same for both ends: hashes the connector's sending key. */
	crypto_generichash(name, sizeof(name), connector ? tx : rx, 32, (const uint8_t *)"link", 0);
	memcpy(session, name, sizeof(*session));
	*session |= 1;
	sodium_memzero(raw_tx, sizeof(raw_tx));
	sodium_memzero(raw_rx, sizeof(raw_rx));
	return 0;
}
