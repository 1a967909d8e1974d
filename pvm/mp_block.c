#include "pvm/mp_task.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "pvm/mp_heap.h"

/* Blocks are powers of two: untouched pages cost nothing, and any block of a class fits. */
enum {
	UNIT_SHIFT = 13,
	CLASSES = 24, /* 8 KiB to 64 GiB */
	OLD_MAX = 64,
	CACHE_MAX = 64 << 20, /* of free memory that keeps its pages */
	PUNCH_MIN = 1 << 20,
};

#define NONE UINT32_MAX

/* One for each unit; that of the first unit of a block counts. */
struct meta {
	uint32_t next; /* free list */
	uint16_t leases;
	uint8_t class;
	uint8_t live;
};

static struct {
	uint8_t *seg; /* NULL: none, and nothing else here counts */
	int fd;
	struct meta *meta;
	uint32_t free[CLASSES];
	uint64_t top; /* first byte of the heap never used */
	size_t cached;
	uint32_t used_count, free_count;
	uint32_t lease_fresh; /* from here on never used */
	uint32_t returned_seen;
	uint8_t *old[OLD_MAX];
	int old_count;
	/* Last: a page of these that is not touched costs nothing when a task starts. */
	uint16_t lease_used[MP_LEASES]; /* indices of those that are out */
	uint16_t lease_free[MP_LEASES]; /* of those that came back */
	uint32_t lease_block[MP_LEASES];
	int lease_tid[MP_LEASES];
} heap;

static struct mp_seg_head *head(void)
{
	return (struct mp_seg_head *)heap.seg;
}

static const size_t meta_bytes = (MP_HEAP_BYTES >> UNIT_SHIFT) * sizeof(struct meta);

/* At the first use: many tasks send nothing large. */
static bool meta_open(void)
{
	void *m;

	if (heap.meta)
		return true;
	m = mmap(NULL, meta_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m == MAP_FAILED)
		return false;
	heap.meta = m;
	return true;
}

int mp_heap_open(void)
{
	uint64_t key;
	void *p;
	int fd;

	if (heap.old_count == OLD_MAX || getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -1;
	fd = memfd_create("pvm-task", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)MP_SEG_BYTES) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		goto err_fd;
	p = mmap(NULL, MP_SEG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED)
		goto err_fd;
	madvise(p, MP_SEG_BYTES, MADV_DONTDUMP);
	heap.seg = p;
	heap.fd = fd;
	heap.top = 0;
	heap.cached = 0;
	for (int i = 0; i < CLASSES; i++)
		heap.free[i] = NONE;
	heap.used_count = 0;
	heap.free_count = 0;
	heap.lease_fresh = 0;
	heap.returned_seen = 0;
	head()->magic = MP_SEG_MAGIC;
	head()->layout = MP_SEG_LAYOUT;
	head()->pid = (uint32_t)getpid();
	head()->key = key;
	return fd;
err_fd:
	close(fd);
	return -1;
}

void mp_heap_close(void)
{
	if (!heap.seg)
		return;
	if (heap.meta)
		munmap(heap.meta, meta_bytes);
	close(heap.fd);
	heap.old[heap.old_count++] = heap.seg;
	heap.seg = NULL;
	heap.meta = NULL;
}

void *mp_heap_seg(void)
{
	return heap.seg;
}

static bool inside(const uint8_t *seg, const void *p, size_t len)
{
	const uint8_t *b = (const uint8_t *)p, *start;

	if (!seg)
		return false;
	start = seg + MP_HEAP_AT;
	return b >= start && b < start + MP_HEAP_BYTES &&
	       len <= (size_t)(start + MP_HEAP_BYTES - b);
}

bool mp_heap_offset(const void *p, size_t len, uint64_t *off)
{
	if (!inside(heap.seg, p, len))
		return false;
	*off = (uint64_t)((const uint8_t *)p - heap.seg);
	return true;
}

static size_t class_bytes(int class)
{
	return (size_t)1 << (UNIT_SHIFT + class);
}

static int class_of(size_t size)
{
	int class = 0;

	while (class < CLASSES && class_bytes(class) < size)
		class ++;
	return class;
}

static void block_release(uint32_t unit)
{
	struct meta *m = &heap.meta[unit];
	size_t bytes = class_bytes(m->class);

	if (bytes >= PUNCH_MIN && heap.cached + bytes > CACHE_MAX)
		/* Where it fails the pages simply stay. */
		(void)!fallocate(heap.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)(MP_HEAP_AT + ((uint64_t)unit << UNIT_SHIFT)),
				 (off_t)bytes);
	else
		heap.cached += bytes;
	m->next = heap.free[m->class];
	heap.free[m->class] = unit;
}

