/* The ROUTER side of the control channel: sessions of peers and their calls. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "proto/chan_impl.h"

enum { RID_MAX = 255, ACCEPTED_MAX = 64, ADDRESS_MAX = INET6_ADDRSTRLEN + 8 };

struct session {
	struct base_list link;
	uint8_t rid[RID_MAX];
	size_t rid_len;
	char user[CHAN_NAME_MAX];
	uint32_t version;
	uint64_t last_id;
	int64_t heard_ns;
	struct base_list calls;
	unsigned call_count;
	struct chan_server *server;
};

struct chan_call {
	struct base_list link;
	struct session *session; /* NULL once it is gone */
	char user[CHAN_NAME_MAX];
	uint64_t id;
	uint32_t credit;  /* items that we may send */
	uint32_t granted; /* inputs that may come */
	bool cancelled;
	const struct chan_call_ops *ops;
	void *arg;
	/* Inputs that came before the handler was ready for them: one goes to it each turn. */
	struct base_list early;
	struct base_timer deliver;
};

struct early_input {
	struct base_list link;
	size_t len;
	uint8_t body[];
};

/* Addresses of the connections whose handshake is under way, for the log. */
struct accepted {
	uint32_t fd;
	char address[ADDRESS_MAX];
};

struct chan_server {
	struct chan *chan;
	struct chan_sock sock;
	struct chan_monitor monitor;
	const struct chan_server_ops *ops;
	void *ctx;
	struct base_list sessions;
	unsigned session_count;
	struct base_timer expiry;
	struct accepted accepted[ACCEPTED_MAX];
	unsigned accepted_next;
	const char *failed; /* handshake failure whose connection ends next */
};

/* A message with what the channel knows of its sender. */
struct incoming {
	uint8_t rid[RID_MAX];
	size_t rid_len;
	char user[CHAN_NAME_MAX];
	char address[ADDRESS_MAX];
	zmq_msg_t msg;
};

/* ---- calls ---- */

static int session_send(struct session *p, struct chan_env *env)
{
	env->version = p->version;
	return chan_sock_send(&p->server->sock, p->rid, p->rid_len, env);
}

static void call_cancel(struct chan_call *call)
{
	if (call->cancelled)
		return;
	call->cancelled = true;
	if (call->ops && call->ops->cancel)
		call->ops->cancel(call->arg);
}

const char *chan_call_user(const struct chan_call *call)
{
	return call->user;
}

static void call_deliver(struct base_timer *t)
{
	struct chan_call *call = base_container_of(t, struct chan_call, deliver);
	struct early_input *in = base_list_entry(call->early.next, struct early_input, link);

	base_list_del(&in->link);
	if (!base_list_empty(&call->early))
		base_loop_timer(call->session->server->sock.loop, t, 0);
	/* It may end the call. */
	if (call->ops->input)
		call->ops->input(call->arg, in->body, in->len);
	free(in);
}

void chan_call_stream(struct chan_call *call, const struct chan_call_ops *ops, void *arg)
{
	call->ops = ops;
	call->arg = arg;
	if (call->session && !base_list_empty(&call->early))
		base_loop_timer(call->session->server->sock.loop, &call->deliver, 0);
}

static int call_keep_input(struct chan_call *call, const struct chan_env *env)
{
	struct early_input *in = malloc(sizeof(*in) + env->len);

	if (!in)
		return -ENOMEM;
	in->len = env->len;
	if (env->len)
		memcpy(in->body, env->body, env->len);
	base_list_add_tail(&call->early, &in->link);
	return 0;
}

/* Nobody is left to take them. */
static void call_forget_inputs(struct chan_call *call)
{
	base_loop_timer_cancel(&call->deliver);
	base_list_foreach_safe (in, &call->early, struct early_input, link) {
		base_list_del(&in->link);
		free(in);
	}
}

/* The calls stay with their handlers, which are told that nobody waits. */
static void session_drop(struct session *p)
{
	base_list_del(&p->link);
	p->server->session_count--;
	while (!base_list_empty(&p->calls)) {
		struct chan_call *call = base_list_entry(p->calls.next, struct chan_call, link);

		base_list_del(&call->link);
		call->session = NULL;
		call_forget_inputs(call);
		call_cancel(call);
	}
	free(p);
}

