/* Migrates a guest made of memory and a writer thread between two engines in one process. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
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

static void guest_init(struct guest *g)
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

static void *writer_main(void *arg)
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

static void start_writer(unsigned sleep_us)
{
	src.sleep_us = sleep_us;
	src.has_writer = true;
	assert_int_equal(pthread_create(&src.writer, NULL, writer_main, &src), 0);
}

static int g_dirty_start(void *guest)
{
	atomic_store(&src.logging, true);
	return 0;
}

static int g_dirty_fetch(void *guest, uint64_t *bitmap)
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

static void g_dirty_stop(void *guest)
{
	atomic_store(&src.logging, false);
}

static int g_touched(void *guest, uint64_t *bitmap)
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
static int g_block_read(void *guest, uint64_t index, void *page)
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

static int d_blocks_write(void *guest, uint64_t index, unsigned count, const void *pages)
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

static int g_pause(void *guest)
{
	atomic_store(&src.paused, true);
	/* The write that is under way. */
	pthread_mutex_lock(&src.writing);
	pthread_mutex_unlock(&src.writing);
	return 0;
}

static int g_resume(void *guest)
{
	src.runs++;
	pthread_mutex_lock(&src.writing);
	atomic_store(&src.paused, false);
	pthread_cond_broadcast(&src.resumed);
	pthread_mutex_unlock(&src.writing);
	return 0;
}

static int g_save(void *guest, struct base_wbuf *out)
{
	base_wbuf_str(out, "registers");
	return 0;
}

static void g_throttle(void *guest, unsigned percent)
{
	src.sleep_us = percent ? 200 : 0;
}

static int g_journal(void *guest, const char *entry)
{
	snprintf(((struct guest *)guest)->journal, 32, "%s", entry);
	return 0;
}

static int d_check(void *guest, const void *config, size_t len, char *why)
{
	if (len == 4 && !memcmp(config, "same", 4))
		return 0;
	snprintf(why, MIG_TEXT_MAX, "cpu differs");
	return -ENOTSUP;
}

static int d_load(void *guest, const void *state, size_t len)
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
static void *reader_main(void *arg)
{
	struct guest *g = arg;
	uint64_t sum = 0;

	for (size_t i = PAGES; i-- > 0;)
		sum = sum * 31 + *(volatile uint64_t *)(g->bytes + i * MIG_PAGE_SIZE + 512);
	g->sum = sum;
	return NULL;
}

static int d_run(void *guest)
{
	dst.runs++;
	if (dst.fills && !dst.reading)
		dst.reading = !pthread_create(&dst.reader, NULL, reader_main, &dst);
	return 0;
}

/* ---- memory that is still away ---- */

static bool d_can_fill(void *guest)
{
	return dst.fills;
}

static int d_discard(void *guest, uint64_t index, uint64_t count)
{
	return madvise(dst.bytes + index * MIG_PAGE_SIZE, count * MIG_PAGE_SIZE, MADV_DONTNEED)
		       ? -errno
		       : 0;
}

static int d_fill_start(void *guest, int *fd)
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

static int d_faults(void *guest, uint64_t *index, unsigned max)
{
	struct uffd_msg m;
	unsigned n = 0;

	while (n < max && read(dst.uffd, &m, sizeof(m)) == sizeof(m))
		index[n++] = (m.arg.pagefault.address - (uintptr_t)dst.bytes) / MIG_PAGE_SIZE;
	return (int)n;
}

static int d_fill(void *guest, uint64_t index, const void *page)
{
	static const uint8_t zeros[MIG_PAGE_SIZE];
	struct uffdio_copy c = {.dst = (uintptr_t)dst.bytes + index * MIG_PAGE_SIZE,
				.src = (uintptr_t)(page ? page : zeros),
				.len = MIG_PAGE_SIZE};

	return ioctl(dst.uffd, UFFDIO_COPY, &c) < 0 && errno != EEXIST ? -errno : 0;
}

