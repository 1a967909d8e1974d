/*
 * pangaea pvm up | run | status | console | down: a parallel virtual machine whose hosts are VMs. What
 * is done in the guests is done by deploy/guest/pangaea-pvm there, reached through the guest
 * channel (ctl/session.h); nothing of it needs a network between us and the guests. The daemons
 * find each other over the guests' network.
 *
 * A daemon is added as everywhere: the first one runs a "remote shell", whose standard input has
 * the secret of the virtual machine. In the guests that shell is a pair of pipes, and we carry what
 * goes through them: out of one guest and into the other, over the cluster's sealed channels.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "base/clock.h"
#include "ctl/session.h"

enum { PVM_VMS_MAX = 64, TEXT_MAX = 16384, LIST_MAX = PVM_VMS_MAX * TEXT_NAME_MAX };

struct pvm_job {
	char vms[PVM_VMS_MAX][TEXT_NAME_MAX];
	size_t count;
};

/* Bytes on the way from one session to another, or kept. */
struct text {
	char data[TEXT_MAX + 1];
	size_t len;
};

static void text_add(struct text *t, const void *data, size_t len)
{
	size_t n = BASE_MIN(len, TEXT_MAX - t->len);

	memcpy(t->data + t->len, data, n);
	t->len += n;
	t->data[t->len] = 0;
}

/* ---- which VMs ---- */

static int job_parse(const struct ctl *c, const char *list, struct pvm_job *job)
{
	char copy[LIST_MAX], *at = copy, *name;

	job->count = 0;
	if (strlen(list) >= sizeof(copy))
		return ctl_fail(c, CONTROL_USAGE, "too many VMs: at most %d", PVM_VMS_MAX);
	memcpy(copy, list, strlen(list) + 1);
	while ((name = strsep(&at, ", \n"))) {
		if (!*name)
			continue;
		for (size_t i = 0; i < job->count; i++)
			if (!strcmp(job->vms[i], name))
				return ctl_fail(c, CONTROL_USAGE, "'%.80s' is there twice", name);
		if (job->count == PVM_VMS_MAX)
			return ctl_fail(c, CONTROL_USAGE, "too many VMs: at most %d", PVM_VMS_MAX);
		if (!ctl_name(c, "VM", name, job->vms[job->count]))
			return CONTROL_USAGE;
		job->count++;
	}
	return job->count ? 0 : ctl_fail(c, CONTROL_USAGE, "say which VMs: --vms A,B,..");
}

static void job_path(const struct ctl *c, char out[CTL_PATH_MAX])
{
	snprintf(out, CTL_PATH_MAX, "%.900s/pvm", c->home);
}

static int job_save(const struct ctl *c, const struct pvm_job *job)
{
	char path[CTL_PATH_MAX];
	FILE *f;

	job_path(c, path);
	f = fopen(path, "we");
	for (size_t i = 0; f && i < job->count; i++)
		fprintf(f, "%s\n", job->vms[i]);
	if (!f || fclose(f))
		return ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(errno));
	return 0;
}

/* Of --vms, or of the last "up". */
static int job_load(const struct ctl *c, struct pvm_job *job)
{
	BASE_AUTO_FILE FILE *f = NULL;
	char path[CTL_PATH_MAX], list[LIST_MAX];
	size_t n;

	if (c->vms)
		return job_parse(c, c->vms, job);
	job_path(c, path);
	f = fopen(path, "re");
	if (!f)
		return ctl_fail(c, CONTROL_NOT_FOUND,
				"there is no virtual machine; 'pangaea pvm up --vms A,B,..' makes "
				"one");
	n = fread(list, 1, sizeof(list) - 1, f);
	list[n] = 0;
	return job_parse(c, list, job);
}

/* ---- one command, its output kept ---- */

struct simple {
	struct ctl_session *session;
	const char *input;
	size_t input_done;
	bool eof;
	struct text *output;
};

static void simple_output(void *ctx, const void *data, size_t len)
{
	text_add(((struct simple *)ctx)->output, data, len);
}

static void simple_wants(void *ctx)
{
	struct simple *s = ctx;
	size_t left = strlen(s->input) - s->input_done;

	if (left)
		s->input_done += ctl_session_input(s->session, s->input + s->input_done, left);
	else if (!s->eof) {
		s->eof = true;
		ctl_session_eof(s->session);
	}
}

static const struct ctl_session_ops simple_ops = {simple_output, simple_wants};

