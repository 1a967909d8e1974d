/*
 * The PVM side of tests/bench/pvm: measures one case and prints one number. The same program runs
 * with our libpvm3 and with Debian's. Arguments: case, iterations, host for the other task ("." here),
 * and of group cases how many there are.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <pvm3.h>

enum { TAG = 7, MIB = 1 << 20, MEMBERS_MAX = 64, REDUCE_LEN = 64 };

static char group[32]; /* of this run alone: the one before may still be ending */
static char *buf;
static int members = MEMBERS_MAX;

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void fail(const char *what)
{
	fprintf(stderr, "pvm worker: %s\n", what);
	exit(1);
}

/* With PVM_BENCH_PIN the two tasks run on a core each, as the raw peer does. */
static void pin(int core)
{
	cpu_set_t set;

	if (!getenv("PVM_BENCH_PIN"))
		return;
	CPU_ZERO(&set);
	CPU_SET(core, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("a core to run on");
}

static void send_bytes(int tid, int n)
{
	pvm_initsend(PvmDataRaw);
	pvm_pkbyte(buf, n, 1);
	pvm_send(tid, TAG);
}

static void recv_bytes(int tid, int n)
{
	pvm_recv(tid, TAG);
	pvm_upkbyte(buf, n, 1);
}

/* Both sides of a ping-pong; the time of one round trip in us. */
static double ping(int other, int n, int bytes, int first, int direct)
{
	double t0 = 0;

	for (int i = -n / 10 - 4; i < n; i++) {
		if (i == 0)
			t0 = now_us();
		if (!first && direct)
			pvm_precv(other, TAG, buf, bytes, PVM_BYTE, NULL, NULL, NULL);
		else if (!first)
			recv_bytes(other, bytes);
		if (direct)
			pvm_psend(other, TAG, buf, bytes, PVM_BYTE);
		else
			send_bytes(other, bytes);
		if (first && direct)
			pvm_precv(other, TAG, buf, bytes, PVM_BYTE, NULL, NULL, NULL);
		else if (first)
			recv_bytes(other, bytes);
	}
	return (now_us() - t0) / n;
}

static double stream(int other, int n, int first)
{
	double t0 = now_us();

	for (int i = 0; i < n; i++) {
		if (first)
			send_bytes(other, 8);
		else
			recv_bytes(other, 8);
	}
	if (first)
		recv_bytes(other, 8);
	else
		send_bytes(other, 8);
	return n / ((now_us() - t0) / 1e6);
}

static double group_case(const char *what, int n)
{
	static double v[REDUCE_LEN];
	double t0 = 0;
	int parent = pvm_parent(), me;

	snprintf(group, sizeof(group), "bench%x", (unsigned)(parent > 0 ? parent : pvm_mytid()));
	me = pvm_joingroup(group);
	if (me < 0)
		fail("joingroup");
	pvm_barrier(group, members);
	pvm_freezegroup(group, members);
	for (int i = -n / 10 - 4; i < n; i++) {
		if (i == 0)
			t0 = now_us();
		if (!strcmp(what, "barrier")) {
			pvm_barrier(group, members);
		} else if (!strcmp(what, "reduce")) {
			pvm_reduce(PvmSum, v, REDUCE_LEN, PVM_DOUBLE, TAG, group, 0);
			pvm_barrier(group, members);
		} else if (pvm_getinst(group, pvm_mytid()) == 0) {
			pvm_initsend(PvmDataRaw);
			pvm_pkdouble(v, REDUCE_LEN, 1);
			pvm_bcast(group, TAG);
			pvm_barrier(group, members);
		} else {
			pvm_recv(-1, TAG);
			pvm_upkdouble(v, REDUCE_LEN, 1);
			pvm_barrier(group, members);
		}
	}
	return (now_us() - t0) / n;
}

static double measure(const char *what, int n, int other, int first)
{
	double us;

	if (!strcmp(what, "rtt8"))
		return ping(other, n, 8, first, 0);
	if (!strcmp(what, "bw1m"))
		us = ping(other, n, MIB, first, 0);
	else if (!strcmp(what, "psend1m"))
		us = ping(other, n, MIB, first, 1);
	else if (!strcmp(what, "psend16m"))
		us = ping(other, n, 16 * MIB, first, 1) / 16;
	else if (!strcmp(what, "rate8"))
		return stream(other, n, first);
	else
		return group_case(what, n);
	return 2.0 * MIB / (us / 1e6);
}

static double mailbox(int n)
{
	char name[32];
	double t0 = now_us();

	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "name%d", i % 10000);
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&i, 1, 1);
		if (pvm_putinfo(name, pvm_getsbuf(), PvmMboxDefault) < 0)
			fail("putinfo");
	}
	return n / ((now_us() - t0) / 1e6);
}

