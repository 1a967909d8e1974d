/*
 * Adding and deleting hosts: the coordinator's work. A new daemon is started by $PVM_RSH (ssh); the
 * secret of the virtual machine and all else it must know go through its standard input, never the
 * command line. It prints one line, goes to the background and joins by a link. When all hosts of
 * a call have joined or failed, the table with the new ones goes to everybody.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pvm3.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_addr.h"
#include "pvm/pvmd/mpd_start.h"

enum { START_TIMEOUT_MS = 60000, MANUAL_TIMEOUT_MS = 300000, BATCH_MAX = 1024 };

extern char **environ;

struct mpd_defaults {
	struct mpd_hostline base;
	struct mpd_hostline *known; /* lines with "&", and options of started ones */
	size_t count;
};

struct batch {
	struct mpd *pd;
	struct mpd_from from;
	pthread_t thread;
	int left;
	uint32_t count;
	struct mpd_start *starts;
};

/* Addresses: by a thread, because a name server may take its time and the daemon may not. */

/* The address of ours that reaches `ip`. */
static int route_to(const char *ip, char *out, size_t cap)
{
	BASE_AUTO_FD int fd = -1;
	struct mpd_addr a;

	if (mpd_addr_parse(ip, 9, &a))
		return -EHOSTUNREACH;
	fd = socket(a.sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a.sa, a.len))
		return -EHOSTUNREACH;
	a.len = sizeof(a.sa);
	if (getsockname(fd, (struct sockaddr *)&a.sa, &a.len) ||
	    mpd_addr_text((struct sockaddr *)&a.sa, a.len, out, cap))
		return -EHOSTUNREACH;
	return 0;
}

/* The first other host: from now on we listen, on the address that it can reach. */
static int listen_first(struct mpd *pd, const char *peer_ip)
{
	struct mpd_host *me = pd->hosts[pd->self];

	if (pd->listen_host.loop)
		return 0;
	if (!strcmp(pd->config.ip, "") || !strncmp(pd->config.ip, "127.", 4) ||
	    !strcmp(pd->config.ip, "::1")) {
		if (route_to(peer_ip, me->ip, sizeof(me->ip)))
			return -EHOSTUNREACH;
	} else {
		snprintf(me->ip, sizeof(me->ip), "%s", pd->config.ip);
	}
	return mpd_link_listen(pd);
}

static void hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", p[i]);
}

void mpd_start_config(struct mpd_start *s, char *out, size_t cap)
{
	struct mpd *pd = s->pd;
	const struct mpd_host *me = pd->hosts[pd->self];
	const char *vmid = *s->line.vmid ? s->line.vmid : getenv("PVM_VMID");
	char key[2 * MPD_KEY_LEN + 1];

	hex(pd->key, sizeof(pd->key), key);
	snprintf(out, cap,
		 "key=%s\nself=%d\nname=%s\nip=%s\nmaster=%d\nmaster_name=%s\nmaster_ip=%s\n"
		 "master_port=%u\ntimeout=%d\nvmid=%s\nspeed=%d\nep=%s\nwd=%s\nbx=%s\nnet=%s\n\n",
		 key, s->host, s->line.name, s->ip, pd->self, me->name, me->ip, me->port,
		 pd->config.host_timeout_ms, vmid ? vmid : "", s->line.speed, s->line.path,
		 s->line.dir, s->line.debugger, pd->config.sealed ? "sealed" : "direct");
	explicit_bzero(key, sizeof(key));
}

const char *mpd_start_program(const struct mpd_start *s, char *own, size_t cap)
{
	const char *env = getenv("PVM_DPATH");
	ssize_t n;

	if (*s->line.daemon)
		return s->line.daemon;
	if (env && *env)
		return env;
	n = readlink("/proc/self/exe", own, cap - 1);
	if (n <= 0)
		return "pvmd3";
	own[n] = 0;
	return own;
}

/* so=pw: it may ask at our terminal. */
static bool may_ask(const struct mpd_start *s)
{
	return !strcmp(s->line.start, "pw");
}

