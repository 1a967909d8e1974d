/* One page on one node, message by message: grants, deferral, and what a wrong peer may send. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "dsm/page_fsm.h"

enum { HOME = 0, ME = 1, OTHER = 2, THIRD = 3, HOLD = 10000 };

struct node {
	struct dsm_env env;
	struct dsm_page page;
	struct dsm_dir dir;
	struct dsm_out out;
	int64_t now;
};

static struct node node_at(uint8_t self)
{
	return (struct node){
		.env = {.self = self, .home = HOME, .hold_ns = HOLD, .hold_level_max = 6},
		.now = 1000000};
}

static int run(struct node *n, struct dsm_in in)
{
	struct dsm_dir *dir = n->env.self == HOME ? &n->dir : NULL;

	in.now_ns = n->now;
	in.random = 1;
	int err = dsm_page_step(&n->env, &n->page, dir, &in, &n->out);

	if (!err)
		assert_null(dsm_page_check(&n->env, &n->page, dir));
	return err;
}

static void local(struct node *n, uint8_t type)
{
	assert_int_equal(run(n, (struct dsm_in){.type = type}), 0);
}

static int msg(struct node *n, uint8_t from, struct dsm_msg m)
{
	return run(n, (struct dsm_in){.type = DSM_IN_MSG, .from = from, .msg = m});
}

static const struct dsm_act *only(const struct node *n, uint8_t type)
{
	const struct dsm_act *found = NULL;

	for (unsigned i = 0; i < n->out.count; i++) {
		if (n->out.act[i].type == type) {
			assert_null(found);
			found = &n->out.act[i];
		}
	}
	assert_non_null(found);
	return found;
}

static const struct dsm_msg *sent(const struct node *n, uint8_t to, uint8_t type)
{
	for (unsigned i = 0; i < n->out.count; i++) {
		const struct dsm_act *a = &n->out.act[i];

		if (a->type == DSM_ACT_SEND && a->to == to && a->msg.type == type)
			return &a->msg;
	}
	return NULL;
}

static void read_from_owner(struct node *n, uint32_t version)
{
	local(n, DSM_IN_READ);
	assert_non_null(sent(n, HOME, DSM_MSG_GET_S));
	assert_int_equal(msg(n, OTHER,
			     (struct dsm_msg){.type = DSM_MSG_DATA,
					      .access = DSM_S,
					      .kind = DSM_DATA_PAGE,
					      .version = version}),
			 0);
}

static void test_read_is_granted_by_the_owner(void **state)
{
	struct node n = node_at(ME);

	read_from_owner(&n, 5);
	assert_int_equal(n.out.act[0].type, DSM_ACT_STORE);
	assert_int_equal(only(&n, DSM_ACT_MAP)->access, DSM_S);
	assert_non_null(sent(&n, HOME, DSM_MSG_DONE));
	assert_int_equal(n.page.state, DSM_S);
}

static void test_write_waits_for_all_acks(void **state)
{
	struct node n = node_at(ME);

	local(&n, DSM_IN_WRITE);
	/* One acknowledgement overtakes the grant. */
	assert_int_equal(msg(&n, THIRD, (struct dsm_msg){.type = DSM_MSG_INV_ACK}), 0);
	assert_int_equal(msg(&n, OTHER,
			     (struct dsm_msg){.type = DSM_MSG_DATA,
					      .access = DSM_X,
					      .acks = 2,
					      .kind = DSM_DATA_PAGE,
					      .version = 2}),
			 0);
	assert_int_equal(n.out.count, 1); /* stored, not mapped */
	assert_int_equal(msg(&n, 4, (struct dsm_msg){.type = DSM_MSG_INV_ACK}), 0);
	assert_int_equal(only(&n, DSM_ACT_MAP)->access, DSM_X);
	assert_int_equal(msg(&n, 5, (struct dsm_msg){.type = DSM_MSG_INV_ACK}), -EPROTO);
}

