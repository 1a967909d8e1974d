/* node/libvirt on libvirt's own test driver, which needs no daemon; and without any libvirt. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "node/libvirt/virt.h"

enum { WAIT_S = 20 };

#ifdef __SANITIZE_THREAD__
/* These are not instrumented: of how their threads agree (atomics, futexes) nothing is seen. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:libglib-2.0.so.0\n"
	       "called_from_lib:libvirt.so.0\n";
}
#endif

static struct base_loop *loop;
static struct node_virt *virt;
static char events[4096];

static void on_event(void *ctx, const char *name, const char *text)
{
	size_t used = strlen(events);

	snprintf(events + used, sizeof(events) - used, "[%s %s]", name, text);
}

static void open_virt(const char *uri, const char *library)
{
	struct node_virt_config config = {
		.loop = loop, .uri = uri, .library = library, .event = on_event};

	events[0] = 0;
	assert_int_equal(node_virt_new(&config, &virt), 0);
}

/* Turns the loop until cond() holds: what the other threads find comes as posts, or as state. */
static void until(bool (*cond)(const void *arg), const void *arg)
{
	int64_t end = base_clock_ns() + WAIT_S * BASE_NS_PER_SEC;

	while (!cond(arg)) {
		assert_true(base_clock_ns() < end);
		assert_int_equal(base_loop_step(loop, 10), 0);
	}
}

static bool is_connected(const void *arg)
{
	struct node_virt_status s;

	node_virt_status(virt, &s);
	return s.connected;
}

static bool in_state(const void *state)
{
	struct node_virt_domain d;

	return node_virt_find(virt, "test", &d) && !strcmp(d.state, state);
}

static bool event_came(const void *text)
{
	return strstr(events, text) != NULL;
}

struct outcome {
	int count, error;
	size_t stats;
	char text[NODE_VIRT_TEXT_MAX];
};

static void on_done(void *ctx, const struct node_virt_result *r)
{
	struct outcome *o = ctx;

	o->count++;
	o->error = r->error;
	o->stats = r->stat_count;
	memcpy(o->text, r->text, sizeof(o->text));
}

static bool is_done(const void *arg)
{
	return ((const struct outcome *)arg)->count == 1;
}

static const struct node_virt_ops ops = {.done = on_done};

static struct outcome ask(enum node_virt_op op, const char *uuid)
{
	struct node_virt_request r = {.op = op, .timeout_ms = WAIT_S * 1000};
	struct outcome o = {0};

	snprintf(r.uuid, sizeof(r.uuid), "%s", uuid);
	assert_int_equal(node_virt_start(virt, &r, &ops, &o), 0);
	assert_int_equal(o.count, 0);
	until(is_done, &o);
	return o;
}

static int open_test(void **state)
{
	assert_int_equal(base_loop_new(&loop), 0);
	open_virt("test:///default", NULL);
	until(is_connected, NULL);
	return 0;
}

static int shut(void **state)
{
	node_virt_free(virt);
	virt = NULL;
	assert_int_equal(base_loop_step(loop, 0), 0);
	base_loop_free(loop);
	return 0;
}

static void lists_domains(void **state)
{
	struct node_virt_domain list[4], d;
	struct node_virt_status s;

	assert_int_equal(node_virt_list(virt, list, 4), 1);
	assert_string_equal(list[0].name, "test");
	assert_string_equal(list[0].state, "running");
	assert_true(list[0].active && list[0].persistent);
	assert_int_equal(list[0].vcpus, 2);
	assert_true(list[0].memory_bytes >= (UINT64_C(1) << 30));
	assert_true(node_virt_find(virt, list[0].uuid, &d));
	assert_string_equal(d.name, "test");
	assert_false(node_virt_find(virt, "tes", &d));
	assert_int_equal(node_virt_list(virt, list, 0), 0);
	node_virt_status(virt, &s);
	assert_int_equal(s.domains, 1);
	assert_int_equal(s.active, 1);
	assert_int_equal(s.vcpus, 2);
	assert_non_null(strstr(s.software, "libvirt"));
	assert_true(s.cpus > 0 && s.memory_bytes > 0);
}

