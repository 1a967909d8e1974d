#include "proto/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zmq.h>

void keys_to_hex(const struct keys_key *key, char out[KEYS_HEX_MAX])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < KEYS_BYTES; i++) {
		out[2 * i] = digits[key->bytes[i] >> 4];
		out[2 * i + 1] = digits[key->bytes[i] & 15];
	}
	out[2 * KEYS_BYTES] = 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool keys_from_hex(const char *hex, struct keys_key *out)
{
	struct keys_key key;

	if (strlen(hex) != 2 * KEYS_BYTES)
		return false;
	for (int i = 0; i < KEYS_BYTES; i++) {
		int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		key.bytes[i] = (uint8_t)(high << 4 | low);
	}
	*out = key;
	return true;
}

bool keys_equal(const struct keys_key *a, const struct keys_key *b)
{
	uint8_t diff = 0;

	for (int i = 0; i < KEYS_BYTES; i++)
		diff |= a->bytes[i] ^ b->bytes[i];
	return diff == 0;
}

int keys_generate(struct keys_pair *out)
{
	char z85_public[41], z85_secret[41];

	if (zmq_curve_keypair(z85_public, z85_secret))
		return -errno;
	if (!zmq_z85_decode(out->public_key.bytes, z85_public) ||
	    !zmq_z85_decode(out->secret_key.bytes, z85_secret))
		return -EIO;
	explicit_bzero(z85_secret, sizeof(z85_secret));
	return 0;
}

int keys_save(const char *path, const struct keys_pair *pair)
{
	BASE_AUTO_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	char public_hex[KEYS_HEX_MAX], secret_hex[KEYS_HEX_MAX];
	int n;

	if (fd < 0)
		return -errno;
	keys_to_hex(&pair->public_key, public_hex);
	keys_to_hex(&pair->secret_key, secret_hex);
	n = dprintf(fd, "public: %s\nsecret: %s\n", public_hex, secret_hex);
	explicit_bzero(secret_hex, sizeof(secret_hex));
	if (n < 0 || fsync(fd)) {
		n = -errno;
		unlink(path);
		return n;
	}
	return 0;
}

/* The two keys must belong together: a mix-up would show only as refused connections. */
static bool pair_matches(const struct keys_pair *pair)
{
	char z85_public[41], z85_secret[41];
	struct keys_key derived;

	return zmq_z85_encode(z85_secret, pair->secret_key.bytes, KEYS_BYTES) &&
	       !zmq_curve_public(z85_public, z85_secret) &&
	       zmq_z85_decode(derived.bytes, z85_public) && keys_equal(&derived, &pair->public_key);
}

static int parse(const char *text, struct keys_pair *out)
{
	char public_hex[KEYS_HEX_MAX], secret_hex[KEYS_HEX_MAX];
	struct keys_pair pair;
	int end = 0;

	if (sscanf(text, "public: %64[0-9a-fA-F]\nsecret: %64[0-9a-fA-F]\n%n", public_hex,
		   secret_hex, &end) != 2 ||
	    text[end] || !keys_from_hex(public_hex, &pair.public_key) ||
	    !keys_from_hex(secret_hex, &pair.secret_key) || !pair_matches(&pair))
		return -EBADMSG;
	*out = pair;
	return 0;
}

int keys_load(const char *path, struct keys_pair *out, char *why, size_t cap)
{
	BASE_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char text[256];
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st)) {
		n = -errno;
		snprintf(why, cap, "%s: %s (keys are made by 'pangaea init')", path,
			 strerror((int)-n));
		return (int)n;
	}
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077)) {
		snprintf(why, cap, "%s: others may read this secret key; run: chmod 600 %s", path,
			 path);
		return -EACCES;
	}
	n = read(fd, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	if (n < 0 || parse(text, out)) {
		snprintf(why, cap,
			 "%s: not a key file; expected the lines 'public: HEX' and "
			 "'secret: HEX' of 'pangaea init'",
			 path);
		return -EBADMSG;
	}
	explicit_bzero(text, sizeof(text));
	return 0;
}
