/*
 * Reductions of a static group: `sums MEMBERS` spawns the members and looks at what they say. Roots change from
 * call to call without a barrier, and sizes go by shared memory or as a tree of messages; members may be
 * far ahead of the root; another count is told to the root and spoils nothing after it; a member that has
 * left is told as well, and not waited for. `sums MEMBERS messages` is without the last, for where nothing is
 * shared.
 */
#include <pvm3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MEMBERS_MAX = 64, ROUNDS = 120, AHEAD = 40, TAG = 9, SUM_TAG = 5, WAIT_S = 30, MANY = 300 };

static char group[] = "sums";
static int members, me;

static int say(const char *what, int code)
{
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&code, 1, 1);
	pvm_pkstr((char *)(uintptr_t)what);
	pvm_send(pvm_parent(), TAG);
	pvm_exit();
	return 1;
}

/* Members add (inst + 1) * (call + 1) + k at place k. */
static int one(int call, int count, int root)
{
	long v[MANY], base = 0;
	int rc;

	for (int k = 0; k < count; k++)
		v[k] = (long)(me + 1) * (call + 1) + k;
	rc = pvm_reduce(PvmSum, v, count, PVM_LONG, SUM_TAG, group, root);
	if (rc || me != root)
		return rc;
	for (int i = 0; i < members; i++)
		base += (long)(i + 1) * (call + 1);
	for (int k = 0; k < count; k++)
		if (v[k] != base + (long)k * members)
			return -1000 - k;
	return 0;
}

static int roots_change(void)
{
	int rc = 0;

	for (int i = 0; i < ROUNDS && !rc; i++)
		rc = one(i, i % 7 == 6 ? MANY : 1 + i, i % members);
	return rc;
}

/* The root hears of all that they have done it before it begins. */
static int far_ahead(void)
{
	int rc = 0;

	for (int i = 1; i < members && me == 0; i++)
		if (pvm_recv(pvm_gettid(group, i), SUM_TAG) <= 0)
			return -1;
	for (int i = 0; i < AHEAD && !rc; i++)
		rc = one(i, 3, 0);
	if (me && !rc) {
		pvm_initsend(PvmDataDefault);
		rc = pvm_send(pvm_gettid(group, 0), SUM_TAG);
	}
	return rc;
}

static int other_count(void)
{
	long v[4] = {0};
	int rc = pvm_reduce(PvmSum, v, me == 1 ? 2 : 3, PVM_LONG, SUM_TAG, group, 0);

	if (rc != (me ? 0 : PvmMismatch))
		return -1;
	return one(1, 100, members - 1);
}

static int somebody_leaves(void)
{
	long v = 1;
	int rc;

	if (me == 1)
		return pvm_lvgroup(group);
	rc = pvm_reduce(PvmMax, &v, 1, PVM_LONG, SUM_TAG, group, 0);
	return rc == (me ? 0 : PvmNoGroup) ? 0 : -1;
}

static int member(int shared)
{
	int rc;

	me = pvm_joingroup(group);
	rc = me < 0 ? me : pvm_freezegroup(group, members);
	if (rc != members)
		return say("a static group", rc);
	rc = roots_change();
	if (rc)
		return say("sums with changing roots", rc);
	rc = far_ahead();
	if (rc)
		return say("sums of which the root is late", rc);
	rc = pvm_barrier(group, -1);
	if (rc)
		return say("a barrier", rc);
	rc = shared ? other_count() : 0;
	if (rc)
		return say("a sum with another count", rc);
	rc = shared ? somebody_leaves() : 0;
	if (rc)
		return say("a sum without one who has left", rc);
	return say("good", 0);
}

static int watch(void)
{
	for (int good = 0; good < members; good++) {
		struct timeval limit = {WAIT_S, 0};
		char what[256];
		int code = 0;

		if (pvm_trecv(-1, TAG, &limit) <= 0) {
			printf("%d are good, the others wait\n", good);
			return 1;
		}
		pvm_upkint(&code, 1, 1);
		pvm_upkstr(what);
		if (what[0] != 'g' || code) {
			printf("%s: %d\n", what, code);
			return 1;
		}
	}
	printf("%d members have the sums\n", members);
	return 0;
}

int main(int argc, char **argv)
{
	char self[512] = "";
	int tids[MEMBERS_MAX], rc;

	members = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
	if (members < 2 || members > MEMBERS_MAX)
		return 2;
	pvm_setopt(PvmAutoErr, 0);
	if (pvm_parent() > 0)
		return member(argc < 3);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 ||
	    pvm_spawn(self, argv + 1, PvmTaskDefault, NULL, members, tids) != members)
		return 1;
	rc = watch();
	if (rc)
		for (int i = 0; i < members; i++)
			pvm_kill(tids[i]);
	pvm_exit();
	return rc;
}
