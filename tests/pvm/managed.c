/*
 * What a task does under a resource manager: looks at the machine, spawns a child, is told of its
 * end. "managed" is the parent; it prints what does not hold and returns 1.
 */
#include <pvm3.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { TAG_HELLO = 1, TAG_END = 2, WAIT_S = 20 };

static int failures;

static void expect(int ok, const char *what)
{
	if (!ok) {
		printf("%s\n", what);
		failures++;
	}
}

static int child(int parent)
{
	int *tids = NULL, n = pvm_siblings(&tids);

	pvm_initsend(PvmDataDefault);
	pvm_pkint(&n, 1, 1);
	pvm_send(parent, TAG_HELLO);
	/* srm.pvm forgets a task that ends before somebody wants to know of it. */
	pvm_recv(parent, TAG_END);
	pvm_exit();
	return 0;
}

static int from(int tid, int tag)
{
	struct timeval t = {WAIT_S, 0};
	int value = -1;

	if (pvm_trecv(tid, tag, &t) > 0)
		pvm_upkint(&value, 1, 1);
	return value;
}

static int listed(int tid)
{
	struct pvmtaskinfo *tasks;
	int n = 0, found = 0;

	if (pvm_tasks(0, &n, &tasks))
		return 0;
	for (int i = 0; i < n; i++)
		found += tasks[i].ti_tid == tid;
	return found == 1;
}

int main(int argc, char **argv)
{
	extern int pvmschedtid;
	struct pvmhostinfo *hosts;
	char self[4096] = "", none[] = "no-such-program";
	int me = pvm_mytid(), tid = 0, n = 0, arches = 0;

	if (me < 0 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	if (pvm_parent() > 0)
		return child(pvm_parent());
	expect((argc > 1 && !strcmp(argv[1], "alone")) == !pvmschedtid, "a resource manager");
	expect(!pvm_config(&n, &arches, &hosts) && n == 1 && arches == 1 &&
		       hosts[0].hi_tid == pvm_tidtohost(me),
	       "pvm_config");
	expect(listed(me), "pvm_tasks");
	expect(pvm_spawn(self, NULL, PvmTaskDefault, NULL, 1, &tid) == 1, "pvm_spawn");
	expect(pvm_notify(PvmTaskExit, TAG_END, 1, &tid) == PvmOk, "pvm_notify");
	expect(from(tid, TAG_HELLO) == 1, "the child's word, with one sibling");
	pvm_initsend(PvmDataDefault);
	pvm_send(tid, TAG_END);
	expect(from(-1, TAG_END) == tid, "the notice of the child's end");
	expect(!pvm_spawn(none, NULL, PvmTaskDefault, NULL, 1, &tid) && tid == PvmNoFile,
	       "a program that is not there");
	pvm_exit();
	return failures != 0;
}
