#include "node/vmm/mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"

#define MEM_MIN_BYTES (UINT64_C(64) << 20)
#define MEM_MAX_BYTES (UINT64_C(1) << 45)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum { REGION_MAX = 2 };
static const size_t HUGE_BYTES = VMM_HUGE_PAGE_SIZE;

struct vmm_mem {
	uint64_t size;
	int fd;
	uint8_t *host;
	unsigned region_count;
	struct vmm_mem_region regions[REGION_MAX];
	/* NULL while no log is kept. The bitmap lives until vmm_mem_free(): a writer that saw the
	 * pointer may still be setting its bit when the log stops. */
	_Atomic(uint64_t) *dirty_words;
	_Atomic(_Atomic(uint64_t) *) dirty;
};

static void mem_lay_out(struct vmm_mem *mem)
{
	uint64_t low = BASE_MIN(mem->size, VMM_MEM_HOLE_START);

	mem->regions[0] = (struct vmm_mem_region){.gpa = 0, .len = low, .host = mem->host};
	mem->region_count = 1;
	if (mem->size > low) {
		mem->regions[1] = (struct vmm_mem_region){.gpa = VMM_MEM_HOLE_END,
							  .len = mem->size - low,
							  .fd_offset = low,
							  .host = mem->host + low};
		mem->region_count = 2;
	}
}

/* At a multiple of a huge page, as the kernel does by itself only where shared memory has them. */
static int mem_map(struct vmm_mem *mem)
{
	size_t room = mem->size + HUGE_BYTES;
	uint8_t *at =
		mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t skip, rest;

	if (at == MAP_FAILED)
		return -errno;
	skip = -(uintptr_t)at & (HUGE_BYTES - 1);
	mem->host = mmap(at + skip, mem->size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_NORESERVE | MAP_FIXED, mem->fd, 0);
	/* What this process starts has no business in the guest, and must not keep it when this one has ended. */
	if (mem->host == MAP_FAILED || madvise(mem->host, mem->size, MADV_DONTFORK)) {
		int err = -errno;

		munmap(at, room);
		return err;
	}
	rest = room - skip - mem->size;
	if (skip)
		munmap(at, skip);
	if (rest)
		munmap(at + skip + mem->size, rest);
	return 0;
}

int vmm_mem_new(uint64_t size_bytes, struct vmm_mem **out)
{
	struct vmm_mem *mem;
	int err;

	if (size_bytes < MEM_MIN_BYTES || size_bytes > MEM_MAX_BYTES || size_bytes % VMM_PAGE_SIZE)
		return -EINVAL;
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return -ENOMEM;
	mem->size = size_bytes;
	mem->fd = memfd_create("guest-memory", MFD_CLOEXEC);
	if (mem->fd < 0) {
		err = -errno;
		goto err_free;
	}
	if (ftruncate(mem->fd, (off_t)size_bytes) < 0) {
		err = -errno;
		goto err_close;
	}
	err = mem_map(mem);
	if (err)
		goto err_close;
	/* A core dump is for our own state; the guest's memory is its secret. */
	madvise(mem->host, size_bytes, MADV_DONTDUMP);
	mem_lay_out(mem);
	*out = mem;
	return 0;
err_close:
	close(mem->fd);
err_free:
	free(mem);
	return err;
}

void vmm_mem_free(struct vmm_mem *mem)
{
	if (!mem)
		return;
	munmap(mem->host, mem->size);
	close(mem->fd);
	free(mem->dirty_words);
	free(mem);
}

uint64_t vmm_mem_size(const struct vmm_mem *mem)
{
	return mem->size;
}

int vmm_mem_fd(const struct vmm_mem *mem)
{
	return mem->fd;
}

unsigned vmm_mem_region_count(const struct vmm_mem *mem)
{
	return mem->region_count;
}

const struct vmm_mem_region *vmm_mem_region_at(const struct vmm_mem *mem, unsigned index)
{
	assert(index < mem->region_count);
	return &mem->regions[index];
}

/* The region that holds `gpa`, or NULL; *room is how many bytes follow in it. */
static const struct vmm_mem_region *mem_find(const struct vmm_mem *mem, uint64_t gpa,
					     uint64_t *room)
{
	for (unsigned i = 0; i < mem->region_count; i++) {
		const struct vmm_mem_region *r = &mem->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->len) {
			*room = r->len - (gpa - r->gpa);
			return r;
		}
	}
	return NULL;
}

void *vmm_mem_ptr(const struct vmm_mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t room;
	const struct vmm_mem_region *r = mem_find(mem, gpa, &room);

	return r && len <= room ? r->host + (gpa - r->gpa) : NULL;
}

