/* The envelope of the control channel as a plain struct. */
#ifndef PROTO_CHAN_WIRE_H
#define PROTO_CHAN_WIRE_H

#include "proto/chan.h"

/* The numbers are those of the wire. */
enum chan_kind {
	CHAN_HELLO = 1,
	CHAN_WELCOME,
	CHAN_REQUEST,
	CHAN_REPLY,
	CHAN_ITEM,
	CHAN_INPUT,
	CHAN_CREDIT,
	CHAN_CANCEL,
	CHAN_PING,
	CHAN_PONG,
};

struct chan_hello {
	uint32_t min_version, max_version;
	char name[CHAN_NAME_MAX];
	char software[CHAN_NAME_MAX];
	char error[256];
};

struct chan_env {
	uint32_t version;
	enum chan_kind kind;
	uint64_t id;
	const void *body;
	size_t len;
	uint32_t credit;
	struct chan_hello hello; /* HELLO and WELCOME */
	void *backing;		 /* of body, after decoding */
};

/* Never longer than CHAN_MAX_BYTES: else -EMSGSIZE. *out is for free(3). */
BASE_MUST_CHECK int chan_env_encode(const struct chan_env *env, uint8_t **out, size_t *len);
/* -EBADMSG: not an envelope, or one that its kind does not allow. */
BASE_MUST_CHECK int chan_env_decode(const void *data, size_t len, struct chan_env *out);
void chan_env_fini(struct chan_env *env);

#endif
