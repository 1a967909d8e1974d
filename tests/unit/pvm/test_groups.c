/* libs: pg_pvm_gs */
/* Groups as the group server keeps them, and the stock operators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "pvm/gs/groups.h"
#include "pvm/include/pvm3.h"

static void lowest_free_instance(void **state)
{
	struct gs_groups gs = {0};

	for (int i = 0; i < 20; i++)
		assert_int_equal(gs_group_join(&gs, "g", 100 + i), i);
	assert_int_equal(gs_group_join(&gs, "g", 105), PvmDupGroup);
	assert_int_equal(gs_group_leave(&gs, gs_groups_find(&gs, "g"), 103), 0);
	assert_int_equal(gs_group_leave(&gs, gs_groups_find(&gs, "g"), 103), PvmNotInGroup);
	assert_int_equal(gs_group_join(&gs, "g", 500), 3);
	assert_int_equal(gs_group_join(&gs, "g", 501), 20);
	assert_int_equal(gs_group_inst(gs_groups_find(&gs, "g"), 501), 20);
	gs_groups_fini(&gs);
}

static void barrier_waits_for_the_count(void **state)
{
	struct gs_groups gs = {0};
	struct gs_group *g;

	for (int i = 0; i < 3; i++)
		gs_group_join(&gs, "g", 1 + i);
	g = gs_groups_find(&gs, "g");
	assert_int_equal(gs_group_wait(g, &g->barrier, 9, 2), PvmNotInGroup);
	assert_int_equal(gs_group_wait(g, &g->barrier, 1, 0), PvmMismatch);
	assert_int_equal(gs_group_wait(g, &g->barrier, 1, 3), 0);
	assert_int_equal(gs_group_wait(g, &g->barrier, 2, 2), PvmMismatch);
	assert_int_equal(gs_group_wait(g, &g->barrier, 1, 3), PvmAlready);
	assert_int_equal(gs_group_wait(g, &g->barrier, 2, 3), 0);
	assert_int_equal(gs_group_wait(g, &g->barrier, 3, 3), 1);
	gs_waiting_clear(&g->barrier);
	/* all members, and one of them goes */
	assert_int_equal(gs_group_wait(g, &g->barrier, 1, -1), 0);
	assert_int_equal(gs_group_wait(g, &g->barrier, 2, -1), 0);
	assert_false(gs_waiting_full(g, &g->barrier));
	assert_int_equal(gs_group_leave(&gs, g, 3), 0);
	assert_true(gs_waiting_full(g, &g->barrier));
	gs_groups_fini(&gs);
}

static void static_groups_take_nobody(void **state)
{
	struct gs_groups gs = {0};
	struct gs_group *g;

	gs_group_join(&gs, "g", 1);
	g = gs_groups_find(&gs, "g");
	gs_group_freeze(&gs, g);
	assert_int_equal(gs_group_join(&gs, "g", 2), PvmNotInGroup);
	assert_int_equal(gs_group_leave(&gs, g, 1), 0);
	assert_true(g->broken);
	gs_group_reap(&gs, g);
	assert_null(gs_groups_find(&gs, "g"));
	assert_int_equal(gs_group_join(&gs, "g", 2), 0);
	gs_groups_fini(&gs);
}

static void operators(void **state)
{
	double x[3] = {1, 5, -2}, y[3] = {2, 3, -3};
	float z[4] = {1, 2, 3, 4}, w[4] = {2, 2, 1, 1};
	int n = 3, two = 2, info = 7, type = PVM_DOUBLE, cplx = PVM_CPLX, bad = 99,
	    bytes = PVM_BYTE;

	PvmMax(&type, x, y, &n, &info);
	assert_int_equal(info, 0);
	assert_true(x[0] == 2 && x[1] == 5 && x[2] == -2);
	PvmSum(&type, x, y, &n, &info);
	assert_true(x[0] == 4 && x[1] == 8 && x[2] == -5);
	PvmProduct(&cplx, z, w, &two, &info);
	assert_true(z[0] == -2 && z[1] == 6 && z[2] == -1 && z[3] == 7);
	PvmMin(&cplx, z, w, &two, &info);
	assert_true(z[0] == 2 && z[1] == 2 && z[2] == 1 && z[3] == 1);
	PvmSum(&bad, x, y, &n, &info);
	assert_int_equal(info, PvmBadParam);
	PvmSum(&bytes, x, y, &n, &info);
	assert_int_equal(info, PvmBadParam);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lowest_free_instance),
		cmocka_unit_test(barrier_waits_for_the_count),
		cmocka_unit_test(static_groups_take_nobody),
		cmocka_unit_test(operators),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
