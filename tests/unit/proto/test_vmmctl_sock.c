#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "proto/vmmctl.h"

static struct {
	char dir[64];
	struct base_loop *loop;
	struct vmmctl_server *server;
	struct vmmctl_client *client;
	struct vmmctl_call *held; /* a RESET is left unanswered */
	int replies, last_error, events, closed;
	char text[64];
} t;

static void on_request(void *ctx, struct vmmctl_call *call, const struct vmmctl_request *req,
		       int fd)
{
	struct vmmctl_status st = {.state = VMMCTL_RUNNING, .vcpus = 3};

	switch (req->op) {
	case VMMCTL_STATUS: vmmctl_call_reply(call, &(struct vmmctl_reply){.status = &st}); break;
	case VMMCTL_SAVE:
		assert_int_equal(write(fd, "state", 5), 5);
		close(fd);
		vmmctl_call_ok(call);
		break;
	case VMMCTL_RESET: t.held = call; break;
	default: vmmctl_call_fail(call, -ENOTSUP, "cannot do %d", req->op);
	}
}

static const struct vmmctl_server_ops server_ops = {.request = on_request};

static void on_event(void *ctx, const struct vmmctl_event *event)
{
	t.events++;
	snprintf(t.text, sizeof(t.text), "%s", event->text);
}

static void on_closed(void *ctx, int error)
{
	t.closed = error;
	vmmctl_client_free(t.client);
	t.client = NULL;
}

static const struct vmmctl_client_ops client_ops = {.event = on_event, .closed = on_closed};

static void on_done(void *arg, const struct vmmctl_reply *reply)
{
	t.replies++;
	t.last_error = reply->error;
	snprintf(t.text, sizeof(t.text), "%s", reply->text);
	if (arg)
		*(uint32_t *)arg = reply->status->vcpus;
}

static int setup(void **state)
{
	int fd;

	memset(&t, 0, sizeof(t));
	snprintf(t.dir, sizeof(t.dir), "/tmp/vmmctl.XXXXXX");
	assert_non_null(mkdtemp(t.dir));
	assert_int_equal(base_loop_new(&t.loop), 0);
	assert_int_equal(vmmctl_client_new(t.loop, t.dir, &client_ops, NULL, &t.client), -ENOENT);
	fd = vmmctl_listen(t.dir, VMMCTL_SOCKET, SOCK_SEQPACKET);
	assert_true(fd >= 0);
	assert_int_equal(vmmctl_server_new(t.loop, fd, &server_ops, NULL, &t.server), 0);
	assert_int_equal(vmmctl_client_new(t.loop, t.dir, &client_ops, NULL, &t.client), 0);
	return 0;
}

static int teardown(void **state)
{
	char path[128];

	vmmctl_client_free(t.client);
	vmmctl_server_free(t.server);
	base_loop_free(t.loop);
	snprintf(path, sizeof(path), "%s/%s", t.dir, VMMCTL_SOCKET);
	unlink(path);
	rmdir(t.dir);
	return 0;
}

static void call(enum vmmctl_op op, int fd, int timeout_ms, void *arg)
{
	struct vmmctl_request req = {.op = op};

	assert_int_equal(vmmctl_client_call(t.client, &req, fd, timeout_ms, on_done, arg), 0);
}

static void run_until(const int *counter, int value)
{
	for (int i = 0; i < 1000 && *counter != value; i++)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	assert_int_equal(*counter, value);
}

static void calls_are_answered(void **state)
{
	uint32_t vcpus = 0;

	call(VMMCTL_STATUS, -1, 5000, &vcpus);
	run_until(&t.replies, 1);
	assert_int_equal(vcpus, 3);
	call(VMMCTL_PAUSE, -1, 5000, NULL);
	run_until(&t.replies, 2);
	assert_int_equal(t.last_error, -ENOTSUP);
	assert_string_equal(t.text, "cannot do 2");
}

static void descriptor_comes_along(void **state)
{
	int fd = memfd_create("save", MFD_CLOEXEC);
	char buf[8] = "";

	call(VMMCTL_SAVE, fd, 5000, NULL);
	run_until(&t.replies, 1);
	assert_int_equal(t.last_error, 0);
	assert_int_equal(pread(fd, buf, 8, 0), 5);
	assert_string_equal(buf, "state");
	close(fd);
}

