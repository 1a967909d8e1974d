// libs: pg_proto
// timeout: 60
/* One suite over every transport: what proto/xp.h promises. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "proto/xp.h"
#include "proto/xp_address.h"

/* More places than frames can be under way, so that none is written before it was looked at. */
enum { NODES = 3, FRAMES = 3000, PLACES = 192, REGION_LEN = NODES * PLACES * WIRE_PAGE_LEN };

struct node {
	struct xp *xp;
	uint16_t up, down;
	int error;
	uint64_t next[NODES]; /* number expected from each */
	unsigned frames, placed;
	bool refuse;
	uint8_t *region;
};

struct setup {
	const struct xp_ops *ops;
	bool encrypt, region;
	unsigned break_one_in;
};

struct net {
	struct node node[NODES];
	void *inproc;
	char address[NODES][32];
	int listen_fd[NODES];
};

struct body {
	uint64_t number;
	uint8_t pad[24];
};

static void page_of(uint8_t page[WIRE_PAGE_LEN], uint8_t from, uint64_t number)
{
	struct base_rng rng;

	base_rng_seed(&rng, number * 16 + from);
	for (unsigned i = 0; i < WIRE_PAGE_LEN / 8; i++)
		((uint64_t *)(void *)page)[i] = base_rng_next(&rng);
}

static uint64_t place_of(uint8_t from, uint64_t number)
{
	return (from * PLACES + number % PLACES) * (uint64_t)WIRE_PAGE_LEN;
}

static int on_frame(void *ctx, uint8_t peer, const struct xp_frame *f)
{
	struct node *n = ctx;
	struct body b;
	uint8_t want[WIRE_PAGE_LEN];

	if (n->refuse)
		return -EPROTO;
	assert_int_equal(f->body_len, sizeof(b));
	memcpy(&b, f->body, sizeof(b));
	assert_int_equal(b.number, n->next[peer]);
	assert_int_equal(f->type, 1 + b.number % 5);
	assert_int_equal(f->page || f->placed, b.number % 3 == 0);
	page_of(want, peer, b.number);
	if (f->page)
		assert_memory_equal(f->page, want, sizeof(want));
	if (f->placed)
		assert_memory_equal(n->region + place_of(peer, b.number), want, sizeof(want));
	n->placed += f->placed;
	n->next[peer]++;
	n->frames++;
	return 0;
}

static void on_up(void *ctx, uint8_t peer)
{
	struct node *n = ctx;

	assert_false(n->up & 1u << peer);
	n->up |= (uint16_t)(1u << peer);
}

static void on_down(void *ctx, uint8_t peer, int err)
{
	struct node *n = ctx;

	assert_false(n->down & 1u << peer);
	n->down |= (uint16_t)(1u << peer);
	n->error = err;
}

static const struct xp_handler handler = {.frame = on_frame, .up = on_up, .down = on_down};

static char host[16] = "127.0.0.1"; /* or that of the RDMA device */

static void listen_on_any(struct net *net, unsigned i)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	char any[32];

	(void)snprintf(any, sizeof(any), "%s:0", host);
	assert_int_equal(xp_address_listen(any, &net->listen_fd[i]), 0);
	assert_int_equal(getsockname(net->listen_fd[i], (struct sockaddr *)&a, &len), 0);
	(void)snprintf(net->address[i], sizeof(net->address[i]), "%s:%u", host, ntohs(a.sin_port));
}

static struct xp_config config_of(struct net *net, const struct setup *s, unsigned i)
{
	struct xp_config c = {.handler = &handler,
			      .ctx = &net->node[i],
			      .self = (uint8_t)i,
			      .peers = (uint16_t)(((1u << NODES) - 1) & ~(1u << i)),
			      .listen_fd = net->listen_fd[i],
			      .group = 42,
			      .encrypt = s->encrypt,
			      .window_ms = 1000,
			      .region = net->node[i].region,
			      .region_len = s->region ? REGION_LEN : 0,
			      .network = net->inproc};

