/*
 * A console, or the guest channel, attached over the control channel: bytes of <dir>/console.sock become items, inputs go back.
 * Without credit nothing is read, so a slow terminal holds back only its own connection.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/vm.h"

/* A process that takes no connection is about to end: its agent notices within moments. */
enum { QUEUE_MAX = CHAN_WINDOW * CONTROL_DATA_MAX, RETRY_MS = 20, RETRY_MAX = 150 };

struct console {
	struct base_watch watch;
	struct agent *agent;
	struct chan_call *call;
	char vm[TEXT_NAME_MAX];
	/* Read from the VM and not sent for want of credit. */
	size_t held_len;
	uint8_t held[CONTROL_DATA_MAX];
	/* To be written to the VM, and the inputs to give credit for then. */
	uint8_t *queue;
	size_t queue_len;
	uint32_t owed;
};

static void console_end(struct console *c, enum control_code code, const char *text)
{
	agent_reply_text(c->call, code, "%s%s%s", text[0] ? c->vm : "", text[0] ? ": " : "", text);
	base_loop_remove(&c->watch);
	close(c->watch.fd);
	free(c->queue);
	free(c);
}

/* Held bytes wait for credit: then the socket's end must not wake us again and again. */
static void console_interest(struct console *c)
{
	uint32_t events = (c->held_len ? 0 : EPOLLIN) | (c->queue_len ? EPOLLOUT : 0);
	int rc = 0;

	if (!events) {
		base_loop_remove(&c->watch);
	} else if (!c->watch.loop) {
		c->watch.events = events;
		rc = base_loop_add(c->agent->loop, &c->watch);
	} else {
		rc = base_loop_modify(&c->watch, events);
	}
	if (rc)
		log_warn("%s: console: %s", c->vm, strerror(-rc));
}

/* false: the console has ended. */
static bool console_send(struct console *c)
{
	struct control_reply item = {.data = c->held, .data_len = c->held_len};
	int rc = agent_item(c->call, &item);

	if (!rc)
		c->held_len = 0;
	else if (rc != -EAGAIN) {
		console_end(c, CONTROL_FAILED, "");
		return false;
	}
	return true;
}

static bool console_write(struct console *c)
{
	ssize_t n = send(c->watch.fd, c->queue, c->queue_len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		console_end(c, CONTROL_OK, "the console has closed");
		return false;
	}
	if (n > 0) {
		c->queue_len -= (size_t)n;
		memmove(c->queue, c->queue + n, c->queue_len);
	}
	if (!c->queue_len && c->owed) {
		chan_call_grant(c->call, c->owed);
		c->owed = 0;
	}
	return true;
}

static void console_ready(struct base_watch *w, uint32_t events)
{
	struct console *c = base_container_of(w, struct console, watch);
	ssize_t n;

	if ((events & EPOLLOUT) && c->queue_len && !console_write(c))
		return;
	if (!c->held_len && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
		n = recv(w->fd, c->held, sizeof(c->held), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			console_end(c, CONTROL_OK, "the VM has ended");
			return;
		}
		c->held_len = n > 0 ? (size_t)n : 0;
		if (c->held_len && !console_send(c))
			return;
	}
	console_interest(c);
}

static void resize_done(void *arg, const struct vmmctl_reply *reply)
{
	if (reply->error)
		log_debug("console size: %s", reply->text);
}

static void console_resize(struct console *c, uint16_t cols, uint16_t rows)
{
	struct vmmctl_request req = {.op = VMMCTL_CONSOLE_RESIZE, .cols = cols, .rows = rows};
	struct agent_vm *vm = agent_vm_find(c->agent, c->vm);

	if (vm && vm->control &&
	    vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS, resize_done, NULL))
		log_debug("%s: the console's size was not passed on", c->vm);
}

static bool console_enqueue(struct console *c, const void *data, size_t len)
{
	uint8_t *queue;

	if (c->queue_len + len > QUEUE_MAX)
		return false;
	queue = realloc(c->queue, c->queue_len + len + 1);
	if (!queue)
		return false;
	if (len)
		memcpy(queue + c->queue_len, data, len);
	c->queue = queue;
	c->queue_len += len;
	return true;
}