int chan_call_item(struct chan_call *call, const void *body, size_t len)
{
	struct chan_env env = {.kind = CHAN_ITEM, .id = call->id, .body = body, .len = len};
	int rc;

	if (!call->session || call->cancelled)
		return -ECONNRESET;
	if (len > CHAN_MAX_BODY)
		return -EMSGSIZE;
	if (!call->credit)
		return -EAGAIN;
	rc = session_send(call->session, &env);
	if (rc)
		return rc == -ENOMEM ? rc : -ECONNRESET;
	call->credit--;
	return 0;
}

void chan_call_grant(struct chan_call *call, uint32_t n)
{
	struct chan_env env = {.kind = CHAN_CREDIT, .id = call->id, .credit = n};

	call->granted += n;
	if (call->session && session_send(call->session, &env))
		log_debug("credit for %s was not sent", call->user);
}

void chan_call_reply(struct chan_call *call, const void *body, size_t len)
{
	struct chan_env env = {.kind = CHAN_REPLY, .id = call->id, .body = body, .len = len};
	int rc = 0;

	if (len > CHAN_MAX_BODY) {
		log_error("a reply of %zu bytes to %s is too long", len, call->user);
		env.len = 0;
	}
	if (call->session) {
		if (!call->cancelled)
			rc = session_send(call->session, &env);
		base_list_del(&call->link);
		call->session->call_count--;
	}
	if (rc)
		log_debug("a reply to %s was not sent: %s", call->user, strerror(-rc));
	call_forget_inputs(call);
	free(call);
}

/* ---- messages ---- */

static struct session *session_find(struct chan_server *s, const struct incoming *in)
{
	base_list_foreach (p, &s->sessions, struct session, link)
		if (p->rid_len == in->rid_len && !memcmp(p->rid, in->rid, in->rid_len))
			return strcmp(p->user, in->user) ? NULL : p;
	return NULL;
}

static void send_welcome(struct chan_server *s, const struct incoming *in, uint32_t version,
			 const char *error)
{
	struct chan_env env = {.version = 1, .kind = CHAN_WELCOME};

	env.hello.min_version = env.hello.max_version = version;
	snprintf(env.hello.name, sizeof(env.hello.name), "%s", s->chan->config.name);
	snprintf(env.hello.software, sizeof(env.hello.software), "%s", PANGAEA_VERSION);
	snprintf(env.hello.error, sizeof(env.hello.error), "%s", error);
	if (chan_sock_send(&s->sock, in->rid, in->rid_len, &env))
		log_debug("no answer could be sent to %s at %s", in->user, in->address);
}

static void refuse(struct chan_server *s, const struct incoming *in, const char *why)
{
	log_warn("%s at %s: %s", in->user, in->address, why);
	send_welcome(s, in, 0, why);
}

static void take_hello(struct chan_server *s, const struct incoming *in,
		       const struct chan_hello *hello)
{
	uint32_t version = BASE_MIN(hello->max_version, (uint32_t)CHAN_MAX_VERSION);
	struct session *p = session_find(s, in);

	if (version < CHAN_MIN_VERSION || version < hello->min_version) {
		refuse(s, in, "no protocol version in common: update the older side");
		return;
	}
	if (p)
		session_drop(p);
	p = s->session_count < CHAN_MAX_SESSIONS ? calloc(1, sizeof(*p)) : NULL;
	if (!p) {
		refuse(s, in, "too many connections to this agent");
		return;
	}
	memcpy(p->rid, in->rid, in->rid_len);
	p->rid_len = in->rid_len;
	memcpy(p->user, in->user, sizeof(p->user));
	p->version = version;
	p->heard_ns = base_clock_ns();
	p->server = s;
	base_list_init(&p->calls);
	base_list_add(&s->sessions, &p->link);
	s->session_count++;
	log_debug("%s at %s is connected", in->user, in->address);
	send_welcome(s, in, version, "");
}

static int take_request(struct session *p, const struct chan_env *env)
{
	struct chan_call *call;

	if (env->id <= p->last_id || p->call_count >= CHAN_MAX_CALLS)
		return -EBADMSG;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	p->last_id = env->id;
	call->session = p;
	call->id = env->id;
	call->credit = call->granted = CHAN_WINDOW;
	base_list_init(&call->early);
	call->deliver.fire = call_deliver;
	memcpy(call->user, p->user, sizeof(call->user));
	base_list_add(&p->calls, &call->link);
	p->call_count++;
	p->server->ops->request(p->server->ctx, call, env->body, env->len);
	return 0;
}

