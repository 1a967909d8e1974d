#include "migrate/chan.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <string.h>
#include <sys/socket.h>
#include <xxhash.h>

#include "base/tcp.h"

#define CHAN_MAGIC UINT32_C(0x314d4750) /* "PGM1" */

enum {
	HEAD_LEN = 16,
	HASH_LEN = 8,
	HELLO_LEN = 4 + 2 + 2 + MIG_ID_LEN + 32,
	MAC_LEN = 32,
	IOV_BATCH = MIG_CHUNK_PAGES + 4,
	SHORT_BYTES = 128 << 10, /* which the kernel doubles */
	NONCE_LEN = 12,
	TAG_LEN = 16,
};

struct mig_seal {
	EVP_CIPHER_CTX *tx, *rx;
	uint8_t *tx_buf, *rx_buf;
	size_t tx_cap, rx_cap;
	size_t rx_len, rx_pos; /* the opened frame and how much of it was taken */
};

int mig_socket_prepare(int fd, unsigned stall_ms)
{
	struct timeval t = {.tv_sec = stall_ms / 1000, .tv_usec = stall_ms % 1000 * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)))
		return -errno;
	base_tcp_no_delay(fd);
	return 0;
}

void mig_chan_keep_short(int fd, bool sender)
{
	int bytes = SHORT_BYTES;

	/* Only quicker: without it all works. */
	setsockopt(fd, SOL_SOCKET, sender ? SO_SNDBUF : SO_RCVBUF, &bytes, sizeof(bytes));
}

/* ---- bytes ---- */

static void iov_skip(struct iovec **iov, int *count, size_t n)
{
	while (*count && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		++*iov;
		--*count;
	}
	if (*count) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

/* Whatever the network says: the link is lost. ECONNABORTED above all must not come from here: it is
 * the other side's ABORT. */
static int io_error(ssize_t n)
{
	if (n < 0 && errno == EAGAIN)
		return -ETIMEDOUT;
	return n < 0 && errno == EPIPE ? -EPIPE : -ECONNRESET;
}

/* Modifies iov. */
static int send_all(struct mig_chan *c, struct iovec *iov, int count)
{
	while (count) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = BASE_MIN(count, IOV_MAX)};
		ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return io_error(n);
		atomic_fetch_add_explicit(&c->bytes, n, memory_order_relaxed);
		iov_skip(&iov, &count, n);
	}
	return 0;
}

static int recv_all(struct mig_chan *c, struct iovec *iov, int count)
{
	while (count) {
		ssize_t n = readv(c->fd, iov, BASE_MIN(count, IOV_MAX));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return io_error(n);
		iov_skip(&iov, &count, n);
	}
	return 0;
}

static int send_buf(struct mig_chan *c, const void *p, size_t len)
{
	struct iovec iov = {(void *)p, len};

	return send_all(c, &iov, 1);
}

static int recv_buf(struct mig_chan *c, void *p, size_t len)
{
	struct iovec iov = {p, len};

	return recv_all(c, &iov, 1);
}

/* ---- opening ---- */

struct hello {
	uint8_t bytes[HELLO_LEN];
	uint8_t nonce_d[32];
};

static void hello_key(uint8_t out[32], const struct mig_params *p, const struct hello *h,
		      const char *what)
{
	crypto_generichash_state st;

	crypto_generichash_init(&st, p->key, MIG_KEY_LEN, 32);
	crypto_generichash_update(&st, (const uint8_t *)what, strlen(what));
	crypto_generichash_update(&st, h->bytes, sizeof(h->bytes));
	crypto_generichash_update(&st, h->nonce_d, sizeof(h->nonce_d));
	crypto_generichash_final(&st, out, 32);
}

static void hello_fill(struct hello *h, const struct mig_params *p, unsigned index)
{
	uint32_t magic = htole32(CHAN_MAGIC);
	uint16_t version = htole16(MIG_WIRE_VERSION), number = htole16(index);

	memcpy(h->bytes, &magic, 4);
	memcpy(h->bytes + 4, &version, 2);
	memcpy(h->bytes + 6, &number, 2);
	memcpy(h->bytes + 8, p->id, MIG_ID_LEN);
	randombytes_buf(h->bytes + 8 + MIG_ID_LEN, 32);
}