static void warn_asker(const struct mpd_start *s)
{
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);

	if (fd >= 0)
		close(fd);
	else
		mpd_log(s->pd,
			"%s has so=pw, but there is no terminal to ask at: start pvmd3 in one",
			s->line.name);
}

/* Runs the remote shell; *in and *out are our ends of its pipes. */
static int start_shell(struct mpd_start *s, int *in, int *out)
{
	const char *rsh = getenv("PVM_RSH");
	char own[MPD_PATH_MAX], command[MPD_PATH_MAX + 512], *argv[12];
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none;
	int to[2], from[2], n = 0, rc;

	snprintf(command, sizeof(command), "%s -s -d0x%x -n%s",
		 mpd_start_program(s, own, sizeof(own)), s->pd->config.debug, s->line.name);
	argv[n++] = (char *)(rsh && *rsh ? rsh : "ssh");
	if (!rsh || !*rsh) {
		argv[n++] = (char *)"-x";
		argv[n++] = (char *)(may_ask(s) ? "-oBatchMode=no" : "-oBatchMode=yes");
		argv[n++] = (char *)"-oConnectTimeout=20";
	}
	if (*s->line.login) {
		argv[n++] = (char *)"-l";
		argv[n++] = s->line.login;
	}
	argv[n++] = s->line.name;
	argv[n++] = command;
	argv[n] = NULL;
	if (pipe2(to, O_CLOEXEC))
		return -errno;
	if (pipe2(from, O_CLOEXEC)) {
		rc = -errno;
		close(to[0]);
		close(to[1]);
		return rc;
	}
	sigemptyset(&none);
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	/* In a group of its own it could not read from the terminal. */
	posix_spawnattr_setflags(&attr, (short)(POSIX_SPAWN_SETSIGMASK |
						(may_ask(s) ? 0 : POSIX_SPAWN_SETPGROUP)));
	posix_spawn_file_actions_adddup2(&fa, to[0], 0);
	posix_spawn_file_actions_adddup2(&fa, from[1], 1);
	if (may_ask(s))
		warn_asker(s);
	rc = -posix_spawnp(&s->pid, argv[0], &fa, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&attr);
	close(to[0]);
	close(from[1]);
	if (rc) {
		s->pid = 0;
		close(to[1]);
		close(from[0]);
		return rc;
	}
	*in = to[1];
	*out = from[0];
	return 0;
}

/* The one line of the new daemon, or the name of an error. */
void mpd_start_line(struct mpd_start *s, const char *line)
{
	static const struct {
		const char *name;
		int code;
	} errors[] = {{"PvmDupHost", PvmDupHost},
		      {"PvmDSysErr", PvmDSysErr},
		      {"PvmCantStart", PvmCantStart},
		      {"PvmBadVersion", PvmBadVersion}};

	s->told = true;
	log_info("host %s answers: %s", s->line.name, line);
	for (size_t i = 0; i < BASE_ARRAY_LEN(errors); i++)
		if (strstr(line, errors[i].name)) {
			mpd_start_result(s, errors[i].code);
			return;
		}
	if (!strstr(line, "ddpro<"))
		mpd_start_result(s, PvmCantStart);
}

static void start_out_close(struct mpd_start *s)
{
	if (!s->out.loop)
		return;
	base_loop_remove(&s->out);
	close(s->out.fd);
}

static void start_ready(struct base_watch *w, uint32_t events)
{
	struct mpd_start *s = base_container_of(w, struct mpd_start, out);
	ssize_t n = read(w->fd, s->text + s->text_len, sizeof(s->text) - 1 - s->text_len);
	char *end;

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		start_out_close(s);
		if (!s->told)
			mpd_start_result(s, PvmCantStart);
		return;
	}
	s->text_len += (size_t)n;
	s->text[s->text_len] = 0;
	while ((end = strchr(s->text, '\n'))) {
		*end = 0;
		/* Shells greet; only our line counts. */
		if (!s->told && (strstr(s->text, "ddpro<") || strstr(s->text, "Pvm")))
			mpd_start_line(s, s->text);
		s->text_len -= (size_t)(end + 1 - s->text);
		memmove(s->text, end + 1, s->text_len + 1);
		if (!s->out.loop)
			return;
	}
	if (s->text_len == sizeof(s->text) - 1)
		s->text_len = 0;
}

