/* The DEALER side of the control channel: a connection that is kept up, and the calls on it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "proto/chan_impl.h"

enum { RETRY_MIN_MS = 100, RETRY_MAX_MS = 1000 };

enum link_state { LINK_DOWN, LINK_CONNECTING, LINK_SECURED, LINK_GREETED, LINK_UP };

struct chan_out {
	struct base_list link;
	struct base_timer timer;
	struct chan_link *owner;
	const struct chan_out_ops *ops;
	void *arg;
	uint64_t id;
	uint32_t credit;  /* inputs that we may send */
	uint32_t granted; /* items that may come */
	bool stream, sent;
	int doomed; /* fails with this when the timer fires */
	size_t len; /* of body, until it is sent */
	uint8_t *body;
};

struct chan_link {
	struct chan *chan;
	char endpoint[128];
	struct keys_key server_key;
	bool patient;
	const struct chan_link_ops *ops;
	void *ctx;
	struct chan_sock sock;
	struct chan_monitor monitor;
	enum link_state state;
	int error; /* why it is down */
	uint32_t version;
	uint64_t last_id;
	int64_t backoff_ms;
	struct base_timer timer; /* DOWN: try again; connecting: give up; UP: ping */
	struct base_list outs;
	unsigned out_count;
	char peer[CHAN_NAME_MAX], software[CHAN_NAME_MAX];
};

static void link_arm(struct chan_link *l, int64_t ms)
{
	base_loop_timer(l->chan->config.loop, &l->timer, base_clock_ns() + ms * BASE_NS_PER_MS);
}

/* ---- calls ---- */

static void out_free(struct chan_out *o)
{
	base_loop_timer_cancel(&o->timer);
	base_list_del(&o->link);
	o->owner->out_count--;
	free(o->body);
	free(o);
}

static void out_finish(struct chan_out *o, int error, const void *body, size_t len)
{
	const struct chan_out_ops *ops = o->ops;
	void *arg = o->arg;

	out_free(o);
	ops->done(arg, error, body, len);
}

static void out_send_cancel(struct chan_out *o)
{
	struct chan_env env = {.kind = CHAN_CANCEL, .id = o->id, .version = o->owner->version};

	if (o->sent && o->owner->state == LINK_UP && chan_sock_send(&o->owner->sock, NULL, 0, &env))
		log_debug("a cancellation was not sent");
}

static void out_timeout(struct base_timer *t)
{
	struct chan_out *o = base_container_of(t, struct chan_out, timer);
	int error = o->doomed;

	if (!error) {
		error = !o->sent && o->owner->error ? o->owner->error : -ETIMEDOUT;
		out_send_cancel(o);
	}
	out_finish(o, error, NULL, 0);
}

static int out_send(struct chan_out *o)
{
	struct chan_env env = {.version = o->owner->version,
			       .kind = CHAN_REQUEST,
			       .id = o->id,
			       .body = o->body,
			       .len = o->len};
	int rc = chan_sock_send(&o->owner->sock, NULL, 0, &env);

	if (rc)
		return rc;
	o->sent = true;
	free(o->body);
	o->body = NULL;
	return 0;
}

static void link_send_waiting(struct chan_link *l)
{
	if (l->state != LINK_UP)
		return;
	base_list_foreach (o, &l->outs, struct chan_out, link)
		if (!o->sent && !o->doomed && out_send(o))
			return;
}