	for (unsigned k = 0; k < NODES; k++)
		c.address[k] = net->address[k];
	memset(c.key, 7, sizeof(c.key));
	return c;
}

static void net_prepare(struct net *net)
{
	*net = (struct net){0};
	assert_int_equal(xp_inproc_network_new(&net->inproc), 0);
	for (unsigned i = 0; i < NODES; i++)
		listen_on_any(net, i);
}

static void net_open(struct net *net, const struct setup *s)
{
	net_prepare(net);
	for (unsigned i = 0; i < NODES; i++) {
		net->node[i].region = s->region ? calloc(1, REGION_LEN) : NULL;
		struct xp_config c = config_of(net, s, i);
		struct xp *xp;

		assert_int_equal(xp_open(s->ops, &c, &xp), 0);
		net->node[i].xp = xp;
		if (s->break_one_in)
			assert_int_equal(xp_faulty_new(xp, i, s->break_one_in, &net->node[i].xp),
					 0);
		if (s->ops == &xp_inproc) /* it does not listen */
			close(net->listen_fd[i]);
	}
}

static void net_close(struct net *net)
{
	for (unsigned i = 0; i < NODES; i++) {
		xp_fini(net->node[i].xp);
		free(net->node[i].region);
	}
	xp_inproc_network_free(net->inproc);
}

/* Sleeps until any node has work; fails when nothing happens for long. */
static void net_step(struct net *net)
{
	struct pollfd p[NODES];
	unsigned work = 0;

	for (unsigned i = 0; i < NODES; i++) {
		work += net->node[i].xp ? xp_poll(net->node[i].xp, base_clock_ns()) : 0;
		p[i] = (struct pollfd){.fd = net->node[i].xp ? xp_fd(net->node[i].xp) : -1,
				       .events = POLLIN};
	}
	if (!work)
		(void)poll(p, NODES, 10);
}

static void net_up(struct net *net)
{
	for (unsigned i = 0; i < NODES; i++)
		while (__builtin_popcount(net->node[i].up) != NODES - 1 && !net->node[i].down)
			net_step(net);
}

static void send_one(struct net *net, uint8_t from, uint8_t to, uint64_t number)
{
	uint8_t page[WIRE_PAGE_LEN];
	struct body b = {.number = number};
	bool with_page = number % 3 == 0;

	page_of(page, from, number);
	assert_int_equal(xp_send(net->node[from].xp, to,
				 &(struct xp_out){.type = (uint8_t)(1 + number % 5),
						  .body = &b,
						  .body_len = sizeof(b),
						  .page = with_page ? page : NULL,
						  .page_offset = place_of(from, number)}),
			 0);
}

static const struct setup setups[] = {
	{.ops = &xp_inproc},
	{.ops = &xp_tcp},
	{.ops = &xp_tcp, .encrypt = true},
	{.ops = &xp_tcp, .break_one_in = 60},
	{.ops = &xp_tcp, .break_one_in = 60, .encrypt = true},
	{.ops = &xp_verbs},
	{.ops = &xp_verbs, .region = true},
	{.ops = &xp_verbs, .region = true, .break_one_in = 60},
};

static bool all_arrived(const struct net *net)
{
	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(net->node[i].down, 0);
		if (net->node[i].frames != FRAMES * (NODES - 1))
			return false;
	}
	return true;
}

static uint64_t reconnects(const struct net *net)
{
	uint64_t sum = 0;

	for (uint8_t i = 0; i < NODES; i++)
		for (uint8_t k = 0; k < NODES; k++) {
			struct xp_counters c;

			xp_counters(net->node[i].xp, k, &c);
			sum += c.reconnects;
		}
	return sum;
}