static void start_timeout(struct base_timer *t)
{
	struct mpd_start *s = base_container_of(t, struct mpd_start, timer);

	mpd_log(s->pd, "host %s did not answer in time", s->line.name);
	if (s->pid > 0)
		kill(may_ask(s) ? s->pid : -s->pid, SIGKILL);
	mpd_start_result(s, PvmCantStart);
}

int mpd_start_listen_to(struct mpd_start *s, int fd)
{
	s->told = false;
	s->text_len = 0;
	s->out = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = start_ready};
	if (!base_loop_add(s->pd->loop, &s->out))
		return 0;
	close(fd);
	mpd_start_result(s, PvmOutOfRes);
	return -ENOMEM;
}

static void start_arm(struct mpd_start *s, int64_t ms)
{
	s->timer.fire = start_timeout;
	base_loop_timer(s->pd->loop, &s->timer, base_clock_ns() + ms * BASE_NS_PER_MS);
}

static void start_run(struct mpd_start *s)
{
	struct mpd *pd = s->pd;
	char config[8192];
	int in = -1, out = -1, rc;

	rc = listen_first(pd, s->ip);
	if (!rc && pd->next_host > MP_HOST_MAX)
		rc = -ENOSPC;
	if (rc) {
		mpd_log(pd, "cannot add %s: %s", s->line.name, strerror(-rc));
		mpd_start_result(s, rc == -ENOSPC ? PvmOutOfRes : PvmIPLoopback);
		return;
	}
	s->host = pd->next_host++;
	if (pd->role_tid[MP_ROLE_HOSTER]) {
		s->by_hoster = true;
		start_arm(s, START_TIMEOUT_MS);
		return;
	}
	if (!strcmp(s->line.start, "ms")) {
		s->manual = MPD_MANUAL_WAITS;
		start_arm(s, MANUAL_TIMEOUT_MS);
		mpd_manual_next(pd);
		return;
	}
	rc = start_shell(s, &in, &out);
	if (rc) {
		mpd_log(pd, "cannot start host %s: %s", s->line.name, strerror(-rc));
		mpd_start_result(s, PvmCantStart);
		return;
	}
	mpd_start_config(s, config, sizeof(config));
	/* Below the size of a pipe, so it does not block. */
	if (write(in, config, strlen(config)) != (ssize_t)strlen(config))
		log_warn("host %s: short write", s->line.name);
	explicit_bzero(config, sizeof(config));
	close(in);
	fcntl(out, F_SETFL, O_NONBLOCK);
	if (mpd_start_listen_to(s, out))
		return;
	start_arm(s, START_TIMEOUT_MS);
}

struct started_wait {
	struct base_list link;
	struct mpd_from from;
};

static void tell_started(struct mpd *pd)
{
	if (!base_list_empty(&pd->starts))
		return;
	base_list_foreach_safe (w, &pd->started_waits, struct started_wait, link) {
		base_list_del(&w->link);
		mpd_call_reply(pd, &w->from, 0, NULL, -1);
		free(w);
	}
}

void mpd_op_started(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct started_wait *w = calloc(1, sizeof(*w));

	(void)b;
	if (!w) {
		mpd_call_reply(pd, from, PvmNoMem, NULL, -1);
		return;
	}
	w->from = *from;
	base_list_add_tail(&pd->started_waits, &w->link);
	tell_started(pd);
}

