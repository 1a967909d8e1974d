/*
 * A spawned program that is no good twin (pvm/wire/mp_twin.h): each of its processes says "here" once, so
 * whoever spawned N sees N of them whatever it does with the daemon's offer.
 *	garbage  answers nonsense     die    ends when it is asked     mute  offers itself and does nothing
 *	lie      tells of processes that are not the daemon's children
 *	load     takes libpvm3 by dlopen(3), when it has done something already
 */
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pvm/wire/mp_twin.h"

static void hello(int fd)
{
	struct mp_twin_hello h = {.magic = MP_TWIN_MAGIC, .pid = getpid()};
	const char *path = (const char *)getauxval(AT_EXECFN);
	uint8_t b[sizeof(h) + MP_TWIN_PATH_MAX];
	size_t n = strlen(path);

	if (n > MP_TWIN_PATH_MAX)
		exit(1);
	memcpy(b, &h, sizeof(h));
	memcpy(b + sizeof(h), path, n);
	send(fd, b, sizeof(h) + n, MSG_NOSIGNAL);
}

static void lie(int fd)
{
	struct mp_twin_ask ask;

	while (recv(fd, &ask, sizeof(ask), 0) == sizeof(ask)) {
		struct mp_twin_made made = {.seq = ask.seq, .pid = ask.seq % 2 ? getppid() : 1};

		send(fd, &made, sizeof(made), MSG_NOSIGNAL);
	}
}

static void behave(const char *how, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (!strcmp(how, "garbage")) {
		send(fd, how, strlen(how), MSG_NOSIGNAL);
		return;
	}
	hello(fd);
	if (!strcmp(how, "die")) {
		poll(&p, 1, 10000);
		raise(SIGKILL);
	}
	if (!strcmp(how, "mute")) {
		/* Until the daemon gives it up; one line more, should it not. */
		p.events = 0;
		if (poll(&p, 1, 3 * MP_TWIN_WAIT_MS) != 1)
			printf("here, and nobody gave up\n");
	}
	if (!strcmp(how, "lie"))
		lie(fd);
}

int main(int argc, char **argv)
{
	const char *s = getenv(MP_ENV_TWIN);

	if (argc < 2)
		return 1;
	printf("here\n");
	fflush(stdout);
	if (!strcmp(argv[1], "load"))
		return !dlopen("libpvm3.so.3", RTLD_NOW);
	if (s)
		behave(argv[1], (int)strtol(s, NULL, 10));
	return 0;
}