static void d_fill_stop(void *guest)
{
	struct uffdio_range r = {(uintptr_t)dst.bytes, (size_t)PAGES * MIG_PAGE_SIZE};

	assert_int_equal(ioctl(dst.uffd, UFFDIO_UNREGISTER, &r), 0);
	assert_int_equal(ioctl(dst.uffd, UFFDIO_WAKE, &r), 0);
}

static int d_pause(void *guest)
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

static void *dest_main(void *arg)
{
	struct mig_dest *d = arg;

	return (void *)(intptr_t)mig_dest_run(d);
}

static void pairs(void)
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

static struct result migrate_with(const struct mig_params *dst_params, const char *config,
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

static struct result migrate(void)
{
	return migrate_with(&params, "same", NULL);
}

enum { STALL_MS = 30000 }; /* the machine may be busy */

static unsigned stall_ms = STALL_MS;

static int setup(void **state)
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

static int teardown(void **state)
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

static void check_moved(const struct result *r)
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
	assert_false(atomic_load(&src.logging));
}

/* The source runs as before, the destination never did. */
static void check_stayed(const struct result *r, int was_paused)
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

static void idle_guest(void **state)
{
	struct result r = migrate();

	check_moved(&r);
	assert_int_equal(r.progress.pages_zero, (PAGES - 1000 + 2) / 3);
	assert_int_equal(r.progress.pages_sent, PAGES - 1000 - (PAGES - 1000 + 2) / 3);
}

static void writing_guest(void **state)
{
	struct result r;

	start_writer(20);
	r = migrate();
	check_moved(&r);
	assert_true(r.progress.round >= 1);
}

static void guest_that_never_stops(void **state)
{
	struct result r;

	params.max_downtime_ms = 1;
	params.bandwidth = 200000000;
	start_writer(0);
	r = migrate();
	check_moved(&r);
}

static void encrypted(void **state)
{
	struct result r;

	params.encrypt = true;
	start_writer(20);
	r = migrate();
	if (r.src == -EOPNOTSUPP)
		skip();
	check_moved(&r);
}

static void wrong_key(void **state)
{
	struct mig_params other = params;
	struct result r;

	other.key[0] ^= 1;
	r = migrate_with(&other, "same", NULL);
	assert_int_equal(r.src, -EACCES);
	check_stayed(&r, 0);
}

static void other_migration(void **state)
{
	struct mig_params other;
	struct result r;

	/* The destination says nothing to a stranger: the source waits in vain. */
	teardown(state);
	stall_ms = 500;
	setup(state);
	stall_ms = STALL_MS;
	other = params;
	other.id[0] ^= 1;
	r = migrate_with(&other, "same", NULL);
	check_stayed(&r, 0);
}

static void machine_that_does_not_fit(void **state)
{
	struct result r = migrate_with(&params, "other", NULL);

	check_stayed(&r, 0);
	assert_string_equal(r.progress.error, "the destination refused: cpu differs");
}

static void memory_of_another_size(void **state)
{
	struct result r;

	dst.memory.regions[1].page_count--;
	r = migrate();
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "memory"));
}

static void state_that_cannot_be_loaded(void **state)
{
	struct result r;

	dst.fail_load = 1;
	start_writer(20);
	r = migrate();
	check_stayed(&r, 1);
	assert_non_null(strstr(r.progress.error, "cannot be loaded"));
	/* The guest goes on, and a second try moves it. */
	pairs();
	src.runs = 0;
	madvise(dst.bytes, (size_t)PAGES * MIG_PAGE_SIZE, MADV_DONTNEED);
	r = migrate();
	check_moved(&r);
}

static void cancel_now(struct mig_source *s)
{
	mig_source_cancel(s);
}

static void cancelled(void **state)
{
	struct result r = migrate_with(&params, "same", cancel_now);

	assert_int_equal(r.src, -ECANCELED);
	check_stayed(&r, 0);
}

static void no_convergence(void **state)
{
	struct result r;

	params.max_downtime_ms = 0;
	params.bandwidth = 10000000;
	params.auto_converge = false;
	params.max_rounds = 1;
	start_writer(0);
	r = migrate();
	assert_int_equal(r.src, -EBUSY);
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "no end after 1 rounds"));
}