int chan_link_call(struct chan_link *l, const void *body, size_t len, int timeout_ms, bool stream,
		   const struct chan_out_ops *ops, void *arg, struct chan_out **out)
{
	struct chan_out *o;

	if (len > CHAN_MAX_BODY)
		return -EMSGSIZE;
	if (l->out_count >= CHAN_MAX_OUT)
		return -EAGAIN;
	o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->body = malloc(len ? len : 1);
	if (!o->body) {
		free(o);
		return -ENOMEM;
	}
	if (len)
		memcpy(o->body, body, len);
	o->len = len;
	o->owner = l;
	o->id = ++l->last_id;
	o->ops = ops;
	o->arg = arg;
	o->stream = stream;
	o->credit = o->granted = CHAN_WINDOW;
	o->timer.fire = out_timeout;
	base_list_add_tail(&l->outs, &o->link);
	l->out_count++;
	base_loop_timer(l->chan->config.loop, &o->timer,
			base_clock_ns() + timeout_ms * BASE_NS_PER_MS);
	if (l->state == LINK_DOWN && !l->patient) {
		o->doomed = l->error ? l->error : -EHOSTUNREACH;
		base_loop_timer(l->chan->config.loop, &o->timer, 0);
	}
	link_send_waiting(l);
	if (out)
		*out = o;
	return 0;
}

int chan_out_input(struct chan_out *o, const void *body, size_t len)
{
	struct chan_env env = {.version = o->owner->version,
			       .kind = CHAN_INPUT,
			       .id = o->id,
			       .body = body,
			       .len = len};
	int rc;

	if (len > CHAN_MAX_BODY)
		return -EMSGSIZE;
	if (!o->sent || o->owner->state != LINK_UP)
		return -ENOTCONN;
	if (!o->credit)
		return -EAGAIN;
	rc = chan_sock_send(&o->owner->sock, NULL, 0, &env);
	if (rc)
		return rc;
	o->credit--;
	return 0;
}

void chan_out_grant(struct chan_out *o, uint32_t n)
{
	struct chan_env env = {
		.version = o->owner->version, .kind = CHAN_CREDIT, .id = o->id, .credit = n};

	if (o->owner->state != LINK_UP || chan_sock_send(&o->owner->sock, NULL, 0, &env))
		return;
	o->granted += n;
}

void chan_out_cancel(struct chan_out *o)
{
	out_send_cancel(o);
	out_free(o);
}

/* ---- the connection ---- */

/* Sent calls are lost; those that wait fail too, unless the caller has patience. */
static void link_fail_calls(struct chan_link *l, bool was_up, int error)
{
	bool again = true;

	/* done() may start and cancel calls: begin anew after each. */
	while (again) {
		again = false;
		base_list_foreach (o, &l->outs, struct chan_out, link) {
			if (o->doomed || (!o->sent && l->patient))
				continue;
			out_finish(o, was_up ? -ECONNRESET : error, NULL, 0);
			again = true;
			break;
		}
	}
}

/* The sockets are closed by the timer: this runs inside their callbacks. */
static void link_fail(struct chan_link *l, int error)
{
	bool was_up = l->state == LINK_UP;

	if (l->state == LINK_DOWN)
		return;
	l->state = LINK_DOWN;
	l->error = error;
	link_arm(l, l->backoff_ms);
	l->backoff_ms = BASE_MIN(l->backoff_ms * 2, (int64_t)RETRY_MAX_MS);
	link_fail_calls(l, was_up, error);
	if (l->ops && l->ops->state)
		l->ops->state(l->ctx, false, error);
}

static void link_greet(struct chan_link *l)
{
	struct chan_env env = {.version = 1, .kind = CHAN_HELLO};

	env.hello.min_version = CHAN_MIN_VERSION;
	env.hello.max_version = CHAN_MAX_VERSION;
	snprintf(env.hello.name, sizeof(env.hello.name), "%s", l->chan->config.name);
	snprintf(env.hello.software, sizeof(env.hello.software), "%s", PANGAEA_VERSION);
	/* Not writable yet: the socket wakes us again. */
	if (!chan_sock_send(&l->sock, NULL, 0, &env))
		l->state = LINK_GREETED;
}

static void link_woken(struct chan_sock *s)
{
	struct chan_link *l = base_container_of(s, struct chan_link, sock);

	if (l->state == LINK_SECURED)
		link_greet(l);
}

