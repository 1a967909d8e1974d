/* timeout: 60 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/log.h"
#include "proto/chan.h"
#include "proto/chan_wire.h"

static struct {
	struct base_loop *loop;
	struct keys_pair server_keys, client_keys, stranger_keys;
	struct chan *server_chan, *client_chan;
	struct chan_server *server;
	struct chan_link *link;
	uint16_t port;
	struct chan_call *held;
	int cancels, inputs, credits;
	int done, error, items, ups;
	char reply[128];
} t;

static bool known(void *ctx, const struct keys_key *key, char user[CHAN_NAME_MAX])
{
	if (!keys_equal(key, &t.client_keys.public_key))
		return false;
	snprintf(user, CHAN_NAME_MAX, "tester");
	return true;
}

static void on_input(void *arg, const void *body, size_t len)
{
	t.inputs++;
	if (len == 3 && !memcmp(body, "end", 3)) {
		chan_call_reply(t.held, "bye", 3);
		t.held = NULL;
	} else {
		chan_call_grant(t.held, 1);
	}
}

static void on_credit(void *arg, uint32_t n)
{
	t.credits += (int)n;
}

static void on_cancel(void *arg)
{
	t.cancels++;
}

static const struct chan_call_ops stream_ops = {on_input, on_credit, on_cancel};

/* "hold" is a stream that the test drives; anything else is echoed behind the user's name. */
static void on_request(void *ctx, struct chan_call *call, const void *body, size_t len)
{
	char text[128];
	int n;

	if (len == 4 && !memcmp(body, "hold", 4)) {
		t.held = call;
		chan_call_stream(call, &stream_ops, NULL);
		return;
	}
	if (len == 5 && !memcmp(body, "later", 5)) {
		t.held = call;
		return;
	}
	n = snprintf(text, sizeof(text), "%s:%.*s", chan_call_user(call), (int)BASE_MIN(len, 50),
		     (const char *)body);
	chan_call_reply(call, text, (size_t)n);
}

static const struct chan_server_ops server_ops = {on_request};

static void on_state(void *ctx, bool up, int error)
{
	t.ups += up;
}

static const struct chan_link_ops link_ops = {on_state};

static void on_item(void *arg, const void *body, size_t len)
{
	t.items++;
}

static void on_done(void *arg, int error, const void *body, size_t len)
{
	t.done++;
	t.error = error;
	snprintf(t.reply, sizeof(t.reply), "%.*s", (int)len, (const char *)body);
}

static const struct chan_out_ops out_ops = {.item = on_item, .done = on_done};

static void run_until(const int *counter, int value)
{
	int64_t end = base_clock_ns() + 20 * BASE_NS_PER_SEC;

	while (*counter < value && base_clock_ns() < end)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	assert_int_equal(*counter, value);
}

static void serve(void)
{
	int rc = -EADDRINUSE;

	for (uint16_t port = 21000; rc == -EADDRINUSE && port < 21999; port++) {
		t.port = port;
		rc = chan_server_new(t.server_chan, "127.0.0.1", port, &server_ops, NULL,
				     &t.server);
	}
	assert_int_equal(rc, 0);
}

/* libzmq closes a socket some time after it says so. */
static void serve_again(void)
{
	int rc = -EADDRINUSE;

	for (int i = 0; rc == -EADDRINUSE && i < 1000; i++) {
		rc = chan_server_new(t.server_chan, "127.0.0.1", t.port, &server_ops, NULL,
				     &t.server);
		assert_int_equal(base_loop_step(t.loop, 10), 0);
	}
	assert_int_equal(rc, 0);
}

static void connect_as(const struct keys_pair *keys, const struct keys_key *server_key,
		       bool patient)
{
	struct chan_config config = {.loop = t.loop, .name = "client", .keys = *keys};

	assert_int_equal(chan_new(&config, &t.client_chan), 0);
	assert_int_equal(chan_link_new(t.client_chan, "127.0.0.1", t.port, server_key, patient,
				       &link_ops, NULL, &t.link),
			 0);
}

static int setup(void **state)
{
	struct chan_config config = {.name = "server", .known = known};

	memset(&t, 0, sizeof(t));
	base_log_set_level(BASE_LOG_ERROR);
	assert_int_equal(base_loop_new(&t.loop), 0);
	assert_int_equal(keys_generate(&t.server_keys), 0);
	assert_int_equal(keys_generate(&t.client_keys), 0);
	assert_int_equal(keys_generate(&t.stranger_keys), 0);
	config.loop = t.loop;
	config.keys = t.server_keys;
	assert_int_equal(chan_new(&config, &t.server_chan), 0);
	serve();
	return 0;
}

static int teardown(void **state)
{
	chan_link_free(t.link);
	chan_free(t.client_chan);
	chan_server_free(t.server);
	if (t.held)
		chan_call_reply(t.held, NULL, 0);
	chan_free(t.server_chan);
	base_loop_free(t.loop);
	return 0;
}

static struct chan_out *call(const char *body, bool stream, int timeout_ms)
{
	struct chan_out *out;

