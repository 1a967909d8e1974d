/*
 * A small parallel job: counts the primes below a limit with TASKS tasks over all hosts of the
 * machine, and prints which host counted how many. Usage: primes [LIMIT [TASKS]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pvm3.h>

enum { TASKS_MAX = 256, TAG_WORK = 1, TAG_RESULT };

static int is_prime(int n)
{
	for (int d = 2; d * d <= n; d++)
		if (n % d == 0)
			return 0;
	return n > 1;
}

static int worker(int parent)
{
	char host[64] = "";
	int limit, from, step, count = 0;

	pvm_recv(parent, TAG_WORK);
	pvm_upkint(&limit, 1, 1);
	pvm_upkint(&from, 1, 1);
	pvm_upkint(&step, 1, 1);
	for (int n = from; n < limit; n += step)
		count += is_prime(n);
	gethostname(host, sizeof(host) - 1);
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&count, 1, 1);
	pvm_pkstr(host);
	pvm_send(parent, TAG_RESULT);
	pvm_exit();
	return 0;
}

static int hand_out(const int *tids, int tasks, int limit)
{
	for (int i = 0; i < tasks; i++) {
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&limit, 1, 1);
		pvm_pkint(&i, 1, 1);
		pvm_pkint(&tasks, 1, 1);
		if (pvm_send(tids[i], TAG_WORK) < 0)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int limit = argc > 1 ? atoi(argv[1]) : 200000, tasks = argc > 2 ? atoi(argv[2]) : 4;
	char self[] = "primes", anywhere[] = "", role[] = "worker";
	char *args[] = {role, NULL};
	int tids[TASKS_MAX], total = 0;

	/* Whoever started it may be a task, too. */
	if (argc > 1 && strcmp(argv[1], role) == 0)
		return worker(pvm_parent());
	if (limit < 2 || tasks < 1 || tasks > TASKS_MAX) {
		fprintf(stderr, "usage: primes [LIMIT [TASKS]], at most %d tasks\n", TASKS_MAX);
		return 2;
	}
	if (pvm_spawn(self, args, PvmTaskDefault, anywhere, tasks, tids) != tasks ||
	    hand_out(tids, tasks, limit) < 0) {
		fprintf(stderr, "primes: the tasks could not be started\n");
		pvm_exit();
		return 1;
	}
	for (int i = 0; i < tasks; i++) {
		char host[64];
		int count;

		pvm_recv(-1, TAG_RESULT);
		pvm_upkint(&count, 1, 1);
		pvm_upkstr(host);
		printf("a task on %s found %d\n", host, count);
		total += count;
	}
	printf("%d primes below %d\n", total, limit);
	pvm_exit();
	return 0;
}
