/* A link whose first connection breaks when only one end has begun it. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "proto/xp.h"
#include "proto/xp_address.h"
#include "proto/xp_hello.h"

enum { HELLO_BYTES = WIRE_HEADER_LEN + XP_HELLO_LEN };

struct node {
	struct xp *xp;
	bool up, down;
	char got[16];
};

/* Between node 1, which connects, and node 0: cuts the first connection when node 0 has sent its proof. */
struct middle {
	int listen_fd, fd[2];
	size_t back; /* bytes that came from node 0 */
	bool has_cut;
	struct sockaddr_storage to;
	socklen_t to_len;
};

static int on_frame(void *ctx, uint8_t peer, const struct xp_frame *f)
{
	struct node *n = ctx;

	assert_true(f->body_len < sizeof(n->got));
	memcpy(n->got, f->body, f->body_len);
	return 0;
}

static void on_up(void *ctx, uint8_t peer)
{
	((struct node *)ctx)->up = true;
}

static void on_down(void *ctx, uint8_t peer, int err)
{
	((struct node *)ctx)->down = true;
}

static const struct xp_handler handler = {.frame = on_frame, .up = on_up, .down = on_down};

static int listen_on_any(char address[32])
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	int fd;

	assert_int_equal(xp_address_listen("127.0.0.1:0", &fd), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	(void)snprintf(address, 32, "127.0.0.1:%u", ntohs(a.sin_port));
	return fd;
}

static void middle_close(struct middle *m)
{
	for (unsigned i = 0; i < 2; i++) {
		if (m->fd[i] >= 0)
			close(m->fd[i]);
		m->fd[i] = -1;
	}
	m->back = 0;
}

static void middle_accept(struct middle *m)
{
	m->fd[1] = accept4(m->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (m->fd[1] < 0)
		return;
	m->fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(m->fd[0], (struct sockaddr *)&m->to, m->to_len), 0);
}

static void forward(struct middle *m, unsigned from)
{
	char bytes[4096];
	/* One message of the handshake at a time. */
	size_t most = from == 0 && !m->has_cut && m->back < HELLO_BYTES ? HELLO_BYTES - m->back
									: sizeof(bytes);
	ssize_t n = recv(m->fd[from], bytes, most, MSG_DONTWAIT);

	if (n == 0) {
		middle_close(m);
		return;
	}
	if (n < 0)
		return;
	m->back += from == 0 ? (size_t)n : 0;
	if (!m->has_cut && m->back > HELLO_BYTES) {
		m->has_cut = true;
		middle_close(m);
		return;
	}
	(void)send(m->fd[!from], bytes, (size_t)n, MSG_NOSIGNAL);
}

static void step(struct node node[2], struct middle *m)
{
	struct pollfd p = {.fd = m->listen_fd, .events = POLLIN};

	for (unsigned i = 0; i < 2; i++)
		(void)xp_poll(node[i].xp, base_clock_ns());
	if (m->fd[0] < 0 && poll(&p, 1, 1) > 0)
		middle_accept(m);
	for (unsigned i = 0; i < 2 && m->fd[0] >= 0; i++)
		forward(m, i);
}

static void open_node(struct node *n, uint8_t self, int listen_fd, const char *other, bool encrypt,
		      uint32_t window_ms)
{
	struct xp_config c = {.handler = &handler,
			      .ctx = n,
			      .self = self,
			      .peers = (uint16_t)(1u << !self),
			      .listen_fd = listen_fd,
			      .group = 7,
			      .encrypt = encrypt,
			      .window_ms = window_ms};

	c.address[!self] = other;
	c.address[self] = "127.0.0.1:0";
	assert_int_equal(xp_open(&xp_tcp, &c, &n->xp), 0);
}

static void say(struct node *n, uint8_t to, const char *text)
{
	assert_int_equal(xp_send(n->xp, to,
				 &(struct xp_out){.type = 1,
						  .body = text,
						  .body_len = (uint8_t)(strlen(text) + 1)}),
			 0);
	xp_flush(n->xp);
}

static void survives(bool encrypt)
{
	struct node node[2] = {0};
	struct middle m = {.fd = {-1, -1}};
	char own[2][32], door[32];
	int fd[2];

	for (unsigned i = 0; i < 2; i++)
		fd[i] = listen_on_any(own[i]);
	m.listen_fd = listen_on_any(door);
	assert_int_equal(xp_address_parse(own[0], &m.to, &m.to_len), 0);
	open_node(&node[0], 0, fd[0], own[1], encrypt, 20000);
	open_node(&node[1], 1, fd[1], door, encrypt, 20000);
	while (!node[0].up && !node[0].down)
		step(node, &m);
	say(&node[0], 1, "early");
	while ((!node[0].up || !node[1].up) && !node[0].down && !node[1].down)
		step(node, &m);
	assert_true(m.has_cut);
	assert_true(node[0].up && node[1].up);
	say(&node[1], 0, "back");
	while ((!node[0].got[0] || !node[1].got[0]) && !node[0].down && !node[1].down)
		step(node, &m);
	assert_string_equal(node[1].got, "early");
	assert_string_equal(node[0].got, "back");
	for (unsigned i = 0; i < 2; i++)
		xp_fini(node[i].xp);
	middle_close(&m);
	close(m.listen_fd);
}

static void survives_in_the_clear(void **state)
{
	survives(false);
}

static void survives_encrypted(void **state)
{
	survives(true);
}

/* A connection that comes up again and again and carries nothing does not keep the window open. */
static void flapping_ends(void **state)
{
	struct node node[2] = {0};
	char own[2][32];
	int fd[2];

	for (unsigned i = 0; i < 2; i++)
		fd[i] = listen_on_any(own[i]);
	for (uint8_t i = 0; i < 2; i++)
		open_node(&node[i], i, fd[i], own[!i], false, 300);
	while (!node[0].down || !node[1].down) {
		for (unsigned i = 0; i < 2; i++)
			(void)xp_poll(node[i].xp, base_clock_ns());
		xp_break_link(node[0].xp, 1);
	}
	assert_true(node[0].up);
	for (unsigned i = 0; i < 2; i++)
		xp_fini(node[i].xp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(survives_in_the_clear),
		cmocka_unit_test(survives_encrypted),
		cmocka_unit_test(flapping_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