/* ---- post-copy ---- */

static bool have_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0) {
		print_message("no userfaultfd here: %s\n", strerror(errno));
		return false;
	}
	close(fd);
	return true;
}

static void check_moved_post(const struct result *r)
{
	if (r->src || r->dst)
		print_message("source: %s; destination: %s\n", r->progress.error, r->why);
	assert_int_equal(r->src, 0);
	assert_int_equal(r->dst, 0);
	pthread_join(dst.reader, NULL);
	dst.reading = false;
	assert_int_equal(r->progress.state, MIG_SRC_DONE);
	assert_int_equal(src.runs, 0);
	assert_string_equal(dst.state, "registers");
	assert_string_equal(dst.journal, "complete");
	assert_memory_equal(src.bytes, dst.bytes, (size_t)PAGES * MIG_PAGE_SIZE);
	reader_main(&src);
	assert_true(src.sum == dst.sum);
}

static void postcopy_at_once(void **state)
{
	struct result r;

	if (!have_uffd())
		skip();
	dst.fills = true;
	params.mode = MIG_MODE_POSTCOPY;
	start_writer(20);
	r = migrate();
	check_moved_post(&r);
	assert_int_equal(r.progress.round, 0);
	assert_int_equal(dst.runs, 1);
}

/* Never done by pre-copy: no downtime is allowed, and the writer does not rest. */
static void postcopy_after_rounds(void **state)
{
	struct result r;

	if (!have_uffd())
		skip();
	dst.fills = true;
	params.mode = MIG_MODE_AUTO;
	params.postcopy_rounds = 2;
	src.restless = true;
	params.max_downtime_ms = 0;
	params.bandwidth = 100000000;
	start_writer(0);
	r = migrate();
	check_moved_post(&r);
	assert_int_equal(r.progress.round, 2);
}

static void postcopy_encrypted(void **state)
{
	struct result r;

	if (!have_uffd())
		skip();
	dst.fills = true;
	params.mode = MIG_MODE_POSTCOPY;
	params.encrypt = true;
	start_writer(20);
	r = migrate();
	if (r.src == -EOPNOTSUPP)
		skip();
	check_moved_post(&r);
}

static void postcopy_where_it_cannot_be(void **state)
{
	struct result r;

	params.mode = MIG_MODE_POSTCOPY;
	r = migrate();
	assert_int_equal(r.src, -EOPNOTSUPP);
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "--mode precopy"));
	pairs();
	params.mode = MIG_MODE_AUTO;
	r = migrate();
	check_moved(&r);
}

/* ---- a connection that damages ---- */

struct relay {
	int from, to;
	size_t flip_at, cut_at; /* byte offsets; 0: never */
	pthread_t thread;
};

static void *relay_main(void *arg)
{
	struct relay *r = arg;
	static __thread uint8_t buf[65536];
	size_t at = 0;
	ssize_t n;

	while ((n = recv(r->from, buf, sizeof(buf), 0)) > 0) {
		if (r->flip_at > at && r->flip_at < at + n)
			buf[r->flip_at - at] ^= 4;
		if (r->cut_at && at + n > r->cut_at)
			break;
		at += n;
		if (send(r->to, buf, n, MSG_NOSIGNAL) != n)
			break;
	}
	shutdown(r->to, SHUT_RDWR);
	shutdown(r->from, SHUT_RDWR);
	return NULL;
}

/* Puts relays into channel `index`: there and back. */
static void relay_insert(struct relay r[2], int index, size_t flip_at, size_t cut_at)
{
	int a[2], b[2];

	close(src_fds[index]);
	close(dst_fds[index]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
	src_fds[index] = a[0];
	dst_fds[index] = b[0];
	assert_int_equal(mig_socket_prepare(a[0], params.stall_ms), 0);
	assert_int_equal(mig_socket_prepare(b[0], params.stall_ms), 0);
	r[0] = (struct relay){a[1], b[1], flip_at, cut_at, 0};
	r[1] = (struct relay){b[1], a[1], 0, 0, 0};
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&r[i].thread, NULL, relay_main, &r[i]), 0);
}

