#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proto/vmmctl.h"

static uint8_t bytes[VMMCTL_MAX_BYTES];

static struct vmmctl_msg *through(const struct vmmctl_msg *in)
{
	struct vmmctl_msg *out = NULL;
	size_t len;

	assert_int_equal(vmmctl_encode(in, bytes, &len), 0);
	assert_int_equal(vmmctl_decode(bytes, len, &out), 0);
	assert_int_equal(out->kind, in->kind);
	assert_int_equal(out->id, in->id);
	return out;
}

static void request_round_trip(void **state)
{
	struct vmmctl_msg in = {.kind = VMMCTL_REQUEST, .id = UINT64_MAX};
	struct vmmctl_msg *out;

	in.request =
		(struct vmmctl_request){.op = VMMCTL_CONSOLE_RESIZE, .cols = 80, .rows = 65535};
	out = through(&in);
	assert_memory_equal(&out->request, &in.request, sizeof(in.request));
	free(out);
}

static void event_round_trip(void **state)
{
	struct vmmctl_msg in = {.kind = VMMCTL_EVENT};
	struct vmmctl_msg *out;

	in.event = (struct vmmctl_event){VMMCTL_EVENT_STATE, VMMCTL_FAILED, "triple fault"};
	out = through(&in);
	assert_int_equal(out->event.kind, VMMCTL_EVENT_STATE);
	assert_int_equal(out->event.state, VMMCTL_FAILED);
	assert_string_equal(out->event.text, "triple fault");
	free(out);
}

static void reply_round_trip(void **state)
{
	struct vmmctl_status status = {.state = VMMCTL_RUNNING,
				       .name = "web",
				       .reason = "",
				       .vcpus = 64,
				       .memory_bytes = UINT64_C(1) << 40,
				       .uptime_ns = 5,
				       .pid = 77,
				       .device_count = 2,
				       .devices = {{"blk", "disk0"}, {"net", "nic0"}}};
	struct vmmctl_stat stats[] = {{"exits.hlt", 1}, {"vcpu0.run_ns", UINT64_MAX}};
	struct vmmctl_msg in = {.kind = VMMCTL_REPLY, .id = 3};
	struct vmmctl_msg *out;

	in.reply = (struct vmmctl_reply){
		-ENOSPC, "disk full", &status, stats, 2, (const uint8_t *)"\0\377", 2};
	out = through(&in);
	assert_int_equal(out->reply.error, -ENOSPC);
	assert_string_equal(out->reply.text, "disk full");
	assert_memory_equal(out->reply.status, &status, sizeof(status));
	assert_int_equal(out->reply.stat_count, 2);
	assert_memory_equal(out->reply.stats, stats, sizeof(stats));
	assert_int_equal(out->reply.data_len, 2);
	assert_memory_equal(out->reply.data, "\0\377", 2);
	free(out);
}

static void bounds_hold_on_both_sides(void **state)
{
	static struct vmmctl_stat stats[VMMCTL_MAX_STATS + 1];
	static char text[VMMCTL_TEXT_MAX + 1];
	struct vmmctl_msg m = {.kind = VMMCTL_REPLY};
	struct vmmctl_msg *out;
	size_t len;

	m.reply.stats = stats;
	m.reply.stat_count = VMMCTL_MAX_STATS + 1;
	assert_int_equal(vmmctl_encode(&m, bytes, &len), -E2BIG);
	for (unsigned i = 0; i < VMMCTL_MAX_STATS; i++) {
		memset(stats[i].name, 'n', VMMCTL_NAME_MAX - 1);
		stats[i].value = UINT64_MAX;
	}
	m.reply.stat_count = VMMCTL_MAX_STATS;
	assert_int_equal(vmmctl_encode(&m, bytes, &len), 0);
	m.reply = (struct vmmctl_reply){.data = (uint8_t *)text, .data_len = VMMCTL_DATA_MAX + 1};
	assert_int_equal(vmmctl_encode(&m, bytes, &len), -E2BIG);
	m.reply = (struct vmmctl_reply){.text = text};
	memset(text, 'x', VMMCTL_TEXT_MAX);
	assert_int_equal(vmmctl_encode(&m, bytes, &len), -E2BIG);
	text[VMMCTL_TEXT_MAX - 1] = 0;
	out = through(&m);
	assert_int_equal(strlen(out->reply.text), VMMCTL_TEXT_MAX - 1);
	free(out);
}

/* Fields in the order of the schema: version 08, id 10, request 1a, reply 22, event 2a. */
static void hostile_bytes_are_refused(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		int rc;
	} cases[] = {
		{"", 0, -EPROTONOSUPPORT},
		{"\x08\x02\x1a\x02\x08\x01", 6, -EPROTONOSUPPORT},
		{"\x08\x01", 2, -EBADMSG},
		{"\x08\x01\x1a\x00", 4, -EBADMSG},			    /* op 0 */
		{"\x08\x01\x1a\x02\x08\x0b", 6, -EBADMSG},		    /* op 11 */
		{"\x08\x01\x1a\x06\x08\x09\x10\x80\x80\x04", 10, -EBADMSG}, /* cols 65536 */
		{"\x08\x01\x1a\x7f\x08\x01", 6, -EBADMSG},		    /* beyond the end */
		{"\x08\x01\x22\x03\x08\x80\x20", 7, -EBADMSG},		    /* error 4096 */
		{"\x08\x01\x22\x02\x1a\x00", 6, -EBADMSG},		    /* status, state 0 */
		{"\x08\x01\x2a\x02\x08\x01", 6, -EBADMSG}, /* state event, no state */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, -EBADMSG},
	};
	struct vmmctl_msg *out = NULL;

	for (unsigned i = 0; i < BASE_ARRAY_LEN(cases); i++)
		assert_int_equal(vmmctl_decode(cases[i].bytes, cases[i].len, &out), cases[i].rc);
	assert_null(out);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(vmmctl_decode(bytes, VMMCTL_MAX_BYTES + 1, &out), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request_round_trip),
		cmocka_unit_test(event_round_trip),
		cmocka_unit_test(reply_round_trip),
		cmocka_unit_test(bounds_hold_on_both_sides),
		cmocka_unit_test(hostile_bytes_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
