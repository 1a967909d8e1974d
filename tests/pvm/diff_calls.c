/*
 * Calls of a task whose answers tests/integration/pvm_diff_calls.sh compares with PVM 3.4.6: receiving
 * from whom nothing can come, options, the mailbox, names of tags.
 */
#include <pvm3.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

char *pvmnametag(int tag, int *found);

static void blocked(int sig)
{
	(void)sig;
	if (write(STDOUT_FILENO, "blocks\n", 7) != 7)
		_exit(1);
	_exit(0);
}

static int cannot_come(int tid, int tag, int by_precv)
{
	struct timeval t = {0, 1000};
	struct itimerval soon = {{0, 0}, {0, 30000}};
	char x[8];

	printf("nrecv %d ", pvm_nrecv(tid, tag));
	printf("probe %d ", pvm_probe(tid, tag));
	printf("trecv %d ", pvm_trecv(tid, tag, &t));
	signal(SIGALRM, blocked);
	setitimer(ITIMER_REAL, &soon, NULL);
	printf("came %d\n", by_precv ? pvm_precv(tid, tag, x, 1, PVM_BYTE, NULL, NULL, NULL)
				     : pvm_recv(tid, tag));
	return 0;
}

static void show(const char *pattern)
{
	struct pvmmboxinfo *m;
	char name[64];
	int n = 0;

	snprintf(name, sizeof(name), "%s", pattern);
	printf("%s: %d", name, pvm_getmboxinfo(name, &n, &m));
	for (int i = 0; i < n; i++)
		for (int k = 0; k < m[i].mi_nentries; k++)
			printf(" %d/%d/%d", m[i].mi_indices[k], m[i].mi_owners[k] == pvm_mytid(),
			       m[i].mi_flags[k]);
	putchar('\n');
}

static void mailbox(void)
{
	static const int index[] = {-1,	     -1,      0,	 1, 5, -1, -2, (1 << 21) - 1,
				    1 << 21, 1 << 21, 0x7ffffffe};
	char name[] = "b", empty[] = "";
	int mid = pvm_initsend(PvmDataDefault);

	for (unsigned i = 0; i < sizeof(index) / sizeof(index[0]); i++)
		printf("insert %d: %d\n", index[i], pvm_insert(name, index[i], (int)i));
	printf("insert nameless: %d\n", pvm_insert(empty, 1, 1));
	show(name);
	for (int i = -2; i < 7; i++) {
		int value = -7, rc = pvm_lookup(name, i, &value);

		printf("lookup %d: %d %d\n", i, rc, value);
	}
	for (int i = -2; i < 4; i++)
		printf("delete %d: %d\n", i, pvm_delete(name, i));
	name[0] = 'c';
	printf("put %d\n",
	       pvm_putinfo(name, mid, PvmMboxPersistent | 7 << PvmMboxDirectIndexShift));
	printf("put %d\n",
	       pvm_putinfo(name, mid, PvmMboxMultiInstance | 7 << PvmMboxDirectIndexShift));
	printf("put %d\n", pvm_putinfo(name, mid, PvmMboxOverWritable));
	show(name);
}

static void options(void)
{
	static const int tids[] = {PvmOutputTid, PvmTraceTid, PvmSelfOutputTid, PvmSelfTraceTid};
	static const int values[] = {-1, 5, 0, -5, 0x40001, (int)0x80000000, 0x40000, 0};

	for (int i = PvmRoute; i <= PvmResvTids; i++)
		printf("option %d: %d\n", i, pvm_getopt(i));
	for (unsigned i = 0; i < 4; i++)
		for (unsigned k = 0; k < 8; k++) {
			int rc = pvm_setopt(tids[i], values[k]);

			printf("option %d = %d: %d, %d\n", tids[i], values[k], rc,
			       pvm_getopt(tids[i]));
		}
}

/* An entry comes with the option, once, and goes with it and with the task. */
static void no_reset(void)
{
	int values[] = {1, 1, 7, 0, 0, 1}, *tids, n = -1;

	for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		printf("no reset %d: %d\n", values[i], pvm_setopt(PvmNoReset, values[i]));
		show(PVMNORESETCLASS);
	}
	printf("getnoresets %d, ", pvm_getnoresets(&tids, &n));
	printf("%d, mine %d\n", n, n > 0 && tids[0] == pvm_mytid());
	pvm_exit();
	pvm_mytid();
	show(PVMNORESETCLASS);
	printf("option %d\n", pvm_getopt(PvmNoReset));
}

static void tag_names(void)
{
	for (unsigned family = 0x8000; family <= 0x8005; family++)
		for (unsigned at = 0; at < 64; at++) {
			int found = -7;

			printf("%s", pvmnametag((int)(family << 16 | at), &found));
			printf(" %d\n", found);
		}
	printf("%s\n", pvmnametag(-100, NULL));
}

int main(int argc, char **argv)
{
	setbuf(stdout, NULL);
	if (pvm_mytid() < 0)
		return 1;
	pvm_setopt(PvmAutoErr, 0);
	if (argc == 4)
		return cannot_come((int)strtoul(argv[1], NULL, 0), atoi(argv[2]), atoi(argv[3]));
	mailbox();
	options();
	no_reset();
	tag_names();
	return pvm_exit();
}
