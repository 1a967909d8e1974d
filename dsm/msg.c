#include "dsm/msg.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

struct layout {
	uint64_t gfn;
	uint32_t version;
	uint8_t node, acks, kind, access_flags;
};

_Static_assert(sizeof(struct layout) == DSM_MSG_LEN, "on the wire");

void dsm_msg_put(uint8_t out[DSM_MSG_LEN], const struct dsm_msg *m)
{
	struct layout l = {.gfn = htole64(m->gfn.v),
			   .version = htole32(m->version),
			   .node = m->node,
			   .acks = m->acks,
			   .kind = m->kind,
			   .access_flags = (uint8_t)(m->access | m->flags << 4)};

	memcpy(out, &l, sizeof(l));
}

int dsm_msg_get(uint8_t type, const void *body, unsigned len, struct dsm_msg *out)
{
	struct layout l;

	if (len != DSM_MSG_LEN || !type || type >= DSM_MSG_END)
		return -EPROTO;
	memcpy(&l, body, sizeof(l));
	*out = (struct dsm_msg){.gfn.v = le64toh(l.gfn),
				.version = le32toh(l.version),
				.type = type,
				.node = l.node,
				.acks = l.acks,
				.kind = l.kind,
				.access = l.access_flags & 15,
				.flags = l.access_flags >> 4};
	return 0;
}