	assert_int_equal(chan_link_call(t.link, body, strlen(body), timeout_ms, stream, &out_ops,
					NULL, &out),
			 0);
	return out;
}

static void echo(const char *text)
{
	int done = t.done;

	call(text, false, 10000);
	run_until(&t.done, done + 1);
	assert_int_equal(t.error, 0);
}

static void calls_are_answered(void **state)
{
	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	echo("hi");
	assert_string_equal(t.reply, "tester:hi");
	assert_string_equal(chan_link_peer(t.link), "server");
	assert_string_equal(chan_link_software(t.link), PANGAEA_VERSION);
	for (int i = 0; i < 100; i++)
		call("x", false, 10000);
	run_until(&t.done, 101);
	assert_int_equal(t.error, 0);
}

static void unknown_key_is_refused(void **state)
{
	connect_as(&t.stranger_keys, &t.server_keys.public_key, false);
	call("hi", false, 10000);
	run_until(&t.done, 1);
	assert_int_equal(t.error, -EACCES);
}

static void wrong_server_key_is_noticed(void **state)
{
	connect_as(&t.client_keys, &t.stranger_keys.public_key, false);
	call("hi", false, 10000);
	run_until(&t.done, 1);
	assert_int_equal(t.error, -EACCES);
}

static void nobody_there(void **state)
{
	chan_server_free(t.server);
	chan_free(t.server_chan);
	t.server = NULL;
	t.server_chan = NULL;
	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	call("hi", false, 10000);
	run_until(&t.done, 1);
	assert_int_equal(t.error, -EHOSTUNREACH);
	call("again", false, 10000);
	run_until(&t.done, 2);
	assert_int_equal(t.error, -EHOSTUNREACH);
}

static void patience_outlives_a_late_server(void **state)
{
	chan_server_free(t.server);
	connect_as(&t.client_keys, &t.server_keys.public_key, true);
	call("hi", false, 10000);
	for (int i = 0; i < 3; i++)
		assert_int_equal(base_loop_step(t.loop, 20), 0);
	serve_again();
	run_until(&t.done, 1);
	assert_int_equal(t.error, 0);
}

static void silence_times_out_and_cancels(void **state)
{
	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	echo("up");
	call("hold", false, 50);
	run_until(&t.done, 2);
	assert_int_equal(t.error, -ETIMEDOUT);
	run_until(&t.cancels, 1);
	chan_call_reply(t.held, "late", 4);
	t.held = NULL;
	echo("still fine");
}

static struct chan_out *open_stream(void)
{
	struct chan_out *out;

	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	out = call("hold", true, 10000);
	while (!t.held)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	return out;
}

static void streams_hold_to_their_window(void **state)
{
	struct chan_out *out = open_stream();

	for (int i = 0; i < CHAN_WINDOW; i++)
		assert_int_equal(chan_call_item(t.held, "x", 1), 0);
	assert_int_equal(chan_call_item(t.held, "x", 1), -EAGAIN);
	run_until(&t.items, CHAN_WINDOW);
	chan_out_grant(out, 2);
	run_until(&t.credits, 2);
	assert_int_equal(chan_call_item(t.held, "x", 1), 0);
	assert_int_equal(chan_call_item(t.held, "x", 1), 0);
	assert_int_equal(chan_call_item(t.held, "x", 1), -EAGAIN);
	for (int i = 0; i < CHAN_WINDOW; i++)
		assert_int_equal(chan_out_input(out, "y", 1), 0);
	assert_int_equal(chan_out_input(out, "y", 1), -EAGAIN);
	run_until(&t.inputs, CHAN_WINDOW);
	while (chan_out_input(out, "end", 3))
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	run_until(&t.done, 1);
	assert_string_equal(t.reply, "bye");
}

/* A handler may first have to find out who answers: what is typed meanwhile waits. */
static void early_inputs_are_kept(void **state)
{
	struct chan_out *out;

	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	out = call("later", true, 10000);
	while (!t.held)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	assert_int_equal(chan_out_input(out, "y", 1), 0);
	assert_int_equal(chan_out_input(out, "y", 1), 0);
	/* An answer to a later request: the inputs have arrived. */
	t.done = 0;
	call("ping", false, 10000);
	run_until(&t.done, 1);
	assert_int_equal(t.inputs, 0);
	chan_call_stream(t.held, &stream_ops, NULL);
	assert_int_equal(chan_out_input(out, "y", 1), 0);
	assert_int_equal(chan_out_input(out, "end", 3), 0);
	run_until(&t.done, 2);
	assert_string_equal(t.reply, "bye");
	assert_int_equal(t.inputs, 4);
}

static void forgotten_inputs_are_freed(void **state)
{
	struct chan_out *out;

	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	out = call("later", true, 10000);
	while (!t.held)
		assert_int_equal(base_loop_step(t.loop, 100), 0);
	assert_int_equal(chan_out_input(out, "y", 1), 0);
	call("ping", false, 10000);
	run_until(&t.done, 1);
	chan_call_reply(t.held, "no", 2);
	t.held = NULL;
	run_until(&t.done, 2);
	assert_string_equal(t.reply, "no");
}

