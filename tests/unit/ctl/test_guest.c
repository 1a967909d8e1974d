/* The slices of a guest are put together by name and group, whatever the agents answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ctl/guest.h"

static struct control_vm slice(const char *node, uint64_t index, uint64_t count, uint64_t group)
{
	return (struct control_vm){.name = "big",
				   .node = node,
				   .state = "running",
				   .slice = index,
				   .slices = count,
				   .group = group};
}

static void slices_come_together(void **state)
{
	const struct control_vm vms[] = {
		slice("b", 1, 2, 7),
		{.name = "web", .node = "a"},
		slice("a", 0, 2, 7),
		slice("c", 1, 2, 6), /* of an earlier one of this name, whose lead nobody knows */
	};
	struct control_reply r = {.vms = vms, .vm_count = BASE_ARRAY_LEN(vms)};
	struct ctl_guest g[BASE_ARRAY_LEN(vms)];
	char nodes[64];

	assert_int_equal(ctl_guests(&r, g), 3);
	assert_ptr_equal(g[0].vm, &vms[2]); /* the lead speaks for it */
	ctl_guest_nodes(&g[0], nodes, sizeof(nodes));
	assert_string_equal(nodes, "a+b");
	assert_int_equal(g[1].count, 0);
	ctl_guest_nodes(&g[1], nodes, sizeof(nodes));
	assert_string_equal(nodes, "a");
	assert_ptr_equal(g[2].vm, &vms[3]);
	ctl_guest_nodes(&g[2], nodes, sizeof(nodes));
	assert_string_equal(nodes, "?+c");
}

/* Slice 1 has left b, failed to come to c, is on d now; the records of what was may come first or last. */
static void a_slice_is_where_it_is_now(void **state)
{
	struct control_vm vms[] = {slice("b", 1, 2, 7), slice("a", 0, 2, 7), slice("d", 1, 2, 7),
				   slice("c", 1, 2, 7)};
	struct control_reply r = {.vms = vms, .vm_count = BASE_ARRAY_LEN(vms)};
	struct ctl_guest g[BASE_ARRAY_LEN(vms)];
	char nodes[64];

	vms[0].ended_ns = 9;
	vms[3].ended_ns = 5;
	assert_int_equal(ctl_guests(&r, g), 1);
	ctl_guest_nodes(&g[0], nodes, sizeof(nodes));
	assert_string_equal(nodes, "a+d");
	vms[2].ended_ns = 2;
	assert_int_equal(ctl_guests(&r, g), 1);
	assert_ptr_equal(g[0].slice[1], &vms[2]); /* that was last */
}

static void nonsense_is_bounded(void **state)
{
	const struct control_vm vms[] = {
		slice("a", 0, UINT64_MAX, 1), slice("b", UINT64_MAX, 2, 2), slice("c", 15, 16, 3),
		slice("d", 3, 2, 3), /* contradicts the one before */
	};
	struct control_reply r = {.vms = vms, .vm_count = BASE_ARRAY_LEN(vms)};
	struct ctl_guest g[BASE_ARRAY_LEN(vms)];
	char nodes[8];

	assert_int_equal(ctl_guests(&r, g), 3);
	assert_int_equal(g[0].count, 0);
	assert_int_equal(g[1].count, 0);
	assert_int_equal(g[2].count, 16);
	ctl_guest_nodes(&g[2], nodes, sizeof(nodes));
	assert_string_equal(nodes, "?+?+?+?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slices_come_together),
		cmocka_unit_test(a_slice_is_where_it_is_now),
		cmocka_unit_test(nonsense_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
