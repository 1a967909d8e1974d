#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proto/control.h"

static char why[VMSPEC_WHY_MAX];
static uint8_t *bytes;
static size_t len;

static int teardown(void **state)
{
	free(bytes);
	bytes = NULL;
	return 0;
}

static struct vmspec *make_spec(void)
{
	struct vmspec *s = calloc(1, sizeof(*s));

	snprintf(s->name, sizeof(s->name), "web");
	snprintf(s->kernel, sizeof(s->kernel), "/boot/vmlinuz");
	snprintf(s->cmdline, sizeof(s->cmdline), "console=ttyS0");
	assert_true(vmspec_set_vcpus(s, "a=1,b=2", why));
	assert_true(vmspec_set_memory(s, "a=32M,b=64M", why));
	assert_true(vmspec_set_transport(s, "verbs", why));
	s->encrypt = true;
	assert_true(vmspec_add_disk(s, "/a,ro,format=raw", why));
	assert_true(vmspec_add_nic(s, "net,mac=52:00:00:00:00:01", why));
	s->gdb_port = 1234;
	return s;
}

static void request_round_trip(void **state)
{
	struct control_request in = {.op = CONTROL_VM_RUN,
				     .node = "a",
				     .vm = "web",
				     .local = true,
				     .timeout_ms = 77,
				     .follow = true,
				     .overcommit = true,
				     .cols = 80,
				     .rows = 25};
	struct control_request out;

	in.spec = make_spec();
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), 0);
	assert_memory_equal(in.spec, out.spec, sizeof(*in.spec));
	control_request_fini(&in);
	control_request_fini(&out);
	assert_memory_equal(&in, &out, sizeof(in));
}

static void slice_round_trip(void **state)
{
	struct control_request in = {.op = CONTROL_SLICE_START, .vm = "web", .node = "b"}, out;

	in.slice = (struct control_slice){.index = 15,
					  .group = UINT64_MAX,
					  .key = {1, 2, 3},
					  .peer_count = 2,
					  .peers = {"10.0.0.1:7500", "[fd00::1]:65535"},
					  .reason = "slice 1 on node b: its process was ended"};
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	teardown(NULL);
	in.slice.group = 0; /* none */
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG);
	teardown(NULL);
	in.slice.group = 1;
	in.slice.index = VMSPEC_MAX_PARTS;
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG);
	teardown(NULL);
	in.slice.index = 1;
	in.op = CONTROL_SLICE_PREPARE; /* needs a spec */
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG);
	teardown(NULL);
	in.op = CONTROL_SLICE_PREPARE - 1; /* a number between the groups */
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG);
}

/* The parts of a guest that moves are beside its spec, which has one. */
static void parts_round_trip(void **state)
{
	struct control_request in = {.op = CONTROL_MIGRATE_PREPARE, .vm = "web", .node = "b"}, out;
	struct vmspec *s = make_spec();

	s->encrypt = false;
	s->transport[0] = 0;
	s->part_count = 0;
	in.spec = s;
	in.migrate.part_count = 2;
	memcpy(in.migrate.parts, s->parts, 2 * sizeof(s->parts[0]));
	memset(s->parts, 0, sizeof(s->parts));
	in.migrate.parts_encrypt = true;
	snprintf(in.migrate.parts_transport, sizeof(in.migrate.parts_transport), "tcp");
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), 0);
	assert_memory_equal(&in.migrate, &out.migrate, sizeof(in.migrate));
	assert_int_equal(out.spec->part_count, 0);
	control_request_fini(&out);
	control_request_fini(&in);
}

static void bad_requests_say_why(void **state)
{
	struct control_request in = {.op = CONTROL_VM_RUN}, out;

	in.spec = make_spec();
	snprintf(in.spec->kernel, sizeof(in.spec->kernel), "vmlinuz");
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG);
	assert_string_equal(why, "kernel 'vmlinuz': expected an absolute path");
	teardown(NULL);
	control_request_fini(&in);
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG); /* no spec */
	teardown(NULL);
	in.op = CONTROL_VM_KILL;
	snprintf(in.vm, sizeof(in.vm), "../etc");
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG);
	assert_string_equal(why, "'../etc' is no VM name");
	teardown(NULL);
	in.op = CONTROL_OP_END;
	in.vm[0] = 0;
	assert_int_equal(control_request_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_request_decode(bytes, len, &out, why), -EBADMSG);
	assert_int_equal(control_request_decode("\xff\xff", 2, &out, why), -EBADMSG);
	assert_string_equal(why, "the request is malformed");
}

