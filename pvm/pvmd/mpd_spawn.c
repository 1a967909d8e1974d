/*
 * Spawn. The daemon of the caller chooses hosts and gives each its share (EXEC); each starts its
 * processes and answers with tids or errors; the caller gets them in the order of the places.
 *
 *	SPAWN  the fields of `struct request`, in order
 *	EXEC   the same with the count of this host and `where` reduced to the directory
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

enum { SPAWN_MAX = 65536, ENV_MAX = 4096, SPAWN_NO_PARENT_FLAG = PvmNoSpawnParent };

extern char **environ;

/* Views into the call, except the arrays. */
struct request {
	char file[MPD_PATH_MAX], where[MPD_PATH_MAX];
	int32_t flags, count;
	char **args, **env; /* NULL-terminated; the strings are one block each */
	uint32_t arg_count, env_count;
	struct mpd_sink out;
	struct mpd_trace trace;
	char mask[512];
	struct base_rbuf tail; /* args to mask as they came, for the other hosts */
};

static void request_free(struct request *r)
{
	for (uint32_t i = 0; r->args && i < r->arg_count; i++)
		free(r->args[i]);
	for (uint32_t i = 0; r->env && i < r->env_count; i++)
		free(r->env[i]);
	free(r->args);
	free(r->env);
	free(r);
}

static int take_strings(struct base_rbuf *b, char ***out, uint32_t *count)
{
	uint32_t n = base_rbuf_u32(b);

	if (b->error || n > base_rbuf_left(b) / 4)
		return PvmBadParam;
	*out = calloc((size_t)n + 1, sizeof(**out));
	if (!*out)
		return PvmNoMem;
	for (uint32_t i = 0; i < n; i++) {
		size_t len = 0;
		const char *p = base_rbuf_blob(b, MP_FRAME_MAX, &len);

		if (!p || memchr(p, 0, len))
			return PvmBadParam;
		(*out)[i] = strndup(p, len);
		if (!(*out)[i])
			return PvmNoMem;
		*count = i + 1;
	}
	return 0;
}

static void take_sink(struct base_rbuf *b, struct mpd_sink *s)
{
	s->tid = (int32_t)base_rbuf_u32(b);
	s->ctx = (int32_t)base_rbuf_u32(b);
	s->tag = (int32_t)base_rbuf_u32(b);
}

