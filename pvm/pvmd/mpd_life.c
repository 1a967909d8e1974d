/* The daemon from start to end: its directory, lock, log, signals, heartbeat. */
#include <errno.h>
#include <fcntl.h>
#include <pvm3.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_addr.h"

enum { BAIL_MS = 60000, END_MS = 500, SPIN_US = 40, LOOKS = 50 };

static void log_line(struct mpd *pd, const char *text, int len)
{
	char line[1600], when[32];
	time_t now = time(NULL);
	struct tm tm;
	int n;

	localtime_r(&now, &tm);
	strftime(when, sizeof(when), "%m/%d %H:%M:%S", &tm);
	n = snprintf(line, sizeof(line), "[t%x] %s %.*s\n", (unsigned)mp_tid_of_daemon(pd->self),
		     when, BASE_MIN(len, 1400), text);
	if (n > 0 && write(pd->log_fd, line, (size_t)BASE_MIN(n, (int)sizeof(line) - 1)) < 0)
		return;
}

void mpd_log(struct mpd *pd, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n > 0)
		log_line(pd, text, BASE_MIN(n, (int)sizeof(text) - 1));
}

void mpd_log_raw(struct mpd *pd, int32_t tid, const char *text, size_t len)
{
	while (len > 0) {
		const char *end = memchr(text, '\n', len);
		size_t n = end ? (size_t)(end - text) : len, part = BASE_MIN(n, (size_t)1000);

		mpd_log(pd, "[t%x] %.*s", (unsigned)tid, (int)part, text);
		part += end && part == n;
		text += part;
		len -= part;
	}
}

static void expand(const char *s, char *out, size_t cap)
{
	size_t n = 0;

	while (*s && n + 1 < cap) {
		char name[128];
		const char *v;
		size_t k;

		if (*s != '$') {
			out[n++] = *s++;
			continue;
		}
		s++;
		k = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
		snprintf(name, sizeof(name), "%.*s", (int)k, s);
		s += k;
		v = getenv(name);
		for (; v && *v && n + 1 < cap; v++)
			out[n++] = *v;
	}
	out[n] = 0;
}

void mpd_set_path(char **field, const char *value)
{
	char buf[MPD_PATH_MAX * 2];
	char *copy;

	expand(value, buf, sizeof(buf));
	copy = strdup(buf);
	if (!copy)
		return;
	free(*field);
	*field = copy;
}

static void default_paths(struct mpd *pd)
{
	const char *extra = getenv("PVM_PATH"), *debugger = getenv("PVM_DEBUGGER");
	const char *wd = getenv("PVM_WD");
	char path[MPD_PATH_MAX];

	if (!getenv("PVM_ARCH"))
		setenv("PVM_ARCH", "LINUX64", 1);
	snprintf(path, sizeof(path), "%s%s$HOME/pvm3/bin/$PVM_ARCH:$PVM_ROOT/bin/$PVM_ARCH",
		 extra ? extra : "", extra && *extra ? ":" : "");
	mpd_set_path(&pd->epath, path);
	mpd_set_path(&pd->wdir, wd && *wd ? wd : getenv("HOME") ? "$HOME" : "/");
	mpd_set_path(&pd->debugger, debugger && *debugger ? debugger : "$PVM_ROOT/lib/debugger");
}

