/*
 * garbage SOCKET SEED COUNT: a process of ours that is no good task. It enrols at the daemon's socket
 * by hand and sends COUNT frames of nonsense: half of them well-formed calls with hostile arguments,
 * the rest worse; it connects again when it is thrown out. 1: the daemon cannot be reached any more.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "pvm/wire/mp_ops.h"
#include "pvm/wire/mp_wire.h"

enum { BODY_MAX = 4096, WAIT_MS = 10000 };

static uint64_t seed;

static uint32_t roll(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % n;
}

static int dial(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		perror(path);
		exit(1);
	}
	return fd;
}

/* False: the daemon closed the connection. A daemon that takes nothing for long is a failure. */
static int put(int fd, const uint8_t *p, size_t n)
{
	char waste[65536];

	while (n) {
		struct pollfd w = {.fd = fd, .events = POLLIN | POLLOUT};
		ssize_t k;

		if (poll(&w, 1, WAIT_MS) <= 0) {
			fprintf(stderr, "the daemon does not read\n");
			exit(1);
		}
		if ((w.revents & POLLIN) && recv(fd, waste, sizeof(waste), MSG_DONTWAIT) == 0)
			return 0;
		if (!(w.revents & POLLOUT))
			continue;
		k = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (k < 0 && errno != EAGAIN && errno != EINTR)
			return 0;
		p += k > 0 ? k : 0;
		n -= k > 0 ? (size_t)k : 0;
	}
	return 1;
}

static size_t put32(uint8_t *p, size_t at, uint32_t v)
{
	memcpy(p + at, &v, sizeof(v));
	return at + sizeof(v);
}

/* Numbers as a handler may expect them, and such as it does not. */
static uint32_t number(void)
{
	static const uint32_t odd[] = {0,	   1,	       2,	   0x7fffffff, 0x80000000,
				       0xffffffff, 0x40000,    0x40001,	   0x80040000, 0x80000,
				       65536,	   0x10000000, 0xfffffff0, 1024};

	return roll(3) ? odd[roll(sizeof(odd) / sizeof(odd[0]))] : roll(UINT32_MAX);
}

static size_t arguments(uint8_t *p)
{
	size_t at = 0, items = roll(24);

	while (items-- && at < BODY_MAX - 512) {
		uint32_t n = roll(200);

		if (roll(2)) {
			at = put32(p, at, number());
			continue;
		}
		at = put32(p, at, roll(20) ? n : number());
		for (; n; n--)
			p[at++] = roll(8) ? (uint8_t)('a' + roll(26)) : (uint8_t)roll(256);
	}
	return at;
}

/* Not those that end the daemon or start others by a remote shell: that is no nonsense. */
static uint16_t operation(void)
{
	for (;;) {
		uint16_t op = (uint16_t)roll(MP_OP_LAST + 3);

		if (op != MP_OP_HALT && op != MP_OP_ADDHOSTS && op != MP_OP_DELHOSTS &&
		    op != MP_OP_SIGNAL && op != MP_OP_EXIT)
			return op;
	}
}

static int enrol(int fd)
{
	uint8_t b[MP_FRAME_HDR + 14] = {0};
	struct mp_frame f = {.type = MP_F_REQ, .req = 1, .len = sizeof(b) - MP_FRAME_HDR};

	mp_frame_put(b, &f);
	b[MP_FRAME_HDR] = MP_OP_ENROL;
	put32(b, MP_FRAME_HDR + 2, 1);
	return put(fd, b, sizeof(b));
}

static int frame(int fd, uint32_t i)
{
	static uint8_t b[MP_FRAME_HDR + BODY_MAX];
	struct mp_frame f = {.type = MP_F_REQ, .req = i};
	size_t n = 2 + arguments(b + MP_FRAME_HDR + 2);
	uint16_t op = operation();

	memcpy(b + MP_FRAME_HDR, &op, sizeof(op));
	if (!roll(3))
		f.type = (uint8_t)(MP_F_MSG + roll(MP_F_LAST));
	f.len = roll(200) ? n : n + roll(64);
	mp_frame_put(b, &f);
	if (!roll(500))
		b[roll(MP_FRAME_HDR)] ^= (uint8_t)(1 + roll(255));
	return put(fd, b, MP_FRAME_HDR + n);
}

int main(int argc, char **argv)
{
	uint32_t count;
	int fd = -1;

	if (argc != 4)
		return 2;
	seed = strtoull(argv[2], NULL, 10);
	count = (uint32_t)strtoul(argv[3], NULL, 10);
	for (uint32_t i = 1; i <= count; i++) {
		if (fd < 0)
			fd = dial(argv[1]);
		if ((i == 1 || roll(10) || enrol(fd)) && frame(fd, i + 1) && roll(100))
			continue;
		close(fd);
		fd = dial(argv[1]);
		if (!enrol(fd)) {
			close(fd);
			fd = -1;
		}
	}
	return 0;
}
