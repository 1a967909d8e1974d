#include "node/vmm/console.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <termios.h>

#include "base/list.h"
#include "base/log.h"
#include "proto/vmmctl.h"

enum {
	RING_BYTES = VMMCTL_OUTPUT_BYTES, /* so that a slow terminal loses nothing for a while */
	CHUNK_BYTES = 4096, /* PIPE_BUF: such a write to a ready pipe does not block */
	INPUT_BYTES = 256,
	CLIENT_MAX = 16,
	ESCAPE = 1, /* Ctrl-A */
};

struct client {
	struct base_list link;
	struct vmm_console *console;
	struct base_watch in, out; /* one descriptor for a socket: only `in` is watched then */
	bool is_stdio, out_watched, out_ready;
	bool escaped;
	uint64_t pos; /* of the next byte to send, counted from the first ever written */
	uint8_t input[INPUT_BYTES];
	size_t input_len;
};

struct vmm_console {
	struct base_loop *loop;
	const struct vmm_console_ops *ops;
	void *arg;
	struct base_watch listener;
	bool listening;
	struct base_list clients;
	unsigned client_count;
	struct termios saved;
	bool saved_valid;

	pthread_mutex_t lock; /* guards what follows */
	bool posted, freed;
	bool input_ready;
	struct vmmctl_output *out; /* seen by others who map the file: head comes after its bytes */
};

static void console_pump(void *arg);

static void console_post(struct vmm_console *c)
{
	/* Under the lock. A full queue of posts: the next write tries again. */
	if (!c->posted && !c->freed && base_loop_post(c->loop, console_pump, c) == 0)
		c->posted = true;
}

void vmm_console_write(struct vmm_console *c, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t head;

	pthread_mutex_lock(&c->lock);
	head = c->out->head;
	if (len > RING_BYTES) {
		p += len - RING_BYTES;
		head += len - RING_BYTES;
		len = RING_BYTES;
	}
	while (len > 0) {
		size_t at = head % RING_BYTES, n = BASE_MIN(len, RING_BYTES - at);

		memcpy(c->out->ring + at, p, n);
		head += n;
		p += n;
		len -= n;
	}
	__atomic_store_n(&c->out->head, head, __ATOMIC_RELEASE);
	console_post(c);
	pthread_mutex_unlock(&c->lock);
}

void vmm_console_input_ready(struct vmm_console *c)
{
	pthread_mutex_lock(&c->lock);
	c->input_ready = true;
	console_post(c);
	pthread_mutex_unlock(&c->lock);
}

/* ---- clients ---- */

static void client_free(struct client *cl)
{
	base_loop_remove(&cl->in);
	base_loop_remove(&cl->out);
	if (!cl->is_stdio)
		close(cl->in.fd);
	base_list_del(&cl->link);
	cl->console->client_count--;
	free(cl);
}