/* The directory is ours alone; the lock in it lives as long as we do. */
static int setup_dir(struct mpd *pd)
{
	char path[sizeof(pd->dir) + 8];
	struct stat st;
	int rc = mp_path_dir(pd->dir, sizeof(pd->dir) - 8);

	if (!rc)
		rc = mp_path_socket(pd->socket, sizeof(pd->socket));
	if (!rc)
		rc = mp_path_log(pd->log, sizeof(pd->log));
	if (rc)
		return rc;
	if (mkdir(pd->dir, 0700) && errno != EEXIST)
		return -errno;
	if (lstat(pd->dir, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode) || st.st_uid != getuid() || (st.st_mode & 077))
		return -EPERM;
	snprintf(path, sizeof(path), "%s/lock", pd->dir);
	pd->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (pd->lock_fd < 0)
		return -errno;
	if (flock(pd->lock_fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	unlink(pd->socket);
	pd->log_fd = open(pd->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (pd->log_fd < 0)
		return -errno;
	/* One that a daemon before us has filled begins anew. */
	if (pd->log_max && !fstat(pd->log_fd, &st) && st.st_size >= pd->log_max &&
	    ftruncate(pd->log_fd, 0))
		return -errno;
	return 0;
}

static void reap(struct mpd *pd)
{
	struct rusage usage;
	int status;
	pid_t pid;

	for (;;) {
		mpd_exec_look(pd);
		pid = wait4(-1, &status, WNOHANG, &usage);
		if (pid <= 0)
			return;
		mpd_task_reaped(pd, pid, status, &usage);
		mpd_start_reaped(pd, pid, status);
	}
}

static void on_signal(struct base_watch *w, uint32_t events)
{
	struct mpd *pd = base_container_of(w, struct mpd, signals);
	struct signalfd_siginfo si;

	(void)events;
	while (read(w->fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGCHLD) {
			reap(pd);
			continue;
		}
		mpd_log(pd, "signal %u: halting", si.ssi_signo);
		/* As the original's master: its end is the end of all. */
		if (mpd_coordinator(pd) == pd->self)
			mpd_link_all(pd, MP_C_HALT, NULL, 0);
		mpd_stop(pd, 0);
	}
}

static int setup_signals(struct mpd *pd)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	pd->signals = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = on_signal};
	return base_loop_add(pd->loop, &pd->signals);
}

static void check_host(struct mpd *pd, struct mpd_host *h, int64_t now)
{
	int64_t limit = (int64_t)pd->config.host_timeout_ms * BASE_NS_PER_MS;

	if (h->link && now - h->link->last_in_ns > limit)
		mpd_host_lost(pd, h, "silent");
	else if (!h->link && !h->suspect && now - h->since_ns > limit)
		mpd_host_lost(pd, h, "no connection");
	else if (!h->link && h->suspect && now - h->since_ns > 2 * limit)
		/* The coordinator did not decide: it is probably gone itself. */
		mpd_host_delete(pd, h, "no connection, and nobody decided");
}

/* Tasks count themselves; those that died by a signal did not. */
static void count_awake(struct mpd *pd)
{
	int32_t n = 0;

	base_list_foreach (t, &pd->tasks, struct mpd_task, link)
		n += t->seg && !atomic_load(&t->seg->asleep);
	atomic_store(&pd->page->awake, n);
}

/* $PVMDLOGMAX: what comes after that is lost. */
static void check_log(struct mpd *pd)
{
	struct stat st;
	int null;

	if (!pd->log_max || fstat(pd->log_fd, &st) || st.st_size < pd->log_max ||
	    !S_ISREG(st.st_mode))
		return;
	mpd_log(pd, "the log is full: PVMDLOGMAX is %lld bytes", (long long)pd->log_max);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null < 0 || dup3(null, pd->log_fd, O_CLOEXEC) < 0 || dup2(null, 2) < 0)
		return;
	close(null);
}

static void on_beat(struct base_timer *t)
{
	struct mpd *pd = base_container_of(t, struct mpd, beat);
	int64_t now = base_clock_ns();
	uint32_t v[2];

	mpd_load_sample(pd);
	check_log(pd);
	count_awake(pd);
	v[0] = (uint32_t)(pd->busy * 1000);
	v[1] = pd->task_count;
	for (int i = pd->host_last; i >= 1; i--) {
		struct mpd_host *h = pd->hosts[i];

		if (!h || i == pd->self)
			continue;
		if (h->link && h->joined)
			mpd_link_ctl(pd, h, MP_C_BEAT, v, sizeof(v));
		if (pd->hosts[i] == h && (h->member || i == pd->master))
			check_host(pd, h, now);
	}
	mpd_link_tidy(pd, now);
	if (pd->master && !pd->table_version && (!pd->hosts[pd->master] || now > pd->bail_ns)) {
		mpd_log(pd, "never became a member: leaving");
		mpd_stop(pd, 1);
	}
	base_loop_timer(pd->loop, t, now + MPD_BEAT_MS * BASE_NS_PER_MS);
}