static void test_upgrade_carries_no_data(void **state)
{
	struct node n = node_at(ME);

	read_from_owner(&n, 5);
	local(&n, DSM_IN_WRITE);
	assert_int_equal(sent(&n, HOME, DSM_MSG_GET_X)->version, 5);
	assert_int_equal(msg(&n, HOME,
			     (struct dsm_msg){.type = DSM_MSG_DATA,
					      .access = DSM_X,
					      .kind = DSM_DATA_NONE,
					      .version = 6}),
			 0);
	only(&n, DSM_ACT_MAP);
	assert_null(sent(&n, HOME, DSM_MSG_DONE));
	assert_int_equal(n.page.version, 6);
}

static void test_invalidation_waits_for_the_hold_time(void **state)
{
	struct node n = node_at(ME);
	struct dsm_msg inv = {.type = DSM_MSG_INV, .node = OTHER};

	read_from_owner(&n, 5);
	assert_int_equal(msg(&n, HOME, inv), 0);
	assert_int_equal(only(&n, DSM_ACT_TIMER)->until_ns, n.now + HOLD);
	assert_int_equal(msg(&n, HOME, inv), -EPROTO);
	n.now += HOLD;
	local(&n, DSM_IN_TIMER);
	assert_int_equal(n.out.act[0].type, DSM_ACT_UNMAP);
	assert_non_null(sent(&n, OTHER, DSM_MSG_INV_ACK));
	assert_int_equal(n.page.state, DSM_I);
}

static void test_dropped_copy_comes_back_without_data(void **state)
{
	struct node n = node_at(ME);

	read_from_owner(&n, 5);
	local(&n, DSM_IN_DROP);
	only(&n, DSM_ACT_UNMAP);
	local(&n, DSM_IN_READ);
	assert_int_equal(sent(&n, HOME, DSM_MSG_GET_S)->version, 5);
	assert_int_equal(msg(&n, HOME,
			     (struct dsm_msg){.type = DSM_MSG_DATA,
					      .access = DSM_S,
					      .kind = DSM_DATA_NONE,
					      .version = 5}),
			 0);
	assert_int_equal(only(&n, DSM_ACT_MAP)->access, DSM_S);
}

static struct dsm_msg get(uint8_t type, uint32_t version)
{
	return (struct dsm_msg){.type = type, .version = version};
}

static void test_dormant_page_is_granted_for_writing(void **state)
{
	struct node n = node_at(HOME);

	assert_int_equal(msg(&n, ME, get(DSM_MSG_GET_S, 0)), 0);
	const struct dsm_msg *m = sent(&n, ME, DSM_MSG_DATA);

	assert_int_equal(m->kind, DSM_DATA_ZERO);
	assert_int_equal(m->access, DSM_X);
	assert_int_equal(n.dir.owner, ME);
	assert_int_equal(n.dir.pending, 0);
}

static void test_home_invalidates_in_parallel(void **state)
{
	struct node n = node_at(HOME);

	local(&n, DSM_IN_POPULATE);
	for (uint8_t r = 1; r <= 3; r++)
		assert_int_equal(msg(&n, r, get(DSM_MSG_GET_S, 0)), 0);
	assert_int_equal(n.dir.copyset, 0xf);
	assert_int_equal(msg(&n, 1, get(DSM_MSG_GET_X, 1)), 0);
	only(&n, DSM_ACT_UNMAP); /* its own copy at once */
	assert_non_null(sent(&n, 2, DSM_MSG_INV));
	assert_non_null(sent(&n, 3, DSM_MSG_INV));
	assert_int_equal(sent(&n, 1, DSM_MSG_DATA)->acks, 2);
	assert_int_equal(sent(&n, 1, DSM_MSG_DATA)->kind, DSM_DATA_NONE);
	/* Until the writer is done, others queue. */
	assert_int_equal(msg(&n, 2, get(DSM_MSG_GET_S, 0)), 0);
	assert_int_equal(n.out.count, 0);
	assert_int_equal(msg(&n, 2, get(DSM_MSG_GET_S, 0)), -EPROTO);
	assert_int_equal(msg(&n, 1, (struct dsm_msg){.type = DSM_MSG_DONE, .node = 1}), 0);
	assert_int_equal(sent(&n, 1, DSM_MSG_FWD_S)->node, 2);
}

