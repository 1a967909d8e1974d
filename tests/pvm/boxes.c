/*
 * boxes WORKERS ROUNDS: tasks that put, read and delete entries of the mailbox all at once, each its
 * own; what is read is what was put, small (by shared memory while the daemon is awake) or not (by its
 * socket). Some write nonsense into the page that all tasks share meanwhile: nobody else is harmed.
 */
#include <pvm3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pvm/wire/mp_seg.h"

enum { TAG_BAD = 1, TAG_DONE, WORKERS_MAX = 64, NAMES = 50, LARGE = 5000 };

static struct mp_host_page *page;

static void check(int ok, const char *what, int at)
{
	if (ok)
		return;
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&at, 1, 1);
	pvm_pkstr((char *)(uintptr_t)what);
	pvm_send(pvm_parent(), TAG_BAD);
	pvm_exit();
	exit(1);
}

/* The mapping of the daemon's page is ours as well. */
static void find_page(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	void *at;

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "/memfd:pvm-host") && sscanf(line, "%p", &at) == 1)
			page = at;
	if (f)
		fclose(f);
	check(page != NULL, "there is no page of the host", 0);
}

static void scribble(int r)
{
	for (int i = 0; i < 8; i++)
		atomic_store(&page->asked[(r * 31 + i * 67) % MP_QUICK_ASKERS],
			     (int32_t)(2654435761u * (unsigned)(r + i)));
	atomic_fetch_or(&page->asked_any, 2654435761u * (unsigned)r);
}

static void one(int r)
{
	static int body[LARGE], back[LARGE];
	int n = r % 7 == 6 ? LARGE : 1 + r % 40, tid = pvm_mytid(), got;
	char name[32];

	snprintf(name, sizeof(name), "box%x.%d", (unsigned)tid, r % NAMES);
	for (int i = 0; i < n; i++)
		body[i] = tid ^ r * 31 ^ i;
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&n, 1, 1);
	pvm_pkint(body, n, 1);
	check(pvm_putinfo(name, pvm_getsbuf(), PvmMboxDefault) == 0, "put", r);
	check(pvm_recvinfo(name, 0, PvmMboxDefault) > 0, "get", r);
	check(pvm_upkint(&got, 1, 1) == 0 && got == n, "length", r);
	check(pvm_upkint(back, n, 1) == 0 && !memcmp(back, body, (size_t)n * sizeof(int)), "body",
	      r);
	if (r % 3 == 0) {
		check(pvm_delinfo(name, 0, PvmMboxDefault) == 0, "delete", r);
		check(pvm_recvinfo(name, 0, PvmMboxDefault) == PvmNotFound, "deleted", r);
	}
}

static int worker(int rounds, int hostile)
{
	pvm_setopt(PvmAutoErr, 0);
	if (hostile)
		find_page();
	for (int r = 0; r < rounds; r++) {
		if (hostile)
			scribble(r);
		one(r);
	}
	pvm_initsend(PvmDataDefault);
	pvm_send(pvm_parent(), TAG_DONE);
	pvm_exit();
	return 0;
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? (int)strtol(argv[1], NULL, 10) : 0, tids[WORKERS_MAX];
	char self[512] = "", *args[] = {NULL, NULL, NULL};

	if (pvm_mytid() < 0 || argc < 3)
		return 2;
	if (pvm_parent() > 0)
		return worker((int)strtol(argv[1], NULL, 10), !strcmp(argv[2], "hostile"));
	if (n < 1 || n > WORKERS_MAX || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 2;
	args[0] = argv[2];
	for (int i = 0; i < n; i++) {
		args[1] = (char *)(uintptr_t)(i % 4 == 3 ? "hostile" : "good");
		if (pvm_spawn(self, args, PvmTaskDefault, NULL, 1, &tids[i]) != 1)
			return 2;
	}
	for (int i = 0; i < n; i++) {
		int bytes, tag, tid, at;
		char what[64];

		pvm_bufinfo(pvm_recv(-1, -1), &bytes, &tag, &tid);
		if (tag == TAG_DONE)
			continue;
		pvm_upkint(&at, 1, 1);
		pvm_upkstr(what);
		printf("t%x: %s went wrong in round %d\n", (unsigned)tid, what, at);
		pvm_exit();
		return 1;
	}
	printf("%d tasks, %s rounds each: PASS\n", n, argv[2]);
	pvm_exit();
	return 0;
}
