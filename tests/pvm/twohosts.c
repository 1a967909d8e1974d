/*
 * Run on host h1 with the names of other hosts: adds them, spawns over all of them, exchanges
 * messages, gets told of every end. Prints one line per fact; exit 0 when all is as it must be.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pvm3.h>

enum { CHILDREN = 6, TAG_WORK = 1, TAG_RESULT, TAG_END, TAG_EXIT };

static void need(int ok, const char *what)
{
	if (ok)
		return;
	printf("FAILED: %s\n", what);
	pvm_exit();
	exit(1);
}

static int child(int parent)
{
	char host[64] = "";
	static double big[40000];
	int x;

	gethostname(host, sizeof(host) - 1);
	pvm_recv(parent, TAG_WORK);
	pvm_upkint(&x, 1, 1);
	pvm_upkdouble(big, 40000, 1);
	x *= 2;
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&x, 1, 1);
	pvm_pkstr(host);
	pvm_pkdouble(big, 40000, 1);
	pvm_send(parent, TAG_RESULT);
	pvm_recv(parent, TAG_END);
	pvm_exit();
	return 0;
}

static void exchange(const int *tids, int hosts)
{
	static double big[40000], back[40000];
	char seen[16][64];
	int distinct = 0;

	for (int i = 0; i < 40000; i++)
		big[i] = i / 3.0;
	for (int i = 0; i < CHILDREN; i++) {
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&i, 1, 1);
		pvm_pkdouble(big, 40000, 1);
		need(pvm_send(tids[i], TAG_WORK) == 0, "send");
	}
	for (int i = 0; i < CHILDREN; i++) {
		char host[64];
		int x = -1, k;

		need(pvm_recv(tids[i], TAG_RESULT) > 0, "recv");
		pvm_upkint(&x, 1, 1);
		pvm_upkstr(host);
		memset(back, 0, sizeof(back));
		pvm_upkdouble(back, 40000, 1);
		need(x == 2 * i, "the answer of each child");
		need(!memcmp(big, back, sizeof(big)), "320 kB there and back");
		for (k = 0; k < distinct && strcmp(seen[k], host); k++)
			continue;
		if (k == distinct)
			snprintf(seen[distinct++], sizeof(seen[0]), "%s", host);
	}
	printf("children ran on %d hosts\n", distinct);
	need(distinct == hosts, "tasks on every host");
}

int main(int argc, char **argv)
{
	struct pvmhostinfo *list;
	int info[8], tids[CHILDREN], n = 0, arches, got, parent;
	char self[512] = "";

	need(pvm_mytid() > 0, "enrol");
	parent = pvm_parent();
	if (parent > 0)
		return child(parent);
	need(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0, "own name");
	if (argc > 1)
		need(pvm_addhosts(argv + 1, argc - 1, info) == argc - 1, "addhosts");
	pvm_config(&n, &arches, &list);
	printf("%d hosts, %d data format\n", n, arches);
	got = pvm_spawn(self, NULL, PvmTaskDefault, NULL, CHILDREN, tids);
	need(got == CHILDREN, "spawn");
	need(pvm_notify(PvmTaskExit, TAG_EXIT, got, tids) == 0, "notify");
	exchange(tids, n);
	pvm_initsend(PvmDataDefault);
	pvm_mcast(tids, got, TAG_END);
	for (int i = 0; i < got; i++)
		need(pvm_recv(-1, TAG_EXIT) > 0, "news of each end");
	printf("all children have ended\n");
	pvm_exit();
	return 0;
}