/* True when every byte of the range is RAM. */
static bool mem_all_ram(const struct vmm_mem *mem, uint64_t gpa, uint64_t len)
{
	while (len > 0) {
		uint64_t room;

		if (!mem_find(mem, gpa, &room))
			return false;
		room = BASE_MIN(room, len);
		gpa += room;
		len -= room;
	}
	return true;
}

int vmm_mem_read(const struct vmm_mem *mem, uint64_t gpa, void *out, size_t len)
{
	uint8_t *to = out;

	if (!mem_all_ram(mem, gpa, len))
		return -EFAULT;
	while (len > 0) {
		uint64_t room = 0;
		const struct vmm_mem_region *r = mem_find(mem, gpa, &room);
		size_t n = BASE_MIN(room, len);

		memcpy(to, r->host + (gpa - r->gpa), n);
		to += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

int vmm_mem_write(struct vmm_mem *mem, uint64_t gpa, const void *data, size_t len)
{
	const uint8_t *from = data;

	if (!mem_all_ram(mem, gpa, len))
		return -EFAULT;
	while (len > 0) {
		uint64_t room = 0;
		const struct vmm_mem_region *r = mem_find(mem, gpa, &room);
		size_t n = BASE_MIN(room, len);

		memcpy(r->host + (gpa - r->gpa), from, n);
		vmm_mem_dirty(mem, gpa, n);
		from += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

int vmm_mem_clear(struct vmm_mem *mem)
{
	if (fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)mem->size) < 0)
		return -errno;
	for (unsigned i = 0; i < mem->region_count; i++)
		vmm_mem_dirty(mem, mem->regions[i].gpa, mem->regions[i].len);
	return 0;
}

void vmm_mem_populate_huge(struct vmm_mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t room, start, end;
	const struct vmm_mem_region *r = mem_find(mem, gpa, &room);

	if (!r || len == 0)
		return;
	start = (gpa - r->gpa) & ~(uint64_t)(HUGE_BYTES - 1);
	end = (gpa - r->gpa + BASE_MIN(len, room) + HUGE_BYTES - 1) & ~(uint64_t)(HUGE_BYTES - 1);
	end = BASE_MIN(end, r->len & ~(uint64_t)(HUGE_BYTES - 1));
	if (start < end) {
		int rc = vmm_mem_make_huge(r->host + start, end - start);

		if (rc)
			log_debug("memory: no huge pages: %s", strerror(-rc));
	}
}

int vmm_mem_make_huge(uint8_t *host, uint64_t len)
{
	/* One page must be there, or there is no page table that could be collapsed. */
	for (uint64_t at = 0; at < len; at += HUGE_BYTES)
		(void)*(volatile uint8_t *)(host + at);
	return madvise(host, len, MADV_COLLAPSE) < 0 ? -errno : 0;
}

static size_t mem_dirty_words(const struct vmm_mem *mem)
{
	return (mem->size / VMM_PAGE_SIZE + 63) / 64;
}

void vmm_mem_dirty(struct vmm_mem *mem, uint64_t gpa, uint64_t len)
{
	_Atomic(uint64_t) *bits = atomic_load_explicit(&mem->dirty, memory_order_acquire);
	const struct vmm_mem_region *r;
	uint64_t room, first, last;

	if (!bits || len == 0)
		return;
	r = mem_find(mem, gpa, &room);
	if (!r)
		return;
	first = (r->fd_offset + (gpa - r->gpa)) / VMM_PAGE_SIZE;
	last = (r->fd_offset + (gpa - r->gpa) + BASE_MIN(len, room) - 1) / VMM_PAGE_SIZE;
	for (uint64_t page = first; page <= last; page++)
		atomic_fetch_or_explicit(&bits[page / 64], UINT64_C(1) << (page % 64),
					 memory_order_release);
}

int vmm_mem_dirty_start(struct vmm_mem *mem)
{
	if (!mem->dirty_words) {
		mem->dirty_words = calloc(mem_dirty_words(mem), sizeof(*mem->dirty_words));
		if (!mem->dirty_words)
			return -ENOMEM;
	}
	for (size_t i = 0; i < mem_dirty_words(mem); i++)
		atomic_store_explicit(&mem->dirty_words[i], 0, memory_order_relaxed);
	atomic_store_explicit(&mem->dirty, mem->dirty_words, memory_order_release);
	return 0;
}

void vmm_mem_dirty_stop(struct vmm_mem *mem)
{
	atomic_store_explicit(&mem->dirty, NULL, memory_order_release);
}

void vmm_mem_dirty_fetch_and_clear(struct vmm_mem *mem, uint64_t *bitmap)
{
	assert(mem->dirty_words);
	for (size_t i = 0; i < mem_dirty_words(mem); i++)
		bitmap[i] = atomic_exchange_explicit(&mem->dirty_words[i], 0, memory_order_acq_rel);
}