static int open_as_source(struct mig_chan *c, const struct mig_params *p, unsigned index,
			  struct hello *h)
{
	uint8_t got[MAC_LEN], want[MAC_LEN];
	struct iovec iov[] = {{h->nonce_d, sizeof(h->nonce_d)}, {got, sizeof(got)}};
	int rc;

	hello_fill(h, p, index);
	rc = send_buf(c, h->bytes, sizeof(h->bytes));
	if (!rc)
		rc = recv_all(c, iov, 2);
	if (rc)
		return rc;
	hello_key(want, p, h, "destination");
	if (sodium_memcmp(got, want, MAC_LEN))
		return -EACCES;
	hello_key(want, p, h, "source");
	return send_buf(c, want, MAC_LEN);
}

static int open_as_dest(struct mig_chan *c, const struct mig_params *p, unsigned index,
			struct hello *h)
{
	uint8_t got[MAC_LEN], want[MAC_LEN];
	struct hello expect;
	struct iovec iov[] = {{h->nonce_d, sizeof(h->nonce_d)}, {want, sizeof(want)}};
	int rc = recv_buf(c, h->bytes, sizeof(h->bytes));

	if (rc)
		return rc;
	hello_fill(&expect, p, index);
	/* All but the nonce: magic, version, channel, migration. */
	if (memcmp(h->bytes, expect.bytes, 8 + MIG_ID_LEN))
		return -EPROTO;
	randombytes_buf(h->nonce_d, sizeof(h->nonce_d));
	hello_key(want, p, h, "destination");
	rc = send_all(c, iov, 2);
	if (!rc)
		rc = recv_buf(c, got, sizeof(got));
	if (rc)
		return rc;
	hello_key(want, p, h, "source");
	return sodium_memcmp(got, want, MAC_LEN) ? -EACCES : 0;
}

static int seal_new(struct mig_chan *c, const struct mig_params *p, const struct hello *h,
		    bool source)
{
	uint8_t to_dst[32], to_src[32];
	int rc = -EIO;

	/* A VM's process may open no file by now, so the library's configuration is not looked for. */
	if (!OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL))
		return -EIO;
	c->seal = calloc(1, sizeof(*c->seal));
	if (!c->seal)
		return -ENOMEM;
	c->seal->tx = EVP_CIPHER_CTX_new();
	c->seal->rx = EVP_CIPHER_CTX_new();
	if (!c->seal->tx || !c->seal->rx)
		return -ENOMEM;
	hello_key(to_dst, p, h, "seal to destination");
	hello_key(to_src, p, h, "seal to source");
	if (EVP_EncryptInit_ex(c->seal->tx, EVP_aes_256_gcm(), NULL, source ? to_dst : to_src,
			       NULL) == 1 &&
	    EVP_DecryptInit_ex(c->seal->rx, EVP_aes_256_gcm(), NULL, source ? to_src : to_dst,
			       NULL) == 1)
		rc = 0;
	sodium_memzero(to_dst, sizeof(to_dst));
	sodium_memzero(to_src, sizeof(to_src));
	return rc;
}

int mig_chan_open(struct mig_chan *c, int fd, const struct mig_params *p, unsigned index,
		  bool source)
{
	struct hello h;
	int rc;

	/* `bytes` may be read by another thread already; it starts at 0. */
	c->fd = fd;
	c->encrypt = p->encrypt;
	if (sodium_init() < 0)
		return -EIO;
	c->meta = malloc(MIG_META_MAX + HASH_LEN);
	if (!c->meta)
		return -ENOMEM;
	rc = source ? open_as_source(c, p, index, &h) : open_as_dest(c, p, index, &h);
	/* The greeting has shown how far it is. */
	if (!rc && source)
		base_tcp_keep_unpaced(fd);
	if (!rc && p->encrypt)
		rc = seal_new(c, p, &h, source);
	return rc;
}

void mig_chan_close(struct mig_chan *c)
{
	if (c->seal) {
		EVP_CIPHER_CTX_free(c->seal->tx);
		EVP_CIPHER_CTX_free(c->seal->rx);
		free(c->seal->tx_buf);
		free(c->seal->rx_buf);
		free(c->seal);
	}
	free(c->meta);
	*c = (struct mig_chan){.fd = -1};
}