static void batch_reply(struct mpd *pd, void *arg)
{
	struct batch *b = arg;
	struct base_wbuf out;

	base_wbuf_init(&out, MP_FRAME_MAX);
	base_wbuf_u32(&out, b->count);
	for (uint32_t i = 0; i < b->count; i++)
		base_wbuf_u32(&out, (uint32_t)b->starts[i].result);
	mpd_call_reply(pd, &b->from, 0, &out, -1);
	base_wbuf_fini(&out);
	for (uint32_t i = 0; i < b->count; i++) {
		base_loop_timer_cancel(&b->starts[i].timer);
		start_out_close(&b->starts[i]);
		base_list_del(&b->starts[i].link);
	}
	free(b->starts);
	free(b);
	tell_started(pd);
}

static void batch_commit(struct batch *b)
{
	struct mpd *pd = b->pd;
	int32_t tids[BATCH_MAX];
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->count; i++) {
		struct mpd_start *s = &b->starts[i];
		struct mpd_host *h = s->result > 0 ? pd->hosts[s->host] : NULL;

		if (s->result > 0 && !h)
			s->result = PvmHostFail;
		if (!h)
			continue;
		h->member = true;
		h->since_ns = base_clock_ns();
		tids[n++] = s->result;
		mpd_log(pd, "host %s (%s) is in as t%x", h->name, h->ip, (unsigned)s->result);
	}
	if (!n) {
		batch_reply(pd, b);
		return;
	}
	for (uint32_t i = 0; i < n; i++)
		mpd_mbox_dump(pd, pd->hosts[mp_tid_host(tids[i])]);
	mpd_notify_host_added(pd, tids, n);
	mpd_table_publish(pd, batch_reply, b);
}

void mpd_start_result(struct mpd_start *s, int32_t result)
{
	struct mpd *pd = s->pd;
	bool manual = s->manual != MPD_MANUAL_NO;

	if (s->result)
		return;
	s->result = result;
	base_loop_timer_cancel(&s->timer);
	if (result < 0)
		start_out_close(s);
	if (--s->batch->left == 0)
		batch_commit(s->batch);
	if (manual)
		mpd_manual_next(pd);
}

void mpd_start_joined(struct mpd *pd, int host)
{
	base_list_foreach (s, &pd->starts, struct mpd_start, link)
		if (s->host == host && !s->result) {
			struct mpd_host *h = pd->hosts[host];

			snprintf(h->name, sizeof(h->name), "%s", s->line.name);
			mpd_start_result(s, host << MP_TID_HOST_SHIFT);
			return;
		}
	/* Not ours: perhaps the coordinator's, whose table is on the way. */
}

/* host 0: any */
struct mpd_start *mpd_start_hosted(struct mpd *pd, int host)
{
	base_list_foreach (s, &pd->starts, struct mpd_start, link)
		if (s->by_hoster && !s->result && (!host || s->host == host))
			return s;
	return NULL;
}

void mpd_start_reaped(struct mpd *pd, pid_t pid, int status)
{
	base_list_foreach (s, &pd->starts, struct mpd_start, link)
		if (s->pid == pid) {
			s->pid = 0;
			log_debug("remote shell for %s ended with %d", s->line.name, status);
			return;
		}
}

static void batch_resolved(void *arg)
{
	struct batch *b = arg;

	pthread_join(b->thread, NULL);
	/* Held until all are begun, so that an early failure does not end the batch. */
	b->left++;
	for (uint32_t i = 0; i < b->count; i++) {
		struct mpd_start *s = &b->starts[i];

		if (!s->result && !*s->ip)
			mpd_start_result(s, PvmNoHost);
		if (!s->result)
			start_run(s);
	}
	mpd_hoster_ask(b->pd, b->starts, b->count);
	if (--b->left == 0)
		batch_commit(b);
}

static void *batch_resolve(void *arg)
{
	struct batch *b = arg;

	for (uint32_t i = 0; i < b->count; i++) {
		struct mpd_start *s = &b->starts[i];

		if (!s->result &&
		    mpd_addr_resolve(*s->line.ip ? s->line.ip : s->line.name, s->ip, sizeof(s->ip)))
			s->ip[0] = 0;
	}
	while (base_loop_post(b->pd->loop, batch_resolved, b))
		usleep(1000);
	return NULL;
}

