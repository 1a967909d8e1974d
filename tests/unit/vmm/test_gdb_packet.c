#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "node/vmm/gdb_packet.h"

static struct vmm_gdb_reader r;

static enum vmm_gdb_item feed(const char *s)
{
	enum vmm_gdb_item item = VMM_GDB_MORE;

	while (*s)
		item = vmm_gdb_reader_put(&r, (uint8_t)*s++);
	return item;
}

static int fresh(void **state)
{
	memset(&r, 0, sizeof(r));
	return 0;
}

static void takes_packets(void **state)
{
	assert_int_equal(feed("+$g#67"), VMM_GDB_PACKET);
	assert_string_equal(r.text, "g");
	assert_int_equal(feed("$#00"), VMM_GDB_PACKET);
	assert_string_equal(r.text, "");
	assert_int_equal(feed("\3"), VMM_GDB_INTERRUPT);
}

static void refuses_damage(void **state)
{
	assert_int_equal(feed("$g#68"), VMM_GDB_BAD);
	assert_int_equal(feed("$g#6z"), VMM_GDB_BAD);
	assert_int_equal(feed("$lost$g#67"), VMM_GDB_PACKET);
	assert_string_equal(r.text, "g");
}

static void bounds_a_packet(void **state)
{
	vmm_gdb_reader_put(&r, '$');
	for (int i = 0; i < 2 * VMM_GDB_PACKET_MAX; i++)
		assert_int_equal(vmm_gdb_reader_put(&r, 'a'), VMM_GDB_MORE);
	assert_int_equal(feed("#00"), VMM_GDB_BAD);
	assert_int_equal(feed("$g#67"), VMM_GDB_PACKET);
}

static void bounds_a_reply(void **state)
{
	static struct vmm_gdb_reply reply;

	vmm_gdb_reply_start(&reply);
	for (int i = 0; i < VMM_GDB_PACKET_MAX; i++)
		vmm_gdb_reply_hex(&reply, "\x5a", 1);
	vmm_gdb_reply_end(&reply);
	assert_int_equal(reply.len, 7);
	assert_memory_equal(reply.text, "$E0b#d7", 7);
}

static void reads_hexadecimal(void **state)
{
	const char *s = "ffffffff81000000,10:";
	uint64_t v;
	uint8_t two[2];

	assert_true(vmm_gdb_hex(&s, &v));
	assert_true(v == UINT64_C(0xffffffff81000000));
	assert_true(vmm_gdb_skip(&s, ','));
	assert_true(vmm_gdb_hex(&s, &v));
	assert_int_equal(v, 16);
	assert_false(vmm_gdb_hex(&s, &v));
	s = "12345678123456781";
	assert_false(vmm_gdb_hex(&s, &v));
	s = "0aF";
	assert_false(vmm_gdb_unhex(&s, two, 2));
	s = "0aFF";
	assert_true(vmm_gdb_unhex(&s, two, 2));
	assert_memory_equal(two, "\x0a\xff", 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(takes_packets, fresh),
		cmocka_unit_test_setup(refuses_damage, fresh),
		cmocka_unit_test_setup(bounds_a_packet, fresh),
		cmocka_unit_test(bounds_a_reply),
		cmocka_unit_test(reads_hexadecimal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
