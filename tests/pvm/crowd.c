/*
 * `crowd N`: N tasks on one host, all alive at once. Each reports, passes a token on to the next, and stays
 * until it is told to go; all ends are told.
 */
#include <pvm3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

enum { HERE = 1, NEXT, TOKEN, GO, ENDED, BATCH = 250, WAIT_S = 40 };

static int child(int parent)
{
	int next = 0, hops = 0;

	pvm_initsend(PvmDataDefault);
	pvm_send(parent, HERE);
	pvm_recv(parent, NEXT);
	pvm_upkint(&next, 1, 1);
	pvm_recv(-1, TOKEN);
	pvm_upkint(&hops, 1, 1);
	hops++;
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&hops, 1, 1);
	pvm_send(next, TOKEN);
	pvm_recv(parent, GO);
	pvm_exit();
	return 0;
}

static int wait_for(int tag, const char *what)
{
	struct timeval limit = {WAIT_S, 0};

	if (pvm_trecv(-1, tag, &limit) > 0)
		return 0;
	printf("%s: one did not come\n", what);
	return 1;
}

static int run(int *tids, int n)
{
	int hops = 0, me = pvm_mytid();

	for (int i = 0; i < n; i++)
		if (wait_for(HERE, "reports"))
			return 1;
	for (int i = 0; i < n; i++) {
		pvm_initsend(PvmDataDefault);
		pvm_pkint(i + 1 < n ? &tids[i + 1] : &me, 1, 1);
		pvm_send(tids[i], NEXT);
	}
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&hops, 1, 1);
	pvm_send(tids[0], TOKEN);
	if (wait_for(TOKEN, "the token"))
		return 1;
	pvm_upkint(&hops, 1, 1);
	if (hops != n)
		return printf("%d hops\n", hops), 1;
	pvm_notify(PvmTaskExit, ENDED, n, tids);
	pvm_initsend(PvmDataDefault);
	pvm_mcast(tids, n, GO);
	for (int i = 0; i < n; i++)
		if (wait_for(ENDED, "ends"))
			return 1;
	printf("%d tasks\n", n);
	return 0;
}

int main(int argc, char **argv)
{
	int parent = pvm_parent(), n = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0, rc = 0;
	char self[512] = "";
	int *tids;

	if (parent > 0)
		return child(parent);
	tids = calloc((size_t)n + 1, sizeof(*tids));
	if (n < 1 || !tids || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 2;
	for (int i = 0; i < n && !rc; i += BATCH) {
		int part = n - i < BATCH ? n - i : BATCH;

		rc = pvm_spawn(self, NULL, PvmTaskDefault, NULL, part, tids + i) != part;
		if (rc)
			printf("task %d was not started\n", i);
	}
	rc = rc ? rc : run(tids, n);
	for (int i = 0; i < n && rc; i++)
		if (tids[i] > 0)
			pvm_kill(tids[i]);
	pvm_exit();
	return rc;
}
