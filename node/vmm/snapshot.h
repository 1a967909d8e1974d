/*
 * The stream of a saved machine: a header, then sections {name, instance, version, length, XXH3 of
 * all this and the payload}. Little-endian. Each section is whole or refused. Also what live
 * migration sends for the devices.
 *
 *   header   8 bytes "PANGAEAV", u32 stream version (1), u32 flags (0)
 *   section  24 bytes name padded with 0, u32 instance, u32 version, u64 length, u64 checksum
 *
 * The last section, "end", holds the digest of all sections before it in their order, so that one that
 * is missing, double or displaced is noticed. A checkpoint file of an agent has the stream behind a head
 * of VMM_SNAP_CHECKPOINT_BYTES that starts with VMM_SNAP_CHECKPOINT_MAGIC.
 */
#ifndef VMM_SNAPSHOT_H
#define VMM_SNAPSHOT_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "node/vmm/mem.h"

#define VMM_SNAP_CHECKPOINT_MAGIC "PANGAEAC"

enum {
	VMM_SNAP_CHECKPOINT_BYTES = 64 << 10,
	VMM_SNAP_VERSION = 1,
	VMM_SNAP_NAME_MAX = 24, /* with at least one 0 */
	VMM_SNAP_SECTION_MAX = 4 << 20,
	VMM_SNAP_RUN_PAGES = 256, /* most pages in one section of memory */
};

struct vmm_snap_section {
	char name[VMM_SNAP_NAME_MAX];
	uint32_t instance, version;
	uint64_t checksum;
	uint8_t *data; /* grows; free(3) at the end */
	size_t len, cap;
};

/* -errno of write(2); the descriptor may be a file, a pipe or a socket. digest may be NULL. */
BASE_MUST_CHECK int vmm_snap_write_header(int fd);
BASE_MUST_CHECK int vmm_snap_write(int fd, const char *name, uint32_t instance, uint32_t version,
				   const void *data, size_t len, uint64_t *digest);
/* All of memory that is not zero, as sections "memory": u64 gpa, then pages. Nobody may write it. */
BASE_MUST_CHECK int vmm_snap_write_memory(int fd, const struct vmm_mem *mem, uint64_t *digest);
/* The same while the guest writes: through a copy, so that checksums fit. */
BASE_MUST_CHECK int vmm_snap_write_memory_live(int fd, const struct vmm_mem *mem, uint64_t *digest);
/* The pages of a bitmap (in memfd order), zero or not. */
BASE_MUST_CHECK int vmm_snap_write_pages(int fd, const struct vmm_mem *mem, const uint64_t *bitmap,
					 uint64_t *digest);
/* Goes on the digest of the sections before with the checksum of one more. */
uint64_t vmm_snap_digest(uint64_t digest, uint64_t checksum);

/* -EBADMSG: not such a stream, cut off, or damaged; -EPROTONOSUPPORT: of another version. */
BASE_MUST_CHECK int vmm_snap_read_header(int fd);
BASE_MUST_CHECK int vmm_snap_read(int fd, struct vmm_snap_section *s);
/* Takes one section "memory". -EBADMSG where it is not RAM. */
BASE_MUST_CHECK int vmm_snap_load_memory(const struct vmm_snap_section *s, struct vmm_mem *mem);

#endif
