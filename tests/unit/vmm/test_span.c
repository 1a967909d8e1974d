/* The options of a slice, and the messages between slices. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/vmm/config.h"
#include "node/vmm/span.h"
#include "node/vmm/span_wire.h"

static char key_path[] = "/tmp/pangaea-key-XXXXXX";
static struct vmm_config c;
static char why[VMM_WHY_MAX];

static int make_key(void **state)
{
	static const uint8_t key[VMM_SLICE_KEY_LEN] = {1, 2, 3};
	int fd = mkstemp(key_path);

	return fd < 0 || write(fd, key, sizeof(key)) != sizeof(key) || close(fd) ? -1 : 0;
}

static int remove_key(void **state)
{
	return unlink(key_path);
}

static int parse(const char *first, ...)
{
	const char *argv[64] = {"vmm", "--name", "a"};
	const char *arg = first;
	va_list ap;
	int n = 3;

	va_start(ap, first);
	for (; arg; arg = va_arg(ap, const char *))
		argv[n++] = arg;
	va_end(ap);
	return vmm_config_parse(&c, n, (char **)argv, why);
}

#define PARTS  "--part", "2:512M", "--part", "1:1G"
#define PEERS  "--peer", "127.0.0.1:7001", "--peer", "127.0.0.1:7002"
#define SECRET "--group", "00000000000000ff", "--key-file", key_path

static void takes_a_slice(void **state)
{
	assert_int_equal(parse(PARTS, PEERS, SECRET, "--slice", "1", "--encrypt", NULL), 0);
	assert_int_equal(c.slices.count, 2);
	assert_int_equal(c.slices.self, 1);
	assert_int_equal(c.vcpus, 3);
	assert_int_equal(c.memory_bytes, 1536ull << 20);
	assert_int_equal(c.slices.group, 0xff);
	assert_int_equal(c.slices.key[1], 2);
	assert_true(c.slices.encrypt);
	assert_true(vmm_config_follows(&c));
	assert_int_equal(vmm_span_first_vcpu(&c.slices, 1), 2);
	assert_int_equal(vmm_span_first_byte(&c.slices, 1), 512 << 20);
	assert_int_equal(parse(PARTS, PEERS, SECRET, "--slice", "0", "--kernel", "k", "--vcpus",
			       "3", NULL),
			 0);
	assert_false(vmm_config_follows(&c));
}

static void refuses(const char *expected, int rc)
{
	assert_int_equal(rc, -EINVAL);
	if (!strstr(why, expected))
		fail_msg("'%s' does not say '%s'", why, expected);
}

static void refuses_what_does_not_fit(void **state)
{
	refuses("sums", parse(PARTS, PEERS, SECRET, "--slice", "1", "--vcpus", "2", NULL));
	refuses("--slice is missing", parse(PARTS, PEERS, SECRET, NULL));
	refuses("no such part", parse(PARTS, PEERS, SECRET, "--slice", "2", NULL));
	refuses("one for each slice",
		parse(PARTS, SECRET, "--slice", "1", "--peer", "127.0.0.1:7001", NULL));
	refuses("--group", parse(PARTS, PEERS, "--slice", "1", "--key-file", key_path, NULL));
	refuses("--key-file",
		parse(PARTS, PEERS, "--slice", "1", "--group", "00000000000000ff", NULL));
	refuses("slice 0 only",
		parse(PARTS, PEERS, SECRET, "--slice", "1", "--restore", "r", NULL));
	refuses("--incoming",
		parse(PARTS, PEERS, SECRET, "--slice", "0", "--incoming", "--run-dir", "r", NULL));
	refuses("slice 0 only", parse(PARTS, PEERS, SECRET, "--slice", "1", "--kernel", "k", NULL));
	refuses("at least two", parse("--part", "1:64M", "--peer", "127.0.0.1:7001", SECRET,
				      "--slice", "0", "--kernel", "k", NULL));
	refuses("--part is missing", parse("--slice", "0", "--kernel", "k", NULL));
	refuses("VCPUS:SIZE", parse("--part", "512M", NULL));
	refuses("1 to 64 vCPUs", parse("--part", "0:512M", NULL));
	refuses("16M to 32T", parse("--part", "1:1M", NULL));
	refuses("--joins '0,0'", parse("--joins", "0,0", NULL));
	refuses("--joins '0:0,x'", parse("--joins", "0:0,x", NULL));
	refuses("--joins '0,16:0'", parse("--joins", "0,16:0", NULL));
	refuses("--joins ':'", parse("--joins", ":", NULL));
	refuses("with --joins, or for all but slice 0",
		parse(PARTS, SECRET, "--slice", "1", "--peer", "127.0.0.1:7001", "--peer", "-",
		      NULL));
	refuses("slice 0 joins none",
		parse(PARTS, PEERS, SECRET, "--slice", "0", "--joins", "0,0:0,0,0", NULL));
	refuses("a slice of each part",
		parse(PARTS, PEERS, SECRET, "--slice", "1", "--joins", "0,0:0,0", NULL));
	refuses("is not this one",
		parse(PARTS, PEERS, SECRET, "--slice", "1", "--joins", "0,1:0,0,0", NULL));
	refuses("has a --peer", parse("--part", "1:32M", PARTS, "--peer", "-", PEERS, SECRET,
				      "--slice", "2", "--joins", "1,1,1:1,1,1,1", NULL));
	assert_int_equal(parse(PARTS, PEERS, SECRET, "--slice", "1", "--joins", "0,0:0,0,0", NULL),
			 0);
	refuses("ADDRESS:PORT", parse("--peer", "here", NULL));
	refuses("hexadecimal", parse("--group", "12", NULL));
	refuses("exactly 32 bytes", parse("--key-file", "/dev/null", NULL));
	refuses("not an open descriptor", parse("--listen-fd", "999999", NULL));
	refuses("tcp or verbs", parse("--transport", "pigeon", NULL));
	refuses("--kernel", parse(PARTS, PEERS, SECRET, "--slice", "0", NULL));
}

static void same(const struct span_msg *m)
{
	uint8_t first[SPAN_WIRE_MAX], second[SPAN_WIRE_MAX];
	size_t len = span_msg_put(first, m);
	struct span_msg back;

	assert_true(len <= sizeof(first));
	assert_int_equal(span_msg_get(first, len, &back), 0);
	assert_int_equal(span_msg_put(second, &back), len);
	assert_memory_equal(first, second, len);
	/* One byte less or more is another message, or none; a text may be shorter. */
	if (m->type != SPAN_END && m->type != SPAN_MOVE && m->type != SPAN_STATE &&
	    m->type != SPAN_PART && m->type != SPAN_LOADED) {
		assert_int_equal(span_msg_get(first, len - 1, &back), -EPROTO);
		assert_int_equal(span_msg_get(first, len + 1, &back), -EPROTO);
	}
}

