/*
 * lab-guest-cache SECONDS: runs inside a Linux guest as one static program: a load on the memcached that
 * listens on 127.0.0.1:11211. Two threads for each processor set keys and read keys of the others; what is
 * read must be what some thread has set. Prints one line of what was done and "cache: OK".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 128, PER_CPU = 2, KEYS = 64, VALUE_MAX = 3000, REPLY_MAX = 4096, WAIT_S = 60 };

static _Atomic uint64_t sets, hits, wrong;
static unsigned count;
static time_t until;

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* The value tells its key and its round; the bytes follow from these. */
static size_t value(char *out, unsigned thread, unsigned key, uint64_t round)
{
	uint64_t seed = (uint64_t)(thread + 1) << 48 | (uint64_t)key << 32 | (round + 1);
	size_t len = 64 + seed % 61 * 48;
	int n = sprintf(out, "%u.%u.%llu.", thread, key, (unsigned long long)round);

	for (size_t i = (size_t)n; i < len; i++)
		out[i] = (char)('a' + next(&seed) % 26);
	out[len] = 0;
	return len;
}

static bool is_value(const char *got, size_t len, unsigned thread, unsigned key)
{
	char should[VALUE_MAX + 1];
	unsigned t, k;
	unsigned long long round;

	return sscanf(got, "%u.%u.%llu.", &t, &k, &round) == 3 && t == thread && k == key &&
	       value(should, t, k, round) == len && !memcmp(should, got, len);
}

static bool send_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* Until the reply ends with `end`. Its length, 0: the connection is gone. */
static size_t receive(int fd, char *reply, const char *end)
{
	size_t len = 0, n = strlen(end);

	while (len < REPLY_MAX) {
		ssize_t got = recv(fd, reply + len, REPLY_MAX - len, 0);

		if (got <= 0)
			return 0;
		len += (size_t)got;
		reply[len] = 0;
		if (len >= n && !strcmp(reply + len - n, end))
			return len;
	}
	return 0;
}

static bool set(int fd, unsigned thread, unsigned key, uint64_t round)
{
	char text[VALUE_MAX + 1], line[VALUE_MAX + 128], reply[REPLY_MAX + 1];
	size_t len = value(text, thread, key, round);
	int n = snprintf(line, sizeof(line), "set k%u.%u 0 0 %zu\r\n%s\r\n", thread, key, len,
			 text);

	if (!send_all(fd, line, (size_t)n) || !receive(fd, reply, "\r\n"))
		return false;
	sets += !strcmp(reply, "STORED\r\n");
	return true;
}

static bool get(int fd, unsigned thread, unsigned key)
{
	char line[64], reply[REPLY_MAX + 1], name[32];
	int n = snprintf(line, sizeof(line), "get k%u.%u\r\n", thread, key);
	unsigned flags;
	size_t len, at;
	char *text;

	if (!send_all(fd, line, (size_t)n) || !receive(fd, reply, "END\r\n"))
		return false;
	if (!strcmp(reply, "END\r\n"))
		return true; /* not set yet, or evicted */
	text = strstr(reply, "\r\n");
	at = text ? (size_t)(text + 2 - reply) : 0;
	if (!text || sscanf(reply, "VALUE %31s %u %zu", name, &flags, &len) != 3 ||
	    at + len > REPLY_MAX || !is_value(text + 2, len, thread, key))
		wrong++;
	else
		hits++;
	return true;
}

static void *load(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	uint64_t seed = me + 1;
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(11211),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = WAIT_S};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	bool ok = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
		  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0;

	for (uint64_t round = 0; ok && now() < until; round++) {
		ok = set(fd, me, (unsigned)(next(&seed) % KEYS), round);
		for (int i = 0; ok && i < 4; i++)
			ok = get(fd, (unsigned)(next(&seed) % count),
				 (unsigned)(next(&seed) % KEYS));
	}
	if (!ok) {
		fprintf(stderr, "cache: no connection, or one that broke\n");
		wrong++;
	}
	close(fd);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t[THREADS_MAX];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (argc != 2 || cpus < 1 || cpus > THREADS_MAX / PER_CPU)
		return 2;
	count = (unsigned)cpus * PER_CPU;
	until = now() + atoi(argv[1]);
	for (uintptr_t i = 0; i < count; i++)
		if (pthread_create(&t[i], NULL, load, (void *)i) != 0)
			return 2;
	for (unsigned i = 0; i < count; i++)
		pthread_join(t[i], NULL);
	printf("cache: %u connections, %llu sets, %llu hits, %llu wrong\n", count,
	       (unsigned long long)sets, (unsigned long long)hits, (unsigned long long)wrong);
	if (wrong || !sets || !hits)
		return 1;
	puts("cache: OK");
	return 0;
}
