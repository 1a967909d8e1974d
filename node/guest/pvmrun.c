/*
 * pangaea-pvmrun N PROGRAM ARGS: spawns N tasks over the virtual machine, shows what they print and
 * ends when they have: with 0, or 1 when a task could not be started.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pvm3.h> /* after stdio.h: pvm_catchout() */

enum { TASK_MAX = 4096, TAG_EXIT = 1 };

static int spawn(char **argv, int n, int *tids)
{
	char where[] = "";
	int started = pvm_spawn(argv[0], argv + 1, PvmTaskDefault, where, n, tids);

	for (int i = started > 0 ? started : 0; i < n; i++)
		fprintf(stderr, "pvm: task %d of %s does not start: error %d\n", i, argv[0],
			started < 0 ? started : tids[i]);
	return started < 0 ? 0 : started;
}

int main(int argc, char **argv)
{
	static int tids[TASK_MAX];
	char *end = NULL;
	long n = argc > 2 ? strtol(argv[1], &end, 10) : 0;
	int started;

	if (n < 1 || n > TASK_MAX || *end) {
		fputs("usage: pangaea-pvmrun N PROGRAM [ARGS]\n", stderr);
		return 2;
	}
	if (pvm_mytid() < 0) {
		fputs("pvm: there is no virtual machine here\n", stderr);
		return 1;
	}
	pvm_catchout(stdout);
	started = spawn(argv + 2, (int)n, tids);
	if (started > 0 && pvm_notify(PvmTaskExit, TAG_EXIT, started, tids) == 0)
		for (int i = 0; i < started; i++)
			pvm_recv(-1, TAG_EXIT);
	pvm_exit();
	return started == n ? 0 : 1;
}
