/*
 * Calls about tasks, groups and entries of others whose answers tests/integration/pvm_debian_hosts.sh compares
 * with PVM 3.4.6 on several hosts. Its own copies do what they are told ("puppets"); what is printed has numbers
 * of puppets instead of tids.
 *
 *	diff_tasks calls SEED     a seeded sequence of calls
 *	diff_tasks mailbox        entries of a task that lives and of one that has ended
 *	diff_tasks spawn N FLAGS WHERE FILE [ARGUMENT]...    catches what the tasks print
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include <pvm3.h>

enum { PUPPETS = 6, STEPS = 60, GROUPS = 2, TAG_DO = 1, TAG_DONE, TAG_EXIT, TAG_TEXT, TAG_SIGNAL };
enum { DO_JOIN, DO_LEAVE, DO_INST, DO_TELL, DO_COUNT, DO_END, DO_PUT };

static int tids[PUPPETS];
static char alive[PUPPETS];
static char *self;
static unsigned long long seed;

static unsigned random_below(unsigned n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(seed >> 33) % n;
}

/* ---- a puppet ---- */

static int signalled;

static void on_signal(int sig)
{
	signalled = sig;
}

static int do_one(int what, int arg)
{
	struct timeval wait = {0, 200000};
	char group[16];

	snprintf(group, sizeof(group), "g%d", arg % GROUPS);
	switch (what) {
	case DO_JOIN: return pvm_joingroup(group);
	case DO_LEAVE: return pvm_lvgroup(group);
	case DO_INST: return pvm_getinst(group, pvm_mytid());
	case DO_TELL:
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&arg, 1, 1);
		return pvm_bcast(group, TAG_TEXT);
	case DO_COUNT: return pvm_trecv(-1, TAG_TEXT, &wait) > 0;
	case DO_PUT:
		for (int flags = 0; flags < 8; flags++) {
			char name[16];

			snprintf(name, sizeof(name), "x%d", flags);
			pvm_initsend(PvmDataDefault);
			pvm_pkint(&flags, 1, 1);
			pvm_putinfo(name, pvm_getsbuf(), flags);
		}
		return 0;
	default: return 0;
	}
}

static int puppet(void)
{
	int order[2] = {0}, rc, *sib, n = pvm_siblings(&sib), parent = pvm_parent();

	signal(SIGUSR1, on_signal);
	pvm_setopt(PvmAutoErr, 0);
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&n, 1, 1);
	pvm_send(parent, TAG_DONE);
	while (order[0] != DO_END) {
		while ((rc = pvm_recv(parent, TAG_DO)) < 0)
			;
		pvm_upkint(order, 2, 1);
		rc = do_one(order[0], order[1]);
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&rc, 1, 1);
		pvm_pkint(&signalled, 1, 1);
		pvm_send(parent, TAG_DONE);
	}
	return pvm_exit();
}

/* ---- who pulls the strings ---- */

static int told(int tid)
{
	int answer[2] = {-1000, 0};
	struct timeval wait = {10, 0};

	if (pvm_trecv(tid, TAG_DONE, &wait) > 0)
		pvm_upkint(answer, 1, 1);
	else
		printf("(silent) ");
	return answer[0];
}

static int tell(int i, int what, int arg)
{
	int order[2] = {what, arg};

	pvm_initsend(PvmDataDefault);
	pvm_pkint(order, 2, 1);
	if (pvm_send(tids[i], TAG_DO) < 0)
		printf("(unsent) ");
	return told(tids[i]);
}

static int index_of(int tid)
{
	for (int i = 0; i < PUPPETS; i++)
		if (tids[i] == tid)
			return i;
	return tid == pvm_mytid() ? -1 : -2;
}

/* What was told of an end, within a second. */
static void expect_exit(const char *why)
{
	struct timeval wait = {1, 0};
	int tid = 0;

	if (pvm_trecv(-1, TAG_EXIT, &wait) > 0)
		pvm_upkint(&tid, 1, 1);
	printf("%s: notice of %d\n", why, tid ? index_of(tid) : -9);
}

static void puppet_new(int i, int where)
{
	char host[8], puppet_arg[] = "puppet", *args[] = {puppet_arg, NULL};
	struct pvmtaskinfo *info;
	int n = 0, rc, count;

	snprintf(host, sizeof(host), "h%d", where);
	rc = pvm_spawn(self, args, PvmTaskHost, host, 1, &tids[i]);
	count = told(tids[i]);
	printf("spawn of %d on %s: %d, siblings %d", i, host, rc, count);
	rc = pvm_notify(PvmTaskExit, TAG_EXIT, 1, &tids[i]);
	printf(", notify %d", rc);
	rc = pvm_tasks(tids[i], &n, &info);
	printf(", tasks %d: %d, parent %d, host %d, flags %d\n", rc, n, index_of(info->ti_ptid),
	       info->ti_host == pvm_tidtohost(tids[i]), info->ti_flag);
	alive[i] = 1;
}

