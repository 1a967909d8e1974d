#include "tests/lab/wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { QUEUE_MAX = 512, BATCH = 64, HEADER_LEN = 14 };

struct wire_frame {
	struct wire_frame *next;
	size_t len;
	uint8_t data[];
};

static void set_path(struct sockaddr_un *a, const char *name, const char *suffix)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	snprintf(a->sun_path, sizeof(a->sun_path), "%s.%s", name, suffix);
}

int wire_add(struct wire *w, const char *name)
{
	struct wire_port *port = &w->port[w->count];
	struct sockaddr_un a;
	BASE_AUTO_FD int fd = -1;
	int buffer = 4 << 20;

	if (w->count == WIRE_PORTS_MAX || strlen(name) >= sizeof(port->name))
		return -E2BIG;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	set_path(&a, name, "sw");
	unlink(a.sun_path);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
		return -errno;
	memset(port, 0, sizeof(*port));
	snprintf(port->name, sizeof(port->name), "%s", name);
	port->fd = fd;
	fd = -1;
	return (int)w->count++;
}

static void queue_clear(struct wire_port *port)
{
	while (port->head) {
		struct wire_frame *f = port->head;

		port->head = f->next;
		free(f);
	}
	port->tail = NULL;
	port->queued = 0;
}

void wire_reset(struct wire *w, unsigned port)
{
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};

	queue_clear(&w->port[port]);
	w->port[port].connected = false;
	/* A failure leaves a dead peer, which the next send reports. */
	(void)connect(w->port[port].fd, &nobody, sizeof(nobody));
}

static void queue_add(struct wire_port *port, const uint8_t *data, size_t len)
{
	struct wire_frame *f = port->queued < QUEUE_MAX ? malloc(sizeof(*f) + len) : NULL;

	if (!f) {
		port->dropped++;
		return;
	}
	f->next = NULL;
	f->len = len;
	memcpy(f->data, data, len);
	if (port->tail)
		port->tail->next = f;
	else
		port->head = f;
	port->tail = f;
	port->queued++;
}

/* Connected so that poll(2) tells when the host's queue has room again. */
static bool port_connect(struct wire_port *port)
{
	struct sockaddr_un a;

	if (port->connected)
		return true;
	set_path(&a, port->name, "net");
	port->connected = connect(port->fd, (struct sockaddr *)&a, sizeof(a)) == 0;
	return port->connected;
}

static void port_send(struct wire_port *port, const uint8_t *data, size_t len)
{
	if (port->cut || !port_connect(port)) {
		port->dropped++;
		return;
	}
	if (port->queued == 0 && send(port->fd, data, len, 0) >= 0) {
		port->frames++;
		return;
	}
	if (port->queued > 0 || errno == EAGAIN) {
		queue_add(port, data, len);
		return;
	}
	port->connected = errno != ECONNREFUSED && errno != ENOTCONN && port->connected;
	port->dropped++;
}

static void port_drain(struct wire_port *port)
{
	while (port->head) {
		struct wire_frame *f = port->head;

		if (send(port->fd, f->data, f->len, 0) < 0 && errno == EAGAIN)
			return;
		port->head = f->next;
		if (!port->head)
			port->tail = NULL;
		port->queued--;
		port->frames++;
		free(f);
	}
}

static unsigned mac_hash(const uint8_t *mac)
{
	uint32_t h = 2166136261U;

	for (int i = 0; i < 6; i++)
		h = (h ^ mac[i]) * 16777619U;
	return (h ^ (h >> 16)) % 1024;
}

static void learn(struct wire *w, const uint8_t *mac, unsigned port)
{
	unsigned i = mac_hash(mac);

	if (mac[0] & 1)
		return;
	memcpy(w->learned[i].mac, mac, 6);
	w->learned[i].port = (uint8_t)port;
	w->learned[i].used = true;
}

static int lookup(const struct wire *w, const uint8_t *mac)
{
	unsigned i = mac_hash(mac);

	if (mac[0] & 1 || !w->learned[i].used || memcmp(w->learned[i].mac, mac, 6) != 0)
		return -1;
	return w->learned[i].port;
}

static void forward(struct wire *w, unsigned from, const uint8_t *data, size_t len)
{
	int to;

	if (w->port[from].cut || len < HEADER_LEN) {
		w->port[from].dropped++;
		return;
	}
	learn(w, data + 6, from);
	to = lookup(w, data);
	if (to >= 0) {
		if ((unsigned)to != from)
			port_send(&w->port[to], data, len);
		return;
	}
	for (unsigned i = 0; i < w->count; i++)
		if (i != from)
			port_send(&w->port[i], data, len);
}

void wire_poll(const struct wire *w, struct pollfd *p)
{
	for (unsigned i = 0; i < w->count; i++) {
		p[i].fd = w->port[i].fd;
		p[i].events = (short)(POLLIN | (w->port[i].queued ? POLLOUT : 0));
		p[i].revents = 0;
	}
}

void wire_handle(struct wire *w, const struct pollfd *p)
{
	static uint8_t frame[WIRE_FRAME_MAX];

	for (unsigned i = 0; i < w->count; i++) {
		if (p[i].revents & POLLOUT)
			port_drain(&w->port[i]);
		if (!(p[i].revents & (POLLIN | POLLERR | POLLHUP)))
			continue;
		for (int n = 0; n < BATCH; n++) {
			ssize_t len = recv(w->port[i].fd, frame, sizeof(frame), 0);

			if (len < 0)
				break;
			forward(w, i, frame, (size_t)len);
		}
	}
}
