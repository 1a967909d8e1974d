/* The ZeroMQ side of the control channel: context, sockets in the loop, monitors, who is let in. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "proto/chan_impl.h"

enum { PUMP_BATCH = 64, ZAP_FRAMES = 7 };

/* ---- sockets ---- */

int chan_sock_set(struct chan_sock *s, int option, int value)
{
	return zmq_setsockopt(s->zmq, option, &value, sizeof(value)) ? -errno : 0;
}

static void sock_pump(struct chan_sock *s)
{
	if (s->woken)
		s->woken(s);
	for (int i = 0; i < PUMP_BATCH; i++) {
		int events;
		size_t len = sizeof(events);

		if (zmq_getsockopt(s->zmq, ZMQ_EVENTS, &events, &len) || !(events & ZMQ_POLLIN))
			return;
		s->readable(s);
	}
	chan_sock_kick(s);
}

static void sock_ready(struct base_watch *w, uint32_t events)
{
	sock_pump(base_container_of(w, struct chan_sock, watch));
}

static void sock_kicked(struct base_timer *t)
{
	sock_pump(base_container_of(t, struct chan_sock, kick));
}

void chan_sock_kick(struct chan_sock *s)
{
	if (!s->kick.armed)
		base_loop_timer(s->loop, &s->kick, 0);
}

int chan_sock_open(struct chan *c, int type, struct chan_sock *s)
{
	s->zmq = zmq_socket(c->zmq, type);
	if (!s->zmq)
		return -errno;
	s->loop = c->config.loop;
	s->kick = (struct base_timer){.fire = sock_kicked};
	return 0;
}

int chan_sock_watch(struct chan_sock *s)
{
	int fd, rc;
	size_t len = sizeof(fd);

	if (zmq_getsockopt(s->zmq, ZMQ_FD, &fd, &len))
		return -errno;
	s->watch = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = sock_ready};
	rc = base_loop_add(s->loop, &s->watch);
	if (!rc)
		chan_sock_kick(s);
	return rc;
}

void chan_sock_close(struct chan_sock *s, int linger_ms)
{
	if (!s->zmq)
		return;
	base_loop_remove(&s->watch);
	base_loop_timer_cancel(&s->kick);
	zmq_setsockopt(s->zmq, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
	zmq_close(s->zmq);
	s->zmq = NULL;
}

int chan_sock_common(struct chan *c, struct chan_sock *s)
{
	static const struct {
		int option, value;
	} set[] = {
		{ZMQ_SNDHWM, 16384},
		{ZMQ_RCVHWM, 1024},
		{ZMQ_LINGER, 0},
		{ZMQ_HEARTBEAT_IVL, 2000},
		{ZMQ_HEARTBEAT_TIMEOUT, 6000},
		{ZMQ_HEARTBEAT_TTL, 8000},
		{ZMQ_HANDSHAKE_IVL, 5000},
		{ZMQ_CONNECT_TIMEOUT, 3000},
		{ZMQ_RECONNECT_IVL, -1},
		{ZMQ_IMMEDIATE, 1},
	};
	int64_t max = CHAN_MAX_BYTES;

	for (size_t i = 0; i < BASE_ARRAY_LEN(set); i++) {
		int rc = chan_sock_set(s, set[i].option, set[i].value);

		if (rc)
			return rc;
	}
	if (zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &max, sizeof(max)) ||
	    zmq_setsockopt(s->zmq, ZMQ_CURVE_SECRETKEY, c->config.keys.secret_key.bytes,
			   KEYS_BYTES) ||
	    zmq_setsockopt(s->zmq, ZMQ_CURVE_PUBLICKEY, c->config.keys.public_key.bytes,
			   KEYS_BYTES))
		return -errno;
	return 0;
}

static void free_bytes(void *data, void *hint)
{
	free(data);
}