/* Copies what the client has not seen yet, at most CHUNK_BYTES. */
static size_t client_next(struct client *cl, uint8_t *out)
{
	struct vmm_console *c = cl->console;
	size_t n, at, first;

	pthread_mutex_lock(&c->lock);
	if (c->out->head - cl->pos > RING_BYTES)
		cl->pos = c->out->head - RING_BYTES;
	n = BASE_MIN(c->out->head - cl->pos, (uint64_t)CHUNK_BYTES);
	at = cl->pos % RING_BYTES;
	first = BASE_MIN(n, RING_BYTES - at);
	memcpy(out, c->out->ring + at, first);
	memcpy(out + first, c->out->ring, n - first);
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void client_want_output(struct client *cl, bool want)
{
	int err = 0;

	if (!cl->is_stdio) {
		uint32_t in = cl->input_len ? 0 : EPOLLIN;

		err = base_loop_modify(&cl->in, in | (want ? EPOLLOUT : 0));
	} else if (cl->out_watched) {
		err = base_loop_modify(&cl->out, want ? EPOLLOUT : 0);
	}
	if (err)
		log_warn("console: cannot watch a client: %s", strerror(-err));
}

static ssize_t client_send(struct client *cl, const uint8_t *data, size_t len)
{
	ssize_t n;

	do {
		n = cl->is_stdio ? write(cl->out.fd, data, len)
				 : send(cl->in.fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n;
}

/* Sends until the client is up to date or would block. False: it is gone (and freed). */
static bool client_flush(struct client *cl)
{
	uint8_t chunk[CHUNK_BYTES];
	size_t len;

	while ((len = client_next(cl, chunk)) > 0) {
		ssize_t n;

		/* A pipe or terminal is only written to when the loop says that there is room. */
		if (cl->out_watched && !cl->out_ready) {
			client_want_output(cl, true);
			return true;
		}
		cl->out_ready = false;
		n = client_send(cl, chunk, len);
		if (n < 0 && errno == EAGAIN) {
			client_want_output(cl, true);
			return true;
		}
		if (n <= 0) {
			client_free(cl);
			return false;
		}
		cl->pos += (uint64_t)n;
	}
	client_want_output(cl, false);
	return true;
}

static void client_deliver(struct client *cl)
{
	struct vmm_console *c = cl->console;
	size_t n = cl->input_len ? c->ops->input(c->arg, cl->input, cl->input_len) : 0;

	if (n == 0)
		return;
	memmove(cl->input, cl->input + n, cl->input_len - n);
	cl->input_len -= n;
}

/* Ctrl-A X ends, Ctrl-A Ctrl-A is one Ctrl-A. False: quit was asked for. */
static bool client_unescape(struct client *cl)
{
	size_t to = 0;

	for (size_t i = 0; i < cl->input_len; i++) {
		uint8_t b = cl->input[i];

		if (cl->escaped) {
			cl->escaped = false;
			if (b == 'x' || b == 'X')
				return false;
			if (b != ESCAPE)
				continue;
		} else if (b == ESCAPE) {
			cl->escaped = true;
			continue;
		}
		cl->input[to++] = b;
	}
	cl->input_len = to;
	return true;
}

static void client_watch_input(struct client *cl)
{
	int err;

	/* A file, or input that has ended. */
	if (!cl->in.loop)
		return;
	err = base_loop_modify(&cl->in, cl->input_len ? 0 : EPOLLIN);
	if (err)
		log_warn("console: cannot watch a client: %s", strerror(-err));
}

static void client_readable(struct client *cl)
{
	struct vmm_console *c = cl->console;
	ssize_t n = read(cl->in.fd, cl->input, sizeof(cl->input));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* The end of our standard input is not the end of its output. */
		if (cl->is_stdio)
			base_loop_remove(&cl->in);
		else
			client_free(cl);
		return;
	}
	cl->input_len = (size_t)n;
	if (cl->is_stdio && !client_unescape(cl)) {
		cl->input_len = 0;
		c->ops->quit(c->arg);
		return;
	}
	client_deliver(cl);
	if (cl->input_len)
		client_watch_input(cl);
}

static void client_ready(struct base_watch *w, uint32_t events)
{
	struct client *cl = base_container_of(w, struct client, in);

	if (events & EPOLLOUT && !client_flush(cl))
		return;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && cl->input_len == 0)
		client_readable(cl);
	else if (events & (EPOLLHUP | EPOLLERR) && !cl->is_stdio)
		client_free(cl);
}

static void client_out_ready(struct base_watch *w, uint32_t events)
{
	struct client *cl = base_container_of(w, struct client, out);

	cl->out_ready = true;
	if (events & (EPOLLERR | EPOLLHUP)) {
		client_free(cl);
		return;
	}
	client_flush(cl);
}

static struct client *client_new(struct vmm_console *c, int fd)
{
	struct client *cl = calloc(1, sizeof(*cl));
	uint64_t back;

	if (!cl)
		return NULL;
	cl->console = c;
	cl->in = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = client_ready};
	pthread_mutex_lock(&c->lock);
	back = BASE_MIN(c->out->head, (uint64_t)VMMCTL_SCROLLBACK_BYTES);
	cl->pos = c->out->head - back;
	pthread_mutex_unlock(&c->lock);
	base_list_add_tail(&c->clients, &cl->link);
	c->client_count++;
	return cl;
}