static void messages_survive_the_wire(void **state)
{
	same(&(struct span_msg){.type = SPAN_HELLO, .hello = {1, 2, 3, 4, 5}});
	same(&(struct span_msg){.type = SPAN_GO, .number = 7, .go = {1, 2}});
	same(&(struct span_msg){.type = SPAN_HALT, .number = UINT32_MAX});
	same(&(struct span_msg){.type = SPAN_TIME_TELL, .tsc = UINT64_MAX});
	same(&(struct span_msg){.type = SPAN_IDS, .number = 3, .ids = UINT64_MAX});
	same(&(struct span_msg){.type = SPAN_IRQ,
				.irq = {.dest = 1,
					.vector = 0xef,
					.delivery = VMM_IRQ_FIXED,
					.shorthand = VMM_IRQ_OTHERS,
					.logical = true,
					.x2apic_dest = true,
					.source = 9}});
	same(&(struct span_msg){.type = SPAN_IO_ASK,
				.number = 63,
				.io = {.pio = true, .write = true, .len = 4, .addr = 0x600}});
	same(&(struct span_msg){.type = SPAN_RESET,
				.entry = {VMM_ENTRY_LONG64, 1, 2, 3, 4, 5, 6, 7, 8, 9}});
	same(&(struct span_msg){.type = SPAN_MOVE,
				.number = 5,
				.move = {9, SPAN_STEP_REFUSED, 3, "its CPU lacks features"}});
	same(&(struct span_msg){
		.type = SPAN_STATE, .number = 5, .state = {9, 7, 227, 220, {1, 2}}});
	same(&(struct span_msg){.type = SPAN_PLACE, .number = 5, .place = {9, UINT64_MAX}});
	same(&(struct span_msg){.type = SPAN_TASK,
				.number = 3,
				.task = {.op = SPAN_TASK_REHOME,
					 .slice = 2,
					 .rate = 100,
					 .home = {0, 1, 0, [15] = 7}}});
	same(&(struct span_msg){
		.type = SPAN_TASK,
		.number = 4,
		.task = {.op = SPAN_TASK_ADMIT,
			 .slice = 1,
			 .group = UINT64_MAX,
			 .address = "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535"}});
	same(&(struct span_msg){
		.type = SPAN_DONE, .number = 3, .done = {SPAN_TASK_EVICT, 115, 1, 2}});
	same(&(struct span_msg){.type = SPAN_SAVE, .number = 3});
	same(&(struct span_msg){.type = SPAN_LOOK, .number = 4});
	same(&(struct span_msg){.type = SPAN_FLUSH, .number = 3, .round = 1});
	same(&(struct span_msg){
		.type = SPAN_PART, .number = 3, .state = {0, 7, UINT32_MAX, 220, {1, 2}}});
	same(&(struct span_msg){.type = SPAN_LOADED, .number = 3, .end = {true, "damaged"}});
	same(&(struct span_msg){.type = SPAN_END, .end = {true, "the guest has failed"}});
}

