/* Shared by boot.c, boot_elf.c, boot_unpack.c. */
#ifndef VMM_BOOT_INTERNAL_H
#define VMM_BOOT_INTERNAL_H

#include "node/vmm/boot.h"

enum { BOOT_PHDR_MAX = 64, BOOT_HEAD_MAX = 65536, BOOT_CHUNK = 65536 };

#define BOOT_LOW_END	  UINT64_C(0x100000)
#define BOOT_UNPACKED_MAX (UINT64_C(1) << 30)

/* One line for people. Returns `err`, so that a refusal is one statement. */
struct boot_why {
	const char *file;
	char *text;
	size_t cap;
};
int boot_refuse(const struct boot_why *why, int err, const char *fmt, ...) BASE_PRINTF(3, 4);

/* Bytes [pos, end) of a file. */
struct boot_src {
	int fd;
	uint64_t pos, end;
};
/* Fills `buf` unless the range ends before: bytes read, or -errno. */
ssize_t boot_src_read(struct boot_src *src, void *buf, size_t len);
/* Exactly `len` bytes at `off`: 0, -EBADMSG where the file is shorter, or -errno. */
BASE_MUST_CHECK int boot_src_pread(int fd, void *buf, size_t len, uint64_t off);

/*
 * Takes an ELF file as a stream and puts its segments where they belong, so that an unpacked
 * kernel never exists twice.
 */
struct boot_elf {
	struct vmm_mem *mem;
	const struct boot_why *why;
	bool clear;   /* what a segment has beyond the file: memory is not new */
	uint64_t pos; /* bytes of the file seen so far */
	uint8_t *head;
	size_t head_len, head_need; /* the ELF header and the table behind it */
	bool parsed;
	struct boot_segment {
		uint64_t file, gpa, len;
	} loads[BOOT_PHDR_MAX];
	unsigned load_count;
	uint64_t note_file;
	size_t note_len;
	uint8_t *note;
	uint64_t file_end; /* of all that we need */
	uint64_t entry, gpa_end;
};
BASE_MUST_CHECK int boot_elf_init(struct boot_elf *elf, struct vmm_mem *mem,
				  const struct boot_why *why);
void boot_elf_fini(struct boot_elf *elf);
BASE_MUST_CHECK int boot_elf_feed(struct boot_elf *elf, const uint8_t *data, size_t len);
static inline bool boot_elf_complete(const struct boot_elf *elf)
{
	return elf->parsed && elf->pos >= elf->file_end;
}
/* All was fed: checks that nothing was missing. */
BASE_MUST_CHECK int boot_elf_finish(const struct boot_elf *elf);
/* The 32-bit entry of a PVH note; false without one. */
bool boot_elf_pvh(const struct boot_elf *elf, uint32_t *entry);

enum boot_packing {
	BOOT_PACK_UNKNOWN,
	BOOT_PACK_LZ4,
	BOOT_PACK_XZ,
	BOOT_PACK_ZSTD,
	BOOT_PACK_GZIP
};
/* What the first bytes say. */
enum boot_packing boot_unpack_kind(const uint8_t magic[6]);
/* Unpacks all of `src` into `elf`. */
BASE_MUST_CHECK int boot_unpack(enum boot_packing kind, struct boot_src *src, struct boot_elf *elf);

#endif