static void cancel_reaches_the_server(void **state)
{
	chan_out_cancel(open_stream());
	run_until(&t.cancels, 1);
	assert_int_equal(chan_call_item(t.held, "x", 1), -ECONNRESET);
	assert_int_equal(t.done, 0);
}

static void closed_link_cancels(void **state)
{
	open_stream();
	chan_link_free(t.link);
	t.link = NULL;
	assert_int_equal(t.error, -ECANCELED);
	run_until(&t.cancels, 1);
}

static void lost_server_fails_and_link_recovers(void **state)
{
	open_stream();
	chan_server_free(t.server);
	assert_int_equal(t.cancels, 1);
	chan_call_reply(t.held, NULL, 0);
	t.held = NULL;
	run_until(&t.done, 1);
	assert_int_equal(t.error, -ECONNRESET);
	serve_again();
	run_until(&t.ups, 2);
	echo("again");
}

static void bodies_are_bounded(void **state)
{
	static char big[CHAN_MAX_BODY + 1];

	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	assert_int_equal(chan_link_call(t.link, big, sizeof(big), 1000, false, &out_ops, NULL,
					NULL),
			 -EMSGSIZE);
	assert_int_equal(
		chan_link_call(t.link, big, CHAN_MAX_BODY, 10000, false, &out_ops, NULL, NULL), 0);
	run_until(&t.done, 1);
	assert_int_equal(t.error, 0);
}

/* A peer with a good key that does not keep to the protocol: raw messages. */
static void *raw_socket(void *ctx)
{
	void *s = zmq_socket(ctx, ZMQ_DEALER);
	char endpoint[64];
	int linger = 0;

	zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof(linger));
	zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, t.server_keys.public_key.bytes, 32);
	zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, t.client_keys.public_key.bytes, 32);
	zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, t.client_keys.secret_key.bytes, 32);
	snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.1:%u", t.port);
	assert_int_equal(zmq_connect(s, endpoint), 0);
	return s;
}

static void raw_send(void *s, const struct chan_env *env)
{
	uint8_t *data;
	size_t len;

	assert_int_equal(chan_env_encode(env, &data, &len), 0);
	assert_int_equal(zmq_send(s, data, len, 0), (int)len);
	free(data);
}

static void raw_expect(void *s, enum chan_kind kind, const char *error)
{
	static uint8_t data[4096];
	struct chan_env env;
	int n = -1;

	for (int i = 0; i < 500 && n < 0; i++) {
		assert_int_equal(base_loop_step(t.loop, 10), 0);
		n = zmq_recv(s, data, sizeof(data), ZMQ_DONTWAIT);
	}
	assert_true(n > 0);
	assert_int_equal(chan_env_decode(data, (size_t)n, &env), 0);
	assert_int_equal(env.kind, kind);
	assert_string_equal(env.hello.error, error);
	chan_env_fini(&env);
}

static void rude_peers_are_refused(void **state)
{
	static uint8_t big[CHAN_MAX_BYTES + 1];
	struct chan_env hello = {.version = 1,
				 .kind = CHAN_HELLO,
				 .hello = {.min_version = 1, .max_version = 9, .name = "raw"}};
	struct chan_env request = {
		.version = 1, .kind = CHAN_REQUEST, .id = 1, .body = "x", .len = 1};
	void *ctx = zmq_ctx_new(), *s = raw_socket(ctx);

	raw_send(s, &request);
	raw_expect(s, CHAN_WELCOME, "no session: say hello first");
	assert_true(zmq_send(s, "\xff\xff\xff", 3, 0) == 3);
	raw_expect(s, CHAN_WELCOME, "malformed message");
	raw_send(s, &hello);
	raw_expect(s, CHAN_WELCOME, "");
	raw_send(s, &request);
	raw_expect(s, CHAN_REPLY, "");
	raw_send(s, &request); /* the same id again */
	raw_expect(s, CHAN_WELCOME, "message out of turn");
	hello.hello.min_version = 9;
	raw_send(s, &hello);
	raw_expect(s, CHAN_WELCOME, "no protocol version in common: update the older side");
	/* Several parts, and one beyond the limit: dropped, and others are still served. */
	assert_int_equal(zmq_send(s, "a", 1, ZMQ_SNDMORE), 1);
	assert_int_equal(zmq_send(s, "b", 1, 0), 1);
	assert_int_equal(zmq_send(s, big, sizeof(big), 0), (int)sizeof(big));
	connect_as(&t.client_keys, &t.server_keys.public_key, false);
	echo("fine");
	zmq_close(s);
	zmq_ctx_term(ctx);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(calls_are_answered),
		T(unknown_key_is_refused),
		T(wrong_server_key_is_noticed),
		T(nobody_there),
		T(patience_outlives_a_late_server),
		T(silence_times_out_and_cancels),
		T(streams_hold_to_their_window),
		T(early_inputs_are_kept),
		T(forgotten_inputs_are_freed),
		T(cancel_reaches_the_server),
		T(closed_link_cancels),
		T(lost_server_fails_and_link_recovers),
		T(bodies_are_bounded),
		T(rude_peers_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