static void test_all_frames_arrive_once_in_order(void **state)
{
	const struct setup *s = *state;
	struct net net;

	net_open(&net, s);
	net_up(&net);
	for (uint64_t number = 0; number < FRAMES; number++) {
		for (uint8_t i = 0; i < NODES; i++)
			for (uint8_t k = 0; k < NODES; k++)
				if (i != k)
					send_one(&net, i, k, number);
		if (number % 10 == 0)
			net_step(&net);
	}
	for (unsigned i = 0; i < NODES; i++)
		xp_flush(net.node[i].xp);
	while (!all_arrived(&net))
		net_step(&net);
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(net.node[i].placed,
				 s->region ? (NODES - 1) * ((FRAMES + 2) / 3) : 0);
	if (s->break_one_in)
		assert_true(reconnects(&net) > 0);
	net_close(&net);
}

static void test_goodbye_is_told_from_a_break(void **state)
{
	const struct setup *s = *state;
	struct net net;

	net_open(&net, s);
	net_up(&net);
	send_one(&net, 0, 1, 0);
	xp_stop(net.node[0].xp);
	while (!(net.node[1].down & 1) || !(net.node[2].down & 1))
		net_step(&net);
	assert_int_equal(net.node[1].error, 0);
	assert_int_equal(net.node[1].frames, 1);
	assert_int_equal(net.node[1].down, 1); /* and no other */
	assert_int_equal(xp_send(net.node[1].xp, 0, &(struct xp_out){.type = 1, .body = ""}),
			 -ENOTCONN);
	net_close(&net);
}

/* A new node takes the number of one that has stopped, or that has been dropped. */
static void node_anew(struct net *net, const struct setup *s, uint8_t who, uint64_t group)
{
	struct node *n = &net->node[who];
	uint8_t *region = n->region;

	xp_fini(n->xp);
	*n = (struct node){.region = region};
	listen_on_any(net, who);
	struct xp_config c = config_of(net, s, who);

	c.group = group;
	assert_int_equal(xp_open(s->ops, &c, &n->xp), 0);
	if (s->ops == &xp_inproc)
		close(net->listen_fd[who]);
}

static void admit_to_all(struct net *net, uint8_t who, uint64_t group)
{
	for (uint8_t i = 0; i < NODES; i++) {
		struct node *n = &net->node[i];

		if (i == who)
			continue;
		n->up &= (uint16_t) ~(1u << who);
		n->down &= (uint16_t) ~(1u << who);
		n->next[who] = n->frames = 0;
		assert_int_equal(xp_admit(n->xp, who, net->address[who], group), 0);
		assert_int_equal(xp_admit(n->xp, who, net->address[who], group), -EBUSY);
		assert_int_equal(xp_admit(n->xp, i, net->address[who], group), -EINVAL);
	}
}

static void talk_to_all(struct net *net, uint8_t who)
{
	for (uint8_t i = 0; i < NODES; i++) {
		if (i == who)
			continue;
		send_one(net, who, i, 0);
		send_one(net, i, who, 0);
		xp_flush(net->node[i].xp);
	}
	xp_flush(net->node[who].xp);
	for (uint8_t i = 0; i < NODES; i++)
		while (net->node[i].frames < (i == who ? NODES - 1 : 1)) {
			assert_int_equal(net->node[i].down, 0);
			net_step(net);
		}
}

static void test_a_node_comes_in_anothers_place(void **state)
{
	const struct setup *s = *state;
	static const uint8_t order[] = {2, 0, 1, 2};
	uint64_t group = 100;
	struct net net;

	net_open(&net, s);
	net_up(&net);
	for (unsigned i = 0; i < BASE_ARRAY_LEN(order); i++, group++) {
		uint8_t who = order[i];

		assert_int_equal(xp_admit(net.node[who ? 0 : 1].xp, who, NULL, group), -EBUSY);
		if (i == 3) { /* without a word */
			for (uint8_t k = 0; k < NODES; k++)
				if (k != who)
					xp_drop(net.node[k].xp, who);
		} else {
			xp_stop(net.node[who].xp);
			for (uint8_t k = 0; k < NODES; k++)
				while (k != who && !(net.node[k].down & 1u << who))
					net_step(&net);
		}
		node_anew(&net, s, who, group);
		admit_to_all(&net, who, group);
		net_up(&net);
		talk_to_all(&net, who);
	}
	net_close(&net);
}