static int setup_page(struct mpd *pd)
{
	pd->page_fd = memfd_create("pvm-host", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (pd->page_fd < 0 || ftruncate(pd->page_fd, MP_SEG_HEAD) ||
	    fcntl(pd->page_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return -errno;
	pd->page = mmap(NULL, MP_SEG_HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, pd->page_fd, 0);
	if (pd->page == MAP_FAILED) {
		pd->page = NULL;
		return -errno;
	}
	pd->page->magic = MP_SEG_MAGIC;
	pd->page->cores = pd->cores;
	return 0;
}

static int setup_self(struct mpd *pd)
{
	const char *arch = getenv("PVM_ARCH");
	struct mpd_host *me;

	if (!*pd->config.name && gethostname(pd->config.name, sizeof(pd->config.name) - 1))
		return -errno;
	if (!*pd->config.ip &&
	    mpd_addr_resolve(pd->config.name, pd->config.ip, sizeof(pd->config.ip)))
		*pd->config.ip = 0;
	me = mpd_host_new(pd, pd->self, pd->config.name);
	if (!me)
		return -ENOMEM;
	snprintf(me->arch, sizeof(me->arch), "%s", arch && *arch ? arch : "LINUX64");
	snprintf(me->ip, sizeof(me->ip), "%s", pd->config.ip);
	me->speed = pd->config.speed ? pd->config.speed : 1000;
	me->dsig = MPD_DSIG;
	me->cores = pd->cores;
	me->member = true;
	return 0;
}

static void setup_lists(struct mpd *pd)
{
	struct base_list *lists[] = {&pd->tasks,    &pd->calls,	    &pd->watchers,
				     &pd->host_add, &pd->starts,    &pd->sinks,
				     &pd->choked,   &pd->strangers, &pd->started_waits,
				     &pd->directs,  &pd->tickets,   &pd->dials,
				     &pd->tracers,  &pd->execs};

	for (size_t i = 0; i < BASE_ARRAY_LEN(lists); i++)
		base_list_init(lists[i]);
}

static void setup_limits(struct mpd *pd)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &pd->nofile))
		return;
	r = pd->nofile;
	r.rlim_cur = r.rlim_max;
	/* Without it fewer tasks fit. */
	if (setrlimit(RLIMIT_NOFILE, &r))
		log_warn("descriptor limit stays at %llu", (unsigned long long)pd->nofile.rlim_cur);
	mpd_fds_setup(pd);
}

int mpd_life_setup(struct mpd *pd)
{
	int rc;

	setup_lists(pd);
	setup_limits(pd);
	pd->cores = mpd_load_cores();
	if (!pd->self) {
		pd->self = 1;
		mpd_crypt_random(pd->key, sizeof(pd->key));
	}
	default_paths(pd);
	pd->task_by_local = calloc(MPD_TASK_SLOTS, sizeof(*pd->task_by_local));
	if (!pd->task_by_local)
		return -ENOMEM;
	rc = base_loop_new(&pd->loop);
	rc = rc ? rc : mpd_mbox_new(pd);
	rc = rc ? rc : mpd_start_setup(pd);
	rc = rc ? rc : setup_page(pd);
	rc = rc ? rc : setup_self(pd);
	rc = rc ? rc : setup_dir(pd);
	rc = rc ? rc : setup_signals(pd);
	rc = rc ? rc : mpd_task_listen(pd);
	if (rc)
		return rc;
	mpd_load_sample(pd);
	pd->bail_ns = base_clock_ns() + BAIL_MS * BASE_NS_PER_MS;
	pd->beat.fire = on_beat;
	base_loop_timer(pd->loop, &pd->beat, base_clock_ns() + MPD_BEAT_MS * BASE_NS_PER_MS);
	mpd_log(pd, "%s (%s) %s %s", pd->config.name, pd->config.ip, pd->hosts[pd->self]->arch,
		PVM_VER);
	return 0;
}

