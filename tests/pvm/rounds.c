/*
 * Barriers of groups: `rounds MEMBERS` spawns the members and looks at what they say. Nobody leaves a
 * barrier before all are in it, of a dynamic group as of a static one; when a member of a static group
 * leaves or dies the others are told so and do not wait for ever; those who end after the last one do
 * not spoil it. `rounds MEMBERS kill` kills one in the midst of them.
 */
#include <fcntl.h>
#include <pvm3.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MEMBERS_MAX = 64, ROUNDS = 200, TAG = 9, WAIT_S = 30 };

static _Atomic int *rounds; /* of each member, shared */
static int members, me;

static int fail(const char *what, int code)
{
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&code, 1, 1);
	pvm_pkstr((char *)(uintptr_t)what);
	pvm_send(pvm_parent(), TAG);
	pvm_exit();
	return 1;
}

static int go_through(char *group, int count, int base)
{
	for (int i = base + 1; i <= base + ROUNDS; i++) {
		atomic_store(&rounds[me], i);
		if (pvm_barrier(group, count))
			return -1;
		for (int k = 0; k < members; k++)
			if (atomic_load(&rounds[k]) < i)
				return -2;
	}
	return 0;
}

/* Instances differ from group to group; `me` is that of the first. */
static int freeze(char *group)
{
	int inst = pvm_joingroup(group);

	return inst < 0 || pvm_freezegroup(group, members) != members ? -1 : inst;
}

static int member(void)
{
	char open_group[] = "rounds_open", left[] = "rounds_left", dead[] = "rounds_dead",
	     last[] = "rounds_last";
	int inst, rc;

	me = pvm_joingroup(open_group);
	if (me < 0 || pvm_barrier(open_group, members))
		return fail("a group", me);
	rc = go_through(open_group, members, 0);
	if (rc)
		return fail("rounds of a dynamic group", rc);
	inst = freeze(left);
	rc = inst < 0 ? inst : go_through(left, -1, ROUNDS);
	if (rc)
		return fail("rounds of a static group", rc);
	rc = inst == 1 ? pvm_lvgroup(left) : pvm_barrier(left, members);
	if (rc != (inst == 1 ? 0 : PvmNoGroup))
		return fail("a barrier that a member has left", rc);
	if (inst != 1 && pvm_barrier(left, -1) != PvmNoGroup)
		return fail("a broken group", 0);
	if (freeze(last) < 0 || freeze(dead) < 0)
		return fail("more static groups", 0);
	rc = go_through(last, members, 2 * ROUNDS);
	if (rc)
		return fail("rounds of the last group", rc);
	if (pvm_getinst(dead, pvm_mytid()) == members - 1)
		raise(SIGKILL);
	rc = pvm_barrier(dead, -1);
	if (rc != PvmNoGroup)
		return fail("a barrier that a member does not live to see", rc);
	return fail("good", 0);
}

/* Round after round, until one is killed. */
static int endless(void)
{
	char killed[] = "rounds_killed";
	int rc = freeze(killed) < 0 ? -1 : 0;

	if (rc || pvm_barrier(killed, -1))
		return fail("a static group", rc);
	/* The parent kills one after it has heard of all. */
	pvm_initsend(PvmDataDefault);
	pvm_send(pvm_parent(), TAG + 2);
	while (!rc)
		rc = pvm_barrier(killed, -1);
	if (rc != PvmNoGroup || pvm_barrier(killed, -1) != PvmNoGroup)
		return fail("a barrier in which one is killed", rc);
	return fail("good", 0);
}

static int kill_one(int *tids)
{
	for (int i = 0; i < members; i++) {
		struct timeval limit = {WAIT_S, 0};

		if (pvm_trecv(-1, TAG + 2, &limit) <= 0) {
			printf("%d of the members are in no round\n", members - i);
			return 1;
		}
	}
	return pvm_sendsig(tids[members / 2], SIGKILL) != 0;
}

static int watch(int *tids)
{
	char what[256];
	int good = 0, dead = 0;

	pvm_notify(PvmTaskExit, TAG + 1, members, tids);
	/* One is killed. */
	while (good < members - 1 || dead < members) {
		struct timeval limit = {WAIT_S, 0};
		int mid = pvm_trecv(-1, -1, &limit), code = 0, tag = 0;

		if (mid <= 0) {
			printf("%d are good, %d have ended, the others wait\n", good, dead);
			return 1;
		}
		pvm_bufinfo(mid, NULL, &tag, NULL);
		if (tag == TAG + 1) {
			dead++;
			continue;
		}
		pvm_upkint(&code, 1, 1);
		pvm_upkstr(what);
		if (what[0] != 'g' || code) {
			printf("%s: %d\n", what, code);
			return 1;
		}
		good++;
	}
	printf("%d members are done\n", members);
	return 0;
}

int main(int argc, char **argv)
{
	char path[64] = "/tmp/pvm_rounds.XXXXXX", count[16], self[512] = "";
	char *args[] = {count, path, NULL, NULL};
	int tids[MEMBERS_MAX], fd, rc, parent = pvm_parent();

	members = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
	if (members < 3 || members > MEMBERS_MAX)
		return 2;
	fd = parent > 0 && argc > 2 ? open(argv[2], O_RDWR) : mkstemp(path);
	if (fd < 0 || ftruncate(fd, 4096))
		return 1;
	rounds = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rounds == MAP_FAILED)
		return 1;
	pvm_setopt(PvmAutoErr, 0);
	if (parent > 0)
		return argc > 3 ? endless() : member();
	if (argc > 2 && strcmp(argv[2], "kill"))
		return 2;
	args[2] = argc > 2 ? argv[2] : NULL;
	snprintf(count, sizeof(count), "%d", members);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 ||
	    pvm_spawn(self, args, PvmTaskDefault, NULL, members, tids) != members)
		return 1;
	rc = args[2] ? kill_one(tids) : 0;
	if (!rc)
		rc = watch(tids);
	if (rc)
		for (int i = 0; i < members; i++)
			pvm_kill(tids[i]);
	unlink(path);
	pvm_exit();
	return rc;
}