/* One that has the number and the key, but is not the one that is waited for. */
static void test_the_former_node_is_not_let_in_again(void **state)
{
	const struct setup *s = *state;
	struct net net;

	net_open(&net, s);
	net_up(&net);
	xp_stop(net.node[2].xp);
	while (!(net.node[0].down & 4) || !(net.node[1].down & 4))
		net_step(&net);
	node_anew(&net, s, 2, 42);
	admit_to_all(&net, 2, 43);
	while (!(net.node[0].down & 4) || !(net.node[1].down & 4) || net.node[2].down != 3)
		net_step(&net);
	assert_int_equal(net.node[2].up, 0);
	assert_int_equal(net.node[0].up & 4, 0);
	assert_int_equal(net.node[0].error, -ETIMEDOUT);
	node_anew(&net, s, 2, 43);
	admit_to_all(&net, 2, 43);
	net_up(&net);
	talk_to_all(&net, 2);
	net_close(&net);
}

static void test_refused_frame_ends_the_link(void **state)
{
	struct net net;

	net_open(&net, *state);
	net_up(&net);
	net.node[1].refuse = true;
	send_one(&net, 0, 1, 0);
	xp_flush(net.node[0].xp);
	while (!net.node[1].down)
		net_step(&net);
	assert_int_equal(net.node[1].error, -EPROTO);
	net_close(&net);
}

static void test_wrong_key_is_refused(void **state)
{
	const struct setup *s = *state;
	struct net net;

	net_prepare(&net);
	for (unsigned i = 0; i < NODES; i++) {
		struct xp_config c = config_of(&net, s, i);

		c.key[0] ^= i == 2;
		assert_int_equal(xp_open(s->ops, &c, &net.node[i].xp), 0);
	}
	while (net.node[2].down != 3 || !(net.node[0].down & 4))
		net_step(&net);
	assert_int_equal(net.node[2].up, 0);
	assert_int_equal(net.node[0].up, 2);
	assert_int_equal(net.node[0].error,
			 -ETIMEDOUT); /* it would have waited for the right one */
	net_close(&net);
}

static void test_silence_ends_after_the_window(void **state)
{
	const struct setup *s = *state;
	struct net net;

	net_open(&net, s);
	net_up(&net);
	int64_t start = base_clock_ns();

	/* Node 2 hangs: nobody polls it. */
	struct xp *hung = net.node[2].xp;

	net.node[2].xp = NULL;
	while (!(net.node[0].down & 4) || !(net.node[1].down & 4))
		net_step(&net);
	assert_int_equal(net.node[0].error, -ETIMEDOUT);
	assert_true(base_clock_ns() - start < 4 * BASE_NS_PER_SEC);
	net.node[2].xp = hung;
	net_close(&net);
}

static void test_strangers_bytes_harm_nobody(void **state)
{
	const struct setup *s = *state;
	struct sockaddr_storage a;
	struct base_rng rng;
	socklen_t len;
	struct net net;

	base_rng_seed(&rng, 3);
	net_open(&net, s);
	net_up(&net);
	assert_int_equal(xp_address_parse(net.address[0], &a, &len), 0);
	for (int i = 0; i < 50; i++) {
		uint64_t junk[16];
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		for (unsigned k = 0; k < BASE_ARRAY_LEN(junk); k++)
			junk[k] = base_rng_next(&rng);
		if (i % 2)
			wire_header_put((uint8_t *)junk, &(struct wire_header){.version = 1,
									       .type = 0xe0,
									       .length = 96});
		assert_int_equal(connect(fd, (struct sockaddr *)&a, len), 0);
		assert_int_equal(send(fd, junk, sizeof(junk), MSG_NOSIGNAL), sizeof(junk));
		net_step(&net);
		close(fd);
	}
	send_one(&net, 0, 1, 0);
	while (!net.node[1].frames)
		net_step(&net);
	assert_int_equal(net.node[0].down, 0);
	net_close(&net);
}