static void console_input(void *arg, const void *body, size_t len)
{
	struct console *c = arg;
	struct control_input in;
	bool queued;

	if (control_input_decode(body, len, &in)) {
		console_end(c, CONTROL_USAGE, "malformed console input");
		return;
	}
	if (in.cols && in.rows)
		console_resize(c, in.cols, in.rows);
	queued = console_enqueue(c, in.data, in.len);
	control_input_fini(&in);
	if (!queued) {
		console_end(c, CONTROL_FAILED, "more input than the guest takes");
		return;
	}
	c->owed++;
	if (console_write(c))
		console_interest(c);
}

static void console_credit(void *arg, uint32_t n)
{
	struct console *c = arg;

	if (c->held_len && !console_send(c))
		return;
	console_interest(c);
}

static void console_cancel(void *arg)
{
	console_end(arg, CONTROL_OK, "");
}

static const struct chan_call_ops call_ops = {console_input, console_credit, console_cancel};

static int console_open(struct agent_vm *vm, struct chan_call *call,
			const struct control_request *req, int fd)
{
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return -ENOMEM;
	c->agent = vm->agent;
	c->call = call;
	memcpy(c->vm, vm->spec.name, sizeof(c->vm));
	c->watch = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = console_ready};
	rc = base_loop_add(vm->agent->loop, &c->watch);
	if (rc) {
		free(c);
		return rc;
	}
	chan_call_stream(call, &call_ops, c);
	/* At once, so that a silent console is not taken for a silent agent. */
	if (agent_item(call, &(struct control_reply){0}))
		log_debug("%s: nobody is at the new console", c->vm);
	if (req->cols && req->rows)
		console_resize(c, req->cols, req->rows);
	return 0;
}

/* A call whose VM's process may take no connection yet, or no more. */
struct knock {
	struct base_timer timer;
	struct agent *agent;
	struct chan_call *call;
	struct control_request req;
	unsigned left;
};

static void knock_end(struct knock *k)
{
	base_loop_timer_cancel(&k->timer);
	free(k);
}

static const char *socket_name(const struct control_request *req)
{
	return req->op == CONTROL_VM_CHANNEL ? VMMCTL_CHANNEL : VMMCTL_CONSOLE;
}

static void knock_again(struct base_timer *t)
{
	struct knock *k = base_container_of(t, struct knock, timer);
	struct agent_vm *vm = agent_vm_find(k->agent, k->req.vm);
	int fd, rc;

	if (!vm) {
		agent_no_vm(k->agent, k->call, &k->req);
		knock_end(k);
		return;
	}
	fd = vmmctl_connect(vm->dir, socket_name(&k->req), SOCK_STREAM);
	rc = fd < 0 ? fd : console_open(vm, k->call, &k->req, fd);
	if (!rc) {
		knock_end(k);
	} else if (fd >= 0 || !k->left--) {
		agent_reply_text(k->call, CONTROL_FAILED,
				 "%s: its process does not answer at its console: %s",
				 vm->spec.name, strerror(-rc));
		if (fd >= 0)
			close(fd);
		knock_end(k);
	} else {
		base_loop_timer(k->agent->loop, t, base_clock_ns() + RETRY_MS * BASE_NS_PER_MS);
	}
}

void agent_console(struct agent_vm *vm, struct chan_call *call, const struct control_request *req)
{
	struct knock *k = calloc(1, sizeof(*k));

	if (!k) {
		agent_reply_text(call, CONTROL_FAILED, "out of memory");
		return;
	}
	*k = (struct knock){.timer = {.fire = knock_again},
			    .agent = vm->agent,
			    .call = call,
			    .req = {.op = req->op, .cols = req->cols, .rows = req->rows},
			    .left = RETRY_MAX};
	memcpy(k->req.vm, vm->spec.name, sizeof(k->req.vm));
	knock_again(&k->timer);
}