static void batch_go(struct batch *b)
{
	struct mpd *pd = b->pd;
	sigset_t all, old;
	int rc;

	for (uint32_t i = 0; i < b->count; i++) {
		struct mpd_start *s = &b->starts[i];

		s->batch = b;
		s->pd = pd;
		if (!s->result)
			b->left++;
		base_list_add_tail(&pd->starts, &s->link);
	}
	if (!b->left) {
		batch_reply(pd, b);
		return;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&b->thread, NULL, batch_resolve, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		for (uint32_t i = 0; i < b->count; i++)
			b->starts[i].result = PvmOutOfRes;
		batch_reply(pd, b);
	}
}

static struct batch *batch_new(struct mpd *pd, const struct mpd_from *from, uint32_t n)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->pd = pd;
	b->from = *from;
	b->count = n;
	b->starts = calloc(BASE_MAX(n, 1u), sizeof(*b->starts));
	if (!b->starts) {
		free(b);
		return NULL;
	}
	for (uint32_t i = 0; i < n; i++)
		base_list_init(&b->starts[i].link);
	return b;
}

static const struct mpd_hostline *known_line(const struct mpd *pd, const char *name)
{
	const struct mpd_defaults *d = pd->defaults;
	size_t n = strcspn(name, " \t");

	for (size_t i = 0; d && i < d->count; i++)
		if (!strncmp(d->known[i].name, name, n) && !d->known[i].name[n])
			return &d->known[i];
	return d ? &d->base : NULL;
}

static int32_t start_check(struct mpd *pd, struct batch *b, uint32_t i, const char *text)
{
	struct mpd_start *s = &b->starts[i];
	char why[160] = "";

	if (mpd_hostline_parse(text, known_line(pd, text), &s->line, why, sizeof(why)) ||
	    !*s->line.name) {
		mpd_log(pd, "add: %s", *why ? why : "no host name");
		return PvmBadParam;
	}
	if (mpd_host_find(pd, s->line.name))
		return PvmDupHost;
	for (uint32_t k = 0; k < i; k++)
		if (!strcmp(b->starts[k].line.name, s->line.name))
			return PvmDupHost;
	base_list_foreach (o, &pd->starts, struct mpd_start, link)
		if (!strcmp(o->line.name, s->line.name))
			return PvmAlready;
	return 0;
}

void mpd_op_addhosts(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_rbuf whole = *b;
	uint32_t n = base_rbuf_u32(b);
	struct batch *batch;

	if (mpd_coordinator(pd) != pd->self && !from->host) {
		mpd_call_forward(pd, from, mpd_coordinator(pd), MP_OP_ADDHOSTS, &whole);
		return;
	}
	if (b->error || n < 1 || n > BATCH_MAX) {
		mpd_call_reply(pd, from, PvmBadParam, NULL, -1);
		return;
	}
	batch = batch_new(pd, from, n);
	if (!batch) {
		mpd_call_reply(pd, from, PvmNoMem, NULL, -1);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		char text[MPD_PATH_MAX];

		base_rbuf_str(b, text, sizeof(text));
		batch->starts[i].result = b->error ? PvmBadParam : start_check(pd, batch, i, text);
	}
	batch_go(batch);
}

struct leave {
	struct mpd_from from;
	uint32_t count;
	bool self;
	int32_t results[BATCH_MAX];
};

static void delhosts_done(struct mpd *pd, void *arg)
{
	struct leave *l = arg;
	struct base_wbuf out;

	base_wbuf_init(&out, MP_FRAME_MAX);
	base_wbuf_u32(&out, l->count);
	for (uint32_t i = 0; i < l->count; i++)
		base_wbuf_u32(&out, (uint32_t)l->results[i]);
	mpd_call_reply(pd, &l->from, 0, &out, -1);
	base_wbuf_fini(&out);
	if (l->self)
		mpd_stop(pd, 0);
	free(l);
}

