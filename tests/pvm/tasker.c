/*
 * A tasker as of PVM 3.4's manual, for tests/integration/pvm_tasker.sh, which compares it with PVM 3.4.6:
 * starts what the daemon asks it to and says what that was; a program with "refused" in its name it does not start.
 *
 *	tasker serve STOPFILE     until that file is there
 *	tasker parent FILE [ARGUMENT]...    spawns two and says what it hears of them
 *	tasker child WORD         a task: sends the word to its parent
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pvm3.h>

enum {
	TASKS_MAX = 64,
	WORDS_MAX = 256,
	TEXT = 8192,
	SM_STTASK = (int)0x80040011,
	SM_TASKX = (int)0x8004000b,
	TAG_WORD = 1,
	TAG_END,
};

static struct task {
	int tid;
	pid_t pid;
} tasks[TASKS_MAX];

static void gone(int tid, int status, const struct rusage *r)
{
	int body[6] = {tid,
		       status,
		       (int)r->ru_utime.tv_sec,
		       (int)r->ru_utime.tv_usec,
		       (int)r->ru_stime.tv_sec,
		       (int)r->ru_stime.tv_usec};

	pvm_initsend(PvmDataDefault);
	pvm_pkint(body, 6, 1);
	pvm_send(pvm_tidtohost(pvm_mytid()) | (int)0x80000000, SM_TASKX);
}

/* `n` strings of the message behind `at` words. */
static int words(char **list, int at)
{
	static char text[TEXT];
	int n = 0;

	pvm_upkint(&n, 1, 1);
	for (int i = 0; i < n && at + i < WORDS_MAX - 1; i++) {
		pvm_upkstr(text);
		list[at + i] = strdup(text);
	}
	n = n < WORDS_MAX - 1 - at ? n : WORDS_MAX - 1 - at;
	list[at + n] = NULL;
	return n;
}

static void start(void)
{
	static char path[TEXT];
	char *args[WORDS_MAX], *env[WORDS_MAX];
	struct rusage none = {0};
	int tid, flags, argc, i = 0;
	int cookie = 0;

	pvm_upkint(&tid, 1, 1);
	pvm_upkint(&flags, 1, 1);
	pvm_upkstr(path);
	args[0] = path;
	argc = words(args, 1);
	words(env, 0);
	for (char **e = env; *e; e++)
		cookie += !strncmp(*e, "PVMEPID=", 8);
	printf("asked for a task here: %d, flags %d, %s, %d arguments, first %s, cookies %d\n",
	       pvm_tidtohost(tid) == pvm_tidtohost(pvm_mytid()), flags, strrchr(path, '/') + 1,
	       argc, argc ? args[1] : "-", cookie);
	while (i < TASKS_MAX && tasks[i].tid)
		i++;
	if (i == TASKS_MAX || strstr(path, "refused")) {
		gone(tid, 256, &none);
		return;
	}
	tasks[i].tid = tid;
	tasks[i].pid = fork();
	if (tasks[i].pid == 0) {
		for (char **e = env; *e; e++)
			putenv(*e);
		execv(path, args);
		_exit(1);
	}
}

static void bury(void)
{
	struct rusage r;
	int status;
	pid_t pid;

	while ((pid = wait4(-1, &status, WNOHANG, &r)) > 0)
		for (int i = 0; i < TASKS_MAX; i++)
			if (tasks[i].tid && tasks[i].pid == pid) {
				gone(tasks[i].tid, status, &r);
				tasks[i].tid = 0;
			}
}

static int serve(const char *stop)
{
	pvm_setopt(PvmResvTids, 1);
	printf("registered: %d\n", pvm_reg_tasker());
	while (access(stop, F_OK)) {
		struct timeval soon = {0, 50000};
		int mid = pvm_trecv(-1, SM_STTASK, &soon);

		if (mid < 0)
			return 1;
		if (mid > 0)
			start();
		bury();
	}
	return pvm_exit();
}

static int parent(char **argv)
{
	char mine[TEXT] = "";
	int t[2] = {-77, -77}, n;

	(void)!gethostname(mine, sizeof(mine) - 1);
	n = pvm_spawn(argv[0], argv + 1, PvmTaskHost, mine, 2, t);
	printf("spawn %d: %d %d\n", n, t[0] > 0 ? 1 : t[0], t[1] > 0 ? 1 : t[1]);
	if (n > 0)
		printf("notify %d\n", pvm_notify(PvmTaskExit, TAG_END, n, t));
	for (int ends = 0; ends < n;) {
		struct timeval wait = {10, 0};
		char word[64] = "";
		int mid = pvm_trecv(-1, -1, &wait), tag = -1;

		if (mid <= 0) {
			printf("nothing came: %d\n", mid);
			break;
		}
		pvm_bufinfo(mid, NULL, &tag, NULL);
		if (tag == TAG_WORD)
			pvm_upkstr(word);
		ends += tag == TAG_END;
		printf("%s %s\n", tag == TAG_END ? "end" : "word", word);
	}
	return pvm_exit();
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3 || pvm_mytid() < 0)
		return 1;
	if (!strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (!strcmp(argv[1], "parent"))
		return parent(argv + 2);
	pvm_initsend(PvmDataDefault);
	pvm_pkstr(argv[2]);
	pvm_send(pvm_parent(), TAG_WORD);
	return pvm_exit();
}
