/*
 * Many tasks of one spawn, of which the first makes the others (pvm/mp_twin.c): each is a process, a child
 * of the daemon and a task of its own. "N" spawns N of itself and prints how many have the same addresses,
 * as copies have; "N PROGRAM [ARG]" spawns that and prints what its tasks print. "here" is a task that says only that.
 */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <pvm3.h>

enum { TAG = 5, MAX = 1024 };

struct report {
	int pid, ppid, tid, descriptors, twin_env, signal, thread;
	long place, epid;
};

static void fail(const char *what)
{
	fprintf(stderr, "twins: %s\n", what);
	pvm_exit();
	exit(1);
}

static volatile sig_atomic_t signalled;

static void on_signal(int sig)
{
	(void)sig;
	signalled = 1;
}

static void *in_thread(void *arg)
{
	*(int *)arg = (int)syscall(SYS_gettid);
	return NULL;
}

static int descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	if (!d)
		fail("/proc/self/fd");
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* What goes wrong when the C library does not know its own thread. */
static void look(struct report *r)
{
	pthread_mutexattr_t attr;
	pthread_mutex_t mutex;
	pthread_t thread;
	clockid_t clock;
	int other = 0;

	r->descriptors = descriptors();
	signal(SIGUSR1, on_signal);
	pthread_kill(pthread_self(), SIGUSR1);
	r->signal = signalled;
	r->thread = !pthread_create(&thread, NULL, in_thread, &other) &&
		    !pthread_join(thread, NULL) && other > 0 && other != getpid() &&
		    !pthread_getcpuclockid(pthread_self(), &clock);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&mutex, &attr);
	r->thread = r->thread && !pthread_mutex_lock(&mutex) && pthread_mutex_lock(&mutex) &&
		    !pthread_mutex_unlock(&mutex);
}

static int child(int parent)
{
	const char *epid = getenv("PVMEPID");
	struct report r = {.pid = getpid(),
			   .ppid = getppid(),
			   .tid = pvm_mytid(),
			   .twin_env = getenv("PVMTWIN") != NULL,
			   .place = (long)(uintptr_t)&r,
			   .epid = epid ? strtol(epid, NULL, 10) : 0};

	look(&r);
	printf("t%x says so\n", (unsigned)r.tid);
	fflush(stdout);
	pvm_initsend(PvmDataRaw);
	pvm_pkbyte((char *)&r, sizeof(r), 1);
	if (pvm_send(parent, TAG) < 0)
		return 1;
	/* Until everybody is there. */
	pvm_recv(parent, TAG);
	pvm_exit();
	return 0;
}

static int same_place(const struct report *r, int n, long place)
{
	int same = 0;

	for (int i = 0; i < n; i++)
		same += r[i].place == place;
	return same;
}

static void check(const struct report *r, int n, const int *tids)
{
	for (int i = 0; i < n; i++) {
		int known = 0;

		if (r[i].twin_env || !r[i].signal || !r[i].thread || !r[i].epid)
			fail("a task is not as one that was started");
		if (r[i].ppid != r[0].ppid || r[i].descriptors != r[0].descriptors)
			fail("tasks have other parents, or other descriptors");
		for (int k = 0; k < n; k++) {
			known += tids[k] == r[i].tid;
			if (k != i && (r[k].pid == r[i].pid || r[k].tid == r[i].tid ||
				       r[k].epid == r[i].epid))
				fail("two tasks are one");
		}
		if (known != 1)
			fail("a task that was not told");
	}
}

static void receive(struct report *r, int n)
{
	for (int i = 0; i < n; i++) {
		struct timeval limit = {30, 0};

		if (pvm_trecv(-1, TAG, &limit) <= 0)
			fail("not all tasks report in 30 s");
		pvm_upkbyte((char *)&r[i], sizeof(r[i]), 1);
	}
}

static void check_told(const struct report *r, int n)
{
	struct pvmtaskinfo *info;
	int ntask, found = 0;

	if (pvm_tasks(0, &ntask, &info) < 0)
		fail("pvm_tasks");
	for (int i = 0; i < ntask; i++)
		for (int k = 0; k < n; k++)
			found += info[i].ti_tid == r[k].tid && info[i].ti_pid == r[k].pid;
	if (found != n)
		fail("the daemon knows other processes");
}

/* Those that copies have in common, or 1. */
static int most(const struct report *r, int n)
{
	int best = 0;

	for (int i = 0; i < n; i++) {
		int same = same_place(r, n, r[i].place);

		best = same > best ? same : best;
	}
	return best;
}

int main(int argc, char **argv)
{
	static struct report r[MAX];
	char self[512] = "", *program, *args[2] = {NULL, NULL};
	int tids[MAX], n = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;

	if (pvm_mytid() < 0)
		return 1;
	if (argc == 2 && !strcmp(argv[1], "here")) {
		printf("here\n");
		pvm_exit();
		return 0;
	}
	if (pvm_parent() > 0)
		return child(pvm_parent());
	if (n < 1 || n > MAX || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		fail("usage: twins N [PROGRAM [ARG]]");
	program = argc > 2 ? argv[2] : self;
	args[0] = argc > 3 ? argv[3] : NULL;
	pvm_catchout(stdout);
	if (pvm_spawn(program, args, PvmTaskDefault, NULL, n, tids) != n)
		fail("spawn");
	if (program == self) {
		receive(r, n);
		check(r, n, tids);
		check_told(r, n);
		pvm_initsend(PvmDataRaw);
		pvm_mcast(tids, n, TAG);
	}
	/* Waits for the end of all output. */
	pvm_exit();
	if (program == self)
		printf("%d tasks, %d with the same addresses\n", n, most(r, n));
	return 0;
}
