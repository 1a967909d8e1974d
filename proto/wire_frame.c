#include "proto/wire_frame.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

struct layout {
	uint16_t magic;
	uint8_t version, type;
	uint16_t flags, length;
	uint64_t seq;
};

_Static_assert(sizeof(struct layout) == WIRE_HEADER_LEN, "frozen");
_Static_assert(offsetof(struct layout, version) == 2 && offsetof(struct layout, type) == 3 &&
		       offsetof(struct layout, flags) == 4 &&
		       offsetof(struct layout, length) == 6 && offsetof(struct layout, seq) == 8,
	       "frozen");
_Static_assert(WIRE_LENGTH_MAX <= UINT16_MAX, "the length field holds every frame");

void wire_header_put(uint8_t out[WIRE_HEADER_LEN], const struct wire_header *h)
{
	struct layout l = {.magic = htole16(WIRE_MAGIC),
			   .version = h->version,
			   .type = h->type,
			   .flags = htole16(h->flags),
			   .length = htole16(h->length),
			   .seq = htole64(h->seq)};

	memcpy(out, &l, sizeof(l));
}

static int flags_check(const struct wire_header *h)
{
	unsigned need = (h->flags & WIRE_F_PAGE ? WIRE_PAGE_LEN : 0) +
			(h->flags & WIRE_F_ENCRYPTED ? WIRE_TAG_LEN : 0);

	if (h->flags & ~WIRE_F_ALL || (h->flags & WIRE_F_PAGE && h->flags & WIRE_F_PLACED))
		return -EPROTO;
	return h->length < need || h->length - need > WIRE_BODY_MAX ? -EPROTO : 0;
}

int wire_header_get(const uint8_t in[WIRE_HEADER_LEN], struct wire_header *out)
{
	struct layout l;

	memcpy(&l, in, sizeof(l));
	struct wire_header h = {.version = l.version,
				.type = l.type,
				.flags = le16toh(l.flags),
				.length = le16toh(l.length),
				.seq = le64toh(l.seq)};

	if (le16toh(l.magic) != WIRE_MAGIC || h.version < WIRE_VERSION_MIN ||
	    h.version > WIRE_VERSION_MAX || !h.type || flags_check(&h))
		return -EPROTO;
	*out = h;
	return 0;
}
