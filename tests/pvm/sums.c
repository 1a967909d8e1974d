/*
 * Reductions of a static group: `sums MEMBERS` spawns the members and looks at what they say. Roots change from
 * call to call without a barrier, and sizes go by shared memory or as a tree of messages; members may be
 * far ahead of the root. One that means another sum than the others is an error to the root in the end and
 * spoils nothing after it; a member that has left or died is told as well, and not waited for. `sums MEMBERS messages`
 * is for where nothing is shared: then only what members add can be found out, and who is gone is waited for.
 */
#include <pvm3.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	MEMBERS_MAX = 64,
	ROUNDS = 120,
	AHEAD = 40,
	FAR_AHEAD = 1100,
	TAG = 9,
	SUM_TAG = 5,
	WAIT_S = 30,
	MANY = 300
};

static char group[] = "sums", mortal[] = "sums_mortal";
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
static int far_ahead(int calls)
{
	int rc = 0;

	for (int i = 1; i < members && me == 0; i++)
		if (pvm_recv(pvm_gettid(group, i), SUM_TAG) <= 0)
			return -1;
	for (int i = 0; i < calls && !rc; i++)
		rc = one(i, 3, 0);
	if (me && !rc) {
		pvm_initsend(PvmDataDefault);
		rc = pvm_send(pvm_gettid(group, 0), SUM_TAG);
	}
	return rc;
}

/* What one of them means, and the others. */
struct meant {
	void (*fn)(int *type, void *x, void *y, int *count, int *info);
	int count, type, tag, root;
	int shared; /* nobody sees it in messages */
};

static void fails(int *type, void *x, void *y, int *count, int *info)
{
	(void)type;
	(void)x;
	(void)y;
	(void)count;
	*info = PvmNoData;
}

static const struct meant usual[] = {
	{PvmSum, 3, PVM_LONG, SUM_TAG, 0, 0},
	{PvmSum, MANY, PVM_LONG, SUM_TAG, 0, 0},
};

static const struct meant other[] = {
	{PvmSum, 2, PVM_LONG, SUM_TAG, 0, 0},
	{PvmSum, MANY - 1, PVM_LONG, SUM_TAG, 0, 0},
	{PvmSum, 3, PVM_INT, SUM_TAG, 0, 0},
	{PvmSum, MANY, PVM_INT, SUM_TAG, 0, 0},
	{PvmSum, 3, PVM_DOUBLE, SUM_TAG, 0, 1},
	{PvmSum, MANY, PVM_DOUBLE, SUM_TAG, 0, 1},
	{PvmSum, 3, PVM_LONG, SUM_TAG + 1, 0, 1},
	{PvmSum, MANY, PVM_LONG, SUM_TAG + 1, 0, 1},
	{PvmSum, 3, PVM_LONG, SUM_TAG, 1, 1},
	{PvmSum, MANY, PVM_LONG, SUM_TAG, 1, 1},
	{PvmSum, 0, PVM_LONG, SUM_TAG, 0, 1},
	{PvmSum, 3, 99, SUM_TAG, 0, 1},
	{PvmSum, 3, PVM_LONG, SUM_TAG, MEMBERS_MAX, 1},
	{NULL, 3, PVM_LONG, SUM_TAG, 0, 1},
};

static int reduce(const struct meant *w)
{
	double v[MANY] = {0};

	return pvm_reduce(w->fn, v, w->count, w->type, w->tag, group, w->root);
}

/* Two sums behind it are right, of which the second has another root. */
static int still_good(int call, int odd)
{
	int rc = one(call, call % 2 ? MANY : 3, 0);

	return rc ? rc : one(call, call % 2 ? 3 : MANY, odd);
}

static int one_means_another(int shared)
{
	int calls = 0;

	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
		for (int k = 0; k < 2 && (shared || !other[i].shared); k++, calls++) {
			int odd = calls % members;
			const struct meant *w = me == odd ? &other[i] : &usual[k];
			int rc = reduce(w);

			/* Only who waits for nobody may be through before it shows. */
			if (rc > 0 || (me == w->root && !rc))
				return -100 - (int)i;
			rc = still_good(calls, odd);
			if (rc)
				return rc;
		}
	}
	return 0;
}

/* Where those that add for others cannot, and where the root itself cannot. */
static int adding_fails(int shared)
{
	struct meant w = usual[1];
	/* On one core the root adds all. */
	int others_add = members > 3 && (!shared || sysconf(_SC_NPROCESSORS_ONLN) > 1);
	int rc;

	w.fn = me ? fails : PvmSum;
	rc = reduce(&w);
	if (rc > 0 || (me == 0 && others_add && !rc))
		return -200;
	w.fn = me ? PvmSum : fails;
	rc = reduce(&w);
	if (rc != (me ? 0 : PvmNoData))
		return -300;
	return still_good(0, members - 1);
}

/* Of a few bytes and of many. */
static int without_one(char *name, int inst)
{
	for (int k = 0; k < 2; k++) {
		double v[MANY] = {0};
		int rc = pvm_reduce(PvmSum, v, usual[k].count, usual[k].type, SUM_TAG, name, 0);

		if (inst ? rc && rc != PvmNoGroup : rc != PvmNoGroup)
			return -1;
	}
	return 0;
}

static int somebody_leaves(void)
{
	return me == 1 ? pvm_lvgroup(group) : without_one(group, me);
}

static int somebody_dies(void)
{
	int inst = pvm_joingroup(mortal);
	int rc = inst < 0 ? inst : pvm_freezegroup(mortal, members);

	if (rc != members)
		return -1;
	if (inst == members - 1)
		raise(SIGKILL);
	return without_one(mortal, inst);
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
	rc = far_ahead(members > 8 ? AHEAD : FAR_AHEAD);
	if (rc)
		return say("sums of which the root is late", rc);
	rc = pvm_barrier(group, -1);
	if (rc)
		return say("a barrier", rc);
	rc = one_means_another(shared);
	if (rc)
		return say("one means another sum", rc);
	rc = adding_fails(shared);
	if (rc)
		return say("some cannot add", rc);
	rc = shared ? somebody_leaves() : 0;
	if (rc)
		return say("a sum without one who has left", rc);
	rc = shared ? somebody_dies() : 0;
	if (rc)
		return say("a sum without one who has died", rc);
	return say("good", 0);
}

static int watch(int live)
{
	for (int good = 0; good < live; good++) {
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
	/* One is dead in the end. */
	rc = watch(argc < 3 ? members - 1 : members);
	if (rc)
		for (int i = 0; i < members; i++)
			pvm_kill(tids[i]);
	pvm_exit();
	return rc;
}