/* For a call that is over already the message is simply late. */
static int take_call_message(struct session *p, const struct chan_env *env)
{
	base_list_foreach (call, &p->calls, struct chan_call, link) {
		if (call->id != env->id)
			continue;
		if (env->kind == CHAN_CANCEL) {
			call_cancel(call);
		} else if (env->kind == CHAN_CREDIT) {
			if (env->credit > CHAN_WINDOW - call->credit)
				return -EBADMSG;
			call->credit += env->credit;
			if (call->ops && call->ops->credit)
				call->ops->credit(call->arg, env->credit);
		} else if (!call->granted) {
			return -EBADMSG;
		} else {
			call->granted--;
			if (!call->ops || !base_list_empty(&call->early))
				return call_keep_input(call, env);
			if (call->ops->input)
				call->ops->input(call->arg, env->body, env->len);
		}
		return 0;
	}
	return 0;
}

static int take(struct session *p, const struct chan_env *env)
{
	struct chan_env pong = {.kind = CHAN_PONG};

	if (env->version != p->version)
		return -EBADMSG;
	p->heard_ns = base_clock_ns();
	switch (env->kind) {
	case CHAN_REQUEST: return take_request(p, env);
	case CHAN_INPUT:
	case CHAN_CREDIT:
	case CHAN_CANCEL: return take_call_message(p, env);
	case CHAN_PING:
		if (session_send(p, &pong))
			log_debug("no answer to a ping of %s could be sent", p->user);
		return 0;
	default: return -EBADMSG;
	}
}

static void take_message(struct chan_server *s, struct incoming *in)
{
	struct session *p = session_find(s, in);
	struct chan_env env;

	if (chan_env_decode(zmq_msg_data(&in->msg), zmq_msg_size(&in->msg), &env)) {
		refuse(s, in, "malformed message");
		if (p)
			session_drop(p);
		return;
	}
	if (env.kind == CHAN_HELLO) {
		take_hello(s, in, &env.hello);
	} else if (!p) {
		send_welcome(s, in, 0, "no session: say hello first");
	} else if (take(p, &env)) {
		refuse(s, in, "message out of turn");
		p = session_find(s, in);
		if (p)
			session_drop(p);
	}
	chan_env_fini(&env);
}

static void copy_property(zmq_msg_t *msg, const char *name, char *out, size_t cap)
{
	const char *value = zmq_msg_gets(msg, name);

	snprintf(out, cap, "%s", value ? value : "?");
}

static void server_readable(struct chan_sock *sock)
{
	struct chan_server *s = base_container_of(sock, struct chan_server, sock);
	struct incoming in;
	bool whole = false;
	int n = zmq_recv(sock->zmq, in.rid, sizeof(in.rid), ZMQ_DONTWAIT), more = 1;

	if (n < 0)
		return;
	in.rid_len = BASE_MIN((size_t)n, sizeof(in.rid));
	/* One part is the message; more than one is not ours. */
	for (int part = 0; more; part++) {
		zmq_msg_init(&in.msg);
		if (zmq_msg_recv(&in.msg, sock->zmq, ZMQ_DONTWAIT) < 0)
			break;
		more = zmq_msg_more(&in.msg);
		whole = part == 0 && !more;
		if (!whole)
			zmq_msg_close(&in.msg);
	}
	if (!whole) {
		log_warn("a message of several parts is dropped");
		return;
	}
	copy_property(&in.msg, "User-Id", in.user, sizeof(in.user));
	copy_property(&in.msg, "Peer-Address", in.address, sizeof(in.address));
	take_message(s, &in);
	zmq_msg_close(&in.msg);
}

static void server_expire(struct base_timer *t)
{
	struct chan_server *s = base_container_of(t, struct chan_server, expiry);
	int64_t now = base_clock_ns(), limit = now - CHAN_EXPIRE_MS * BASE_NS_PER_MS;
	bool again = true;

	/* Dropping runs handlers, which may change the list: start over after each. */
	while (again) {
		again = false;
		base_list_foreach (p, &s->sessions, struct session, link) {
			if (p->heard_ns < limit) {
				log_debug("%s is silent: its session ends", p->user);
				session_drop(p);
				again = true;
				break;
			}
		}
	}
	base_loop_timer(s->chan->config.loop, t, now + CHAN_PING_MS * BASE_NS_PER_MS);
}

/* ---- the log of connections ---- */

