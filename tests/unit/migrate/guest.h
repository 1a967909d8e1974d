/* A guest made of memory, a disk and a writer thread, and its migration between two engines in one process. */
#ifndef TESTS_MIGRATE_GUEST_H
#define TESTS_MIGRATE_GUEST_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "migrate/migrate.h"

enum { PAGES = 3000, WORDS = (PAGES + 63) / 64, CHANNELS = 2, BLOCKS = 1500 };

struct guest {
	struct mig_memory memory;
	uint8_t *bytes;
	_Atomic uint64_t dirty[WORDS];
	pthread_t writer;
	bool has_writer;
	atomic_uint sleep_us;
	atomic_bool stop, logging;
	pthread_mutex_t writing; /* held by the writer for each write */
	pthread_cond_t resumed;
	atomic_bool paused; /* set before the lock is asked for, which is not fair */
	int runs, loads, fail_load;
	char journal[32], state[32];
	int uffd, pauses;
	bool fills, restless;
	pthread_t reader; /* the guest at the destination: looks at all its memory */
	bool reading;
	uint64_t sum;
};

static struct guest src, dst;
static struct mig_params params;

/* A disk that moves along, in some tests. */
static struct {
	pthread_mutex_t lock;
	uint8_t src[BLOCKS][MIG_PAGE_SIZE], dst[BLOCKS][MIG_PAGE_SIZE];
	bool there, written[BLOCKS];
	unsigned reads, zeroed, read_error_at, write_error_at;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};
static int src_fds[1 + CHANNELS], dst_fds[1 + CHANNELS];

/* ---- the guest ---- */

