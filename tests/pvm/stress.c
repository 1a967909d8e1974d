/*
 * Tasks of one host send each other messages of random sizes and encodings, all to all, several in
 * flight; every body is checked, and the order per pair. Arguments: tasks, messages for each pair,
 * seed. Exit 0 when all arrived as sent.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pvm3.h>

enum { TAG_SETUP = 1, TAG_DATA, TAG_DONE, TASKS_MAX = 64, SIZE_MAX_BYTES = 3 << 20 };

static uint64_t rng;

static uint32_t next(void)
{
	rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng >> 33);
}

static int pick_size(void)
{
	switch (next() % 8) {
	case 0: return 0;
	case 1: return (int)(next() % SIZE_MAX_BYTES);
	case 2: return (int)(next() % 100000);
	default: return (int)(next() % 300);
	}
}

static void fill(unsigned char *p, int n, uint32_t seed)
{
	for (int i = 0; i < n; i++)
		p[i] = (unsigned char)(seed + (uint32_t)i * 7 + ((uint32_t)i >> 8));
}

static int check(const unsigned char *p, int n, uint32_t seed)
{
	for (int i = 0; i < n; i++)
		if (p[i] != (unsigned char)(seed + (uint32_t)i * 7 + ((uint32_t)i >> 8)))
			return i + 1;
	return 0;
}

static unsigned char out[SIZE_MAX_BYTES], in[SIZE_MAX_BYTES];
static int expected[TASKS_MAX], failures;

static void send_one(int tid, int number)
{
	int how = (int)(next() % 4), n = pick_size();
	int head[3] = {number, n, (int)(next() & 0x7fffffff)};

	if (how == 3)
		how = PvmDataRaw;
	fill(out, n, (uint32_t)head[2]);
	pvm_initsend(how);
	pvm_pkint(head, 3, 1);
	pvm_pkbyte((char *)out, n, 1);
	if (pvm_send(tid, TAG_DATA) < 0)
		failures++;
}

static int take_one(const int *tids, int n, int wait)
{
	int head[3], mid = wait ? pvm_recv(-1, TAG_DATA) : pvm_nrecv(-1, TAG_DATA), src, bad;

	if (mid <= 0)
		return 0;
	pvm_bufinfo(mid, NULL, NULL, &src);
	pvm_upkint(head, 3, 1);
	pvm_upkbyte((char *)in, head[1], 1);
	bad = check(in, head[1], (uint32_t)head[2]);
	for (int i = 0; i < n; i++)
		if (tids[i] == src && head[0] != expected[i]++) {
			printf("order: %d from t%x\n", head[0], (unsigned)src);
			failures++;
		}
	if (bad) {
		printf("byte %d of %d from t%x is wrong\n", bad - 1, head[1], (unsigned)src);
		failures++;
	}
	return 1;
}

static void run(int *tids, int n, int count, int seed)
{
	int got = 0, all = n * count, me = pvm_mytid();

	rng = (uint64_t)(unsigned)seed * 1000003 + (unsigned)me;
	for (int k = 0; k < count; k++)
		for (int i = 0; i < n; i++) {
			send_one(tids[i], k);
			if (next() % 4 == 0)
				got += take_one(tids, n, 0);
		}
	while (got < all)
		got += take_one(tids, n, 1);
}

int main(int argc, char **argv)
{
	int tids[TASKS_MAX], set[3], parent, n, bad = 0;
	char self[512] = "";

	if (pvm_mytid() < 0)
		return 2;
	parent = pvm_parent();
	if (parent > 0) {
		pvm_recv(parent, TAG_SETUP);
		pvm_upkint(set, 3, 1);
		pvm_upkint(tids, set[0], 1);
		run(tids, set[0], set[1], set[2]);
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&failures, 1, 1);
		pvm_send(parent, TAG_DONE);
		pvm_exit();
		return 0;
	}
	if (argc != 4 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 2;
	for (int i = 0; i < 3; i++)
		set[i] = (int)strtol(argv[i + 1], NULL, 10);
	if (set[0] < 1 || set[0] > TASKS_MAX)
		return 2;
	pvm_catchout(stdout);
	n = pvm_spawn(self, NULL, PvmTaskDefault, NULL, set[0], tids);
	if (n != set[0])
		return 3;
	pvm_initsend(PvmDataDefault);
	pvm_pkint(set, 3, 1);
	pvm_pkint(tids, n, 1);
	pvm_mcast(tids, n, TAG_SETUP);
	for (int i = 0; i < n; i++) {
		int f = 1;

		pvm_recv(-1, TAG_DONE);
		pvm_upkint(&f, 1, 1);
		bad += f;
	}
	pvm_exit();
	printf("%d tasks, %d messages each way, %d failures\n", n, set[1], bad);
	return bad ? 1 : 0;
}