static void take_welcome(struct chan_link *l, const struct chan_hello *hello)
{
	if (hello->error[0] || hello->max_version < CHAN_MIN_VERSION ||
	    hello->max_version > CHAN_MAX_VERSION) {
		log_debug("%s: %s", l->endpoint, hello->error);
		link_fail(l, l->state == LINK_UP ? -ECONNRESET : -EPROTONOSUPPORT);
		return;
	}
	if (l->state != LINK_GREETED)
		return;
	l->version = hello->max_version;
	memcpy(l->peer, hello->name, sizeof(l->peer));
	memcpy(l->software, hello->software, sizeof(l->software));
	l->state = LINK_UP;
	l->error = 0;
	l->backoff_ms = RETRY_MIN_MS;
	link_arm(l, CHAN_PING_MS);
	link_send_waiting(l);
	if (l->ops && l->ops->state)
		l->ops->state(l->ctx, true, 0);
}

static void take_item(struct chan_link *l, struct chan_out *o, const struct chan_env *env)
{
	if (!o->stream || !o->granted) {
		link_fail(l, -EBADMSG);
		return;
	}
	o->granted--;
	base_loop_timer_cancel(&o->timer);
	if (o->ops->item)
		o->ops->item(o->arg, env->body, env->len);
}

static void take_answer(struct chan_link *l, const struct chan_env *env)
{
	base_list_foreach (o, &l->outs, struct chan_out, link) {
		if (o->id != env->id)
			continue;
		if (env->kind == CHAN_REPLY) {
			out_finish(o, 0, env->body, env->len);
		} else if (env->kind == CHAN_ITEM) {
			take_item(l, o, env);
		} else if (env->credit <= CHAN_WINDOW - o->credit) {
			o->credit += env->credit;
			if (o->ops->credit)
				o->ops->credit(o->arg, env->credit);
		}
		return;
	}
}

static void link_take(struct chan_link *l, const struct chan_env *env)
{
	switch (env->kind) {
	case CHAN_WELCOME: take_welcome(l, &env->hello); break;
	case CHAN_REPLY:
	case CHAN_ITEM:
	case CHAN_CREDIT:
		if (l->state == LINK_UP)
			take_answer(l, env);
		break;
	case CHAN_PONG: break;
	default: link_fail(l, -EBADMSG);
	}
}

static void link_readable(struct chan_sock *s)
{
	struct chan_link *l = base_container_of(s, struct chan_link, sock);
	struct chan_env env;
	zmq_msg_t msg;

	zmq_msg_init(&msg);
	if (zmq_msg_recv(&msg, s->zmq, ZMQ_DONTWAIT) >= 0 && l->state != LINK_DOWN) {
		if (chan_env_decode(zmq_msg_data(&msg), zmq_msg_size(&msg), &env)) {
			log_warn("%s: malformed message", l->endpoint);
			link_fail(l, -EBADMSG);
		} else {
			link_take(l, &env);
			chan_env_fini(&env);
		}
	}
	zmq_msg_close(&msg);
}

static void link_monitored(struct chan_monitor *m, unsigned event, uint32_t value)
{
	struct chan_link *l = base_container_of(m, struct chan_link, monitor);

	switch (event) {
	case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
		if (l->state == LINK_CONNECTING) {
			l->state = LINK_SECURED;
			chan_sock_kick(&l->sock);
		}
		break;
	case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
	case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
	case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL: link_fail(l, -EACCES); break;
	case ZMQ_EVENT_DISCONNECTED:
		link_fail(l, l->state == LINK_UP ? -ECONNRESET : -EACCES);
		break;
	case ZMQ_EVENT_CLOSED: link_fail(l, -EHOSTUNREACH); break;
	default: break;
	}
}

