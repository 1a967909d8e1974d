/*
 * Run on host h1 with the name of another host: a task there and this one exchange numbered messages
 * of all sizes both ways at once, by every kind of send and receive; then the other one floods us and
 * ends. Everything must come, in order, and before the news of its end. With "direct" the two must
 * have a TCP connection of their own, with "sealed" none.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <pvm3.h>

enum { COUNT = 1500, BIG = 3 << 20, LAST = 40, LAST_BYTES = 200000, TAG = 1, TAG_LAST, TAG_EXIT };

static unsigned char *buf, *want;

static void need(int ok, const char *what)
{
	if (ok)
		return;
	printf("FAILED: %s\n", what);
	fflush(stdout);
	pvm_exit();
	exit(1);
}

static int size_of(int i)
{
	return i % 100 == 7 ? BIG : i % 10 == 3 ? (i * 7919) % 200000 : (i * 31) % 300;
}

static void fill(unsigned char *p, int i, int n)
{
	for (int k = 0; k < n; k += 61)
		p[k] = (unsigned char)(i + k);
}

static void send_one(int to, int i)
{
	int n = size_of(i);

	fill(buf, i, n);
	if (i % 3 == 0) {
		need(pvm_psend(to, TAG, buf, n, PVM_BYTE) == 0, "psend");
		return;
	}
	pvm_initsend(i % 3 == 1 ? PvmDataRaw : PvmDataDefault);
	pvm_pkbyte((char *)buf, n, 1);
	need(pvm_send(to, TAG) == 0, "send");
}

static void recv_one(int from, int i)
{
	int n = size_of(i), got = -1, tid = -1, tag;

	memset(want, 0, (size_t)n + 1);
	fill(want, i, n);
	for (int k = 0; k < n; k += 61)
		buf[k] = 0;
	if (i % 2) {
		need(pvm_precv(i % 4 == 1 ? -1 : from, TAG, buf, BIG, PVM_BYTE, &tid, &tag, &got) ==
			     0,
		     "precv");
	} else {
		int mid = pvm_recv(from, TAG);

		need(mid > 0 && pvm_bufinfo(mid, &got, &tag, &tid) == 0, "recv");
		if (got <= BIG + 4)
			pvm_upkbyte((char *)buf, n, 1);
	}
	if (tid != from || got < n || got > n + 3)
		printf("message %d: %d bytes, not %d; from t%x, not t%x\n", i, got, n,
		       (unsigned)tid, (unsigned)from);
	need(tid == from && got >= n && got <= n + 3, "the next message");
	for (int k = 0; k < n; k += 61)
		need(buf[k] == want[k], "its bytes");
}

static int connections(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	for (struct dirent *e; d && (e = readdir(d));) {
		int domain = 0, fd = (int)strtol(e->d_name, NULL, 10);
		socklen_t len = sizeof(domain);

		n += !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) &&
		     (domain == AF_INET || domain == AF_INET6);
	}
	if (d)
		closedir(d);
	return n;
}

/* Each sends ahead of what it has received, so both queues fill. */
static int exchange(int other)
{
	int sent = 0, n = 0;

	for (int i = 0; i < COUNT; i++) {
		while (sent < COUNT && sent < i + 20)
			send_one(other, sent++);
		recv_one(other, i);
		if (i == COUNT / 2)
			n = connections();
	}
	return n;
}

static int child(int parent)
{
	exchange(parent);
	memset(buf, 5, LAST_BYTES);
	for (int i = 0; i < LAST; i++) {
		pvm_initsend(PvmDataRaw);
		pvm_pkint(&i, 1, 1);
		pvm_pkbyte((char *)buf, LAST_BYTES, 1);
		pvm_send(parent, TAG_LAST);
	}
	/* With something unread in the socket, as programs end. */
	_exit(0);
}

int main(int argc, char **argv)
{
	char self[512] = "";
	int tid, info, n, seq;

	buf = calloc(2, BIG + 64);
	need(buf && pvm_mytid() > 0, "enrol");
	want = buf + BIG + 64;
	if (pvm_parent() > 0)
		return child(pvm_parent());
	need(argc == 3 && readlink("/proc/self/exe", self, sizeof(self) - 1) > 0, "arguments");
	pvm_addhosts(argv + 1, 1, &info);
	need(pvm_spawn(self, NULL, PvmTaskHost, argv[1], 1, &tid) == 1, "spawn");
	need(pvm_notify(PvmTaskExit, TAG_EXIT, 1, &tid) == 0, "notify");
	n = exchange(tid);
	printf("%d messages each way, %d connections\n", COUNT, n);
	need(strcmp(argv[2], "direct") ? n == 0 : n > 0, "connections");
	for (int i = 0; i < 20; i++)
		pvm_psend(tid, TAG, buf, 1000, PVM_BYTE);
	for (int i = 0; i < LAST; i++) {
		need(pvm_recv(-1, -1) > 0, "the last messages");
		pvm_bufinfo(pvm_getrbuf(), NULL, &n, NULL);
		need(n == TAG_LAST && pvm_upkint(&seq, 1, 1) == 0 && seq == i,
		     "in order, before the end");
	}
	need(pvm_recv(-1, TAG_EXIT) > 0, "news of the end");
	printf("%d last messages, then the news of the end\n", LAST);
	pvm_exit();
	return 0;
}