static void puppet_gone(int i, int how)
{
	if (how == 0)
		printf("end: %d ", tell(i, DO_END, 0));
	else if (how == 1)
		printf("kill: %d ", pvm_kill(tids[i]));
	else
		printf("signal: %d ", pvm_sendsig(tids[i], SIGTERM));
	alive[i] = 0;
	expect_exit("gone");
	printf("of the dead: pstat %d, send %d, kill %d, signal %d, notify %d\n",
	       pvm_pstat(tids[i]), (pvm_initsend(PvmDataDefault), pvm_send(tids[i], TAG_DO)),
	       pvm_kill(tids[i]), pvm_sendsig(tids[i], SIGUSR1),
	       pvm_notify(PvmTaskExit, TAG_EXIT, 1, &tids[i]));
	expect_exit("told again");
}

static void ask_group(int i, int g)
{
	char group[8];
	int size, first;

	snprintf(group, sizeof(group), "g%d", g);
	size = pvm_gsize(group);
	first = pvm_gettid(group, 0);
	printf("%s: size %d, first %d, inst of %d: %d, inst 77: %d\n", group, size,
	       first > 0 ? index_of(first) : first, i, pvm_getinst(group, tids[i]),
	       pvm_gettid(group, 77));
}

static void notify_cancel(int i)
{
	int rc = pvm_notify(PvmTaskExit | PvmNotifyCancel, TAG_EXIT, 1, &tids[i]);

	printf("cancel %d: %d\n", i, rc);
	expect_exit("cancelled");
	printf("anew: %d\n", pvm_notify(PvmTaskExit, TAG_EXIT, 1, &tids[i]));
}

static void step(void)
{
	static const char *const names[] = {"join", "leave", "inst", "tell", "count"};
	int i = (int)random_below(PUPPETS), g = (int)random_below(GROUPS);
	unsigned what = random_below(12);

	if (!alive[i]) {
		puppet_new(i, 1 + i % 2);
		return;
	}
	if (what < 7) {
		unsigned k = what < 2 ? DO_JOIN : what - 2;

		printf("%d: %s g%d: %d\n", i, names[k], g, tell(i, (int)k, g));
	} else if (what == 7) {
		puppet_gone(i, (int)random_below(3));
	} else if (what == 8) {
		int rc = pvm_sendsig(tids[i], SIGUSR1);

		printf("%d: signal %d, pstat %d\n", i, rc, pvm_pstat(tids[i]));
		tell(i, DO_INST, g);
	} else if (what == 9) {
		ask_group(i, g);
	} else if (what == 10) {
		notify_cancel(i);
	} else {
		char host[16] = "h1";

		host[1] = (char)('1' + random_below(5));
		printf("mstat %s: %d, tidtohost %d\n", host, pvm_mstat(host),
		       pvm_tidtohost(tids[i]) == pvm_tidtohost(pvm_mytid()));
	}
}

static void wrong_spawns(void)
{
	static const struct {
		const char *file, *where;
		int flags, n;
	} odd[] = {
		{"nowhere", "", 0, 0},
		{"nowhere", "", 0, -1},
		{"nowhere", "", 0, 3},
		{"nowhere", "h2", PvmTaskHost, 3},
		{"nowhere", "nowhere", PvmTaskHost, 2},
		{"nowhere", "nowhere", PvmTaskArch, 2},
		{"nowhere", "", PvmTaskHost, 2},
		{"", "", 0, 2},
		{"/etc/passwd", "", 0, 2},
		{"/", "", 0, 2},
		{"nowhere", "h2", 1024, 2},
		{"nowhere", "h2:/nowhere", PvmTaskHost, 2},
		{"/bin/true", "h2:/nowhere", PvmTaskHost, 2},
	};

	for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		int t[3] = {-77, -77, -77}, rc;
		char file[16], where[16];

		snprintf(file, sizeof(file), "%s", odd[i].file);
		snprintf(where, sizeof(where), "%s", odd[i].where);
		rc = pvm_spawn(file, NULL, odd[i].flags, where, odd[i].n, t);
		printf("spawn %s of %d on \"%s\" (%d): %d", file, odd[i].n, where, odd[i].flags,
		       rc);
		for (int k = 0; k < 3; k++)
			printf(" %d", t[k] > 0 ? 1 : t[k]);
		putchar('\n');
	}
}

static void wrong_tids(void)
{
	static const int odd[] = {0, -1, 0x40fff, 0x80000, 0xc0000, 0x7ffc0000, (int)0x80000000};

	for (unsigned k = 0; k < sizeof(odd) / sizeof(odd[0]); k++) {
		int tid = odd[k], n = -7;
		struct pvmtaskinfo *info;

		printf("%#x: pstat %d, kill %d, signal %d, ", (unsigned)tid, pvm_pstat(tid),
		       pvm_kill(tid), pvm_sendsig(tid, 0));
		printf("notify %d, tidtohost %#x, ", pvm_notify(PvmTaskExit, TAG_SIGNAL, 1, &tid),
		       (unsigned)pvm_tidtohost(tid));
		pvm_initsend(PvmDataDefault);
		printf("send %d, mcast %d", pvm_send(tid, 1), pvm_mcast(&tid, 1, 1));
		if (tid == -1 || tid == (int)0x80000000)
			printf(", tasks %d", pvm_tasks(tid, &n, &info));
		printf("\n");
	}
}

