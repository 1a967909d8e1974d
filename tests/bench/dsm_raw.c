#include "tests/bench/dsm_raw.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dsm/uffd.h"
#include "dsm/page_fsm.h"

static void die(const char *what)
{
	bench_note("%s: %s", what, strerror(errno));
	exit(1);
}

static void pair(int fd[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(l, (struct sockaddr *)&a, len) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&a, &len) ||
	    connect(fd[0], (struct sockaddr *)&a, len))
		die("loopback");
	fd[1] = accept(l, NULL, NULL);
	close(l);
	for (int i = 0; i < 2; i++)
		setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int take(int fd, char *buf, size_t len)
{
	for (size_t got = 0; got < len;) {
		ssize_t n = recv(fd, buf + got, len - got, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			return -1;
		got += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

void raw_ping_pong(size_t request_bytes, size_t reply_bytes, unsigned count,
		   struct bench_samples *out)
{
	static char buf[4096];
	int fd[2];

	pair(fd);
	pid_t child = fork();

	if (child == 0) {
		close(fd[0]);
		while (!take(fd[1], buf, request_bytes))
			if (send(fd[1], buf, reply_bytes, MSG_NOSIGNAL) < 0)
				break;
		_exit(0);
	}
	close(fd[1]);
	for (unsigned i = 0; i < count; i++) {
		double start = bench_now_us();

		if (send(fd[0], buf, request_bytes, MSG_NOSIGNAL) < 0 ||
		    take(fd[0], buf, reply_bytes))
			die("ping-pong");
		bench_add(out, bench_now_us() - start);
	}
	close(fd[0]);
	waitpid(child, NULL, 0);
}

struct handler {
	struct dsm_uffd *u;
	_Atomic(bool) stop;
};

static void *handler_main(void *arg)
{
	struct handler *h = arg;
	struct dsm_uffd_fault f;

	while (!atomic_load(&h->stop))
		if (dsm_uffd_read(h->u, &f, 1) > 0 && dsm_uffd_map(h->u, f.gfn, 1, DSM_X, DSM_I))
			die("UFFDIO_CONTINUE");
	return NULL;
}

void raw_local_fault(unsigned count, struct bench_samples *out)
{
	size_t len = (size_t)count * DSM_PAGE_SIZE;
	int fd = memfd_create("local", MFD_CLOEXEC);
	struct handler h = {0};
	pthread_t t;

	if (fd < 0 || ftruncate(fd, (off_t)len) < 0)
		die("memfd");
	uint8_t *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct dsm_view view = {.guest = mem, .len = len};

	if (mem == MAP_FAILED || dsm_uffd_new(fd, len, &view, 1, DSM_INSTALL_AUTO, &h.u))
		die("userfaultfd");
	memset(dsm_uffd_alias(h.u), 1, len);
	if (pthread_create(&t, NULL, handler_main, &h))
		die("pthread_create");
	for (unsigned i = 0; i < count; i++) {
		double start = bench_now_us();

		(void)*(volatile uint8_t *)(mem + (size_t)i * DSM_PAGE_SIZE);
		bench_add(out, bench_now_us() - start);
	}
	atomic_store(&h.stop, true);
	pthread_join(t, NULL);
	dsm_uffd_free(h.u);
	munmap(mem, len);
	close(fd);
}

double raw_stream_rate(size_t bytes)
{
	enum { CHUNK = 128 << 10 };
	static char buf[CHUNK];
	int fd[2];

	pair(fd);
	pid_t child = fork();

	if (child == 0) {
		close(fd[0]);
		for (size_t sent = 0; sent < bytes; sent += CHUNK)
			if (send(fd[1], buf, CHUNK, MSG_NOSIGNAL) != CHUNK)
				break;
		_exit(0);
	}
	close(fd[1]);
	double start = bench_now_us();
	ssize_t n;

	while ((n = recv(fd[0], buf, CHUNK, 0)) > 0)
		;
	double us = bench_now_us() - start;

	close(fd[0]);
	waitpid(child, NULL, 0);
	return (double)bytes / (us / 1e6);
}