void mpd_op_delhosts(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_rbuf whole = *b;
	uint32_t n = base_rbuf_u32(b);
	struct leave *l;

	if (mpd_coordinator(pd) != pd->self && !from->host) {
		mpd_call_forward(pd, from, mpd_coordinator(pd), MP_OP_DELHOSTS, &whole);
		return;
	}
	l = n >= 1 && n <= BATCH_MAX ? calloc(1, sizeof(*l)) : NULL;
	if (!l || b->error) {
		free(l);
		mpd_call_reply(pd, from, PvmBadParam, NULL, -1);
		return;
	}
	l->from = *from;
	l->count = n;
	for (uint32_t i = 0; i < n; i++) {
		char name[MPD_NAME_MAX];
		struct mpd_host *h;

		base_rbuf_str(b, name, sizeof(name));
		h = b->error ? NULL : mpd_host_find(pd, name);
		l->results[i] = h ? 0 : PvmNoHost;
		if (h && h->id == pd->self) {
			/* The original's master cannot be deleted, and programs rely on it. */
			l->results[i] = PvmBadParam;
		} else if (h) {
			mpd_link_ctl(pd, h, MP_C_HALT, NULL, 0);
			mpd_host_delete(pd, h, "deleted");
		}
	}
	mpd_table_publish(pd, delhosts_done, l);
}

static int hostfile_line(struct mpd *pd, const char *line, int number, struct batch *b)
{
	struct mpd_defaults *d = pd->defaults;
	struct mpd_hostline h, *known;
	char why[160];

	if (mpd_hostline_parse(line, &d->base, &h, why, sizeof(why))) {
		mpd_log(pd, "host file, line %d: %s", number, why);
		return -EINVAL;
	}
	if (h.defaults)
		d->base = h;
	if (!*h.name)
		return 0;
	known = reallocarray(d->known, d->count + 1, sizeof(*known));
	if (!known)
		return -ENOMEM;
	d->known = known;
	d->known[d->count++] = h;
	if (h.later || b->count >= BATCH_MAX)
		return 0;
	if (mpd_host_find(pd, h.name)) {
		mpd_host_options(pd, &h);
		return 0;
	}
	b->starts[b->count++].line = h;
	return 0;
}

/* The own line of a host file gives paths and speed of this host. */
void mpd_host_options(struct mpd *pd, const struct mpd_hostline *h)
{
	if (h->speed)
		pd->hosts[pd->self]->speed = h->speed;
	if (*h->path)
		mpd_set_path(&pd->epath, h->path);
	if (*h->dir)
		mpd_set_path(&pd->wdir, h->dir);
	if (*h->debugger)
		mpd_set_path(&pd->debugger, h->debugger);
}

int mpd_start_hostfile(struct mpd *pd, const char *path)
{
	BASE_AUTO_FILE FILE *f = fopen(path, "re");
	struct mpd_from nobody = {.tid = 0};
	char line[MPD_PATH_MAX];
	struct batch *b;
	int number = 0, rc = 0;

	if (!f) {
		mpd_log(pd, "host file %s: %s", path, strerror(errno));
		return -errno;
	}
	b = batch_new(pd, &nobody, BATCH_MAX);
	if (!b)
		return -ENOMEM;
	b->count = 0;
	while (!rc && fgets(line, sizeof(line), f))
		rc = hostfile_line(pd, line, ++number, b);
	if (rc || !b->count) {
		free(b->starts);
		free(b);
		return rc;
	}
	batch_go(b);
	return 0;
}

int mpd_start_setup(struct mpd *pd)
{
	pd->defaults = calloc(1, sizeof(*pd->defaults));
	return pd->defaults ? 0 : -ENOMEM;
}

void mpd_start_fini(struct mpd *pd)
{
	if (pd->defaults)
		free(pd->defaults->known);
	free(pd->defaults);
	pd->defaults = NULL;
}