static void test_what_a_transport_cannot_is_refused(void **state)
{
	struct net net;
	struct xp *xp;

	net_prepare(&net);
	struct xp_config c = config_of(&net, &(struct setup){.encrypt = true}, 0);

	assert_int_equal(xp_open(&xp_inproc, &c, &xp), -EOPNOTSUPP);
	assert_int_equal(xp_open(&xp_verbs, &c, &xp), -EOPNOTSUPP);
	c.encrypt = false;
	/* An address of documentation: no device has it. */
	const char *own = c.address[0];

	c.address[0] = "192.0.2.1:1";
	assert_int_equal(xp_open(&xp_verbs, &c, &xp), -ENODEV);
	c.address[0] = own;
	c.peers |= 1;
	assert_int_equal(xp_open(&xp_tcp, &c, &xp), -EINVAL);
	c.peers &= (uint16_t)~1u;
	c.self = 1;
	c.address[0] = "somewhere";
	assert_int_equal(xp_open(&xp_tcp, &c, &xp), -EINVAL);
	assert_null(xp_find("carrier pigeon"));
	assert_ptr_equal(xp_find("tcp"), &xp_tcp);
	assert_ptr_equal(xp_find("verbs"), &xp_verbs);
	for (unsigned i = 0; i < NODES; i++)
		close(net.listen_fd[i]);
	xp_inproc_network_free(net.inproc);
}

#define EACH(test, i) cmocka_unit_test_prestate(test, (void *)&setups[i])

/* All that a transport to other hosts must do, for the setups first..last. */
static int run_transport(unsigned first, unsigned plain, unsigned last)
{
	struct CMUnitTest tests[32];
	unsigned n = 0;

	for (unsigned i = first; i <= last; i++)
		tests[n++] = (struct CMUnitTest)EACH(test_all_frames_arrive_once_in_order, i);
	for (unsigned i = first; i <= plain; i++) {
		tests[n++] = (struct CMUnitTest)EACH(test_goodbye_is_told_from_a_break, i);
		tests[n++] = (struct CMUnitTest)EACH(test_refused_frame_ends_the_link, i);
		tests[n++] = (struct CMUnitTest)EACH(test_a_node_comes_in_anothers_place, i);
	}
	if (setups[first].ops->caps & XP_CAP_REMOTE) {
		tests[n++] = (struct CMUnitTest)EACH(test_wrong_key_is_refused, first);
		tests[n++] =
			(struct CMUnitTest)EACH(test_the_former_node_is_not_let_in_again, first);
		tests[n++] = (struct CMUnitTest)EACH(test_silence_ends_after_the_window, first);
		tests[n++] = (struct CMUnitTest)EACH(test_strangers_bytes_harm_nobody, first);
	}
	return _cmocka_run_group_tests(setups[first].ops->name, tests, n, NULL, NULL);
}

/* Without arguments all transports; `verbs`: that one, and it must be there. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_a_transport_cannot_is_refused),
	};
	bool only_verbs = argc > 1 && !strcmp(argv[1], "verbs");
	int failed = 0;

	if (!only_verbs) {
		failed += cmocka_run_group_tests(tests, NULL, NULL);
		failed += run_transport(0, 0, 0);
		failed += run_transport(1, 2, 4);
	}
	if (!xp_verbs_address(host, sizeof(host)))
		failed += run_transport(5, 6, 7);
	else
		print_message("skip: verbs: this machine has no RDMA device with an address\n");
	return failed || (only_verbs && !strcmp(host, "127.0.0.1"));
}
