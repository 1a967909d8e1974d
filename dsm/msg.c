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

struct dir_layout {
	uint64_t gfn, count;
	uint32_t version;
	uint16_t copyset;
	uint8_t owner, zero;
};

_Static_assert(sizeof(struct dir_layout) == DSM_DIR_LEN, "on the wire");

void dsm_dir_put(uint8_t out[DSM_DIR_LEN], uint64_t gfn, uint64_t count, const struct dsm_dir *dir)
{
	struct dir_layout l = {.gfn = htole64(gfn),
			       .count = htole64(count),
			       .version = htole32(dir->version),
			       .copyset = htole16(dir->copyset),
			       .owner = dir->owner};

	memcpy(out, &l, sizeof(l));
}

int dsm_dir_get(const void *body, unsigned len, uint64_t *gfn, uint64_t *count, struct dsm_dir *out)
{
	struct dir_layout l;

	if (len != sizeof(l))
		return -EPROTO;
	memcpy(&l, body, sizeof(l));
	*gfn = le64toh(l.gfn);
	*count = le64toh(l.count);
	*out = (struct dsm_dir){.version = le32toh(l.version),
				.copyset = le16toh(l.copyset),
				.owner = l.owner,
				.touched = true};
	return 0;
}
