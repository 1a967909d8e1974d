/* Migrates a guest whose memory is written between two engines in one process. */
#include "guest.h"
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "migrate/chan.h"
#include "migrate/pages.h"

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
	bool much, stood; /* lag_main(): it carried much, while the guest stood still */
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
static void relay_start(struct relay r[2], int index, size_t flip_at, size_t cut_at,
			void *(*there)(void *))
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
	r[0] = (struct relay){.from = a[1], .to = b[1], .flip_at = flip_at, .cut_at = cut_at};
	r[1] = (struct relay){.from = b[1], .to = a[1]};
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&r[i].thread, NULL, i ? relay_main : there, &r[i]),
				 0);
}

static void relay_insert(struct relay r[2], int index, size_t flip_at, size_t cut_at)
{
	relay_start(r, index, flip_at, cut_at, relay_main);
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

/* A link that takes all that is sent at once, and brings it when nothing more comes. */
static void *lag_main(void *arg)
{
	enum { QUIET_MS = 300, MUCH = 1 << 20 };
	struct relay *r = arg;
	size_t cap = (size_t)2 * PAGES * MIG_PAGE_SIZE, len = 0, total = 0;
	uint8_t *held = malloc(cap);
	struct pollfd p = {.fd = r->from, .events = POLLIN};
	ssize_t n = 1;

	while (held && n > 0) {
		if (poll(&p, 1, QUIET_MS) > 0) {
			n = recv(r->from, held + len, cap - len, 0);
			len += n > 0 ? (size_t)n : 0;
			continue;
		}
		if (total <= MUCH && total + len > MUCH)
			r->stood = atomic_load(&src.paused);
		total += len;
		for (size_t out = 0; out < len && n > 0; out += n > 0 ? (size_t)n : 0)
			n = send(r->to, held + out, len - out, MSG_NOSIGNAL);
		len = 0;
	}
	r->much = total > MUCH;
	shutdown(r->to, SHUT_RDWR);
	shutdown(r->from, SHUT_RDWR);
	free(held);
	return NULL;
}

/* What is under way is not there: the guest does not stand still until it is. */
static void guest_runs_while_pages_are_under_way(void **state)
{
	struct relay r[2];
	struct result res;

	relay_start(r, 1, 0, 0, lag_main);
	res = migrate();
	relay_remove(r);
	check_moved(&res);
	assert_true(r[0].much);
	assert_false(r[0].stood);
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
	for (size_t at = 57; at < 420; at += at >= 183 && at < 264 ? 9 : coarse) {
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

/* A destination that says what it can do, and looks at the frames of the first data connection. */
struct looker {
	uint64_t can;
	unsigned largest; /* pages in a frame */
};

static void *looker_main(void *arg)
{
	struct looker *l = arg;
	struct mig_chan control = {.fd = -1}, data = {.fd = -1};
	uint64_t can = htole64(l->can);
	uint8_t *bytes = malloc(MIG_CHUNK_PAGES * MIG_PAGE_SIZE);
	struct mig_head h = {0};
	struct iovec iov;
	bool ok = bytes && !mig_chan_open(&control, dst_fds[0], &params, 0, false) &&
		  !mig_chan_recv(&control, &h) && h.type == MIG_FRAME_CONFIG;

	iov = (struct iovec){bytes, h.data_len};
	ok = ok && !mig_chan_recv_data(&control, &iov, 1) &&
	     !mig_chan_send(&control, MIG_FRAME_CONFIG_OK, &can, sizeof(can), NULL, 0) &&
	     !mig_chan_open(&data, dst_fds[1], &params, 1, false);
	while (ok && !mig_chan_recv(&data, &h) && h.type == MIG_FRAME_PAGES) {
		ok = h.data_len <= MIG_CHUNK_PAGES * MIG_PAGE_SIZE;
		l->largest = BASE_MAX(l->largest, h.data_len / MIG_PAGE_SIZE);
		iov = (struct iovec){bytes, h.data_len};
		ok = ok && !mig_chan_recv_data(&data, &iov, 1);
	}
	for (int i = 0; i <= CHANNELS; i++)
		shutdown(dst_fds[i], SHUT_RDWR);
	mig_chan_close(&control);
	mig_chan_close(&data);
	free(bytes);
	return NULL;
}

static unsigned largest_frame(uint64_t can)
{
	struct looker l = {.can = can};
	struct mig_source *s;
	pthread_t t;

	assert_int_equal(
		mig_source_new(&params, &src.memory, &src_ops, &src, "same", 4, src_fds, &s), 0);
	assert_int_equal(pthread_create(&t, NULL, looker_main, &l), 0);
	assert_int_not_equal(mig_source_run(s), 0);
	pthread_join(t, NULL);
	mig_source_free(s);
	for (int i = 0; i <= CHANNELS; i++)
		close(dst_fds[i]);
	pairs();
	return l.largest;
}

/* Who does not say that it takes large frames gets those of the first version. */
static void frames_that_the_destination_takes(void **state)
{
	assert_int_equal(largest_frame(0), MIG_CHUNK_PAGES_OLD);
	assert_int_equal(largest_frame(MIG_CAN_CHUNK), MIG_CHUNK_PAGES);
	params.bandwidth = UINT64_C(1) << 40;
	assert_int_equal(largest_frame(MIG_CAN_CHUNK), MIG_CHUNK_PAGES_OLD);
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

/* ---- connections ---- */

static void tcp_pair(int fds[2])
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fds[0], (struct sockaddr *)&at, sizeof(at)), 0);
	fds[1] = accept(listener, NULL, NULL);
	assert_true(fds[1] >= 0);
	close(listener);
}

static void *open_as_destination(void *arg)
{
	struct mig_chan c = {.fd = -1};
	int rc = mig_chan_open(&c, *(int *)arg, &params, 1, false);

	mig_chan_close(&c);
	return (void *)(intptr_t)rc;
}

/* What a kernel that is set to `name` ends up with; false: it has none of that name. */
static bool congestion_of(const char *name, char out[16])
{
	struct mig_chan c = {.fd = -1};
	socklen_t len = 15;
	pthread_t thread;
	int fds[2];
	void *rc;
	bool has;

	tcp_pair(fds);
	has = !setsockopt(fds[0], IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
	if (has) {
		assert_int_equal(pthread_create(&thread, NULL, open_as_destination, &fds[1]), 0);
		assert_int_equal(mig_chan_open(&c, fds[0], &params, 1, true), 0);
		pthread_join(thread, &rc);
		assert_null(rc);
		memset(out, 0, 16);
		assert_int_equal(getsockopt(fds[0], IPPROTO_TCP, TCP_CONGESTION, out, &len), 0);
		mig_chan_close(&c);
	}
	close(fds[0]);
	close(fds[1]);
	return has;
}

static void near_connections_are_not_paced(void **state)
{
	char name[16];

	assert_true(congestion_of("reno", name));
	assert_string_equal(name, "reno");
	if (congestion_of("cubic", name))
		assert_string_equal(name, "cubic");
	if (!congestion_of("bbr", name)) {
		print_message("this kernel has no BBR\n");
		skip();
	}
	assert_string_equal(name, "reno");
}

/* Whoever comes first has a huge page of a table made; what is there stays. */
static void tables_are_made_once(void **state)
{
	uint64_t pages = 3 * MIG_TABLE_PIECE / sizeof(uint64_t) + 5;
	uint64_t *table = mig_table_new(pages, sizeof(*table));
	struct mig_touch t;

	assert_non_null(table);
	assert_int_equal((uintptr_t)table % MIG_TABLE_PIECE, 0);
	assert_int_equal(mig_touch_init(&t, table, pages, sizeof(*table)), 0);
	table[0] = table[pages - 1] = UINT64_MAX;
	for (uint64_t i = 0; i < pages; i += 1000)
		mig_touch(&t, i);
	mig_touch(&t, pages - 1);
	assert_true(table[0] == UINT64_MAX && table[pages - 1] == UINT64_MAX);
	assert_int_equal(table[pages / 2], 0);
	mig_touch_fini(&t);
	mig_table_free(table, pages, sizeof(*table));
}

int main(void)
{
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
		T(frames_that_the_destination_takes),
		T(guest_runs_while_pages_are_under_way),
		T(each_byte_of_control),
		T(postcopy_at_once),
		T(postcopy_after_rounds),
		T(postcopy_encrypted),
		T(postcopy_where_it_cannot_be),
		T(postcopy_links_that_break),
		cmocka_unit_test(near_connections_are_not_paced),
		cmocka_unit_test(tables_are_made_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
