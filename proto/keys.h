/*
 * CURVE25519 keys of nodes and of the administrator. In files and on the command line a key is 64
 * hexadecimal digits. A secret key file has mode 0600 and two lines "public: HEX", "secret: HEX".
 */
#ifndef PROTO_KEYS_H
#define PROTO_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

enum { KEYS_BYTES = 32, KEYS_HEX_MAX = 65 };

struct keys_key {
	uint8_t bytes[KEYS_BYTES];
};

struct keys_pair {
	struct keys_key public_key, secret_key;
};

void keys_to_hex(const struct keys_key *key, char out[KEYS_HEX_MAX]);
bool keys_from_hex(const char *hex, struct keys_key *out);
bool keys_equal(const struct keys_key *a, const struct keys_key *b);

BASE_MUST_CHECK int keys_generate(struct keys_pair *out);
/* -EEXIST, other -errno of open(2) and write(2). */
BASE_MUST_CHECK int keys_save(const char *path, const struct keys_pair *pair);
/* -errno; `why` (at least 256 bytes) then says what is wrong with the file and how to mend it. */
BASE_MUST_CHECK int keys_load(const char *path, struct keys_pair *out, char *why, size_t cap);

#endif