static inline void guest_init(struct guest *g)
{
	memset((void *)g, 0, sizeof(*g));
	pthread_mutex_init(&g->writing, NULL);
	pthread_cond_init(&g->resumed, NULL);
	g->uffd = -1;
	g->bytes = mmap(NULL, (size_t)PAGES * MIG_PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(g->bytes != MAP_FAILED);
	g->memory = (struct mig_memory){
		.regions = {{g->bytes, 1000}, {g->bytes + 1000 * MIG_PAGE_SIZE, PAGES - 1000}},
		.region_count = 2,
	};
}

/* Races with the engine on purpose, as a real guest does. */
__attribute__((no_sanitize("thread"))) static void scribble(uint8_t *page, uint64_t value)
{
	for (int i = 0; i < MIG_PAGE_SIZE; i += 512)
		*(volatile uint64_t *)(page + i) = value;
}

static inline void *writer_main(void *arg)
{
	struct guest *g = arg;
	struct base_rng rng;

	base_rng_seed(&rng, 1);
	while (!atomic_load(&g->stop)) {
		size_t i = base_rng_below(&rng, PAGES / 4);

		pthread_mutex_lock(&g->writing);
		while (atomic_load(&g->paused) && !atomic_load(&g->stop))
			pthread_cond_wait(&g->resumed, &g->writing);
		if (!atomic_load(&g->paused)) {
			/* Some pages go back to what they were. */
			scribble(g->bytes + i * MIG_PAGE_SIZE, base_rng_below(&rng, 3));
			atomic_fetch_or(&g->dirty[i / 64], UINT64_C(1) << (i % 64));
		}
		pthread_mutex_unlock(&g->writing);
		if (g->sleep_us)
			usleep(g->sleep_us);
	}
	return NULL;
}

static inline void start_writer(unsigned sleep_us)
{
	src.sleep_us = sleep_us;
	src.has_writer = true;
	assert_int_equal(pthread_create(&src.writer, NULL, writer_main, &src), 0);
}

static inline int g_dirty_start(void *guest)
{
	atomic_store(&src.logging, true);
	return 0;
}

static inline int g_dirty_fetch(void *guest, uint64_t *bitmap)
{
	for (int i = 0; i < WORDS; i++)
		bitmap[i] |= atomic_exchange(&src.dirty[i], 0);
	bitmap[0] |= src.restless;
	pthread_mutex_lock(&disk.lock);
	for (unsigned i = PAGES; disk.there && i < PAGES + BLOCKS; i++) {
		bitmap[i / 64] |= (uint64_t)disk.written[i - PAGES] << (i % 64);
		disk.written[i - PAGES] = false;
	}
	pthread_mutex_unlock(&disk.lock);
	return 0;
}

static inline void g_dirty_stop(void *guest)
{
	atomic_store(&src.logging, false);
}

static inline int g_touched(void *guest, uint64_t *bitmap)
{
	/* All but the last thousand pages, which nobody ever wrote. */
	for (int i = 0; i < PAGES - 1000; i++)
		bitmap[i / 64] |= UINT64_C(1) << (i % 64);
	/* The last hundred blocks are a hole. */
	for (int i = PAGES; disk.there && i < PAGES + BLOCKS - 100; i++)
		bitmap[i / 64] |= UINT64_C(1) << (i % 64);
	return 0;
}

/* The guest writes a block elsewhere with every tenth that is read; some become zeros. */
static inline int g_block_read(void *guest, uint64_t index, void *page)
{
	int rc = 0;

	pthread_mutex_lock(&disk.lock);
	if (++disk.reads == disk.read_error_at)
		rc = -EIO;
	memcpy(page, disk.src[index - PAGES], MIG_PAGE_SIZE);
	if (disk.reads % 10 == 0 && disk.reads < 3 * BLOCKS && !atomic_load(&src.paused)) {
		unsigned to = disk.reads * 7 % BLOCKS;

		memset(disk.src[to], disk.reads % 20 ? (int)disk.reads : 0, MIG_PAGE_SIZE);
		disk.written[to] = true;
	}
	pthread_mutex_unlock(&disk.lock);
	return rc;
}

static inline int d_blocks_write(void *guest, uint64_t index, unsigned count, const void *pages)
{
	int rc = 0;

	pthread_mutex_lock(&disk.lock);
	if (index < PAGES || index - PAGES + count > BLOCKS)
		rc = -EINVAL;
	else if (disk.write_error_at && index - PAGES >= disk.write_error_at)
		rc = -ENOSPC;
	else if (pages)
		memcpy(disk.dst[index - PAGES], pages, (size_t)count * MIG_PAGE_SIZE);
	else
		memset(disk.dst[index - PAGES], 0, (size_t)count * MIG_PAGE_SIZE);
	disk.zeroed += !pages;
	pthread_mutex_unlock(&disk.lock);
	return rc;
}

static inline int g_pause(void *guest)
{
	atomic_store(&src.paused, true);
	/* The write that is under way. */
	pthread_mutex_lock(&src.writing);
	pthread_mutex_unlock(&src.writing);
	return 0;
}

static inline int g_resume(void *guest)
{
	src.runs++;
	pthread_mutex_lock(&src.writing);
	atomic_store(&src.paused, false);
	pthread_cond_broadcast(&src.resumed);
	pthread_mutex_unlock(&src.writing);
	return 0;
}

static inline int g_save(void *guest, struct base_wbuf *out)
{
	base_wbuf_str(out, "registers");
	return 0;
}

/* A guess, and so it may be anything. */
static inline unsigned g_hot(void *guest, uint64_t *index, unsigned max)
{
	unsigned n = 0;

	index[n++] = PAGES;
	index[n++] = UINT64_MAX;
	for (uint64_t i = PAGES; i-- > PAGES - 100;)
		index[n++] = i;
	index[n++] = PAGES - 1;
	assert_true(n <= max);
	return n;
}

static inline void g_throttle(void *guest, unsigned percent)
{
	src.sleep_us = percent ? 200 : 0;
}

static inline int g_journal(void *guest, const char *entry)
{
	snprintf(((struct guest *)guest)->journal, 32, "%s", entry);
	return 0;
}

static inline int d_check(void *guest, const void *config, size_t len, char *why)
{
	if (len == 4 && !memcmp(config, "same", 4))
		return 0;
	snprintf(why, MIG_TEXT_MAX, "cpu differs");
	return -ENOTSUP;
}

static inline int d_load(void *guest, const void *state, size_t len)
{
	struct base_rbuf r;

	if (dst.fail_load && dst.fail_load-- > 0)
		return -EPROTO;
	base_rbuf_init(&r, state, len);
	base_rbuf_str(&r, dst.state, sizeof(dst.state));
	dst.loads++;
	return base_rbuf_end(&r);
}

/* From the last page down, against the order in which they are pushed. */
static inline void *reader_main(void *arg)
{
	struct guest *g = arg;
	uint64_t sum = 0;

	for (size_t i = PAGES; i-- > 0;)
		sum = sum * 31 + *(volatile uint64_t *)(g->bytes + i * MIG_PAGE_SIZE + 512);
	g->sum = sum;
	return NULL;
}

static inline int d_run(void *guest)
{
	dst.runs++;
	if (dst.fills && !dst.reading)
		dst.reading = !pthread_create(&dst.reader, NULL, reader_main, &dst);
	return 0;
}

/* ---- memory that is still away ---- */

static inline bool d_can_fill(void *guest)
{
	return dst.fills;
}

static inline int d_discard(void *guest, uint64_t index, uint64_t count)
{
	return madvise(dst.bytes + index * MIG_PAGE_SIZE, count * MIG_PAGE_SIZE, MADV_DONTNEED)
		       ? -errno
		       : 0;
}

static inline int d_fill_start(void *guest, int *fd)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register r = {
		.range = {(uintptr_t)dst.bytes, (size_t)PAGES * MIG_PAGE_SIZE},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	dst.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (dst.uffd < 0 || ioctl(dst.uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(dst.uffd, UFFDIO_REGISTER, &r) < 0)
		return -errno;
	*fd = dst.uffd;
	return 0;
}

static inline int d_faults(void *guest, uint64_t *index, unsigned max)
{
	struct uffd_msg m;
	unsigned n = 0;

	while (n < max && read(dst.uffd, &m, sizeof(m)) == sizeof(m))
		index[n++] = (m.arg.pagefault.address - (uintptr_t)dst.bytes) / MIG_PAGE_SIZE;
	return (int)n;
}

static inline int d_fill(void *guest, uint64_t index, const void *page)
{
	static const uint8_t zeros[MIG_PAGE_SIZE];
	struct uffdio_copy c = {.dst = (uintptr_t)dst.bytes + index * MIG_PAGE_SIZE,
				.src = (uintptr_t)(page ? page : zeros),
				.len = MIG_PAGE_SIZE};

	return ioctl(dst.uffd, UFFDIO_COPY, &c) < 0 && errno != EEXIST ? -errno : 0;
}

static inline void d_fill_stop(void *guest)
{
	struct uffdio_range r = {(uintptr_t)dst.bytes, (size_t)PAGES * MIG_PAGE_SIZE};

	assert_int_equal(ioctl(dst.uffd, UFFDIO_UNREGISTER, &r), 0);
	assert_int_equal(ioctl(dst.uffd, UFFDIO_WAKE, &r), 0);
}

static inline int d_pause(void *guest)
{
	dst.pauses++;
	return 0;
}

static const struct mig_source_ops src_ops = {
	.dirty_start = g_dirty_start,
	.dirty_fetch = g_dirty_fetch,
	.dirty_stop = g_dirty_stop,
	.touched = g_touched,
	.pause = g_pause,
	.resume = g_resume,
	.save = g_save,
	.hot = g_hot,
	.throttle = g_throttle,
	.journal = g_journal,
	.block_read = g_block_read,
};
static const struct mig_dest_ops dst_ops = {
	.check = d_check,
	.load = d_load,
	.run = d_run,
	.journal = g_journal,
	.blocks_write = d_blocks_write,
	.can_fill = d_can_fill,
	.discard = d_discard,
	.fill_start = d_fill_start,
	.faults = d_faults,
	.fill = d_fill,
	.fill_stop = d_fill_stop,
	.pause = d_pause,
};

/* ---- one migration ---- */

struct result {
	int src, dst;
	struct mig_progress progress;
	char why[MIG_TEXT_MAX];
};

static inline void *dest_main(void *arg)
{
	struct mig_dest *d = arg;

	return (void *)(intptr_t)mig_dest_run(d);
}

static inline void pairs(void)
{
	for (int i = 0; i <= CHANNELS; i++) {
		int sv[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
		src_fds[i] = sv[0];
		dst_fds[i] = sv[1];
		assert_int_equal(mig_socket_prepare(sv[0], params.stall_ms), 0);
		assert_int_equal(mig_socket_prepare(sv[1], params.stall_ms), 0);
	}
}

static inline struct result migrate_with(const struct mig_params *dst_params, const char *config,
					 void (*meanwhile)(struct mig_source *s))
{
	struct result r = {0};
	struct mig_source *s;
	struct mig_dest *d;
	pthread_t t;
	void *dst_rc;

	assert_int_equal(mig_source_new(&params, &src.memory, &src_ops, &src, config,
					strlen(config), src_fds, &s),
			 0);
	assert_int_equal(mig_dest_new(dst_params, &dst.memory, &dst_ops, &dst, dst_fds, &d), 0);
	assert_int_equal(pthread_create(&t, NULL, dest_main, d), 0);
	if (meanwhile)
		meanwhile(s);
	r.src = mig_source_run(s);
	mig_source_progress(s, &r.progress);
	mig_source_free(s);
	pthread_join(t, &dst_rc);
	r.dst = (int)(intptr_t)dst_rc;
	snprintf(r.why, sizeof(r.why), "%s", mig_dest_error(d));
	mig_dest_free(d);
	return r;
}

static inline struct result migrate(void)
{
	return migrate_with(&params, "same", NULL);
}

enum { STALL_MS = 30000 }; /* the machine may be busy */

static unsigned stall_ms = STALL_MS;

static inline int setup(void **state)
{
	struct base_rng rng;

	guest_init(&src);
	guest_init(&dst);
	base_rng_seed(&rng, 42);
	for (size_t i = 0; i < PAGES - 1000; i++)
		for (int j = 0; j < MIG_PAGE_SIZE && i % 3; j += 8)
			*(uint64_t *)(src.bytes + i * MIG_PAGE_SIZE + j) = base_rng_next(&rng);
	mig_params_default(&params);
	params.channels = CHANNELS;
	params.stall_ms = stall_ms;
	memset(params.key, 7, sizeof(params.key));
	pairs();
	return 0;
}

static inline int teardown(void **state)
{
	pthread_mutex_lock(&src.writing);
	atomic_store(&src.stop, true);
	pthread_cond_broadcast(&src.resumed);
	pthread_mutex_unlock(&src.writing);
	if (src.has_writer)
		pthread_join(src.writer, NULL);
	munmap(src.bytes, (size_t)PAGES * MIG_PAGE_SIZE);
	/* Wakes a reader that still waits after a failure. */
	if (dst.uffd >= 0)
		close(dst.uffd);
	if (dst.reading)
		pthread_join(dst.reader, NULL);
	munmap(dst.bytes, (size_t)PAGES * MIG_PAGE_SIZE);
	return 0;
}

static inline void check_moved(const struct result *r)
{
	if (r->src || r->dst)
		print_message("source: %s; destination: %s\n", r->progress.error, r->why);
	assert_int_equal(r->src, 0);
	assert_int_equal(r->dst, 0);
	assert_int_equal(r->progress.state, MIG_SRC_DONE);
	assert_int_equal(dst.runs, 1);
	assert_int_equal(src.runs, 0);
	assert_string_equal(dst.state, "registers");
	assert_string_equal(dst.journal, "committed");
	assert_memory_equal(src.bytes, dst.bytes, (size_t)PAGES * MIG_PAGE_SIZE);
}

/* The source runs as before, the destination never did. */
static inline void check_stayed(const struct result *r, int was_paused)
{
	assert_true(r->src < 0 && r->src != -EINPROGRESS);
	assert_true(r->dst < 0);
	assert_int_equal(r->progress.state, MIG_SRC_FAILED);
	assert_int_equal(dst.runs, 0);
	assert_int_equal(src.runs, was_paused);
	assert_string_equal(dst.journal, "aborted");
	assert_true(r->progress.error[0]);
	assert_false(atomic_load(&src.logging));
}

#endif
