#include "node/agent/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/* docs/interop/qcow2.txt of QEMU; big-endian. */
struct qcow2_head {
	uint32_t magic, version;
	uint64_t backing_offset;
	uint32_t backing_len, cluster_bits;
	uint64_t size_bytes;
	uint32_t crypt, l1_entries;
	uint64_t l1_offset, refcounts_offset;
	uint32_t refcounts_clusters, snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear; /* from here on: version 3 */
	uint32_t refcount_order, head_len;
};

_Static_assert(sizeof(struct qcow2_head) == 104, "file format");

enum {
	MAGIC = 0x514649fb, /* "QFI\xfb" */
	VERSION = 3,
	CLUSTER_BITS = 16,
	CLUSTER = 1 << CLUSTER_BITS,
	REFCOUNT_ORDER = 4, /* 16 bits each */
	HEAD_V2_LEN = offsetof(struct qcow2_head, incompatible),
	SECTOR = 512,
};

/* Where what stands: the table of tables of counts, one of those, and the table of tables of clusters. */
enum { REFCOUNTS_AT = 1, REFCOUNT_BLOCK_AT = 2, L1_AT = 3 };

#define SIZE_MAX_BYTES (UINT64_C(1) << 46)

int agent_qcow2_read(int fd, uint64_t *size_bytes, bool *backed)
{
	struct qcow2_head h = {0};
	ssize_t n = pread(fd, &h, sizeof(h), 0);

	if (n < 0)
		return -errno;
	if (n < HEAD_V2_LEN || be32toh(h.magic) != (uint32_t)MAGIC || be32toh(h.version) < 2)
		return -EINVAL;
	*size_bytes = be64toh(h.size_bytes);
	*backed = h.backing_offset != 0;
	return 0;
}

static int put(int fd, const void *data, size_t len, uint64_t at)
{
	ssize_t n = pwrite(fd, data, len, (off_t)at);

	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

int agent_qcow2_make(int fd, uint64_t size_bytes)
{
	/* An entry of that table leads to a cluster with that many entries, each of a cluster. */
	uint64_t per_entry = (uint64_t)CLUSTER / sizeof(uint64_t) * CLUSTER;
	uint64_t entries = (size_bytes + per_entry - 1) / per_entry;
	uint64_t l1_clusters = (entries * sizeof(uint64_t) + CLUSTER - 1) / CLUSTER;
	uint64_t clusters = L1_AT + l1_clusters;
	uint64_t block = htobe64((uint64_t)REFCOUNT_BLOCK_AT * CLUSTER);
	uint16_t one = htobe16(1);
	struct qcow2_head h = {
		.magic = htobe32((uint32_t)MAGIC),
		.version = htobe32(VERSION),
		.cluster_bits = htobe32(CLUSTER_BITS),
		.size_bytes = htobe64(size_bytes),
		.l1_entries = htobe32((uint32_t)entries),
		.l1_offset = htobe64((uint64_t)L1_AT * CLUSTER),
		.refcounts_offset = htobe64((uint64_t)REFCOUNTS_AT * CLUSTER),
		.refcounts_clusters = htobe32(1),
		.refcount_order = htobe32(REFCOUNT_ORDER),
		.head_len = htobe32(sizeof(h)),
	};
	int rc = 0;

	if (!size_bytes || size_bytes > SIZE_MAX_BYTES || size_bytes % SECTOR)
		return -EFBIG;
	/* Zeros where nothing is written: tables without an entry, and the end of the head's extensions. */
	if (ftruncate(fd, (off_t)(clusters * CLUSTER)))
		return -errno;
	for (uint64_t i = 0; i < clusters && !rc; i++)
		rc = put(fd, &one, sizeof(one),
			 (uint64_t)REFCOUNT_BLOCK_AT * CLUSTER + i * sizeof(one));
	if (!rc)
		rc = put(fd, &block, sizeof(block), (uint64_t)REFCOUNTS_AT * CLUSTER);
	return rc ? rc : put(fd, &h, sizeof(h), 0);
}