/* ---- frames ---- */

static void head_encode(uint8_t out[HEAD_LEN], uint8_t type, uint32_t meta_len, uint32_t data_len)
{
	uint32_t magic = htole32(CHAN_MAGIC), m = htole32(meta_len), d = htole32(data_len);

	memcpy(out, &magic, 4);
	out[4] = MIG_WIRE_VERSION;
	out[5] = type;
	out[6] = out[7] = 0;
	memcpy(out + 8, &m, 4);
	memcpy(out + 12, &d, 4);
}

static int head_decode(const uint8_t in[HEAD_LEN], struct mig_head *h)
{
	uint32_t magic, m, d;

	memcpy(&magic, in, 4);
	memcpy(&m, in + 8, 4);
	memcpy(&d, in + 12, 4);
	*h = (struct mig_head){.type = in[5], .meta_len = le32toh(m), .data_len = le32toh(d)};
	if (le32toh(magic) != CHAN_MAGIC || in[4] != MIG_WIRE_VERSION || in[6] || in[7] ||
	    !h->type || h->type >= MIG_FRAME_TYPES || h->meta_len > MIG_META_MAX ||
	    h->data_len > MIG_STATE_MAX)
		return -EBADMSG;
	return 0;
}

static uint64_t frame_hash(uint64_t number, const uint8_t head[HEAD_LEN], const void *meta,
			   uint32_t meta_len)
{
	uint64_t h = XXH3_64bits_withSeed(head, HEAD_LEN, number);

	return htole64(meta_len ? XXH3_64bits_withSeed(meta, meta_len, h) : h);
}

static int grow(uint8_t **buf, size_t *cap, size_t want)
{
	uint8_t *p;

	if (want <= *cap)
		return 0;
	p = realloc(*buf, want);
	if (!p)
		return -ENOMEM;
	*buf = p;
	*cap = want;
	return 0;
}

static void seal_nonce(uint8_t nonce[NONCE_LEN], uint64_t number)
{
	uint64_t le = htole64(number);

	memset(nonce, 0, NONCE_LEN);
	memcpy(nonce, &le, sizeof(le));
}

/*
 * {length, sealed bytes, tag} into tx_buf. The guest may write to what is sealed meanwhile; each byte is
 * read once, and the tag is that of what was read.
 */