static void wrong_calls(void)
{
	char nowhere[] = "nowhere", empty[] = "", *hosts[] = {nowhere};
	int info[1] = {0}, t[2] = {0}, n;

	printf("mstat %d, ", pvm_mstat(nowhere));
	n = pvm_delhosts(hosts, 1, info);
	printf("delhosts %d %d, ", n, info[0]);
	n = pvm_delhosts(hosts, 0, info);
	printf("of none %d, ", n);
	n = pvm_addhosts(hosts, 0, info);
	printf("addhosts of none %d\n", n);
	for (int kind = -1; kind < 10; kind++)
		printf("notify %d: %d %d\n", kind, pvm_notify(kind, 1, -1, t),
		       kind == PvmHostAdd ? 0 : pvm_notify(kind, 1, 0, t));
	printf("join nameless: %d, leave: %d, ", pvm_joingroup(empty), pvm_lvgroup(nowhere));
	printf("barrier %d, ", pvm_barrier(nowhere, 1));
	pvm_initsend(PvmDataDefault);
	printf("gsize %d, gettid %d, bcast %d, ", pvm_gsize(nowhere), pvm_gettid(nowhere, 0),
	       pvm_bcast(nowhere, 1));
	printf("gsize nameless %d\n", pvm_gsize(empty));
}

static int calls(void)
{
	wrong_spawns();
	wrong_tids();
	wrong_calls();
	for (int i = 0; i < PUPPETS; i++)
		puppet_new(i, 1 + i % 2);
	for (int k = 0; k < STEPS; k++)
		step();
	for (int i = 0; i < PUPPETS; i++)
		if (alive[i])
			puppet_gone(i, 0);
	return 0;
}

static void entry(int flags)
{
	struct pvmmboxinfo *m;
	char name[16];
	int n = 0;

	snprintf(name, sizeof(name), "x%d", flags);
	printf("%s: there %d, ", name, pvm_recvinfo(name, 0, 0) > 0);
	pvm_initsend(PvmDataDefault);
	pvm_pkint(&flags, 1, 1);
	printf("put %d ", pvm_putinfo(name, pvm_getsbuf(), flags));
	printf("%d ", pvm_putinfo(name, pvm_getsbuf(), 0));
	printf("%d ", pvm_putinfo(name, pvm_getsbuf(), PvmMboxOverWritable));
	printf("%d, taken %d, out",
	       pvm_putinfo(name, pvm_getsbuf(), PvmMboxOverWritable | 1 << PvmMboxDirectIndexShift),
	       pvm_recvinfo(name, 0, PvmMboxReadAndDelete) > 0);
	for (int k = -1; k < 4; k++)
		printf(" %d", pvm_delinfo(name, k, 0));
	printf(", left %d:", pvm_getmboxinfo(name, &n, &m));
	for (int i = 0; i < n; i++)
		for (int k = 0; k < m[i].mi_nentries; k++)
			printf(" %d/%d", m[i].mi_indices[k], m[i].mi_flags[k]);
	putchar('\n');
}

static int mailbox(void)
{
	puppet_new(0, 2);
	tell(0, DO_PUT, 0);
	puppet_gone(0, 0);
	for (int flags = 0; flags < 8; flags++)
		entry(flags);
	puppet_new(0, 2);
	tell(0, DO_PUT, 0);
	for (int flags = 0; flags < 8; flags++)
		entry(flags);
	puppet_gone(0, 0);
	return 0;
}

static int spawn(char **args)
{
	int n = atoi(args[0]), t[64], rc;

	pvm_catchout(stdout);
	rc = pvm_spawn(args[3], args + 4, atoi(args[1]), args[2], n, t);
	printf("spawn: %d,", rc);
	for (int i = 0; i < n; i++)
		printf(" %s%x", t[i] > 0 ? "t" : "", (unsigned)t[i]);
	putchar('\n');
	return pvm_exit();
}

int main(int argc, char **argv)
{
	self = argv[0];
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (pvm_mytid() < 0)
		return 1;
	if (argc == 2 && !strcmp(argv[1], "puppet"))
		return puppet();
	pvm_setopt(PvmAutoErr, 0);
	if (argc == 3 && !strcmp(argv[1], "calls")) {
		seed = strtoull(argv[2], NULL, 0);
		return calls() || pvm_exit();
	}
	if (argc == 2 && !strcmp(argv[1], "mailbox"))
		return mailbox() || pvm_exit();
	if (argc >= 6 && !strcmp(argv[1], "spawn"))
		return spawn(argv + 2);
	return 2;
}