/* Sleeps, or looks for a moment. */
static int turn(struct mpd *pd, bool spin)
{
	int rc;

	if (atomic_load(&pd->page->looking) != spin)
		atomic_store(&pd->page->looking, spin);
	for (int i = 0; spin && i < LOOKS && !mpd_quick_news(pd); i++)
		__builtin_ia32_pause();
	/* Those that saw us looking do not wake us. */
	rc = base_loop_step(pd->loop, spin || mpd_quick_news(pd) || mpd_exec_due(pd) ? 0 : -1);
	mpd_quick_serve(pd);
	if (!pd->halting)
		mpd_exec_step(pd);
	return rc;
}

/*
 * After a call of a task the next one is near: for a moment the daemon looks for it without
 * sleeping, unless tasks want all cores. Waking a core costs more than most calls.
 */
int mpd_life_run(struct mpd *pd)
{
	uint64_t seen = 0;
	int64_t until = 0;

	while (!pd->halting) {
		int rc = turn(pd, base_clock_ns() < until);

		if (rc)
			return rc;
		if (pd->calls_served == seen)
			continue;
		seen = pd->calls_served;
		if (atomic_load(&pd->page->awake) < (int32_t)pd->cores)
			until = base_clock_ns() + SPIN_US * BASE_NS_PER_US;
	}
	return pd->exit_code;
}

void mpd_stop(struct mpd *pd, int code)
{
	if (pd->halting)
		return;
	pd->halting = true;
	mpd_exec_look(pd);
	base_list_foreach (t, &pd->tasks, struct mpd_task, link)
		if (t->pid > 0 && !t->reaped)
			kill(t->pid, SIGTERM);
	pd->exit_code = code;
}

/* Those that do not end by SIGTERM end by SIGKILL; only children of ours. */
static void end_children(struct mpd *pd)
{
	int64_t end = base_clock_ns() + END_MS * BASE_NS_PER_MS;
	struct timespec step = {.tv_nsec = 20 * BASE_NS_PER_MS};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid < 0)
			return;
		base_list_foreach (t, &pd->tasks, struct mpd_task, link)
			if (pid > 0 && t->pid == pid)
				t->reaped = true;
		if (pid > 0)
			continue;
		if (base_clock_ns() > end)
			break;
		sigtimedwait(&set, NULL, &step);
	}
	base_list_foreach (t, &pd->tasks, struct mpd_task, link)
		if (t->child && !t->reaped && t->pid > 0)
			kill(t->pid, SIGKILL);
}

void mpd_life_fini(struct mpd *pd)
{
	char path[sizeof(pd->dir) + 8];

	pd->halting = true;
	for (int i = 1; i <= pd->host_last; i++)
		if (pd->hosts[i] && pd->hosts[i]->link)
			mpd_conn_flush(pd->hosts[i]->link, 200);
	end_children(pd);
	base_list_foreach (t, &pd->tasks, struct mpd_task, link)
		mpd_task_unbell(pd, t->tid);
	mpd_log(pd, "pvmd ends");
	if (pd->listen_task.loop)
		unlink(pd->socket);
	if (pd->lock_fd > 0) {
		snprintf(path, sizeof(path), "%s/lock", pd->dir);
		unlink(path);
		rmdir(pd->dir);
	}
	mpd_trace_fini(pd);
	free(pd->contexts);
	pd->contexts = NULL;
	mpd_mbox_free(pd);
	mpd_start_fini(pd);
	mpd_exec_fini(pd);
	explicit_bzero(pd->key, sizeof(pd->key));
}