/* Its exit code must be 0; else what it printed is the reason. */
static int simple_run(struct ctl *c, const char *vm, const char *command, const char *input,
		      struct text *output)
{
	struct simple s = {.input = input, .output = output};
	int code;

	output->len = 0;
	output->data[0] = 0;
	code = ctl_session_open(c, vm, command, &simple_ops, &s, &s.session);
	if (code)
		return code;
	code = ctl_session_wait(s.session);
	/* One of ours was reported; the guest's script says itself what is wrong. */
	if (code && output->len)
		code = ctl_fail(c, CONTROL_FAILED, "%s: %s", vm, output->data);
	else if (code == 127)
		code = ctl_fail(
			c, CONTROL_FAILED,
			"%s: its guest has no PVM: make its initrd by 'deploy/guest-image --pvm'",
			vm);
	ctl_session_free(s.session);
	return code;
}

/* ---- adding a daemon ---- */

/* shell: the first guest's pipes, out of it and into it; daemon: the new one; add: the console. */
struct relay {
	struct ctl *ctl;
	const char *vm;
	struct ctl_session *out, *in, *daemon, *add;
	struct text orders, answer, told; /* to the daemon, back from it, of the console */
	bool orders_end, answer_end;
	int code;
};

/* Gives a session what waits for it, and the end when no more will come. */
static void pass(struct ctl_session *to, struct text *t, bool over, bool *ended)
{
	size_t n = to && t->len ? ctl_session_input(to, t->data, t->len) : 0;

	if (n) {
		t->len -= n;
		memmove(t->data, t->data + n, t->len);
		explicit_bzero(t->data + t->len, n);
	}
	if (to && !t->len && over && !*ended) {
		*ended = true;
		ctl_session_eof(to);
	}
}

static void relay_step(struct relay *r)
{
	pass(r->daemon, &r->orders, ctl_session_over(r->out), &r->orders_end);
	pass(r->in, &r->answer, r->daemon && ctl_session_over(r->daemon), &r->answer_end);
}

static void daemon_output(void *ctx, const void *data, size_t len)
{
	text_add(&((struct relay *)ctx)->answer, data, len);
}

static void in_output(void *ctx, const void *data, size_t len)
{
}

static void add_output(void *ctx, const void *data, size_t len)
{
	text_add(&((struct relay *)ctx)->told, data, len);
}

static const struct ctl_session_ops daemon_ops = {.output = daemon_output},
				    in_ops = {.output = in_output},
				    add_ops = {.output = add_output};

/* The first line is the command that starts the daemon. */
static void relay_start_daemon(struct relay *r)
{
	char command[GUEST_COMMAND_MAX + 1], *end = strchr(r->orders.data, '\n');
	size_t used;

	if (!end || r->daemon)
		return;
	*end = 0;
	snprintf(command, sizeof(command), "pangaea-pvm daemon %.900s", r->orders.data);
	used = (size_t)(end + 1 - r->orders.data);
	r->orders.len -= used;
	memmove(r->orders.data, end + 1, r->orders.len);
	r->code = ctl_session_open(r->ctl, r->vm, command, &daemon_ops, r, &r->daemon);
}

static void out_output(void *ctx, const void *data, size_t len)
{
	struct relay *r = ctx;

	text_add(&r->orders, data, len);
}

static const struct ctl_session_ops out_ops = {.output = out_output};

static int relay_open(struct relay *r, const char *first)
{
	char command[128];
	int code;

	snprintf(command, sizeof(command), "pangaea-pvm relay-out %s", r->vm);
	code = ctl_session_open(r->ctl, first, command, &out_ops, r, &r->out);
	if (code)
		return code;
	snprintf(command, sizeof(command), "pangaea-pvm relay-in %s", r->vm);
	code = ctl_session_open(r->ctl, first, command, &in_ops, r, &r->in);
	if (code)
		return code;
	snprintf(command, sizeof(command), "pangaea-pvm add %s", r->vm);
	return ctl_session_open(r->ctl, first, command, &add_ops, r, &r->add);
}

static int add_host(struct ctl *c, const char *first, const char *vm)
{
	struct relay *r = calloc(1, sizeof(*r));
	int code;

	if (!r)
		return ctl_fail(c, CONTROL_FAILED, "out of memory");
	r->ctl = c;
	r->vm = vm;
	code = relay_open(r, first);
	while (!code && !r->code && !ctl_session_over(r->add)) {
		if (base_loop_step(c->loop, -1))
			break;
		relay_start_daemon(r);
		if (!r->code)
			relay_step(r);
	}
	if (!code)
		code = r->code ? r->code : ctl_session_wait(r->add);
	if (code)
		code = ctl_fail(c, CONTROL_FAILED, "%s cannot be added: %s", vm,
				r->told.len ? r->told.data : "its daemon did not start");
	ctl_session_free(r->out);
	ctl_session_free(r->in);
	ctl_session_free(r->daemon);
	ctl_session_free(r->add);
	explicit_bzero(r, sizeof(*r));
	free(r);
	return code;
}