static void relay_remove(struct relay r[2])
{
	for (int i = 0; i < 2; i++)
		pthread_join(r[i].thread, NULL);
	close(r[0].from);
	close(r[0].to);
}

/* A bit that flips among the pages is found, and the page comes again. */
static void flipped_bit_in_a_page(void **state)
{
	struct relay r[2];
	struct result res;

	relay_insert(r, 1, 400000, 0);
	res = migrate();
	relay_remove(r);
	check_moved(&res);
	assert_int_equal(res.progress.pages_resent, 1);
}

/*
 * The control connection is damaged or cut at each of its bytes in turn (PREPARE, COMMIT...): never
 * two that run, and never none but one in doubt or held.
 */
static void each_byte_of_control(void **state)
{
	int moved = 0, stayed = 0, doubt = 0;
	size_t coarse = 9;

	teardown(state);
#ifdef __SANITIZE_THREAD__
	stall_ms = 1500;
	coarse = 45;
#else
	stall_ms = 150;
#endif
	/* Always finely where a loss leaves a doubt: around COMMIT. */
	for (size_t at = 57; at < 420; at += at >= 183 && at < 228 ? 9 : coarse) {
		for (int cut = 0; cut < 2; cut++) {
			struct relay r[2];
			struct result res;

			setup(state);
			relay_insert(r, 0, cut ? 0 : at, cut ? at : 0);
			res = migrate();
			relay_remove(r);
			assert_true(src.runs + dst.runs <= 1);
			if (res.progress.state == MIG_SRC_DONE) {
				assert_int_equal(dst.runs, 1);
				moved++;
			} else if (res.src == -EINPROGRESS) {
				/* In doubt: not running; the destination committed, or holds it. */
				assert_int_equal(src.runs, 0);
				assert_true(dst.runs || res.dst == -EINPROGRESS);
				doubt++;
			} else {
				assert_int_equal(dst.runs, 0);
				stayed++;
			}
			teardown(state);
		}
	}
	print_message("%d moved, %d stayed, %d in doubt\n", moved, stayed, doubt);
	assert_true(moved && stayed && doubt);
	stall_ms = STALL_MS;
	setup(state);
}

/* Both sides of a migration whose links are cut, again and again, until all is over. */
struct side {
	struct mig_source *s;
	struct mig_dest *d;
	int rc;
	pthread_t thread;
	bool again;
};

static void *side_main(void *arg)
{
	struct side *x = arg;

	if (x->s)
		x->rc = x->again ? mig_source_relink(x->s, src_fds) : mig_source_run(x->s);
	else
		x->rc = x->again ? mig_dest_relink(x->d, dst_fds) : mig_dest_run(x->d);
	/* As the process does; the source would notice only after its time-out. */
	if (x->d && x->rc)
		shutdown(dst_fds[0], SHUT_RDWR);
	return NULL;
}

/*
 * Post-copy over links that carry a few more bytes each time. In between, the source holds its memory
 * and does not run; what the destination has is kept, and nothing is lost in the end.
 */