static int request_take(struct base_rbuf *b, struct request **out)
{
	struct request *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return PvmNoMem;
	base_rbuf_str(b, r->file, sizeof(r->file));
	base_rbuf_str(b, r->where, sizeof(r->where));
	r->flags = (int32_t)base_rbuf_u32(b);
	r->count = (int32_t)base_rbuf_u32(b);
	r->tail = *b;
	rc = take_strings(b, &r->args, &r->arg_count);
	if (!rc)
		rc = take_strings(b, &r->env, &r->env_count);
	if (!rc) {
		take_sink(b, &r->out);
		take_sink(b, &r->trace.to);
		r->trace.buffer = (int32_t)base_rbuf_u32(b);
		r->trace.options = (int32_t)base_rbuf_u32(b);
		base_rbuf_str(b, r->mask, sizeof(r->mask));
		if (b->error || r->count < 1 || r->count > SPAWN_MAX || !*r->file)
			rc = PvmBadParam;
	}
	if (rc) {
		request_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

/* Programs */

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
static char **make_env(const struct request *r, char **own, size_t own_count)
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
	const struct request *r;
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

/* A resource manager passes on the environment, not these. */
static void trace_from_env(struct request *r)
{
	for (uint32_t i = 0; i < r->env_count; i++) {
		const char *s = r->env[i];

		if (!strncmp(s, "PVMTMASK=", 9))
			snprintf(r->mask, sizeof(r->mask), "%s", s + 9);
		else if (!strncmp(s, "PVMTRCBUF=", 10))
			r->trace.buffer = (int32_t)strtol(s + 10, NULL, 10);
		else if (!strncmp(s, "PVMTRCOPT=", 10))
			r->trace.options = (int32_t)strtol(s + 10, NULL, 10);
	}
}

static int launch_one(struct mpd *pd, int32_t ptid, struct launch *l)
{
	const struct request *r = l->r;
	struct mpd_task *t = mpd_task_new(pd, r->file);
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

/* Starts r->count tasks here; results[] gets tids or errors. */
static void exec_here(struct mpd *pd, int32_t ptid, const struct request *r, int32_t *results)
{
	char path[MPD_PATH_MAX], dir[MPD_PATH_MAX];
	bool debug = r->flags & PvmTaskDebug;
	struct launch l = {.r = r, .path = path, .dir = dir};
	BASE_AUTO_FREE char **argv = calloc((size_t)r->arg_count + 3, sizeof(*argv));
	bool found = find_program(pd, r->file, path, sizeof(path)) &&
		     launch_dir(pd, r->where, dir, sizeof(dir));
	int k = 0;

	if (argv && debug)
		argv[k++] = pd->debugger;
	if (argv) {
		argv[k++] = path;
		memcpy(argv + k, r->args, r->arg_count * sizeof(*argv));
		l.argv = argv;
		if (debug)
			l.path = pd->debugger;
	}
	for (int32_t i = 0; i < r->count; i++)
		results[i] = !found ? PvmNoFile : !argv ? PvmNoMem : launch_one(pd, ptid, &l);
}

static void put_results(struct base_wbuf *b, const int32_t *v, int32_t n)
{
	base_wbuf_u32(b, (uint32_t)n);
	for (int32_t i = 0; i < n; i++)
		base_wbuf_u32(b, (uint32_t)v[i]);
}

void mpd_op_exec(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	BASE_AUTO_FREE int32_t *results = NULL;
	struct request *r;
	struct base_wbuf out;
	int rc = request_take(b, &r);

	if (rc) {
		mpd_call_reply(pd, from, rc, NULL, -1);
		return;
	}
	results = calloc((size_t)r->count, sizeof(*results));
	if (!results) {
		mpd_call_reply(pd, from, PvmNoMem, NULL, -1);
		request_free(r);
		return;
	}
	if (!*r->mask)
		trace_from_env(r);
	exec_here(pd, from->tid, r, results);
	base_wbuf_init(&out, MP_FRAME_MAX);
	put_results(&out, results, r->count);
	mpd_call_reply(pd, from, 0, &out, -1);
	base_wbuf_fini(&out);
	request_free(r);
}

/* The caller's side */

struct spawn {
	struct mpd_from from;
	int left;
	int32_t count;
	bool no_parent;
	int32_t *results;
	uint16_t *place; /* host of each */
};

struct share {
	struct spawn *s;
	int host;
};

static void spawn_siblings(struct mpd *pd, const struct spawn *s)
{
	struct base_wbuf b;
	uint32_t n = 0;

	base_wbuf_init(&b, MP_FRAME_MAX);
	for (int32_t i = 0; i < s->count; i++)
		n += s->results[i] > 0;
	base_wbuf_u32(&b, n);
	for (int32_t i = 0; i < s->count; i++)
		if (s->results[i] > 0)
			base_wbuf_u32(&b, (uint32_t)s->results[i]);
	for (int32_t i = 0; i < s->count && !b.error; i++)
		if (s->results[i] > 0)
			mpd_route_ctl(pd, s->results[i], MP_C_SIBLINGS, b.data, b.len);
	base_wbuf_fini(&b);
}

static void spawn_done(struct mpd *pd, struct spawn *s)
{
	struct base_wbuf b;

	if (--s->left > 0)
		return;
	if (!s->no_parent)
		spawn_siblings(pd, s);
	base_wbuf_init(&b, MP_FRAME_MAX);
	put_results(&b, s->results, s->count);
	mpd_call_reply(pd, &s->from, 0, &b, -1);
	base_wbuf_fini(&b);
	free(s->results);
	free(s->place);
	free(s);
}

static void share_done(struct mpd *pd, void *arg, int rc, struct base_rbuf *body)
{
	struct share *sh = arg;
	struct spawn *s = sh->s;

	if (rc >= 0)
		base_rbuf_u32(body);
	for (int32_t i = 0; i < s->count; i++)
		if (s->place[i] == sh->host) {
			int32_t v = rc < 0 ? rc : (int32_t)base_rbuf_u32(body);

			s->results[i] = body->error && rc >= 0 ? PvmDSysErr : v;
		}
	free(sh);
	spawn_done(pd, s);
}

/* Splits "host:dir"; the directory stays in r->where. */
static void split_where(struct request *r, char *place, size_t cap)
{
	char *colon = strchr(r->where, ':');
	size_t n = colon ? (size_t)(colon - r->where) : strlen(r->where);

	snprintf(place, cap, "%.*s", (int)n, r->where);
	memmove(r->where, colon ? colon + 1 : r->where + n,
		strlen(r->where + n + (colon != NULL)) + 1);
}

static int choose_hosts(struct mpd *pd, const struct request *r, const char *place, bool *ok)
{
	const struct mpd_host *one = r->flags & PvmTaskHost ? mpd_host_find(pd, place) : NULL;
	int n = 0;

	if ((r->flags & PvmTaskHost) && !one && !(r->flags & PvmHostCompl))
		return PvmNoHost;
	for (int i = 1; i <= pd->host_last; i++) {
		const struct mpd_host *h = mpd_host_get(pd, i);

		if (!h)
			continue;
		ok[i] = true;
		if (r->flags & PvmTaskHost)
			ok[i] = h == one;
		else if (r->flags & PvmTaskArch)
			ok[i] = !strcmp(h->arch, place);
		if (r->flags & PvmHostCompl)
			ok[i] = !ok[i];
		n += ok[i];
	}
	return n ? 0 : PvmNoHost;
}

static void spawn_share(struct mpd *pd, struct spawn *s, const struct request *r, int host,
			int32_t n)
{
	struct share *sh = calloc(1, sizeof(*sh));
	struct base_wbuf b;

	if (!sh)
		return;
	sh->s = s;
	sh->host = host;
	s->left++;
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_str(&b, r->file);
	base_wbuf_str(&b, r->where);
	base_wbuf_u32(&b, (uint32_t)r->flags);
	base_wbuf_u32(&b, (uint32_t)n);
	base_wbuf_bytes(&b, r->tail.data + r->tail.pos, base_rbuf_left(&r->tail));
	mpd_call_host(pd, host, MP_OP_EXEC, s->from.tid, b.data, b.len, share_done, sh);
	base_wbuf_fini(&b);
}

static void spawn_here(struct mpd *pd, struct spawn *s, struct request *r, int32_t n)
{
	BASE_AUTO_FREE int32_t *v = calloc((size_t)n, sizeof(*v));
	int32_t all = r->count, k = 0;

	r->count = n;
	if (v)
		exec_here(pd, s->from.tid, r, v);
	r->count = all;
	for (int32_t i = 0; i < s->count; i++)
		if (s->place[i] == pd->self)
			s->results[i] = v ? v[k++] : PvmNoMem;
}

static int spawn_new(struct mpd *pd, const struct mpd_from *from, const struct request *r,
		     const bool *ok, struct spawn **out)
{
	struct spawn *s = calloc(1, sizeof(*s));

	if (!s)
		return PvmNoMem;
	s->from = *from;
	s->count = r->count;
	s->left = 1;
	s->no_parent = r->flags & PvmNoSpawnParent;
	s->results = calloc((size_t)r->count, sizeof(*s->results));
	s->place = calloc((size_t)r->count, sizeof(*s->place));
	if (!s->results || !s->place) {
		free(s->results);
		free(s->place);
		free(s);
		return PvmNoMem;
	}
	for (int32_t i = 0; i < r->count; i++) {
		s->place[i] = (uint16_t)mpd_load_place(pd, ok);
		s->results[i] = PvmHostFail;
	}
	*out = s;
	return 0;
}

void mpd_op_spawn(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	BASE_AUTO_FREE bool *ok = calloc(MP_HOST_MAX + 1, sizeof(*ok));
	char place[MPD_PATH_MAX];
	struct request *r;
	struct spawn *s;
	int rc = ok ? request_take(b, &r) : PvmNoMem;

	if (rc) {
		mpd_call_reply(pd, from, rc, NULL, -1);
		return;
	}
	split_where(r, place, sizeof(place));
	rc = choose_hosts(pd, r, place, ok);
	if (!rc)
		rc = spawn_new(pd, from, r, ok, &s);
	if (rc) {
		mpd_call_reply(pd, from, rc, NULL, -1);
		request_free(r);
		return;
	}
	for (int h = 1; h <= pd->host_last; h++) {
		int32_t n = 0;

		for (int32_t i = 0; i < s->count; i++)
			n += s->place[i] == h;
		if (n && h != pd->self)
			spawn_share(pd, s, r, h, n);
	}
	for (int32_t i = 0, n = 0; i < s->count; i++) {
		n += s->place[i] == pd->self;
		if (i == s->count - 1 && n)
			spawn_here(pd, s, r, n);
	}
	request_free(r);
	spawn_done(pd, s);
}