static void test_prefetch_of_a_dormant_page_is_denied(void **state)
{
	struct node n = node_at(HOME);
	struct dsm_msg m = get(DSM_MSG_GET_S, 0);

	m.flags = DSM_MSG_F_PREFETCH;
	assert_int_equal(msg(&n, ME, m), 0);
	assert_int_equal(sent(&n, ME, DSM_MSG_DATA)->kind, DSM_DATA_DENIED);
	assert_false(n.dir.touched);
}

static void test_taking_is_for_dormant_pages_only(void **state)
{
	struct node n = node_at(ME), home = node_at(HOME);
	struct dsm_msg m;

	local(&n, DSM_IN_TAKE);
	m = *sent(&n, HOME, DSM_MSG_GET_X);
	assert_int_equal(m.flags, DSM_MSG_F_PREFETCH);
	assert_int_equal(msg(&home, ME, m), 0);
	assert_int_equal(sent(&home, ME, DSM_MSG_DATA)->kind, DSM_DATA_ZERO);
	assert_int_equal(msg(&n, HOME, *sent(&home, ME, DSM_MSG_DATA)), 0);
	assert_int_equal(n.page.state, DSM_X);
	local(&n, DSM_IN_TAKE); /* ours already */
	assert_int_equal(n.out.count, 0);

	/* Somebody else has touched it now; who waits meanwhile asks anew. */
	n = node_at(OTHER);
	local(&n, DSM_IN_TAKE);
	local(&n, DSM_IN_READ);
	assert_int_equal(msg(&home, OTHER, m), 0);
	assert_int_equal(sent(&home, OTHER, DSM_MSG_DATA)->kind, DSM_DATA_DENIED);
	assert_int_equal(msg(&n, HOME, *sent(&home, OTHER, DSM_MSG_DATA)), 0);
	assert_int_equal(sent(&n, HOME, DSM_MSG_GET_S)->flags, 0);
}

/* Whatever arrives, in any state: refused or taken, never a crash, the invariants hold. */
static void test_any_message_in_any_state(void **state)
{
	for (unsigned type = 0; type <= DSM_MSG_END; type++) {
		for (unsigned fields = 0; fields < 1u << 12; fields++) {
			struct node n = node_at(fields & 1 ? HOME : ME);
			struct dsm_msg m = {.type = (uint8_t)type,
					    .node = (uint8_t)(fields >> 1 & 0x1f),
					    .acks = fields & 64	   ? 17
						    : fields & 128 ? 1
								   : 0,
					    .kind = (uint8_t)(fields >> 8 & 7),
					    .access = (uint8_t)(fields >> 10 & 3),
					    .version = fields & 32};

			if (fields & 512)
				local(&n, DSM_IN_WRITE);
			(void)msg(&n, fields & 2 ? HOME : OTHER, m);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_is_granted_by_the_owner),
		cmocka_unit_test(test_write_waits_for_all_acks),
		cmocka_unit_test(test_upgrade_carries_no_data),
		cmocka_unit_test(test_invalidation_waits_for_the_hold_time),
		cmocka_unit_test(test_dropped_copy_comes_back_without_data),
		cmocka_unit_test(test_dormant_page_is_granted_for_writing),
		cmocka_unit_test(test_home_invalidates_in_parallel),
		cmocka_unit_test(test_prefetch_of_a_dormant_page_is_denied),
		cmocka_unit_test(test_taking_is_for_dormant_pages_only),
		cmocka_unit_test(test_any_message_in_any_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