static bool unhex(const char *s, uint8_t *out, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char pair[3] = {s[2 * i], s[2 * i] ? s[2 * i + 1] : 0, 0}, *end;

		if (!pair[0] || !pair[1])
			return false;
		out[i] = (uint8_t)strtoul(pair, &end, 16);
		if (*end)
			return false;
	}
	return s[2 * n] == 0;
}

static bool number(const char *s, long lo, long hi, int *out)
{
	char *end;
	long v = strtol(s, &end, 10);

	if (end == s || *end || v < lo || v > hi)
		return false;
	*out = (int)v;
	return true;
}

struct orders {
	int master, port;
	char master_name[MPD_NAME_MAX], master_ip[64];
	char ep[MPD_PATH_MAX], wd[MPD_PATH_MAX], bx[MPD_PATH_MAX];
	bool key;
};

static bool order(struct mpd *pd, struct orders *o, const char *name, const char *v)
{
	const struct {
		const char *name;
		char *field;
		size_t cap;
	} texts[] = {{"name", pd->config.name, sizeof(pd->config.name)},
		     {"ip", pd->config.ip, sizeof(pd->config.ip)},
		     {"master_name", o->master_name, sizeof(o->master_name)},
		     {"master_ip", o->master_ip, sizeof(o->master_ip)},
		     {"ep", o->ep, sizeof(o->ep)},
		     {"wd", o->wd, sizeof(o->wd)},
		     {"bx", o->bx, sizeof(o->bx)}};

	for (size_t i = 0; i < BASE_ARRAY_LEN(texts); i++)
		if (!strcmp(name, texts[i].name))
			return (size_t)snprintf(texts[i].field, texts[i].cap, "%s", v) <
			       texts[i].cap;
	if (!strcmp(name, "key"))
		return o->key = unhex(v, pd->key, sizeof(pd->key));
	if (!strcmp(name, "self"))
		return number(v, 1, MP_HOST_MAX, &pd->self);
	if (!strcmp(name, "master"))
		return number(v, 1, MP_HOST_MAX, &o->master);
	if (!strcmp(name, "master_port"))
		return number(v, 1, 65535, &o->port);
	if (!strcmp(name, "timeout"))
		return number(v, 100, 3600000, &pd->config.host_timeout_ms);
	if (!strcmp(name, "speed"))
		return number(v, 0, 1000000, &pd->config.speed);
	if (!strcmp(name, "net"))
		pd->config.sealed |= !strcmp(v, "sealed");
	if (!strcmp(name, "vmid"))
		return !*v || !setenv("PVM_VMID", v, 1);
	/* Of a later version: not for us. */
	return true;
}

int mpd_life_read_orders(struct mpd *pd, FILE *in)
{
	BASE_AUTO_FREE struct orders *o = calloc(1, sizeof(*o));
	char line[MPD_PATH_MAX];

	if (!o)
		return -ENOMEM;
	while (fgets(line, sizeof(line), in) && *line != '\n') {
		char *eq = strchr(line, '=');

		line[strcspn(line, "\r\n")] = 0;
		if (!eq)
			return -EPROTO;
		*eq = 0;
		if (!order(pd, o, line, eq + 1))
			return -EPROTO;
	}
	explicit_bzero(line, sizeof(line));
	if (!o->key || !pd->self || !o->master || !o->port || !*pd->config.ip)
		return -EPROTO;
	pd->master = o->master;
	snprintf(pd->master_name, sizeof(pd->master_name), "%s", o->master_name);
	snprintf(pd->master_ip, sizeof(pd->master_ip), "%s", o->master_ip);
	pd->master_port = (uint16_t)o->port;
	if (*o->ep)
		pd->order_ep = strdup(o->ep);
	if (*o->wd)
		pd->order_wd = strdup(o->wd);
	if (*o->bx)
		pd->order_bx = strdup(o->bx);
	return 0;
}
