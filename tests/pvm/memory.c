/*
 * memory task|daemon: a program and a daemon that have not enough memory.
 *
 * task: with 256 MiB of addresses it packs until that is refused, frees it, and packs as much again; a
 * message that its partner cannot hold is lost there, and the next one comes.
 * daemon: puts entries into the mailbox of a daemon that has little until one is refused, deletes them,
 * and can put as many again; meanwhile other calls are answered.
 */
#include <pvm3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	MIB = 1 << 20,
	TURNS = 4,
	ADDRESSES = 256,
	PART = 4,
	ENTRIES_MAX = 400,
	TAG_BIG = 1,
	TAG_SMALL
};

static char *part;

static int fail(const char *what, int rc)
{
	printf("%s: %d\n", what, rc);
	pvm_exit();
	return 1;
}

static void limit(size_t mib)
{
	struct rlimit r = {mib * MIB, mib * MIB};

	if (setrlimit(RLIMIT_AS, &r))
		exit(3);
}

/* MiB until it is refused, or below 0 what was wrong. */
static int pack_all(void)
{
	int rc = 0, n = 0;

	if (pvm_initsend(PvmDataDefault) < 0)
		return -1;
	while (n < 2 * ADDRESSES && !(rc = pvm_pkbyte(part, PART * MIB, 1)))
		n += PART;
	if (rc != PvmNoMem)
		return -2;
	return pvm_initsend(PvmDataDefault) < 0 ? -3 : n;
}

static int partner(void)
{
	int n = 0;

	limit(ADDRESSES);
	pvm_setopt(PvmAutoErr, 0);
	pvm_initsend(PvmDataDefault);
	pvm_send(pvm_parent(), TAG_SMALL);
	/* The big one does not fit. */
	if (pvm_recv(pvm_parent(), -1) > 0)
		pvm_upkint(&n, 1, 1);
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&n, 1, 1);
	pvm_send(pvm_parent(), TAG_SMALL);
	pvm_exit();
	return 0;
}

static int lost_message(char *self)
{
	char *args[] = {(char *)(uintptr_t) "partner", NULL}, *body = calloc(2 * ADDRESSES, MIB);
	int tid, n = 42;

	if (!body || pvm_spawn(self, args, PvmTaskDefault, NULL, 1, &tid) != 1)
		return fail("no partner", 0);
	pvm_recv(tid, TAG_SMALL);
	pvm_initsend(PvmDataInPlace);
	pvm_pkbyte(body, 2 * ADDRESSES * MIB, 1);
	if ((n = pvm_send(tid, TAG_BIG)))
		return fail("send", n);
	n = 42;
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&n, 1, 1);
	pvm_send(tid, TAG_SMALL);
	n = 0;
	pvm_recv(tid, TAG_SMALL);
	pvm_upkint(&n, 1, 1);
	free(body);
	return n == 42 ? 0 : fail("the message after the one that was too large", n);
}

static int task(void)
{
	int first = 0;

	limit(ADDRESSES);
	pvm_setopt(PvmAutoErr, 0);
	for (int i = 0; i < TURNS; i++) {
		int n = pack_all(), mid;

		if (n < PART)
			return fail("packing", n);
		first = i ? first : n;
		/* What was freed is there again: nothing leaks. */
		if (n < first - 2 * PART)
			return fail("less fits than at first", n);
		pvm_pkint(&n, 1, 1);
		if ((mid = pvm_send(pvm_mytid(), TAG_SMALL)) || (mid = pvm_recv(-1, TAG_SMALL)) < 0)
			return fail("a message after that", mid);
	}
	printf("%d MiB, then PvmNoMem, %d times\n", first, TURNS);
	return 0;
}

static int fill(int turn)
{
	char name[32];
	int rc = 0, n = 0;

	for (; n < ENTRIES_MAX && rc >= 0; n++) {
		snprintf(name, sizeof(name), "large%d", n);
		pvm_initsend(PvmDataDefault);
		pvm_pkbyte(part, MIB, 1);
		rc = pvm_putinfo(name, pvm_getsbuf(), PvmMboxDefault);
	}
	if (rc != PvmNoMem)
		return rc < 0 ? rc : -1000 - turn;
	n--;
	/* It still answers. */
	if (pvm_pstat(pvm_mytid()) != PvmOk)
		return -2000;
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "large%d", i);
		rc = pvm_delinfo(name, 0, PvmMboxDefault);
		if (rc < 0)
			return rc;
	}
	return n;
}

static int little_daemon(void)
{
	int first = 0;

	pvm_setopt(PvmAutoErr, 0);
	for (int i = 0; i < TURNS; i++) {
		int n = fill(i);

		if (n < 1)
			return fail("filling the mailbox", n);
		first = i ? first : n;
		if (n < first * 3 / 4)
			return fail("fewer fit than at first", n);
	}
	printf("%d entries of 1 MiB, then PvmNoMem, %d times\n", first, TURNS);
	return 0;
}

int main(int argc, char **argv)
{
	char self[512] = "";
	int rc = 2;

	part = calloc(PART, MIB);
	if (!part || argc < 2 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 2;
	if (!strcmp(argv[1], "partner"))
		return partner();
	if (!strcmp(argv[1], "task"))
		rc = task();
	if (!strcmp(argv[1], "lost"))
		rc = lost_message(self);
	if (!strcmp(argv[1], "daemon"))
		rc = little_daemon();
	pvm_exit();
	return rc;
}
