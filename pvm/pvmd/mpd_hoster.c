/*
 * Daemons that a task starts for us (pvm_reg_hoster): it gets SM_STHOST, runs each command on its host,
 * and answers with the line that the new daemon printed (SM_STHOSTACK). What the daemon must know holds
 * the secret of the virtual machine, and a command line is for all to see. So the command carries a
 * public key made for this start; the daemon prints one of its own and a port, and gets its orders
 * there, sealed between the two: nobody else can open or forge them. Then it says the line once more, or
 * the name of an error.
 *
 *	SM_STHOST	int n, n x {int tid, string so=, string [login@]host, string command}
 *	SM_STHOSTACK	{int tid, string line} to the end
 *	orders		u32 length, nonce, box
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "pvm/pvmd/mpd_addr.h"
#include "pvm/pvmd/mpd_hosted.h"
#include "pvm/pvmd/mpd_start.h"

enum { SM_STHOST = (int)0x8004000f };

static void put_int(struct base_wbuf *b, int32_t v)
{
	base_wbuf_u32(b, htobe32((uint32_t)v));
}

static void put_text(struct base_wbuf *b, const char *s)
{
	size_t n = strlen(s) + 1;

	put_int(b, (int32_t)n);
	base_wbuf_bytes(b, s, n);
	base_wbuf_bytes(b, "\0\0\0", -n & 3);
}

void mpd_hoster_command(struct mpd_start *s, const char *how, char *out, size_t cap)
{
	char own[MPD_PATH_MAX], key[2 * MPD_KEY_LEN + 1];
	uint8_t public[MPD_KEY_LEN];

	mpd_crypt_box_keys(public, s->secret);
	mpd_hosted_hex(public, sizeof(public), key);
	snprintf(out, cap, "%s %s -d0x%x -n%s -K%s", mpd_start_program(s, own, sizeof(own)), how,
		 s->pd->config.debug, s->line.name, key);
}

static void put_start(struct base_wbuf *b, struct mpd_start *s)
{
	char command[MPD_PATH_MAX + 512], login[MPD_FIELD_MAX];

	mpd_hoster_command(s, "-s", command, sizeof(command));
	snprintf(login, sizeof(login), "%s%s%s", s->line.login, *s->line.login ? "@" : "",
		 s->line.name);
	put_int(b, s->host << MP_TID_HOST_SHIFT);
	put_text(b, s->line.start);
	put_text(b, login);
	put_text(b, command);
}

void mpd_hoster_ask(struct mpd *pd, struct mpd_start *starts, uint32_t count)
{
	struct base_wbuf b;
	int32_t n = 0;

	for (uint32_t i = 0; i < count; i++)
		n += starts[i].by_hoster && !starts[i].result;
	if (!n)
		return;
	base_wbuf_init(&b, MP_FRAME_MAX);
	put_int(&b, n);
	for (uint32_t i = 0; i < count; i++)
		if (starts[i].by_hoster && !starts[i].result)
			put_start(&b, &starts[i]);
	/* Without memory they end by their time-out. */
	if (!b.error)
		mpd_route_message(pd, pd->role_tid[MP_ROLE_HOSTER], mp_tid_of_daemon(pd->self), 0,
				  SM_STHOST, starts[0].host, b.data, b.len);
	base_wbuf_fini(&b);
}

void mpd_hoster_gone(struct mpd *pd)
{
	struct mpd_start *s;

	while ((s = mpd_start_hosted(pd, 0))) {
		s->by_hoster = false;
		mpd_log(pd, "the hoster has ended before it answered for %s", s->line.name);
		mpd_start_result(s, PvmCantStart);
	}
}

static void send_orders(struct mpd_start *s, int fd, const uint8_t *sealed, size_t len)
{
	/* Far below the size of a socket's buffer. */
	if (send(fd, sealed, len, MSG_NOSIGNAL) != (ssize_t)len) {
		close(fd);
		mpd_start_result(s, PvmCantStart);
		return;
	}
	if (!mpd_start_listen_to(s, fd))
		log_info("host %s has its orders", s->line.name);
}