static void save_without_descriptor_drops_the_link(void **state)
{
	call(VMMCTL_SAVE, -1, 5000, NULL);
	run_until(&t.closed, -ECONNRESET);
	assert_int_equal(t.replies, 1);
	assert_int_equal(t.last_error, -ECONNRESET);
}

static void timeout_then_late_answer(void **state)
{
	call(VMMCTL_RESET, -1, 1, NULL);
	run_until(&t.replies, 1);
	assert_int_equal(t.last_error, -ETIMEDOUT);
	while (!t.held)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	vmmctl_call_ok(t.held);
	call(VMMCTL_STATUS, -1, 5000, NULL);
	run_until(&t.replies, 2);
	assert_int_equal(t.last_error, 0);
}

static void answer_to_a_lost_client(void **state)
{
	call(VMMCTL_RESET, -1, 5000, NULL);
	while (!t.held)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	vmmctl_client_free(t.client);
	t.client = NULL;
	assert_int_equal(t.last_error, -ECANCELED);
	assert_int_equal(base_loop_step(t.loop, 100), 0);
	vmmctl_call_ok(t.held);
}

static void lost_server_fails_the_calls(void **state)
{
	call(VMMCTL_RESET, -1, 5000, NULL);
	while (!t.held)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	vmmctl_server_free(t.server);
	t.server = NULL;
	run_until(&t.closed, -ECONNRESET);
	assert_int_equal(t.last_error, -ECONNRESET);
	vmmctl_call_ok(t.held);
}

static void events_reach_all(void **state)
{
	struct vmmctl_event ev = {VMMCTL_EVENT_PANIC, 0, "oops"};
	struct vmmctl_client *second;

	assert_int_equal(vmmctl_client_new(t.loop, t.dir, &client_ops, NULL, &second), 0);
	call(VMMCTL_STATUS, -1, 5000, NULL);
	run_until(&t.replies, 1);
	assert_int_equal(base_loop_step(t.loop, 0), 0);
	vmmctl_server_event(t.server, &ev);
	run_until(&t.events, 2);
	assert_string_equal(t.text, "oops");
	vmmctl_client_free(second);
}

/* A client that never reads is dropped after a bounded queue, and the server goes on. */
static void deaf_client_is_dropped(void **state)
{
	static char big[40000];
	struct vmmctl_event ev = {VMMCTL_EVENT_ERROR, 0, big};
	int deaf = vmmctl_connect(t.dir, VMMCTL_SOCKET, SOCK_SEQPACKET);
	int sent = 0;

	assert_true(deaf >= 0);
	memset(big, 'e', sizeof(big) - 1);
	while (sent < 200) {
		vmmctl_server_event(t.server, &ev);
		sent++;
		assert_int_equal(base_loop_step(t.loop, 0), 0);
	}
	while (recv(deaf, big, sizeof(big), MSG_DONTWAIT) > 0)
		sent--;
	assert_true(sent > 0);
	assert_int_equal(recv(deaf, big, sizeof(big), MSG_DONTWAIT), 0);
	close(deaf);
	call(VMMCTL_STATUS, -1, 5000, NULL);
	run_until(&t.replies, 1);
}

static void garbage_drops_only_the_sender(void **state)
{
	int bad = vmmctl_connect(t.dir, VMMCTL_SOCKET, SOCK_SEQPACKET);
	char byte;

	assert_int_equal(send(bad, "garbage", 7, 0), 7);
	for (int i = 0; i < 100 && recv(bad, &byte, 1, MSG_DONTWAIT) < 0; i++)
		assert_int_equal(base_loop_step(t.loop, 10), 0);
	assert_int_equal(recv(bad, &byte, 1, MSG_DONTWAIT), 0);
	close(bad);
	call(VMMCTL_STATUS, -1, 5000, NULL);
	run_until(&t.replies, 1);
	assert_int_equal(t.last_error, 0);
}

static void path_too_long(void **state)
{
	char dir[200];

	memset(dir, 'd', sizeof(dir));
	dir[sizeof(dir) - 1] = 0;
	assert_int_equal(vmmctl_listen(dir, VMMCTL_SOCKET, SOCK_SEQPACKET), -ENAMETOOLONG);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(calls_are_answered),
		T(descriptor_comes_along),
		T(save_without_descriptor_drops_the_link),
		T(timeout_then_late_answer),
		T(answer_to_a_lost_client),
		T(lost_server_fails_the_calls),
		T(events_reach_all),
		T(deaf_client_is_dropped),
		T(garbage_drops_only_the_sender),
		T(path_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