static bool seal_frame(struct mig_seal *s, uint64_t number, const struct iovec *iov, int count)
{
	uint8_t nonce[NONCE_LEN];
	uint8_t *to = s->tx_buf + 4;
	int n;

	seal_nonce(nonce, number);
	if (EVP_EncryptInit_ex(s->tx, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_EncryptUpdate(s->tx, NULL, &n, s->tx_buf, 4) != 1)
		return false;
	for (int i = 0; i < count; i++) {
		if (!iov[i].iov_len)
			continue;
		if (EVP_EncryptUpdate(s->tx, to, &n, iov[i].iov_base, (int)iov[i].iov_len) != 1)
			return false;
		to += n;
	}
	return EVP_EncryptFinal_ex(s->tx, to, &n) == 1 &&
	       EVP_CIPHER_CTX_ctrl(s->tx, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, to) == 1;
}

static int send_sealed(struct mig_chan *c, const struct iovec *iov, int count, size_t len)
{
	struct mig_seal *s = c->seal;
	size_t sealed = len + TAG_LEN;
	uint32_t le = htole32((uint32_t)sealed);
	int rc = grow(&s->tx_buf, &s->tx_cap, sealed + 4);

	if (rc)
		return rc;
	memcpy(s->tx_buf, &le, 4);
	if (!seal_frame(s, c->tx_number, iov, count))
		return -EIO;
	return send_buf(c, s->tx_buf, sealed + 4);
}

int mig_chan_send(struct mig_chan *c, uint8_t type, const void *meta, uint32_t meta_len,
		  const struct iovec *data, int iov_count)
{
	struct iovec iov[IOV_BATCH];
	uint8_t head[HEAD_LEN];
	size_t data_len = 0;
	uint64_t hash;
	int rc;

	assert(iov_count <= MIG_CHUNK_PAGES && meta_len <= MIG_META_MAX);
	for (int i = 0; i < iov_count; i++) {
		iov[3 + i] = data[i];
		data_len += data[i].iov_len;
	}
	assert(data_len <= MIG_STATE_MAX);
	head_encode(head, type, meta_len, (uint32_t)data_len);
	hash = frame_hash(c->tx_number, head, meta, meta_len);
	iov[0] = (struct iovec){head, sizeof(head)};
	iov[1] = (struct iovec){(void *)meta, meta_len};
	iov[2] = (struct iovec){&hash, sizeof(hash)};
	if (c->encrypt)
		rc = send_sealed(c, iov, 3 + iov_count, HEAD_LEN + meta_len + HASH_LEN + data_len);
	else
		rc = send_all(c, iov, 3 + iov_count);
	c->tx_number++;
	return rc;
}

/* What is in rx_buf, in its place; false: not from who has the key. */
static bool open_frame(struct mig_seal *s, uint64_t number, const uint8_t prefix[4], size_t len)
{
	uint8_t nonce[NONCE_LEN];
	int n;

	seal_nonce(nonce, number);
	return EVP_DecryptInit_ex(s->rx, NULL, NULL, NULL, nonce) == 1 &&
	       EVP_CIPHER_CTX_ctrl(s->rx, EVP_CTRL_AEAD_SET_TAG, TAG_LEN, s->rx_buf + len) == 1 &&
	       EVP_DecryptUpdate(s->rx, NULL, &n, prefix, 4) == 1 &&
	       EVP_DecryptUpdate(s->rx, s->rx_buf, &n, s->rx_buf, (int)len) == 1 &&
	       EVP_DecryptFinal_ex(s->rx, s->rx_buf + n, &n) == 1;
}

static int recv_sealed(struct mig_chan *c)
{
	struct mig_seal *s = c->seal;
	uint8_t prefix[4];
	uint32_t len;
	int rc = recv_buf(c, prefix, 4);

	if (rc)
		return rc;
	memcpy(&len, prefix, 4);
	len = le32toh(len);
	if (len < HEAD_LEN + HASH_LEN + TAG_LEN ||
	    len > HEAD_LEN + MIG_META_MAX + HASH_LEN + MIG_STATE_MAX + TAG_LEN)
		return -EBADMSG;
	rc = grow(&s->rx_buf, &s->rx_cap, len);
	if (!rc)
		rc = recv_buf(c, s->rx_buf, len);
	if (rc)
		return rc;
	if (!open_frame(s, c->rx_number, prefix, len - TAG_LEN))
		return -EBADMSG;
	s->rx_len = len - TAG_LEN;
	s->rx_pos = 0;
	return 0;
}

/* From the socket, or from the frame that was opened last. */
static int take(struct mig_chan *c, struct iovec *iov, int count)
{
	struct mig_seal *s = c->seal;

	if (!c->encrypt)
		return recv_all(c, iov, count);
	for (int i = 0; i < count; i++) {
		if (iov[i].iov_len > s->rx_len - s->rx_pos)
			return -EBADMSG;
		memcpy(iov[i].iov_base, s->rx_buf + s->rx_pos, iov[i].iov_len);
		s->rx_pos += iov[i].iov_len;
	}
	return 0;
}

int mig_chan_recv(struct mig_chan *c, struct mig_head *head)
{
	uint8_t raw[HEAD_LEN];
	struct iovec iov = {raw, sizeof(raw)};
	uint64_t hash;
	int rc = c->encrypt ? recv_sealed(c) : 0;

	if (!rc)
		rc = take(c, &iov, 1);
	if (!rc)
		rc = head_decode(raw, head);
	if (rc)
		return rc;
	iov = (struct iovec){c->meta, head->meta_len + HASH_LEN};
	rc = take(c, &iov, 1);
	if (rc)
		return rc;
	memcpy(&hash, c->meta + head->meta_len, HASH_LEN);
	if (hash != frame_hash(c->rx_number, raw, c->meta, head->meta_len))
		return -EBADMSG;
	if (c->encrypt && c->seal->rx_len - c->seal->rx_pos != head->data_len)
		return -EBADMSG;
	c->rx_number++;
	return 0;
}

int mig_chan_recv_data(struct mig_chan *c, struct iovec *iov, int iov_count)
{
	return take(c, iov, iov_count);
}