/* Bytes of doubles per second, packed and unpacked as XDR. */
static double xdr(int n)
{
	enum { DOUBLES = 65536 };
	double *v = (double *)(void *)buf;
	double t0 = now_us();

	for (int i = 0; i < n; i++) {
		int mid = pvm_mkbuf(PvmDataDefault);

		pvm_setsbuf(mid);
		if (pvm_pkdouble(v, DOUBLES, 1) < 0)
			fail("pkdouble");
		pvm_setrbuf(mid);
		if (pvm_upkdouble(v, DOUBLES, 1) < 0)
			fail("upkdouble");
		pvm_freebuf(mid);
	}
	return 2.0 * n * DOUBLES * sizeof(double) / ((now_us() - t0) / 1e6);
}

static double spawn_all(char *self, int n)
{
	char *args[] = {(char *)"report", NULL};
	int *tids = calloc((size_t)n, sizeof(*tids));
	double t0 = now_us();

	if (!tids || pvm_spawn(self, args, PvmTaskDefault, NULL, n, tids) != n)
		fail("spawn");
	for (int i = 0; i < n; i++)
		pvm_recv(-1, TAG);
	free(tids);
	return (now_us() - t0) / 1e3;
}

static int slave(const char *what)
{
	int parent = pvm_parent(), n;

	pin(1);
	if (!strcmp(what, "report")) {
		pvm_initsend(PvmDataRaw);
		pvm_send(parent, TAG);
		pvm_exit();
		return 0;
	}
	pvm_recv(parent, 1);
	pvm_upkint(&n, 1, 1);
	pvm_upkint(&members, 1, 1);
	measure(what, n, parent, 0);
	pvm_exit();
	return 0;
}

int main(int argc, char **argv)
{
	char self[512] = "", *args[2] = {NULL, NULL};
	int tids[MEMBERS_MAX], n, count, groups, where;
	double v;

	if (argc > 2)
		pin(0);
	buf = calloc(16, MIB);
	if (!buf || pvm_mytid() < 0)
		fail("no memory or no daemon");
	if (argc == 2)
		return slave(argv[1]);
	if (argc < 4 || argc > 5 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		fail("usage: worker CASE ITERATIONS HOST [MEMBERS]");
	if (argc == 5)
		members = (int)strtol(argv[4], NULL, 10);
	if (members < 2 || members > MEMBERS_MAX)
		fail("groups are of 2 to 64");
	n = (int)strtol(argv[2], NULL, 10);
	if (!strcmp(argv[1], "xdr")) {
		v = xdr(n);
	} else if (!strcmp(argv[1], "mailbox") || !strcmp(argv[1], "spawn")) {
		v = argv[1][0] == 'm' ? mailbox(n) : spawn_all(self, n);
	} else {
		groups = !strcmp(argv[1], "barrier") || !strcmp(argv[1], "bcast") ||
			 !strcmp(argv[1], "reduce");
		count = groups ? members - 1 : 1;
		where = strcmp(argv[3], ".") || !groups ? PvmTaskHost : PvmTaskDefault;
		args[0] = argv[1];
		if (pvm_spawn(self, args, where, argv[3], count, tids) != count)
			fail("spawn");
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&n, 1, 1);
		pvm_pkint(&members, 1, 1);
		pvm_mcast(tids, count, 1);
		v = measure(argv[1], n, tids[0], 1);
	}
	printf("%.9g\n", v);
	fflush(stdout);
	pvm_exit();
	return 0;
}
