/*
 * Starting the processes of a request on this host.
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

#include "base/log.h"
#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_spawn.h"

extern char **environ;

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
	int out_fd;
};

static int launch_process(struct mpd *pd, struct mpd_task *t, const struct launch *l)
{
	char cookie[32], *own[1] = {cookie};
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	BASE_AUTO_FREE char **env = NULL;
	sigset_t none, all;
	pid_t pid;
	int rc;

	snprintf(cookie, sizeof(cookie), MP_ENV_EPID "=%u", t->cookie);
	env = make_env(l->r, own, 1);
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
	rc = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	rc = rc ? rc : posix_spawn_file_actions_adddup2(&fa, l->out_fd, 1);
	rc = rc ? rc : posix_spawn_file_actions_adddup2(&fa, l->out_fd, 2);
	rc = rc ? rc : posix_spawn_file_actions_addchdir_np(&fa, l->dir);
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

static int launch_one(struct mpd *pd, int32_t ptid, struct launch *l)
{
	const struct mpd_spawn_req *r = l->r;
	struct mpd_task *t = mpd_fds_spare(pd) ? mpd_task_new(pd, r->file) : NULL;
	int fds[2], rc;

	if (!t)
		return PvmOutOfRes;
	t->ptid = r->flags & PvmNoSpawnParent ? 0 : ptid;
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
	if (pd->role_tid[MP_ROLE_TASKER] && t->trace_mask)
		return mpd_role_start_task(pd, t, l->path, r->arg_count, r->args, r->env_count,
					   r->env);
	if (!t->trace_mask || pipe2(fds, O_CLOEXEC)) {
		mpd_task_gone(t);
		return PvmOutOfRes;
	}
	l->out_fd = fds[1];
	rc = launch_process(pd, t, l);
	close(fds[1]);
	if (rc) {
		log_warn("start of %s: %s", l->path, strerror(-rc));
		close(fds[0]);
		mpd_task_gone(t);
		return error_of(rc);
	}
	mpd_trace_task_came(pd, t, true);
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	if (mpd_output_new(pd, t->tid, t->ptid, fds[0], &t->out))
		log_warn("output of t%x is lost", (unsigned)t->tid);
	return t->tid;
}

static bool launch_dir(const struct mpd *pd, const char *where, char *out, size_t cap)
{
	bool relative = *where && *where != '/';
	int n = snprintf(out, cap, "%s%s%s", *where == '/' ? "" : pd->wdir, relative ? "/" : "",
			 where);

	return n >= 0 && (size_t)n < cap;
}

/* A request that is being carried out. */
struct job {
	struct base_list link;
	int32_t ptid;
	struct mpd_spawn_req *r;
	struct launch l;
	char path[MPD_PATH_MAX], dir[MPD_PATH_MAX];
	int32_t *results, done_count;
	mpd_exec_done_fn *done;
	void *arg;
};

static void job_free(struct job *j)
{
	base_list_del(&j->link);
	mpd_spawn_req_free(j->r);
	free(j->l.argv);
	free(j->results);
	free(j);
}

static void job_end(struct mpd *pd, struct job *j)
{
	j->done(pd, j->arg, j->results, j->r->count);
	job_free(j);
}

static void job_fail(struct mpd *pd, struct job *j, int32_t error)
{
	for (int32_t i = 0; i < j->r->count; i++)
		j->results[i] = error;
	job_end(pd, j);
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
	base_list_add_tail(&pd->execs, &j->link);
	if (!find_program(pd, r->file, j->path, sizeof(j->path)) ||
	    !launch_dir(pd, r->where, j->dir, sizeof(j->dir)))
		job_fail(pd, j, PvmNoFile);
	else if (!job_argv(pd, j))
		job_fail(pd, j, PvmNoMem);
}

void mpd_exec_step(struct mpd *pd)
{
	struct job *j;

	if (base_list_empty(&pd->execs))
		return;
	j = base_list_entry(pd->execs.next, struct job, link);
	j->results[j->done_count++] = launch_one(pd, j->ptid, &j->l);
	if (j->done_count == j->r->count)
		job_end(pd, j);
}

void mpd_exec_fini(struct mpd *pd)
{
	base_list_foreach_safe (j, &pd->execs, struct job, link)
		job_free(j);
}