static void stops_and_starts(void **state)
{
	struct node_virt_domain d;
	struct node_virt_status s;

	assert_true(node_virt_find(virt, "test", &d));
	assert_int_equal(ask(NODE_VIRT_PAUSE, d.uuid).error, 0);
	until(in_state, "paused");
	assert_int_equal(ask(NODE_VIRT_RESUME, d.uuid).error, 0);
	until(in_state, "running");
	/* Done means off, and the list says so already. */
	assert_int_equal(ask(NODE_VIRT_STOP, d.uuid).error, 0);
	assert_true(in_state("off"));
	until(event_came, "[test stopped]");
	node_virt_status(virt, &s);
	assert_int_equal(s.domains, 1);
	assert_int_equal(s.active, 0);
	assert_true(ask(NODE_VIRT_STOP, d.uuid).error < 0);
	assert_int_equal(ask(NODE_VIRT_START, d.uuid).error, 0);
	until(in_state, "running");
	until(event_came, "[test started]");
	assert_int_equal(ask(NODE_VIRT_KILL, d.uuid).error, 0);
	until(in_state, "off");
	assert_int_equal(ask(NODE_VIRT_START, d.uuid).error, 0);
}

static void says_what_is_wrong(void **state)
{
	struct node_virt_domain d;
	struct outcome o = ask(NODE_VIRT_START, "00000000-0000-0000-0000-000000000001");

	assert_int_equal(o.error, -ENOENT);
	assert_true(o.text[0]);
	assert_int_equal(ask(NODE_VIRT_START, "no uuid").error, -EINVAL);
	assert_true(node_virt_find(virt, "test", &d));
	o = ask(NODE_VIRT_START, d.uuid);
	assert_true(o.error < 0 && o.text[0]);
	/* The test driver cannot migrate. */
	o = ask(NODE_VIRT_MIGRATE, d.uuid);
	assert_true(o.error < 0 && o.text[0]);
	assert_true(ask(NODE_VIRT_CANCEL, d.uuid).error < 0);
}

static void gives_statistics(void **state)
{
	struct node_virt_domain d;
	struct outcome o;

	assert_true(node_virt_find(virt, "test", &d));
	o = ask(NODE_VIRT_STATS, d.uuid);
	assert_int_equal(o.error, 0);
	assert_true(o.stats > 0);
}

/* Requests under way when all ends: their threads finish alone, and no callback comes. */
static void ends_amid_requests(void **state)
{
	struct node_virt_request r = {.op = NODE_VIRT_STATS};
	struct outcome o[8] = {{0}};
	struct node_virt_domain d;

	assert_true(node_virt_find(virt, "test", &d));
	memcpy(r.uuid, d.uuid, sizeof(r.uuid));
	for (int i = 0; i < 8; i++)
		assert_int_equal(node_virt_start(virt, &r, &ops, &o[i]), 0);
	node_virt_free(virt);
	for (int i = 0; i < 20; i++)
		assert_int_equal(base_loop_step(loop, 1), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(o[i].count, 0);
	open_virt("test:///default", NULL);
	until(is_connected, NULL);
}

static bool has_reason(const void *text)
{
	struct node_virt_status s;

	node_virt_status(virt, &s);
	return !s.connected && strstr(s.why, text);
}

static void refused(void)
{
	struct node_virt_request r = {.op = NODE_VIRT_START, .uuid = "x"};
	struct node_virt_domain d;
	struct outcome o = {0};

	assert_int_equal(node_virt_list(virt, &d, 1), 0);
	assert_int_equal(node_virt_start(virt, &r, &ops, &o), -ENOTCONN);
}

static void works_without_library(void **state)
{
	assert_int_equal(base_loop_new(&loop), 0);
	open_virt("qemu:///system", "libno-such-thing.so.0");
	until(has_reason, "libno-such-thing");
	refused();
	shut(NULL);
}

static void works_without_daemon(void **state)
{
	assert_int_equal(base_loop_new(&loop), 0);
	open_virt("qemu+unix:///system?socket=/nonexistent/libvirt-sock", NULL);
	until(has_reason, "/nonexistent/libvirt-sock");
	refused();
	shut(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lists_domains, open_test, shut),
		cmocka_unit_test_setup_teardown(stops_and_starts, open_test, shut),
		cmocka_unit_test_setup_teardown(says_what_is_wrong, open_test, shut),
		cmocka_unit_test_setup_teardown(gives_statistics, open_test, shut),
		cmocka_unit_test_setup_teardown(ends_amid_requests, open_test, shut),
		cmocka_unit_test(works_without_library),
		cmocka_unit_test(works_without_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