/* The connection is there, or failed. */
static void connected(struct base_watch *w, uint32_t events)
{
	struct mpd_start *s = base_container_of(w, struct mpd_start, out);
	uint8_t sealed[4 + MPD_ORDERS_MAX + MPD_BOX_EXTRA], public[MPD_KEY_LEN];
	char orders[MPD_ORDERS_MAX];
	socklen_t len = sizeof(int);
	int fd = w->fd, err = 0;
	uint32_t n;

	(void)events;
	base_loop_remove(w);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) || err) {
		mpd_log(s->pd, "host %s: %s", s->line.name, strerror(err));
		close(fd);
		mpd_start_result(s, PvmCantStart);
		return;
	}
	memcpy(public, s->text, sizeof(public));
	mpd_start_config(s, orders, sizeof(orders));
	n = (uint32_t)mpd_crypt_box_seal(sealed + 4, orders, strlen(orders), public, s->secret);
	explicit_bzero(orders, sizeof(orders));
	n = htole32(n);
	memcpy(sealed, &n, 4);
	send_orders(s, fd, sealed, 4 + le32toh(n));
}

/* "ddpro<...> ... ip<address:port> ... key<hex>" */
static bool parse_line(const char *line, uint16_t *port, uint8_t key[MPD_KEY_LEN])
{
	const char *ip = strstr(line, "ip<"), *k = strstr(line, "key<");
	const char *end = ip ? strchr(ip, '>') : NULL, *colon = end;
	unsigned long v;

	if (!end || !k || strlen(k) < 4 + 2 * MPD_KEY_LEN)
		return false;
	while (colon > ip && *colon != ':')
		colon--;
	v = strtoul(colon + 1, NULL, 10);
	if (!v || v > UINT16_MAX)
		return false;
	*port = (uint16_t)v;
	return mpd_hosted_unhex(k + 4, key);
}

void mpd_hoster_line(struct mpd_start *s, const char *line)
{
	uint8_t key[MPD_KEY_LEN];
	uint16_t port;
	int fd;

	s->by_hoster = false;
	if (!strstr(line, "ddpro<")) {
		mpd_start_line(s, line);
		return;
	}
	if (!parse_line(line, &port, key)) {
		mpd_log(s->pd, "host %s: not a daemon of this version", s->line.name);
		mpd_start_result(s, PvmBadVersion);
		return;
	}
	fd = mpd_addr_connect(s->ip, port);
	if (fd < 0) {
		mpd_log(s->pd, "host %s: %s", s->line.name, strerror(-fd));
		mpd_start_result(s, PvmCantStart);
		return;
	}
	/* The line is not needed any more. */
	memcpy(s->text, key, sizeof(key));
	s->out = (struct base_watch){.fd = fd, .events = EPOLLOUT, .ready = connected};
	if (base_loop_add(s->pd->loop, &s->out)) {
		close(fd);
		mpd_start_result(s, PvmOutOfRes);
	}
}

void mpd_hoster_answer(struct mpd *pd, const uint8_t *body, size_t len)
{
	struct base_rbuf b;

	base_rbuf_init(&b, body, len);
	while (base_rbuf_left(&b) >= 8) {
		int32_t tid = (int32_t)be32toh(base_rbuf_u32(&b));
		uint32_t n = be32toh(base_rbuf_u32(&b));
		struct mpd_start *s = mpd_start_hosted(pd, mp_tid_host(tid));
		char line[MPD_START_LINE_MAX];
		const char *p;

		if (n > base_rbuf_left(&b))
			return;
		p = base_rbuf_take(&b, BASE_MIN((size_t)((n + 3) & ~3u), base_rbuf_left(&b)));
		if (!p || !n || p[n - 1] || n > sizeof(line) || !s || !mp_tid_host(tid)) {
			log_warn("the hoster answers for host %x, which nobody starts",
				 (unsigned)tid);
			continue;
		}
		memcpy(line, p, n);
		mpd_hoster_line(s, line);
	}
}