int chan_sock_send(struct chan_sock *s, const void *rid, size_t rid_len, const struct chan_env *env)
{
	zmq_msg_t msg;
	uint8_t *data;
	size_t len;
	int rc = chan_env_encode(env, &data, &len);

	if (rc)
		return rc;
	chan_sock_kick(s);
	if (rid && zmq_send(s->zmq, rid, rid_len, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
		rc = -errno;
		free(data);
		return rc;
	}
	if (zmq_msg_init_data(&msg, data, len, free_bytes, NULL)) {
		free(data);
		return -ENOMEM;
	}
	if (zmq_msg_send(&msg, s->zmq, ZMQ_DONTWAIT) < 0) {
		rc = -errno;
		zmq_msg_close(&msg);
	}
	return rc;
}

/* ---- monitors ---- */

static void monitor_readable(struct chan_sock *s)
{
	struct chan_monitor *m = base_container_of(s, struct chan_monitor, sock);
	uint8_t frame[6], address[256];
	uint16_t event;
	uint32_t value;

	if (zmq_recv(s->zmq, frame, sizeof(frame), ZMQ_DONTWAIT) != (int)sizeof(frame))
		return;
	if (zmq_recv(s->zmq, address, sizeof(address), ZMQ_DONTWAIT) < 0)
		return;
	memcpy(&event, frame, 2);
	memcpy(&value, frame + 2, 4);
	m->event(m, event, value);
}

int chan_monitor_open(struct chan *c, struct chan_sock *of, int events, struct chan_monitor *m)
{
	char name[64];
	int rc;

	snprintf(name, sizeof(name), "inproc://monitor-%u", c->monitor_count++);
	if (zmq_socket_monitor(of->zmq, name, events))
		return -errno;
	rc = chan_sock_open(c, ZMQ_PAIR, &m->sock);
	if (rc)
		return rc;
	m->sock.readable = monitor_readable;
	if (zmq_connect(m->sock.zmq, name))
		rc = -errno;
	if (!rc)
		rc = chan_sock_watch(&m->sock);
	if (rc)
		chan_sock_close(&m->sock, 0);
	return rc;
}

void chan_monitor_close(struct chan_sock *of, struct chan_monitor *m)
{
	if (!m->sock.zmq)
		return;
	zmq_socket_monitor(of->zmq, NULL, 0);
	chan_sock_close(&m->sock, 0);
}

/* ---- who is let in (ZeroMQ RFC 27, "ZAP") ---- */

struct zap_request {
	/* version, request id, domain, address, identity, mechanism, key */
	zmq_msg_t frames[ZAP_FRAMES];
	int count;
};

static void zap_receive(struct chan_sock *s, struct zap_request *r)
{
	int more = 1;

	r->count = 0;
	while (more) {
		zmq_msg_t msg;

		zmq_msg_init(&msg);
		if (zmq_msg_recv(&msg, s->zmq, ZMQ_DONTWAIT) < 0) {
			zmq_msg_close(&msg);
			return;
		}
		more = zmq_msg_more(&msg);
		if (r->count < ZAP_FRAMES)
			r->frames[r->count++] = msg;
		else
			zmq_msg_close(&msg);
	}
}

static void zap_reply(struct chan_sock *s, struct zap_request *r, const char *status,
		      const char *user)
{
	zmq_send(s->zmq, "1.0", 3, ZMQ_SNDMORE);
	zmq_msg_send(&r->frames[1], s->zmq, ZMQ_SNDMORE);
	zmq_send(s->zmq, status, 3, ZMQ_SNDMORE);
	zmq_send(s->zmq, "", 0, ZMQ_SNDMORE);
	zmq_send(s->zmq, user, strlen(user), ZMQ_SNDMORE);
	zmq_send(s->zmq, "", 0, 0);
	chan_sock_kick(s);
}

static void zap_decide(struct chan *c, struct zap_request *r)
{
	int address_len = (int)zmq_msg_size(&r->frames[3]);
	const char *address = zmq_msg_data(&r->frames[3]);
	char user[CHAN_NAME_MAX] = "", hex[KEYS_HEX_MAX];
	struct keys_key key;

	if (r->count < ZAP_FRAMES || zmq_msg_size(&r->frames[6]) != KEYS_BYTES) {
		log_warn("a connection from %.*s without a key is refused", address_len, address);
		zap_reply(&c->zap, r, "400", "");
		return;
	}
	memcpy(key.bytes, zmq_msg_data(&r->frames[6]), KEYS_BYTES);
	if (c->config.known && c->config.known(c->config.ctx, &key, user)) {
		zap_reply(&c->zap, r, "200", user);
		return;
	}
	keys_to_hex(&key, hex);
	log_warn("unknown key %s from %.*s is refused: it is not in the cluster file", hex,
		 address_len, address);
	zap_reply(&c->zap, r, "400", "");
}

static void zap_readable(struct chan_sock *s)
{
	struct chan *c = base_container_of(s, struct chan, zap);
	struct zap_request r;

	zap_receive(s, &r);
	if (r.count >= 6)
		zap_decide(c, &r);
	for (int i = 0; i < r.count; i++)
		zmq_msg_close(&r.frames[i]);
}

int chan_zap_open(struct chan *c)
{
	int rc;

	if (c->zap.zmq)
		return 0;
	rc = chan_sock_open(c, ZMQ_REP, &c->zap);
	if (rc)
		return rc;
	c->zap.readable = zap_readable;
	if (zmq_bind(c->zap.zmq, "inproc://zeromq.zap.01"))
		rc = -errno;
	if (!rc)
		rc = chan_sock_watch(&c->zap);
	if (rc)
		chan_sock_close(&c->zap, 0);
	return rc;
}

/* ---- the channel ---- */

int chan_new(const struct chan_config *config, struct chan **out)
{
	struct chan *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->config = *config;
	c->zmq = zmq_ctx_new();
	if (!c->zmq) {
		free(c);
		return -ENOMEM;
	}
	*out = c;
	return 0;
}

void chan_free(struct chan *c)
{
	if (!c)
		return;
	chan_sock_close(&c->zap, 0);
	while (zmq_ctx_term(c->zmq) && errno == EINTR)
		continue;
	explicit_bzero(&c->config.keys, sizeof(c->config.keys));
	free(c);
}

#ifdef __SANITIZE_THREAD__
/* libzmq is not instrumented: ThreadSanitizer cannot see how its threads keep order. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:libzmq.so\nmutex:libzmq.so\nrace:libsodium.so\n"
	       "race:libprotobuf-c.so\n";
}
#endif