static int link_connect(struct chan_link *l)
{
	int rc = chan_sock_common(l->chan, &l->sock);

	if (!rc && strchr(l->endpoint, '['))
		rc = chan_sock_set(&l->sock, ZMQ_IPV6, 1);
	if (!rc &&
	    zmq_setsockopt(l->sock.zmq, ZMQ_CURVE_SERVERKEY, l->server_key.bytes, KEYS_BYTES))
		rc = -errno;
	if (!rc)
		rc = chan_monitor_open(l->chan, &l->sock,
				       ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED |
					       ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
					       ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
					       ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
					       ZMQ_EVENT_HANDSHAKE_FAILED_AUTH,
				       &l->monitor);
	if (!rc && zmq_connect(l->sock.zmq, l->endpoint))
		rc = -errno;
	if (!rc)
		rc = chan_sock_watch(&l->sock);
	return rc;
}

static void link_close(struct chan_link *l, int linger_ms)
{
	if (!l->sock.zmq)
		return;
	chan_monitor_close(&l->sock, &l->monitor);
	chan_sock_close(&l->sock, linger_ms);
}

static int link_open(struct chan_link *l)
{
	int rc = chan_sock_open(l->chan, ZMQ_DEALER, &l->sock);

	if (rc)
		return rc;
	l->sock.readable = link_readable;
	l->sock.woken = link_woken;
	l->monitor.event = link_monitored;
	rc = link_connect(l);
	if (rc) {
		link_close(l, 0);
		return rc;
	}
	l->state = LINK_CONNECTING;
	link_arm(l, CHAN_CONNECT_MS);
	return 0;
}

static void link_timer(struct base_timer *t)
{
	struct chan_link *l = base_container_of(t, struct chan_link, timer);
	struct chan_env ping = {.version = l->version, .kind = CHAN_PING};
	int rc;

	if (l->state == LINK_UP) {
		link_arm(l, CHAN_PING_MS);
		if (chan_sock_send(&l->sock, NULL, 0, &ping))
			log_debug("%s: a ping was not sent", l->endpoint);
		return;
	}
	if (l->state != LINK_DOWN) {
		link_fail(l, -EHOSTUNREACH);
		return;
	}
	link_close(l, 0);
	rc = link_open(l);
	if (rc) {
		log_warn("%s: %s", l->endpoint, strerror(-rc));
		link_arm(l, RETRY_MAX_MS);
	}
}

int chan_link_new(struct chan *c, const char *address, uint16_t port,
		  const struct keys_key *server_key, bool patient, const struct chan_link_ops *ops,
		  void *ctx, struct chan_link **out)
{
	struct chan_link *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return -ENOMEM;
	l->chan = c;
	snprintf(l->endpoint, sizeof(l->endpoint),
		 strchr(address, ':') ? "tcp://[%s]:%u" : "tcp://%s:%u", address, port);
	l->server_key = *server_key;
	l->patient = patient;
	l->ops = ops;
	l->ctx = ctx;
	l->version = 1;
	l->backoff_ms = RETRY_MIN_MS;
	l->timer.fire = link_timer;
	base_list_init(&l->outs);
	rc = link_open(l);
	if (rc) {
		free(l);
		return rc;
	}
	*out = l;
	return 0;
}

void chan_link_free(struct chan_link *l)
{
	if (!l)
		return;
	base_list_foreach (o, &l->outs, struct chan_out, link)
		out_send_cancel(o);
	l->state = LINK_DOWN;
	l->error = -ECANCELED;
	while (!base_list_empty(&l->outs))
		out_finish(base_list_entry(l->outs.next, struct chan_out, link), -ECANCELED, NULL,
			   0);
	base_loop_timer_cancel(&l->timer);
	link_close(l, 500);
	free(l);
}

bool chan_link_up(const struct chan_link *l)
{
	return l->state == LINK_UP;
}

bool chan_link_down(const struct chan_link *l)
{
	return l->state == LINK_DOWN;
}

const char *chan_link_peer(const struct chan_link *l)
{
	return l->peer;
}

const char *chan_link_software(const struct chan_link *l)
{
	return l->software;
}