static void lease_drop(uint32_t at)
{
	uint16_t i = heap.lease_used[at];
	struct meta *m = &heap.meta[heap.lease_block[i]];

	heap.lease_used[at] = heap.lease_used[--heap.used_count];
	heap.lease_free[heap.free_count++] = i;
	if (--m->leases == 0 && !m->live)
		block_release(heap.lease_block[i]);
}

/* What receivers gave back since the last look. */
static void reclaim(void)
{
	uint32_t now = atomic_load_explicit(&head()->returned, memory_order_acquire);

	if (now == heap.returned_seen)
		return;
	heap.returned_seen = now;
	for (uint32_t k = heap.used_count; k-- > 0;)
		if (!atomic_load_explicit(&mp_seg_lease(heap.seg, heap.lease_used[k])->held,
					  memory_order_acquire))
			lease_drop(k);
}

void mp_heap_peer_gone(int tid)
{
	for (uint32_t k = heap.used_count; heap.seg && k-- > 0;)
		if (heap.lease_tid[heap.lease_used[k]] == tid)
			lease_drop(k);
}

static uint32_t block_of(uint64_t off)
{
	uint32_t unit = (uint32_t)((off - MP_HEAP_AT) >> UNIT_SHIFT);

	/* Blocks are aligned to their size within the heap, so walking up finds the first unit. */
	for (int c = 0; c < CLASSES; c++) {
		uint32_t first = unit & ~((1u << c) - 1);

		if (heap.meta[first].class == c &&
		    (heap.meta[first].live || heap.meta[first].leases))
			return first;
	}
	return NONE;
}

int mp_heap_lease(uint64_t off, int tid, uint64_t filled)
{
	uint32_t unit = block_of(off);
	struct mp_lease *l;
	uint16_t i;

	if (!heap.free_count && heap.lease_fresh == MP_LEASES)
		reclaim();
	if ((!heap.free_count && heap.lease_fresh == MP_LEASES) || unit == NONE ||
	    heap.meta[unit].leases == UINT16_MAX)
		return -1;
	i = heap.free_count ? heap.lease_free[--heap.free_count] : (uint16_t)heap.lease_fresh++;
	heap.lease_used[heap.used_count++] = i;
	heap.lease_block[i] = unit;
	heap.lease_tid[i] = tid;
	heap.meta[unit].leases++;
	l = mp_seg_lease(heap.seg, i);
	atomic_store_explicit(&l->filled, filled, memory_order_relaxed);
	atomic_store_explicit(&l->held, 1, memory_order_release);
	return i;
}

static void *heap_alloc(size_t size)
{
	int class = class_of(size);
	size_t bytes;
	uint64_t at;
	uint32_t unit;

	if (class >= CLASSES || !meta_open())
		return NULL;
	reclaim();
	bytes = class_bytes(class);
	unit = heap.free[class];
	if (unit != NONE) {
		heap.free[class] = heap.meta[unit].next;
		heap.cached -= BASE_MIN(heap.cached, bytes);
	} else {
		at = (heap.top + bytes - 1) & ~(uint64_t)(bytes - 1);
		if (at + bytes > MP_HEAP_BYTES)
			return NULL;
		heap.top = at + bytes;
		unit = (uint32_t)(at >> UNIT_SHIFT);
	}
	heap.meta[unit] = (struct meta){.class = (uint8_t) class, .live = 1};
	return heap.seg + MP_HEAP_AT + ((uint64_t)unit << UNIT_SHIFT);
}

void *mp_block_alloc(size_t size)
{
	void *p = NULL;

	if (heap.seg && size >= MP_SHM_MIN)
		p = heap_alloc(size);
	return p ? p : malloc(size ? size : 1);
}

void mp_block_free(void *block)
{
	struct meta *m;
	uint64_t off;

	if (mp_heap_offset(block, 1, &off)) {
		m = &heap.meta[(off - MP_HEAP_AT) >> UNIT_SHIFT];
		m->live = 0;
		if (!m->leases)
			block_release((uint32_t)((off - MP_HEAP_AT) >> UNIT_SHIFT));
		return;
	}
	for (int i = 0; i < heap.old_count; i++)
		if (inside(heap.old[i], block, 1))
			return;
	free(block);
}
