#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "node/net/switch.h"

static struct base_loop *loop;

static const uint8_t mac_a[6] = {2, 0, 0, 0, 0, 0xa}, mac_b[6] = {2, 0, 0, 0, 0, 0xb},
		     mac_c[6] = {2, 0, 0, 0, 0, 0xc}, broadcast[6] = {255, 255, 255, 255, 255, 255};

struct guest {
	int fd; /* the guest's end */
	struct node_switch_port *port;
	int closed;
};

struct host {
	struct node_switch *sw;
	struct node_seal_keys keys;
	struct sockaddr_in addr;
};

static void guest_closed(void *arg)
{
	((struct guest *)arg)->closed++;
}

static struct guest plug(struct node_switch *sw, uint32_t network, const uint8_t *mac,
			 struct guest *slot)
{
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
	*slot = (struct guest){.fd = sv[1]};
	assert_int_equal(
		node_switch_port_add(sw, sv[0], network, mac, guest_closed, slot, &slot->port), 0);
	return *slot;
}

static void host_up(struct host *h)
{
	socklen_t len = sizeof(h->addr);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	h->addr = (struct sockaddr_in){.sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_int_equal(bind(fd, (struct sockaddr *)&h->addr, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&h->addr, &len), 0);
	assert_int_equal(crypto_box_keypair(h->keys.public_key, h->keys.secret_key), 0);
	assert_int_equal(node_switch_new(loop, fd, &h->keys, &h->sw), 0);
}

static struct node_switch_peer *link_to(struct host *from, const struct host *to)
{
	struct node_switch_peer *p;

	assert_int_equal(node_switch_peer_add(from->sw, &to->addr, to->keys.public_key, &p), 0);
	return p;
}

static void settle(void)
{
	for (int i = 0; i < 20; i++)
		assert_int_equal(base_loop_step(loop, 0), 0);
}

static void say(struct guest *g, const uint8_t *to, const uint8_t *from, const char *text)
{
	uint8_t f[128] = {0};

	memcpy(f, to, 6);
	memcpy(f + 6, from, 6);
	snprintf((char *)f + 14, sizeof(f) - 14, "%s", text);
	assert_int_equal(send(g->fd, f, sizeof(f), 0), sizeof(f));
	settle();
}

/* What came, or "" when nothing did. */
static const char *hear(struct guest *g)
{
	static uint8_t f[256];

	memset(f, 0, sizeof(f));
	return recv(g->fd, f, sizeof(f) - 1, MSG_DONTWAIT) < 14 ? "" : (char *)f + 14;
}

static int setup(void **state)
{
	return sodium_init() < 0 ? -1 : base_loop_new(&loop);
}

static int teardown(void **state)
{
	base_loop_free(loop);
	return 0;
}

static void learns_places(void **state)
{
	struct node_seal_keys none = {0};
	struct node_switch *sw;
	struct guest a, b, c;

	assert_int_equal(node_switch_new(loop, -1, &none, &sw), 0);
	plug(sw, 1, mac_a, &a);
	plug(sw, 1, mac_b, &b);
	plug(sw, 1, mac_c, &c);
	say(&a, mac_b, mac_a, "unknown");
	assert_string_equal(hear(&b), "unknown");
	assert_string_equal(hear(&c), "unknown");
	say(&b, mac_a, mac_b, "reply");
	assert_string_equal(hear(&a), "reply");
	assert_string_equal(hear(&c), "");
	say(&a, mac_b, mac_a, "known");
	assert_string_equal(hear(&b), "known");
	assert_string_equal(hear(&c), "");
	say(&a, broadcast, mac_a, "all");
	assert_string_equal(hear(&a), "");
	assert_string_equal(hear(&b), "all");
	assert_string_equal(hear(&c), "all");
	node_switch_free(sw);
	close(a.fd), close(b.fd), close(c.fd);
}

static void keeps_networks_apart(void **state)
{
	struct node_seal_keys none = {0};
	struct node_switch_stats st;
	struct node_switch *sw;
	struct guest a, b, c;

	assert_int_equal(node_switch_new(loop, -1, &none, &sw), 0);
	plug(sw, 1, mac_a, &a);
	plug(sw, 2, mac_b, &b);
	plug(sw, 1, NULL, &c);
	say(&a, broadcast, mac_a, "one");
	assert_string_equal(hear(&b), "");
	assert_string_equal(hear(&c), "one");
	say(&b, mac_a, mac_b, "across");
	assert_string_equal(hear(&a), "");
	say(&a, broadcast, mac_c, "forged");
	assert_string_equal(hear(&c), "");
	node_switch_port_stats(a.port, &st);
	assert_int_equal(st.rx_forged, 1);
	assert_int_equal(send(a.fd, "short", 5, 0), 5);
	settle();
	node_switch_port_stats(a.port, &st);
	assert_int_equal(st.rx_bad, 1);
	node_switch_free(sw);
	close(a.fd), close(b.fd), close(c.fd);
}

static void reports_a_guest_that_left(void **state)
{
	struct node_seal_keys none = {0};
	struct node_switch *sw;
	struct guest a, b;

	assert_int_equal(node_switch_new(loop, -1, &none, &sw), 0);
	plug(sw, 1, mac_a, &a);
	plug(sw, 1, mac_b, &b);
	say(&b, mac_a, mac_b, "here");
	hear(&a);
	close(b.fd);
	settle();
	assert_int_equal(b.closed, 1);
	assert_int_equal(a.closed, 0);
	/* Its place is forgotten: the frame goes nowhere and nothing breaks. */
	say(&a, mac_b, mac_a, "gone?");
	node_switch_free(sw);
	close(a.fd);
}

static void joins_hosts(void **state)
{
	struct host h[3] = {0};
	struct guest g[3];
	const uint8_t *macs[] = {mac_a, mac_b, mac_c};

	for (int i = 0; i < 3; i++) {
		host_up(&h[i]);
		plug(h[i].sw, 7, macs[i], &g[i]);
	}
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 3; j++)
			if (i != j)
				link_to(&h[i], &h[j]);
	say(&g[0], broadcast, mac_a, "arp");
	assert_string_equal(hear(&g[1]), "arp");
	assert_string_equal(hear(&g[2]), "arp");
	/* Once each: what came from a peer is not sent on to peers. */
	assert_string_equal(hear(&g[1]), "");
	say(&g[1], mac_a, mac_b, "reply");
	assert_string_equal(hear(&g[0]), "reply");
	assert_string_equal(hear(&g[2]), "");
	/* The guest of host 0 moves to host 2. */
	node_switch_port_remove(g[0].port);
	close(g[0].fd);
	plug(h[2].sw, 7, mac_a, &g[0]);
	node_switch_port_announce(g[0].port, mac_a);
	settle();
	while (*hear(&g[1]))
		;
	say(&g[1], mac_a, mac_b, "moved");
	assert_string_equal(hear(&g[0]), "moved");
	for (int i = 0; i < 3; i++) {
		node_switch_free(h[i].sw);
		close(g[i].fd);
	}
}

static void refuses_strangers(void **state)
{
	struct host h[3] = {0};
	struct guest a, b;
	struct node_switch_peer *p;
	struct node_switch_stats st;

	for (int i = 0; i < 3; i++)
		host_up(&h[i]);
	plug(h[0].sw, 7, mac_a, &a);
	plug(h[1].sw, 7, mac_b, &b);
	/* Host 1 knows host 0's address under the key of host 2. */
	link_to(&h[0], &h[1]);
	assert_int_equal(node_switch_peer_add(h[1].sw, &h[0].addr, h[2].keys.public_key, &p), 0);
	say(&a, broadcast, mac_a, "hello");
	assert_string_equal(hear(&b), "");
	node_switch_peer_stats(p, &st);
	assert_int_equal(st.rx_forged, 1);
	for (int i = 0; i < 3; i++)
		node_switch_free(h[i].sw);
	close(a.fd), close(b.fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(learns_places), T(keeps_networks_apart), T(reports_a_guest_that_left),
		T(joins_hosts),	  T(refuses_strangers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