/* ---- up ---- */

/* What each guest's /etc/hosts is to hold. */
static int gather_addresses(struct ctl *c, const struct pvm_job *job, struct text *hosts)
{
	struct text *out = calloc(1, sizeof(*out));
	int code = out ? 0 : CONTROL_FAILED;
	char line[128];

	for (size_t i = 0; !code && i < job->count; i++) {
		code = simple_run(c, job->vms[i], "pangaea-pvm address", "", out);
		if (code)
			break;
		out->data[strcspn(out->data, " \r\n")] = 0;
		snprintf(line, sizeof(line), "%.40s %s\n", out->data, job->vms[i]);
		text_add(hosts, line, strlen(line));
	}
	free(out);
	return code;
}

static int start_all(struct ctl *c, const struct pvm_job *job, const struct text *hosts)
{
	struct text *out = calloc(1, sizeof(*out));
	int code = out ? 0 : CONTROL_FAILED;
	char command[128];

	for (size_t i = 0; !code && i < job->count; i++) {
		snprintf(command, sizeof(command), "pangaea-pvm hosts %s", job->vms[i]);
		code = simple_run(c, job->vms[i], command, hosts->data, out);
	}
	snprintf(command, sizeof(command), "pangaea-pvm start %s", job->vms[0]);
	if (!code)
		code = simple_run(c, job->vms[0], command, "", out);
	free(out);
	for (size_t i = 1; !code && i < job->count; i++) {
		if (c->progress)
			fprintf(stderr, "adding %s\n", job->vms[i]);
		code = add_host(c, job->vms[0], job->vms[i]);
	}
	return code;
}

static int pvm_status(struct ctl *c, const struct pvm_job *job);

int ctl_pvm_up(struct ctl *c)
{
	struct text *hosts = calloc(1, sizeof(*hosts));
	struct pvm_job job;
	int code = hosts ? job_parse(c, c->vms ? c->vms : "", &job) : CONTROL_FAILED;

	if (!code)
		code = gather_addresses(c, &job, hosts);
	if (!code)
		code = start_all(c, &job, hosts);
	if (!code)
		code = job_save(c, &job);
	free(hosts);
	if (!code && !c->quiet)
		code = pvm_status(c, &job);
	return code;
}

/* ---- status, down ---- */

static void print_clean(const char *text)
{
	for (const char *p = text; *p; p++)
		if (*p == '\n' || *p == '\t' || (unsigned char)*p >= ' ')
			putchar(*p);
}

static int pvm_status(struct ctl *c, const struct pvm_job *job)
{
	struct text *out = calloc(1, sizeof(*out));
	struct print_json j = {.f = stdout};
	int code = out ? simple_run(c, job->vms[0], "pangaea-pvm status", "", out) : CONTROL_FAILED;

	if (!code && c->json) {
		print_json_open(&j, NULL, '{');
		print_json_open(&j, "vms", '[');
		for (size_t i = 0; i < job->count; i++)
			print_json_text(&j, NULL, job->vms[i]);
		print_json_close(&j, ']');
		print_json_text(&j, "status", out->data);
		print_json_close(&j, '}');
		putchar('\n');
	} else if (!code) {
		print_clean(out->data);
	}
	free(out);
	return code;
}

static int pvm_down(struct ctl *c, const struct pvm_job *job)
{
	struct text *out = calloc(1, sizeof(*out));
	char path[CTL_PATH_MAX];
	int code = out ? simple_run(c, job->vms[0], "pangaea-pvm halt", "", out) : CONTROL_FAILED;

	free(out);
	job_path(c, path);
	if (!code && unlink(path) && errno != ENOENT)
		code = ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(errno));
	return code;
}

/* ---- run, console ---- */

struct attached {
	struct ctl_session *session;
	struct base_watch input, signals;
	struct ctl *ctl;
	bool with_input, eof;
	size_t held_len;
	uint8_t held[GUEST_DATA_MAX];
};

static void attached_output(void *ctx, const void *data, size_t len)
{
	fwrite(data, 1, len, stdout);
	fflush(stdout);
}

