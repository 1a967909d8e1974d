/*
 * Starting the processes of a request on this host. Of many that are alike the first one may make the
 * others (mpd_twin.c); it is asked for them as soon as it offers itself, and until then, and where it does
 * not, each is started as the first one was.
 */
#include <errno.h>
#include <fcntl.h>
#include <pvm3.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_spawn.h"
#include "pvm/pvmd/mpd_twin.h"
#include "pvm/wire/mp_twin.h"

extern char **environ;

enum { TWIN_MIN = 4 }; /* of fewer all have been started before one could offer itself */

static bool is_program(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

static bool find_program(const struct mpd *pd, const char *file, char *out, size_t cap)
{
	const char *p = pd->epath;

	if (file[0] == '/') {
		snprintf(out, cap, "%s", file);
		return is_program(out);
	}
	while (*p) {
		size_t n = strcspn(p, ":");

		if (n && (size_t)snprintf(out, cap, "%.*s/%s", (int)n, p, file) < cap &&
		    is_program(out))
			return true;
		p += n + (p[n] == ':');
	}
	return false;
}

static bool same_name(const char *a, const char *b)
{
	size_t n = strcspn(a, "=");

	return !strncmp(a, b, n) && b[n] == '=';
}

/* The daemon's environment, replaced by the caller's exports and by what the task must know. */
static char **make_env(const struct mpd_spawn_req *r, char **own, size_t own_count)
{
	size_t n = 0, k = 0;
	char **env;

	while (environ[n])
		n++;
	env = calloc(n + r->env_count + own_count + 1, sizeof(*env));
	if (!env)
		return NULL;
	for (size_t i = 0; i < n + r->env_count; i++) {
		char *s = i < n ? environ[i] : r->env[i - n];
		bool replaced = false;

		for (size_t j = 0; j < own_count; j++)
			replaced = replaced || same_name(own[j], s);
		for (uint32_t j = 0; i < n && j < r->env_count; j++)
			replaced = replaced || same_name(r->env[j], s);
		if (!replaced)
			env[k++] = s;
	}
	for (size_t j = 0; j < own_count; j++)
		env[k++] = own[j];
	return env;
}

struct launch {
	const struct mpd_spawn_req *r;
	const char *path, *dir;
	char **argv;
};

/* A request that is being carried out. */
struct job {
	struct base_list link;
	struct mpd *pd;
	int32_t ptid;
	struct mpd_spawn_req *r;
	struct launch l;
	char path[MPD_PATH_MAX], dir[MPD_PATH_MAX];
	int32_t *results, done_count;
	struct mpd_twin *twin;
	struct base_list copies;
	mpd_exec_done_fn *done;
	void *arg;
};

/* A task that the twin is to make. */
struct copy {
	struct base_list link;
	int32_t index; /* in the results */
	int32_t tid;
	uint64_t serial;
	int out_fd; /* should it be started otherwise */
};

static void copy_free(struct copy *c)
{
	base_list_del(&c->link);
	close(c->out_fd);
	free(c);
}

static int spawn_actions(posix_spawn_file_actions_t *fa, const struct launch *l, int out_fd,
			 int twin_fd)
{
	int rc = posix_spawn_file_actions_addopen(fa, 0, "/dev/null", O_RDONLY, 0);

	rc = rc ? rc : posix_spawn_file_actions_adddup2(fa, out_fd, 1);
	rc = rc ? rc : posix_spawn_file_actions_adddup2(fa, out_fd, 2);
	/* To itself: it stays open. */
	if (!rc && twin_fd >= 0)
		rc = posix_spawn_file_actions_adddup2(fa, twin_fd, twin_fd);
	return rc ? rc : posix_spawn_file_actions_addchdir_np(fa, l->dir);
}

/* `twin` (may be NULL): this one is to make others. */
static int launch_process(struct mpd *pd, struct mpd_task *t, const struct launch *l, int out_fd,
			  struct mpd_twin *twin)
{
	char cookie[32], *own[2] = {cookie, twin ? mpd_twin_env(twin) : NULL};
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	BASE_AUTO_FREE char **env = NULL;
	sigset_t none, all;
	pid_t pid;
	int rc;

	snprintf(cookie, sizeof(cookie), MP_ENV_EPID "=%0*u", MP_TWIN_COOKIE_DIGITS, t->cookie);
	env = make_env(l->r, own, twin ? 2 : 1);
	if (!env || posix_spawn_file_actions_init(&fa))
		return -ENOMEM;
	rc = posix_spawnattr_init(&attr);
	if (rc) {
		posix_spawn_file_actions_destroy(&fa);
		return -rc;
	}
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	rc = spawn_actions(&fa, l, out_fd, twin ? mpd_twin_task_fd(twin) : -1);
	rc = rc ? rc : posix_spawn(&pid, l->path, &fa, &attr, l->argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	if (rc)
		return -rc;
	t->pid = pid;
	t->child = true;
	prlimit(pid, RLIMIT_NOFILE, &pd->nofile, NULL);
	return 0;
}

static int error_of(int rc)
{
	switch (rc) {
	case -ENOENT:
	case -EACCES:
	case -ENOEXEC:
	case -ENOTDIR: return PvmNoFile;
	case -ENOMEM: return PvmNoMem;
	default: return PvmOutOfRes;
	}
}

static struct mpd_task *launch_task(struct mpd *pd, const struct job *j)
{
	const struct mpd_spawn_req *r = j->r;
	struct mpd_task *t = mpd_fds_spare(pd) ? mpd_task_new(pd, r->file) : NULL;

	if (!t)
		return NULL;
	t->ptid = r->flags & PvmNoSpawnParent ? 0 : j->ptid;
	t->flags = r->flags;
	t->out = r->out;
	t->trace = r->trace;
	free(t->trace_mask);
	t->trace_mask = strdup(r->mask);
	mpd_crypt_random(&t->cookie, sizeof(t->cookie));
	t->cookie = (t->cookie & 0x7fffffff) | 1;
	if (!t->trace_mask)
		t->trace_mask = calloc(1, 1);
	mpd_trace_adopt(pd, t);
	return t;
}

static void launched(struct mpd *pd, struct mpd_task *t, int out_fd)
{
	mpd_trace_task_came(pd, t, true);
	fcntl(out_fd, F_SETFL, O_NONBLOCK);
	if (mpd_output_new(pd, t->tid, t->ptid, out_fd, &t->out))
		log_warn("output of t%x is lost", (unsigned)t->tid);
}

/* Those that the twin was asked for and did not make are started by us. */
static void copy_launch(struct job *j, struct copy *c)
{
	struct mpd_task *t = mpd_task_get(j->pd, c->tid);
	int rc;

	/* One that has enrolled is there, although nobody told. */
	if (!t || t->serial != c->serial || t->conn)
		return;
	rc = launch_process(j->pd, t, &j->l, c->out_fd, NULL);
	if (!rc)
		return;
	log_warn("start of %s: %s", j->l.path, strerror(-rc));
	j->results[c->index] = error_of(rc);
	mpd_task_gone(t);
}

static void copies_launch(struct job *j)
{
	base_list_foreach_safe (c, &j->copies, struct copy, link) {
		copy_launch(j, c);
		copy_free(c);
	}
}

static void job_free(struct job *j)
{
	base_list_del(&j->link);
	mpd_twin_free(j->twin);
	base_list_foreach_safe (c, &j->copies, struct copy, link)
		copy_free(c);
	mpd_spawn_req_free(j->r);
	free(j->l.argv);
	free(j->results);
	free(j);
}

/* True: it was, and `j` is gone. */
static bool job_end(struct job *j)
{
	if (j->done_count < j->r->count || !base_list_empty(&j->copies))
		return false;
	j->done(j->pd, j->arg, j->results, j->r->count);
	job_free(j);
	return true;
}

static void job_fail(struct job *j, int32_t error)
{
	for (int32_t i = 0; i < j->r->count; i++)
		j->results[i] = error;
	j->done_count = j->r->count;
	job_end(j);
}

static struct copy *copy_find(const struct job *j, uint32_t seq)
{
	base_list_foreach (c, &j->copies, struct copy, link)
		if ((uint32_t)c->index == seq)
			return c;
	return NULL;
}

static bool copy_made(void *owner, uint32_t seq, int32_t pid)
{
	struct job *j = owner;
	struct copy *c = copy_find(j, seq);
	struct mpd_task *t = c ? mpd_task_get(j->pd, c->tid) : NULL;
	siginfo_t si;

	if (!c)
		return true;
	if (pid <= 1) {
		copy_launch(j, c);
	} else if (t && t->serial == c->serial && !t->pid) {
		/* It may have ended, and been reaped, before we heard of it. */
		if (waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT))
			mpd_task_gone(t);
		else
			t->pid = pid;
	}
	copy_free(c);
	return !job_end(j);
}

static void twin_gone(void *owner)
{
	struct job *j = owner;

	copies_launch(j);
	job_end(j);
}

static const struct mpd_twin_ops twin_ops = {.made = copy_made, .gone = twin_gone};

static bool is_elf(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char b[4];
	bool is =
		fd >= 0 && read(fd, b, sizeof(b)) == sizeof(b) && !memcmp(b, "\177ELF", sizeof(b));

	if (fd >= 0)
		close(fd);
	return is;
}

static bool twin_refused(const struct mpd_spawn_req *r)
{
	const char *v = getenv(MP_ENV_NOTWIN);

	for (uint32_t i = 0; i < r->env_count; i++)
		if (same_name(MP_ENV_NOTWIN "=", r->env[i]))
			v = strchr(r->env[i], '=') + 1;
	return v && *v;
}

/* Without one it goes on as well. */
static void twin_begin(struct job *j)
{
	if (j->r->count < TWIN_MIN || (j->r->flags & PvmTaskDebug) || twin_refused(j->r) ||
	    !is_elf(j->l.path))
		return;
	if (mpd_twin_new(&j->twin, j->pd->loop, j->l.path, &twin_ops, j))
		j->twin = NULL;
}

static bool launch_copy(struct mpd *pd, struct job *j, struct mpd_task *t, const int fds[2])
{
	struct copy *c = mpd_twin_serves(j->twin) ? calloc(1, sizeof(*c)) : NULL;

	if (!c)
		return false;
	c->index = j->done_count;
	if (mpd_twin_ask(j->twin, (uint32_t)c->index, t->cookie, fds[1])) {
		free(c);
		copies_launch(j);
		return false;
	}
	c->tid = t->tid;
	c->serial = t->serial;
	c->out_fd = fds[1];
	base_list_add_tail(&j->copies, &c->link);
	t->child = true;
	launched(pd, t, fds[0]);
	return true;
}

static int launch_one(struct mpd *pd, struct job *j)
{
	struct mpd_task *t = launch_task(pd, j);
	struct mpd_twin *twin;
	int fds[2], rc;

	if (!t)
		return PvmOutOfRes;
	if (pd->role_tid[MP_ROLE_TASKER] && t->trace_mask)
		return mpd_role_start_task(pd, t, j->l.path, j->r->arg_count, j->r->args,
					   j->r->env_count, j->r->env);
	if (!t->trace_mask || pipe2(fds, O_CLOEXEC)) {
		mpd_task_gone(t);
		return PvmOutOfRes;
	}
	if (launch_copy(pd, j, t, fds))
		return t->tid;
	if (j->done_count == 0)
		twin_begin(j);
	twin = j->done_count == 0 ? j->twin : NULL;
	rc = launch_process(pd, t, &j->l, fds[1], twin);
	if (twin)
		mpd_twin_started(twin, rc ? 0 : t->pid);
	close(fds[1]);
	if (rc) {
		log_warn("start of %s: %s", j->l.path, strerror(-rc));
		close(fds[0]);
		mpd_task_gone(t);
		return error_of(rc);
	}
	launched(pd, t, fds[0]);
	return t->tid;
}

static bool is_dir(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* As with the original a directory that is not there is no reason not to start: then it is the usual one. */
static bool launch_dir(const struct mpd *pd, const char *where, char *out, size_t cap)
{
	bool relative = *where && *where != '/';
	int n = snprintf(out, cap, "%s%s%s", *where == '/' ? "" : pd->wdir, relative ? "/" : "",
			 where);

	if (n >= 0 && (size_t)n < cap && (access(out, X_OK) || !is_dir(out)))
		n = snprintf(out, cap, "%s", pd->wdir);
	return n >= 0 && (size_t)n < cap;
}

static bool job_argv(const struct mpd *pd, struct job *j)
{
	const struct mpd_spawn_req *r = j->r;
	char **argv = calloc((size_t)r->arg_count + 3, sizeof(*argv));
	int k = 0;

	if (!argv)
		return false;
	if (r->flags & PvmTaskDebug)
		argv[k++] = pd->debugger;
	argv[k++] = j->path;
	memcpy(argv + k, r->args, r->arg_count * sizeof(*argv));
	j->l = (struct launch){.r = r, .path = argv[0], .dir = j->dir, .argv = argv};
	return true;
}

void mpd_exec_start(struct mpd *pd, int32_t ptid, struct mpd_spawn_req *r, mpd_exec_done_fn *done,
		    void *arg)
{
	struct job *j = calloc(1, sizeof(*j));

	if (j)
		j->results = calloc((size_t)r->count, sizeof(*j->results));
	if (!j || !j->results) {
		free(j);
		mpd_spawn_req_free(r);
		done(pd, arg, NULL, 0);
		return;
	}
	j->ptid = ptid;
	j->r = r;
	j->done = done;
	j->arg = arg;
	j->pd = pd;
	base_list_init(&j->copies);
	base_list_add_tail(&pd->execs, &j->link);
	if (!find_program(pd, r->file, j->path, sizeof(j->path)) ||
	    !launch_dir(pd, r->where, j->dir, sizeof(j->dir)))
		job_fail(j, PvmNoFile);
	else if (!job_argv(pd, j))
		job_fail(j, PvmNoMem);
}

static struct job *first_job(const struct mpd *pd)
{
	return base_list_empty(&pd->execs) ? NULL
					   : base_list_entry(pd->execs.next, struct job, link);
}

bool mpd_exec_due(const struct mpd *pd)
{
	const struct job *j = first_job(pd);

	return j && j->done_count < j->r->count &&
	       !(mpd_twin_serves(j->twin) && mpd_twin_full(j->twin));
}

void mpd_exec_step(struct mpd *pd)
{
	struct job *j = first_job(pd);
	int32_t tid;

	if (!mpd_exec_due(pd))
		return;
	tid = launch_one(pd, j);
	j->results[j->done_count++] = tid;
	job_end(j);
}

void mpd_exec_look(struct mpd *pd)
{
	struct job *j = first_job(pd);

	if (j && mpd_twin_serves(j->twin))
		mpd_twin_look(j->twin);
}

void mpd_exec_fini(struct mpd *pd)
{
	base_list_foreach_safe (j, &pd->execs, struct job, link)
		job_free(j);
}
