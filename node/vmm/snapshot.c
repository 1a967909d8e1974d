#include "node/vmm/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

static const char stream_magic[8] = "PANGAEAV";

enum { HEADER_BYTES = 16, SECTION_BYTES = 48, CHECKSUM_AT = 40 };

/* ---- bytes ---- */

static int write_all(int fd, struct iovec *iov, int count)
{
	while (count > 0) {
		ssize_t n = writev(fd, iov, count);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		while (count > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

static int read_all(int fd, void *out, size_t len)
{
	uint8_t *p = out;

	while (len > 0) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EBADMSG;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static void put_le(uint8_t *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

/* Over the section's header up to the checksum, then the payload in one or two parts. */
static uint64_t checksum(const uint8_t *head, const struct iovec *parts, int count)
{
	XXH3_state_t state;

	XXH3_INITSTATE(&state);
	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, head, CHECKSUM_AT);
	for (int i = 0; i < count; i++)
		XXH3_64bits_update(&state, parts[i].iov_base, parts[i].iov_len);
	return XXH3_64bits_digest(&state);
}

/* ---- writing ---- */

int vmm_snap_write_header(int fd)
{
	uint8_t head[HEADER_BYTES] = {0};
	struct iovec iov = {head, sizeof(head)};

	memcpy(head, stream_magic, sizeof(stream_magic));
	put_le(head + 8, VMM_SNAP_VERSION, 4);
	return write_all(fd, &iov, 1);
}

uint64_t vmm_snap_digest(uint64_t digest, uint64_t checksum_)
{
	uint64_t both[2] = {digest, checksum_};

	return XXH3_64bits(both, sizeof(both));
}

static int section_write(int fd, const char *name, uint32_t instance, uint32_t version,
			 const struct iovec *parts, int count, uint64_t *digest)
{
	uint64_t sum;
	uint8_t head[SECTION_BYTES] = {0};
	struct iovec iov[3] = {{head, sizeof(head)}};
	size_t len = 0;

	assert(count <= 2 && strlen(name) < VMM_SNAP_NAME_MAX);
	for (int i = 0; i < count; i++) {
		iov[i + 1] = parts[i];
		len += parts[i].iov_len;
	}
	if (len > VMM_SNAP_SECTION_MAX)
		return -E2BIG;
	memcpy(head, name, strlen(name));
	put_le(head + 24, instance, 4);
	put_le(head + 28, version, 4);
	put_le(head + 32, len, 8);
	sum = checksum(head, parts, count);
	put_le(head + CHECKSUM_AT, sum, 8);
	if (digest)
		*digest = vmm_snap_digest(*digest, sum);
	return write_all(fd, iov, count + 1);
}

int vmm_snap_write(int fd, const char *name, uint32_t instance, uint32_t version, const void *data,
		   size_t len, uint64_t *digest)
{
	struct iovec part = {(void *)(uintptr_t)data, len};

	return section_write(fd, name, instance, version, &part, len ? 1 : 0, digest);
}

static bool page_is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, VMM_PAGE_SIZE - 1) == 0;
}

struct writer {
	int fd;
	uint64_t *digest;
	uint8_t *copy; /* VMM_SNAP_RUN_PAGES, or NULL: the guest is still */
};

static int write_run(const struct writer *w, uint64_t gpa, const uint8_t *host, uint64_t len)
{
	uint8_t addr[8];
	struct iovec parts[2] = {{addr, sizeof(addr)}, {(void *)(uintptr_t)host, len}};

	if (w->copy) {
		memcpy(w->copy, host, len);
		parts[1].iov_base = w->copy;
	}
	put_le(addr, gpa, 8);
	return section_write(w->fd, "memory", 0, 1, parts, 2, w->digest);
}

/* One region's bytes [from, to), which are not holes of the memfd. */
static int write_range(const struct writer *w, const struct vmm_mem_region *r, uint64_t from,
		       uint64_t to)
{
	while (from < to) {
		uint64_t run = 0, most = BASE_MIN(to - from, VMM_SNAP_RUN_PAGES * VMM_PAGE_SIZE);
		int err;

		while (run < most && !page_is_zero(r->host + from + run))
			run += VMM_PAGE_SIZE;
		if (run == 0) {
			from += VMM_PAGE_SIZE;
			continue;
		}
		err = write_run(w, r->gpa + from, r->host + from, run);
		if (err)
			return err;
		from += run;
	}
	return 0;
}

static int write_region(const struct writer *w, int memfd, const struct vmm_mem_region *r)
{
	uint64_t at = r->fd_offset, end = r->fd_offset + r->len;

	while (at < end) {
		off_t data = lseek(memfd, (off_t)at, SEEK_DATA), hole;
		int err;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return -errno;
		if ((uint64_t)data >= end)
			return 0;
		hole = lseek(memfd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		err = write_range(w, r, (uint64_t)data - r->fd_offset,
				  BASE_MIN((uint64_t)hole, end) - r->fd_offset);
		if (err)
			return err;
		at = (uint64_t)hole;
	}
	return 0;
}

static int write_regions(const struct writer *w, const struct vmm_mem *mem)
{
	int err = 0;

	for (unsigned i = 0; i < vmm_mem_region_count(mem) && !err; i++)
		err = write_region(w, vmm_mem_fd(mem), vmm_mem_region_at(mem, i));
	return err;
}

int vmm_snap_write_memory(int fd, const struct vmm_mem *mem, uint64_t *digest)
{
	struct writer w = {.fd = fd, .digest = digest};

	return write_regions(&w, mem);
}

int vmm_snap_write_memory_live(int fd, const struct vmm_mem *mem, uint64_t *digest)
{
	BASE_AUTO_FREE uint8_t *copy = malloc(VMM_SNAP_RUN_PAGES * VMM_PAGE_SIZE);
	struct writer w = {.fd = fd, .digest = digest, .copy = copy};

	return copy ? write_regions(&w, mem) : -ENOMEM;
}

static bool bit(const uint64_t *bitmap, uint64_t i)
{
	return bitmap[i / 64] >> (i % 64) & 1;
}

static int write_region_pages(const struct writer *w, const struct vmm_mem_region *r,
			      const uint64_t *bitmap)
{
	uint64_t first = r->fd_offset / VMM_PAGE_SIZE, count = r->len / VMM_PAGE_SIZE;

	for (uint64_t i = 0; i < count;) {
		uint64_t run = 0;
		int err;

		while (i + run < count && run < VMM_SNAP_RUN_PAGES && bit(bitmap, first + i + run))
			run++;
		if (!run) {
			i++;
			continue;
		}
		err = write_run(w, r->gpa + i * VMM_PAGE_SIZE, r->host + i * VMM_PAGE_SIZE,
				run * VMM_PAGE_SIZE);
		if (err)
			return err;
		i += run;
	}
	return 0;
}

int vmm_snap_write_pages(int fd, const struct vmm_mem *mem, const uint64_t *bitmap,
			 uint64_t *digest)
{
	BASE_AUTO_FREE uint8_t *copy = malloc(VMM_SNAP_RUN_PAGES * VMM_PAGE_SIZE);
	struct writer w = {.fd = fd, .digest = digest, .copy = copy};
	int err = copy ? 0 : -ENOMEM;

	for (unsigned i = 0; i < vmm_mem_region_count(mem) && !err; i++)
		err = write_region_pages(&w, vmm_mem_region_at(mem, i), bitmap);
	return err;
}

/* ---- reading ---- */

int vmm_snap_read_header(int fd)
{
	uint8_t head[HEADER_BYTES];
	int err = read_all(fd, head, sizeof(head));

	if (err)
		return err;
	if (memcmp(head, stream_magic, sizeof(stream_magic)) != 0)
		return -EBADMSG;
	if (get_le(head + 8, 4) != VMM_SNAP_VERSION || get_le(head + 12, 4) != 0)
		return -EPROTONOSUPPORT;
	return 0;
}

static int section_grow(struct vmm_snap_section *s, size_t len)
{
	uint8_t *p;

	if (len <= s->cap)
		return 0;
	p = realloc(s->data, len);
	if (!p)
		return -ENOMEM;
	s->data = p;
	s->cap = len;
	return 0;
}

int vmm_snap_read(int fd, struct vmm_snap_section *s)
{
	uint8_t head[SECTION_BYTES];
	struct iovec part;
	uint64_t len;
	int err = read_all(fd, head, sizeof(head));

	if (err)
		return err;
	len = get_le(head + 32, 8);
	if (len > VMM_SNAP_SECTION_MAX || head[VMM_SNAP_NAME_MAX - 1] != 0)
		return -EBADMSG;
	err = section_grow(s, len);
	if (err)
		return err;
	err = read_all(fd, s->data, len);
	if (err)
		return err;
	part = (struct iovec){s->data, len};
	s->checksum = get_le(head + CHECKSUM_AT, 8);
	if (checksum(head, &part, len ? 1 : 0) != s->checksum)
		return -EBADMSG;
	memcpy(s->name, head, VMM_SNAP_NAME_MAX);
	s->instance = (uint32_t)get_le(head + 24, 4);
	s->version = (uint32_t)get_le(head + 28, 4);
	s->len = len;
	return 0;
}

int vmm_snap_load_memory(const struct vmm_snap_section *s, struct vmm_mem *mem)
{
	uint64_t gpa;

	if (s->version != 1)
		return -EPROTO;
	if (s->len < 8 || (s->len - 8) % VMM_PAGE_SIZE)
		return -EBADMSG;
	gpa = get_le(s->data, 8);
	if (gpa % VMM_PAGE_SIZE || vmm_mem_write(mem, gpa, s->data + 8, s->len - 8) < 0)
		return -EBADMSG;
	return 0;
}