static void attached_send(struct attached *a)
{
	size_t n = a->held_len ? ctl_session_input(a->session, a->held, a->held_len) : 0;

	a->held_len -= n;
	memmove(a->held, a->held + n, a->held_len);
}

static void attached_read(struct base_watch *w, uint32_t events)
{
	struct attached *a = base_container_of(w, struct attached, input);
	ssize_t n = read(w->fd, a->held + a->held_len, sizeof(a->held) - a->held_len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (w->loop)
		base_loop_remove(w); /* until this is on its way */
	if (n <= 0) {
		a->eof = true;
		ctl_session_eof(a->session);
		return;
	}
	a->held_len += (size_t)n;
	attached_send(a);
}

static void attached_wants(void *ctx)
{
	struct attached *a = ctx;

	if (!a->session || a->eof)
		return;
	if (!a->with_input) {
		a->eof = true;
		ctl_session_eof(a->session);
		return;
	}
	attached_send(a);
	/* A file cannot be polled: it is always ready. */
	if (!a->held_len && !a->input.loop && base_loop_add(a->ctl->loop, &a->input))
		attached_read(&a->input, EPOLLIN);
}

static const struct ctl_session_ops attached_ops = {attached_output, attached_wants};

static void attached_signal(struct base_watch *w, uint32_t events)
{
	struct attached *a = base_container_of(w, struct attached, signals);
	struct signalfd_siginfo si;

	while (read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		ctl_session_kill(a->session);
}

/* Ctrl-C ends the command in the guest. */
static int attached_watch_signals(struct attached *a)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	a->signals = (struct base_watch){.events = EPOLLIN, .ready = attached_signal};
	a->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return a->signals.fd < 0 ? -errno : base_loop_add(a->ctl->loop, &a->signals);
}

static int attach(struct ctl *c, const char *vm, const char *command, bool with_input)
{
	struct attached *a = calloc(1, sizeof(*a));
	int code = a ? ctl_connect(c) : CONTROL_FAILED;

	if (code) {
		free(a);
		return code;
	}
	a->ctl = c;
	a->with_input = with_input;
	a->input = (struct base_watch){.fd = 0, .events = EPOLLIN, .ready = attached_read};
	if (attached_watch_signals(a))
		code = ctl_fail(c, CONTROL_FAILED, "signals: %s", strerror(errno));
	if (!code)
		code = ctl_session_open(c, vm, command, &attached_ops, a, &a->session);
	if (!code)
		code = ctl_session_wait(a->session);
	ctl_session_free(a->session);
	if (a->input.loop)
		base_loop_remove(&a->input);
	if (a->signals.loop)
		base_loop_remove(&a->signals);
	free(a);
	return code;
}

/* Adds ' and the word and ', for a shell; false: it does not fit. */
static bool add_quoted(char *out, size_t cap, const char *word)
{
	size_t n = strlen(out);

	if (n + 3 >= cap)
		return false;
	out[n++] = ' ';
	out[n++] = '\'';
	for (; *word && n + 6 < cap; word++) {
		if (*word == '\'') {
			memcpy(out + n, "'\\''", 4);
			n += 4;
		} else {
			out[n++] = *word;
		}
	}
	out[n++] = '\'';
	out[n] = 0;
	return !*word;
}

static int pvm_run(struct ctl *c, const struct pvm_job *job)
{
	char command[GUEST_COMMAND_MAX + 1];
	bool fits = true;

	if (c->tasks)
		snprintf(command, sizeof(command), "pangaea-pvm spawn %u", c->tasks);
	else
		snprintf(command, sizeof(command), "pangaea-pvm run");
	for (int i = 0; fits && i < c->arg_count; i++)
		fits = add_quoted(command, sizeof(command), c->args[i]);
	if (!fits)
		return ctl_fail(c, CONTROL_USAGE, "the command is too long");
	return attach(c, job->vms[0], command, false);
}

int ctl_pvm_run(struct ctl *c)
{
	struct pvm_job job;
	int code = job_load(c, &job);

	return code ? code : pvm_run(c, &job);
}

int ctl_pvm_status(struct ctl *c)
{
	struct pvm_job job;
	int code = job_load(c, &job);

	return code ? code : pvm_status(c, &job);
}

int ctl_pvm_console(struct ctl *c)
{
	struct pvm_job job;
	int code = job_load(c, &job);

	return code ? code : attach(c, job.vms[0], "pangaea-pvm console", true);
}

int ctl_pvm_down(struct ctl *c)
{
	struct pvm_job job;
	int code = job_load(c, &job);

	return code ? code : pvm_down(c, &job);
}