static void refuses_foreign_messages(void **state)
{
	uint8_t b[SPAN_WIRE_MAX] = {0};
	struct span_msg m = {.type = SPAN_IO_ASK, .io = {.len = 9}};
	size_t len;

	assert_int_equal(span_msg_get(b, sizeof(b), &m), -EPROTO);
	b[0] = SPAN_TYPE_END;
	assert_int_equal(span_msg_get(b, 5, &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_MOVE, .move = {.step = SPAN_STEP_END}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_MOVE, .move = {.step = 1, .peer = VMM_SLICE_MAX}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	/* State that is longer than it says, or than any can be. */
	m = (struct span_msg){.type = SPAN_STATE, .state = {.total = 9, .len = 10}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_STATE, .state = {.total = UINT32_MAX, .len = 10}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_TASK};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_DONE, .done = {.op = SPAN_TASK_END}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_PART, .state = {.offset = 5, .total = 9, .len = 5}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_PART, .state = {.total = 9}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_RESET, .entry = {.mode = 3}};
	assert_int_equal(span_msg_get(b, span_msg_put(b, &m), &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_IO_ASK, .io = {.len = 9}};
	len = span_msg_put(b, &m);
	assert_int_equal(span_msg_get(b, len, &m), -EPROTO);
	m = (struct span_msg){.type = SPAN_END, .end = {false, "\033[31mred\n"}};
	len = span_msg_put(b, &m);
	assert_int_equal(span_msg_get(b, len, &m), 0);
	assert_string_equal(m.end.text, "?[31mred?");
}

static void clocks_move_within_what_is_known(void **state)
{
	assert_int_equal(vmm_span_clock_step(0, 0), 0);
	assert_int_equal(vmm_span_clock_step(900, 1000), 0);
	assert_int_equal(vmm_span_clock_step(-900, 1000), 0);
	/* Behind: to the edge of what is known, at once. */
	assert_int_equal(vmm_span_clock_step(50000, 1000), 49000);
	/* Ahead: by less than an exit takes. */
	assert_int_equal(vmm_span_clock_step(-1500, 1000), -500);
	assert_int_equal(vmm_span_clock_step(-50000, 1000), -2000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_a_slice),
		cmocka_unit_test(refuses_what_does_not_fit),
		cmocka_unit_test(messages_survive_the_wire),
		cmocka_unit_test(refuses_foreign_messages),
		cmocka_unit_test(clocks_move_within_what_is_known),
	};

	return cmocka_run_group_tests_name("span", tests, make_key, remove_key);
}