static void note_accepted(struct chan_server *s, uint32_t fd)
{
	struct accepted *a = &s->accepted[s->accepted_next++ % ACCEPTED_MAX];
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	const void *ip = NULL;

	a->fd = fd;
	snprintf(a->address, sizeof(a->address), "a closed connection");
	if (getpeername((int)fd, (struct sockaddr *)&sa, &len))
		return;
	if (sa.ss_family == AF_INET)
		ip = &((struct sockaddr_in *)&sa)->sin_addr;
	else if (sa.ss_family == AF_INET6)
		ip = &((struct sockaddr_in6 *)&sa)->sin6_addr;
	if (ip)
		inet_ntop(sa.ss_family, ip, a->address, sizeof(a->address));
}

/* The newest entry of this descriptor. */
static const char *accepted_address(const struct chan_server *s, uint32_t fd)
{
	for (unsigned i = 1; i <= ACCEPTED_MAX; i++) {
		const struct accepted *a = &s->accepted[(s->accepted_next - i) % ACCEPTED_MAX];

		if (a->fd == fd && a->address[0])
			return a->address;
	}
	return "an unknown address";
}

/* A failed handshake names no connection, but the next that ends is its own. */
static void server_monitored(struct chan_monitor *m, unsigned event, uint32_t value)
{
	struct chan_server *s = base_container_of(m, struct chan_server, monitor);

	switch (event) {
	case ZMQ_EVENT_ACCEPTED: note_accepted(s, value); break;
	case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
		s->failed = value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
				    ? "it was made with a wrong key for this agent"
				    : "it does not speak our protocol";
		break;
	case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL: s->failed = "it ended without a reason"; break;
	case ZMQ_EVENT_DISCONNECTED:
		if (s->failed)
			log_warn("handshake with %s refused: %s", accepted_address(s, value),
				 s->failed);
		s->failed = NULL;
		break;
	default: break;
	}
}

/* ---- the server ---- */

static int server_bind(struct chan_server *s, const char *address, uint16_t port)
{
	char endpoint[128];
	int rc = chan_sock_common(s->chan, &s->sock);

	if (!rc)
		rc = chan_sock_set(&s->sock, ZMQ_CURVE_SERVER, 1);
	if (!rc)
		rc = chan_sock_set(&s->sock, ZMQ_ROUTER_MANDATORY, 1);
	/* Only then: else IPv4 peers show as ::ffff:. */
	if (!rc && strchr(address, ':'))
		rc = chan_sock_set(&s->sock, ZMQ_IPV6, 1);
	if (!rc && zmq_setsockopt(s->sock.zmq, ZMQ_ZAP_DOMAIN, "pangaea", 7))
		rc = -errno;
	if (rc)
		return rc;
	snprintf(endpoint, sizeof(endpoint), strchr(address, ':') ? "tcp://[%s]:%u" : "tcp://%s:%u",
		 address, port);
	return zmq_bind(s->sock.zmq, endpoint) ? -errno : 0;
}

int chan_server_new(struct chan *c, const char *address, uint16_t port,
		    const struct chan_server_ops *ops, void *ctx, struct chan_server **out)
{
	struct chan_server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	s->chan = c;
	s->ops = ops;
	s->ctx = ctx;
	s->sock.readable = server_readable;
	s->monitor.event = server_monitored;
	s->expiry.fire = server_expire;
	base_list_init(&s->sessions);
	rc = chan_zap_open(c);
	if (!rc)
		rc = chan_sock_open(c, ZMQ_ROUTER, &s->sock);
	if (rc)
		goto err_free;
	rc = chan_monitor_open(c, &s->sock,
			       ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED |
				       ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
				       ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL,
			       &s->monitor);
	if (!rc)
		rc = server_bind(s, address, port);
	if (!rc)
		rc = chan_sock_watch(&s->sock);
	if (rc)
		goto err_sock;
	base_loop_timer(c->config.loop, &s->expiry,
			base_clock_ns() + CHAN_PING_MS * BASE_NS_PER_MS);
	*out = s;
	return 0;
err_sock:
	chan_monitor_close(&s->sock, &s->monitor);
	chan_sock_close(&s->sock, 0);
err_free:
	free(s);
	return rc;
}

void chan_server_free(struct chan_server *s)
{
	if (!s)
		return;
	while (!base_list_empty(&s->sessions))
		session_drop(base_list_entry(s->sessions.next, struct session, link));
	base_loop_timer_cancel(&s->expiry);
	chan_monitor_close(&s->sock, &s->monitor);
	chan_sock_close(&s->sock, 500);
	free(s);
}
