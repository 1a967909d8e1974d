/*
 * ringcheck SECONDS [WORKERS]: a PVM job that notices each lost, repeated or reordered message. The
 * master spawns workers over all hosts; numbered messages go round the ring master -> worker 1 ->
 * .. -> master, several at once; each hop checks the sender's tid and the number that must come.
 * The first process that is started is the master; it says each second how far it is.
 */
#include <pvm3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WORKER_MAX = 64, TAG_SETUP = 1, TAG_RING, TAG_END, TAG_BAD, IN_FLIGHT = 4, WORDS = 256 };

static int next_tid, prev_tid;

static void fill(int number)
{
	int words[WORDS];

	for (int i = 0; i < WORDS; i++)
		words[i] = number * 31 + i;
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&number, 1, 1);
	pvm_pkint(words, WORDS, 1);
}

/* The message that pvm_recv() gave: whether it is the one that must come. */
static int check(int number)
{
	int got, words[WORDS], bytes, tag, tid;

	pvm_bufinfo(pvm_getrbuf(), &bytes, &tag, &tid);
	pvm_upkint(&got, 1, 1);
	pvm_upkint(words, WORDS, 1);
	for (int i = 0; i < WORDS; i++)
		if (words[i] != number * 31 + i)
			return 0;
	return got == number && tid == prev_tid;
}

static int worker(int master)
{
	int number = 0, bytes, tag, tid, me = pvm_mytid();
	char host[64] = "";

	pvm_recv(master, TAG_SETUP);
	pvm_upkint(&prev_tid, 1, 1);
	pvm_upkint(&next_tid, 1, 1);
	gethostname(host, sizeof(host) - 1);
	pvm_initsend(PvmDataDefault);
	pvm_pkstr(host);
	pvm_send(master, TAG_SETUP);
	for (;;) {
		pvm_bufinfo(pvm_recv(-1, -1), &bytes, &tag, &tid);
		if (tag == TAG_END)
			break;
		if (tag != TAG_RING || pvm_mytid() != me || !check(number)) {
			pvm_initsend(PvmDataDefault);
			pvm_pkint(&number, 1, 1);
			pvm_send(master, TAG_BAD);
			break;
		}
		fill(number++);
		pvm_send(next_tid, TAG_RING);
	}
	pvm_exit();
	return 0;
}

static int start_ring(int *tids, int n, int me)
{
	int prev = me;

	for (int i = 0; i < n; i++) {
		int next = i + 1 < n ? tids[i + 1] : me;

		pvm_initsend(PvmDataDefault);
		pvm_pkint(&prev, 1, 1);
		pvm_pkint(&next, 1, 1);
		pvm_send(tids[i], TAG_SETUP);
		prev = tids[i];
	}
	prev_tid = tids[n - 1];
	next_tid = tids[0];
	for (int i = 0; i < n; i++) {
		char host[64];

		pvm_recv(tids[i], TAG_SETUP);
		pvm_upkstr(host);
		printf("ringcheck: task t%x on %s\n", (unsigned)tids[i], host);
	}
	return 0;
}

static int master(int seconds, int n)
{
	int tids[WORKER_MAX], me = pvm_mytid(), sent = 0, got = 0, rc = 0;
	char program[] = "ringcheck", where[] = "";
	time_t start = time(NULL), said = start;

	if (pvm_spawn(program, NULL, PvmTaskDefault, where, n, tids) != n) {
		printf("ringcheck: FAIL: not all tasks start\n");
		return 1;
	}
	start_ring(tids, n, me);
	fflush(stdout);
	while (got < sent || time(NULL) - start < seconds) {
		int bytes, tag, tid;

		while (sent - got < IN_FLIGHT && time(NULL) - start < seconds) {
			fill(sent++);
			pvm_send(next_tid, TAG_RING);
		}
		if (got == sent)
			continue;
		pvm_bufinfo(pvm_recv(-1, -1), &bytes, &tag, &tid);
		if (tag != TAG_RING || pvm_mytid() != me || !check(got)) {
			printf("ringcheck: FAIL: message %d, from t%x, tag %d\n", got,
			       (unsigned)tid, tag);
			rc = 1;
			break;
		}
		got++;
		if (time(NULL) != said) {
			said = time(NULL);
			printf("ringcheck: %d messages round\n", got);
			fflush(stdout);
		}
	}
	pvm_initsend(PvmDataDefault);
	pvm_mcast(tids, n, TAG_END);
	if (!rc)
		printf("ringcheck: PASS, %d messages over %d tasks, none lost or repeated\n", got,
		       n);
	pvm_exit();
	return rc;
}

int main(int argc, char **argv)
{
	int seconds = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 10;
	int workers = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 4;

	if (pvm_mytid() < 0)
		return 1;
	if (pvm_parent() > 0)
		return worker(pvm_parent());
	return master(seconds, workers < 1 ? 1 : workers > WORKER_MAX ? WORKER_MAX : workers);
}