static void postcopy_links_that_break(void **state)
{
	struct side a = {0}, b = {0};
	struct relay r[2];
	struct result res = {0};
	int breaks = 0;

	if (!have_uffd())
		skip();
	dst.fills = true;
	params.mode = MIG_MODE_POSTCOPY;
	for (;; breaks++) {
		assert_true(breaks < 20);
		if (breaks)
			pairs();
		/* The connections are the engine's from here on, so they must be known by then. */
		relay_insert(r, 1, 0, 400000);
		if (!breaks) {
			assert_int_equal(mig_source_new(&params, &src.memory, &src_ops, &src,
							"same", 4, src_fds, &a.s),
					 0);
			assert_int_equal(mig_dest_new(&params, &dst.memory, &dst_ops, &dst, dst_fds,
						      &b.d),
					 0);
		}
		a.again = b.again = breaks > 0;
		assert_int_equal(pthread_create(&a.thread, NULL, side_main, &a), 0);
		assert_int_equal(pthread_create(&b.thread, NULL, side_main, &b), 0);
		pthread_join(a.thread, NULL);
		if (a.rc)
			mig_source_cut(a.s);
		pthread_join(b.thread, NULL);
		relay_remove(r);
		if (!a.rc)
			break;
		assert_int_equal(a.rc, -ENOLINK);
		assert_int_equal(b.rc, -ENOLINK);
		assert_int_equal(src.runs, 0);
		assert_string_equal(dst.journal, "filling");
		assert_int_equal(dst.pauses, breaks + 1);
	}
	print_message("%d breaks\n", breaks);
	assert_true(breaks > 1);
	assert_int_equal(dst.runs, breaks + 1);
	res.src = a.rc;
	res.dst = b.rc;
	mig_source_progress(a.s, &res.progress);
	mig_source_free(a.s);
	mig_dest_free(b.d);
	check_moved_post(&res);
}

static void add_disk(void)
{
	memset(disk.dst, 0, sizeof(disk.dst));
	memset(disk.written, 0, sizeof(disk.written));
	for (unsigned i = 0; i < BLOCKS; i++)
		memset(disk.src[i], i < BLOCKS - 100 ? (int)i : 0, MIG_PAGE_SIZE);
	disk.there = true;
	disk.reads = disk.zeroed = disk.read_error_at = disk.write_error_at = 0;
	src.memory.regions[src.memory.region_count++] = (struct mig_region){.page_count = BLOCKS};
	dst.memory.regions[dst.memory.region_count++] = (struct mig_region){.page_count = BLOCKS};
}

static int teardown_disk(void **state)
{
	disk.there = false;
	return teardown(state);
}

static void disk_moves_along(void **state)
{
	struct result r;

	add_disk();
	start_writer(20);
	r = migrate();
	check_moved(&r);
	assert_memory_equal(disk.src, disk.dst, sizeof(disk.src));
	assert_true(disk.zeroed > 0);
	print_message("%u blocks read in %u rounds\n", disk.reads, r.progress.round);
	assert_true(disk.reads > BLOCKS - 100);
}

static void disk_encrypted(void **state)
{
	struct result r;

	add_disk();
	params.encrypt = true;
	r = migrate();
	check_moved(&r);
	assert_memory_equal(disk.src, disk.dst, sizeof(disk.src));
}

static void disk_without_room(void **state)
{
	struct result r;

	add_disk();
	disk.write_error_at = 700;
	r = migrate();
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "a disk cannot be written: No space left"));
}

static void disk_that_cannot_be_read(void **state)
{
	struct result r;

	add_disk();
	disk.read_error_at = 700;
	r = migrate();
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "a disk cannot be read: Input/output error"));
}

static void disk_in_postcopy(void **state)
{
	struct result r;

	add_disk();
	dst.fills = true;
	params.mode = MIG_MODE_POSTCOPY;
	r = migrate();
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "--mode precopy"));
}

int main(void)
{
#define D(f) cmocka_unit_test_setup_teardown(f, setup, teardown_disk)
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(idle_guest),
		T(writing_guest),
		T(guest_that_never_stops),
		T(encrypted),
		T(wrong_key),
		T(other_migration),
		T(machine_that_does_not_fit),
		T(memory_of_another_size),
		T(state_that_cannot_be_loaded),
		T(cancelled),
		T(no_convergence),
		T(flipped_bit_in_a_page),
		T(each_byte_of_control),
		T(postcopy_at_once),
		T(postcopy_after_rounds),
		T(postcopy_encrypted),
		T(postcopy_where_it_cannot_be),
		T(postcopy_links_that_break),
		D(disk_moves_along),
		D(disk_encrypted),
		D(disk_without_room),
		D(disk_that_cannot_be_read),
		D(disk_in_postcopy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
