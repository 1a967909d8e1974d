#include <errno.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "node/net/seal.h"

static struct node_seal_keys a, b;

static int keys(void **state)
{
	return sodium_init() < 0 || crypto_box_keypair(a.public_key, a.secret_key) ||
	       crypto_box_keypair(b.public_key, b.secret_key);
}

static ssize_t opened(struct node_opener *o, const uint8_t *d, size_t len)
{
	uint8_t frame[64];
	uint32_t network;
	ssize_t n = node_open(o, d, len, &network, frame, sizeof(frame));

	if (n >= 0)
		assert_int_equal(network, 9);
	return n;
}

static void opens_once_and_unchanged(void **state)
{
	struct node_sealer s;
	struct node_opener o;
	uint8_t d[64 + NODE_SEAL_OVERHEAD];
	size_t len;

	assert_int_equal(node_sealer_init(&s, &a, b.public_key), 0);
	assert_int_equal(node_opener_init(&o, &b, a.public_key), 0);
	for (size_t at = 0; at < 20 + NODE_SEAL_OVERHEAD; at++) {
		len = node_seal(&s, 9, "01234567890123456789", 20, d);
		assert_int_equal(len, 20 + NODE_SEAL_OVERHEAD);
		d[at] ^= 0x40;
		assert_int_equal(opened(&o, d, len), -EBADMSG);
		d[at] ^= 0x40;
		assert_int_equal(opened(&o, d, len), 20);
		assert_int_equal(opened(&o, d, len), -EBADMSG);
	}
	for (size_t n = 0; n < len; n++)
		assert_int_equal(opened(&o, d, n), -EBADMSG);
}

/* Its own datagrams do not open at the sender: the directions have different keys. */
static void directions_differ(void **state)
{
	struct node_sealer s;
	struct node_opener o;
	uint8_t d[64 + NODE_SEAL_OVERHEAD];
	size_t len;

	assert_int_equal(node_sealer_init(&s, &a, b.public_key), 0);
	assert_int_equal(node_opener_init(&o, &a, b.public_key), 0);
	len = node_seal(&s, 9, "x", 1, d);
	assert_int_equal(opened(&o, d, len), -EBADMSG);
}

static void new_session_ends_the_old(void **state)
{
	struct node_sealer s1, s2;
	struct node_opener o;
	uint8_t d1[64 + NODE_SEAL_OVERHEAD], d2[64 + NODE_SEAL_OVERHEAD];
	size_t len;

	assert_int_equal(node_sealer_init(&s1, &a, b.public_key), 0);
	assert_int_equal(node_sealer_init(&s2, &a, b.public_key), 0);
	assert_int_equal(node_opener_init(&o, &b, a.public_key), 0);
	len = node_seal(&s1, 9, "x", 1, d1);
	node_seal(&s2, 9, "x", 1, d2);
	assert_int_equal(opened(&o, d2, len), 1);
	assert_int_equal(opened(&o, d1, len), -EBADMSG);
}

/* Random order within and beyond the window, against a plain set of the counters that were seen. */
static void window_agrees_with_a_set(void **state)
{
	enum { N = 6000 };
	static uint8_t sent[N][1 + NODE_SEAL_OVERHEAD], seen[N];
	struct node_sealer s;
	struct node_opener o;
	struct base_rng rng;
	size_t highest = 0;

	base_rng_seed(&rng, 7);
	assert_int_equal(node_sealer_init(&s, &a, b.public_key), 0);
	assert_int_equal(node_opener_init(&o, &b, a.public_key), 0);
	for (size_t i = 0; i < N; i++)
		node_seal(&s, 9, "x", 1, sent[i]);
	for (int step = 0; step < 40000; step++) {
		size_t base = (size_t)step * N / 40000, i = base + base_rng_below(&rng, 1500);
		ssize_t n;

		if (i >= N)
			continue;
		if (base_rng_below(&rng, 500) && i > highest + 40)
			i = highest + 1;
		if (i >= N)
			continue;
		n = opened(&o, sent[i], sizeof(sent[i]));
		if (seen[i] || highest >= i + NODE_SEAL_WINDOW)
			assert_int_equal(n, -EBADMSG);
		else if (i > highest || highest - i < NODE_SEAL_WINDOW - 64)
			assert_int_equal(n, 1);
		if (n == 1) {
			seen[i] = 1;
			highest = i > highest ? i : highest;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_once_and_unchanged),
		cmocka_unit_test(directions_differ),
		cmocka_unit_test(new_session_ends_the_old),
		cmocka_unit_test(window_agrees_with_a_set),
	};

	return cmocka_run_group_tests(tests, keys, NULL);
}