/* Every field of every record has its own value, so that none can be forgotten in the tables. */
static void reply_round_trip(void **state)
{
	static const struct control_node node = {"n", "ad", "st", "re", "so", "ke", "cpu", 1,  2,
						 3,   4,    5,	  6,	7,    8,    9,	   10, 11};
	static const struct control_vm vm = {"n",    "no", "st", "re", "ke", 1, 2,  3, 4,
					     "kind", 5,	   6,	 7,    8,    9, 10, 11};
	static const struct control_event event = {1, 2, "no", "vm", "ki", "te"};
	static const struct control_item item = {"n", "te", 1};
	static const struct control_check check = {"no", "na", "le", "te", "me"};
	struct control_reply in = {.code = CONTROL_NOT_FOUND,
				   .text = "text",
				   .nodes = &node,
				   .vms = &vm,
				   .events = &event,
				   .items = &item,
				   .checks = &check,
				   .node_count = 1,
				   .vm_count = 1,
				   .event_count = 1,
				   .item_count = 1,
				   .check_count = 1};
	struct control_reply out;
	const char *const *texts;

	in.spec = make_spec();
	in.data = "da\0ta";
	in.data_len = 5;
	assert_int_equal(control_reply_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_reply_decode(bytes, len, &out), 0);
	assert_int_equal(out.code, CONTROL_NOT_FOUND);
	assert_string_equal(out.text, "text");
	texts = &out.nodes[0].name;
	for (int i = 0; i < 7; i++)
		assert_string_equal(texts[i], (&node.name)[i]);
	assert_memory_equal(&out.nodes[0].cpus, &node.cpus, 11 * 8);
	texts = &out.vms[0].name;
	for (int i = 0; i < 5; i++)
		assert_string_equal(texts[i], (&vm.name)[i]);
	assert_memory_equal(&out.vms[0].vcpus, &vm.vcpus, 4 * 8);
	assert_string_equal(out.vms[0].kind, "kind");
	assert_memory_equal(&out.vms[0].slice, &vm.slice, 7 * 8);
	texts = &out.events[0].node;
	for (int i = 0; i < 4; i++)
		assert_string_equal(texts[i], (&event.node)[i]);
	assert_memory_equal(&out.events[0], &event, 16);
	assert_string_equal(out.items[0].text, "te");
	assert_int_equal(out.items[0].value, 1);
	texts = &out.checks[0].node;
	for (int i = 0; i < 5; i++)
		assert_string_equal(texts[i], (&check.node)[i]);
	assert_memory_equal(in.spec, out.spec, sizeof(*in.spec));
	assert_int_equal(out.data_len, 5);
	assert_memory_equal(out.data, "da\0ta", 5);
	control_reply_fini(&out);
	free((void *)(uintptr_t)in.spec);
}

static void replies_are_bounded(void **state)
{
	static char data[CONTROL_DATA_MAX + 1], big[CHAN_MAX_BODY];
	struct control_reply in = {.data = data, .data_len = sizeof(data)}, out;

	assert_int_equal(control_reply_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_reply_decode(bytes, len, &out), -EBADMSG);
	teardown(NULL);
	memset(big, 'b', sizeof(big) - 1);
	in = (struct control_reply){.text = big};
	assert_int_equal(control_reply_encode(&in, &bytes, &len), -EMSGSIZE);
}

static void input_round_trip(void **state)
{
	struct control_input in = {.data = "ls\n", .len = 3, .cols = 80, .rows = 24}, out;

	assert_int_equal(control_input_encode(&in, &bytes, &len), 0);
	assert_int_equal(control_input_decode(bytes, len, &out), 0);
	assert_int_equal(out.cols, 80);
	assert_int_equal(out.rows, 24);
	assert_int_equal(out.len, 3);
	assert_memory_equal(out.data, "ls\n", 3);
	control_input_fini(&out);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, teardown)
	const struct CMUnitTest tests[] = {
		T(request_round_trip),	 T(slice_round_trip), T(parts_round_trip),
		T(bad_requests_say_why), T(reply_round_trip), T(replies_are_bounded),
		T(input_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
