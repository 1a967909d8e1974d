#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "proto/migctl.h"

static int pair[2];

static int setup(void **state)
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair);
}

static int teardown(void **state)
{
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static void start_carries_connections(void **state)
{
	struct migctl_msg m = {.kind = MIGCTL_START,
			       .start = {.encrypt = true,
					 .channels = 2,
					 .max_downtime_ms = 50,
					 .bandwidth = UINT64_C(1) << 40},
			       .fds = {0, 1, 2},
			       .fd_count = 3},
			  got;

	memset(m.start.key, 5, sizeof(m.start.key));
	assert_int_equal(migctl_send(pair[0], &m), 0);
	assert_int_equal(migctl_recv(pair[1], &got), 0);
	assert_int_equal(got.kind, MIGCTL_START);
	assert_memory_equal(got.start.key, m.start.key, sizeof(m.start.key));
	assert_true(got.start.encrypt);
	assert_int_equal(got.start.channels, 2);
	assert_true(got.start.bandwidth == UINT64_C(1) << 40);
	assert_int_equal(got.fd_count, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(close(got.fds[i]), 0);
	/* One too few. */
	m.fd_count = 2;
	assert_int_equal(migctl_send(pair[0], &m), 0);
	assert_int_equal(migctl_recv(pair[1], &got), -EBADMSG);
	/* An order takes none. */
	m = (struct migctl_msg){
		.kind = MIGCTL_ORDER, .order = MIGCTL_CANCEL, .fds = {0}, .fd_count = 1};
	assert_int_equal(migctl_send(pair[0], &m), 0);
	assert_int_equal(migctl_recv(pair[1], &got), -EBADMSG);
}

static void reports_come_back(void **state)
{
	struct migctl_msg m = {.kind = MIGCTL_RESULT,
			       .progress = {.state = "done", .round = 3, .downtime_ns = 4000000},
			       .result = {.end = MIGCTL_DONE, .text = "ok"}},
			  got;

	assert_int_equal(migctl_send(pair[0], &m), 0);
	assert_int_equal(migctl_recv(pair[1], &got), 0);
	assert_int_equal(got.kind, MIGCTL_RESULT);
	assert_int_equal(got.result.end, MIGCTL_DONE);
	assert_string_equal(got.result.text, "ok");
	assert_string_equal(got.progress.state, "done");
	assert_int_equal(got.progress.downtime_ns, 4000000);
	m = (struct migctl_msg){.kind = MIGCTL_PROGRESS, .progress = {.pages_left = 7}};
	assert_int_equal(migctl_send(pair[0], &m), 0);
	assert_int_equal(migctl_recv(pair[1], &got), 0);
	assert_int_equal(got.progress.pages_left, 7);
	assert_int_equal(migctl_recv(pair[1], &got), -EAGAIN);
	shutdown(pair[0], SHUT_RDWR);
	assert_int_equal(migctl_recv(pair[1], &got), -ECONNRESET);
}

static void nonsense_is_refused(void **state)
{
	struct migctl_msg m;

	assert_int_equal(migctl_decode("", 0, &m), -EBADMSG);
	assert_int_equal(migctl_decode("\x08\x01\x18\x63", 4, &m), -EBADMSG); /* order 99 */
	assert_int_equal(migctl_decode("\x08\x02\x18\x01", 4, &m), -EBADMSG); /* version 2 */
	assert_int_equal(migctl_decode("\x08\x01\x18\x01", 4, &m), 0);
	assert_int_equal(migctl_decode("\xff\xff\xff", 3, &m), -EBADMSG);
}

static void the_last_word_is_heard(void **state)
{
	struct migctl_msg order = {.kind = MIGCTL_ORDER, .order = MIGCTL_VERDICT_COMMITTED};
	struct migctl_msg result = {.kind = MIGCTL_RESULT, .result.end = MIGCTL_FAILED};
	struct migctl_msg got;

	assert_int_equal(migctl_send(pair[1], &result), 0);
	assert_int_equal(migctl_send(pair[0], &order), 0);
	migctl_hang_up(pair[1]);
	pair[1] = -1;
	assert_int_equal(migctl_recv(pair[0], &got), 0);
	assert_int_equal(got.kind, MIGCTL_RESULT);
	assert_int_equal(got.result.end, MIGCTL_FAILED);
	assert_int_equal(migctl_recv(pair[0], &got), -ECONNRESET);
	assert_int_equal(migctl_send(pair[0], &order), -EPIPE);
	migctl_hang_up(-1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {T(start_carries_connections), T(reports_come_back),
					   T(nonsense_is_refused), T(the_last_word_is_heard)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