static void console_accept(struct base_watch *w, uint32_t events)
{
	struct vmm_console *c = base_container_of(w, struct vmm_console, listener);
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *cl;

	if (fd < 0)
		return;
	cl = c->client_count < CLIENT_MAX ? client_new(c, fd) : NULL;
	if (!cl) {
		close(fd);
		return;
	}
	if (base_loop_add(c->loop, &cl->in) < 0) {
		client_free(cl);
		return;
	}
	client_flush(cl);
}

/* ---- the console ---- */

static void console_pump(void *arg)
{
	struct vmm_console *c = arg;
	bool input_ready;

	pthread_mutex_lock(&c->lock);
	c->posted = false;
	input_ready = c->input_ready;
	c->input_ready = false;
	pthread_mutex_unlock(&c->lock);
	base_list_foreach_safe (cl, &c->clients, struct client, link) {
		if (input_ready && cl->input_len) {
			client_deliver(cl);
			client_watch_input(cl);
		}
		client_flush(cl);
	}
}

int vmm_console_new(struct base_loop *loop, const struct vmm_console_ops *ops, void *arg,
		    struct vmm_console **out)
{
	struct vmm_console *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->out = vmmctl_output_map(-1);
	if (!c->out) {
		free(c);
		return -ENOMEM;
	}
	c->loop = loop;
	c->ops = ops;
	c->arg = arg;
	base_list_init(&c->clients);
	pthread_mutex_init(&c->lock, NULL);
	*out = c;
	return 0;
}

int vmm_console_keep(struct vmm_console *c, int fd)
{
	struct vmmctl_output *out = vmmctl_output_map(fd);

	if (!out)
		return -errno;
	pthread_mutex_lock(&c->lock);
	*out = *c->out;
	vmmctl_output_unmap(c->out);
	c->out = out;
	pthread_mutex_unlock(&c->lock);
	return 0;
}

int vmm_console_listen(struct vmm_console *c, int listen_fd)
{
	int err;

	c->listener =
		(struct base_watch){.fd = listen_fd, .events = EPOLLIN, .ready = console_accept};
	err = base_loop_add(c->loop, &c->listener);
	c->listening = err == 0;
	return err;
}

static void console_raw_terminal(struct vmm_console *c)
{
	struct termios t;

	if (tcgetattr(STDIN_FILENO, &t) < 0)
		return;
	c->saved = t;
	c->saved_valid = true;
	cfmakeraw(&t);
	t.c_oflag |= OPOST; /* our own log lines still begin at the left */
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

int vmm_console_stdio(struct vmm_console *c)
{
	struct client *cl = client_new(c, STDIN_FILENO);
	int err;

	if (!cl)
		return -ENOMEM;
	cl->is_stdio = true;
	cl->out = (struct base_watch){.fd = STDOUT_FILENO, .ready = client_out_ready};
	/* A file, or /dev/null, cannot be watched (-EPERM) and never blocks. */
	err = base_loop_add(c->loop, &cl->out);
	if (err && err != -EPERM)
		goto err_free;
	cl->out_watched = err == 0;
	err = base_loop_add(c->loop, &cl->in);
	if (err && err != -EPERM)
		goto err_free;
	console_raw_terminal(c);
	client_flush(cl);
	return 0;
err_free:
	client_free(cl);
	return err;
}

void vmm_console_flush(struct vmm_console *c)
{
	console_pump(c);
	/* The last words: a pipe takes them or blocks us for a moment. */
	base_list_foreach_safe (cl, &c->clients, struct client, link) {
		base_loop_remove(&cl->out);
		cl->out_watched = false;
		client_flush(cl);
	}
}

void vmm_console_free(struct vmm_console *c)
{
	if (!c)
		return;
	base_list_foreach_safe (cl, &c->clients, struct client, link)
		client_free(cl);
	if (c->listening) {
		base_loop_remove(&c->listener);
		close(c->listener.fd);
	}
	if (c->saved_valid)
		tcsetattr(STDIN_FILENO, TCSANOW, &c->saved);
	vmmctl_output_unmap(c->out);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
