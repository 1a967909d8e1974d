/*
 * pangaea vm console: the terminal in raw mode, restored however this ends. What comes from the
 * guest is written as it is: it is meant for the terminal.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "ctl/ctl.h"

enum { CHUNK = 4096, TAIL_MAX = 256 };

static struct termios saved;
static volatile sig_atomic_t raw;

struct attach {
	struct ctl *ctl;
	struct chan_out *out;
	struct base_watch input, winch;
	struct base_timer again, limit; /* input that cannot be polled; --timeout */
	bool over, eof, seen;
	int code;
	/* Typed and not sent for want of credit. */
	size_t held_len;
	uint8_t held[CHUNK];
	/* The end of the output, for --until. */
	char tail[TAIL_MAX + 1];
	size_t tail_len;
};

/* ---- the terminal ---- */

static void terminal_restore(void)
{
	if (raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	raw = 0;
}

static void terminal_signal(int sig)
{
	terminal_restore();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void terminal_raw(void)
{
	static const int ends[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGSEGV, SIGABRT, SIGPIPE};
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved))
		return;
	for (size_t i = 0; i < BASE_ARRAY_LEN(ends); i++)
		signal(ends[i], terminal_signal);
	atexit(terminal_restore);
	t = saved;
	cfmakeraw(&t);
	raw = 1;
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

static void terminal_size(uint16_t *cols, uint16_t *rows)
{
	struct winsize w;

	*cols = *rows = 0;
	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w)) {
		*cols = w.ws_col;
		*rows = w.ws_row;
	}
}

/* ---- towards the guest ---- */

static int send_input(struct attach *a, const struct control_input *in)
{
	uint8_t *body;
	size_t len;
	int rc = control_input_encode(in, &body, &len);

	if (rc)
		return rc;
	rc = chan_out_input(a->out, body, len);
	free(body);
	return rc;
}

static void attach_end(struct attach *a)
{
	chan_out_cancel(a->out);
	a->over = true;
}

static void send_held(struct attach *a)
{
	struct control_input in = {.data = a->held, .len = a->held_len};

	if (a->held_len && !send_input(a, &in))
		a->held_len = 0;
	if (a->held_len)
		base_loop_remove(&a->input);
}

/* Sends what came before the escape key, and leaves there. */
static void take_typed(struct attach *a, const uint8_t *data, size_t len)
{
	const uint8_t *escape = raw ? memchr(data, a->ctl->escape, len) : NULL;

	a->held_len = escape ? (size_t)(escape - data) : len;
	memcpy(a->held, data, a->held_len);
	send_held(a);
	if (escape)
		attach_end(a);
}

static void read_input(struct attach *a)
{
	uint8_t data[CHUNK];
	ssize_t n;

	if (a->held_len || a->eof)
		return;
	n = read(STDIN_FILENO, data, sizeof(data));
	if (n > 0) {
		take_typed(a, data, (size_t)n);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		a->eof = true;
		base_loop_remove(&a->input);
		/* A terminal that has gone ends the session; a finished file or pipe does not. */
		if (raw)
			attach_end(a);
	}
}

static void input_ready(struct base_watch *w, uint32_t events)
{
	read_input(base_container_of(w, struct attach, input));
}

/* Regular files cannot be polled: they are always ready. */
static void input_again(struct base_timer *t)
{
	struct attach *a = base_container_of(t, struct attach, again);

	read_input(a);
	if (!a->eof && !a->over && !a->held_len)
		base_loop_timer(a->ctl->loop, t, 0);
}

static void watch_input(struct attach *a)
{
	int rc;

	if (a->eof)
		return;
	rc = base_loop_add(a->ctl->loop, &a->input);
	if (rc == -EPERM)
		base_loop_timer(a->ctl->loop, &a->again, 0);
	else if (rc)
		log_warn("standard input: %s", strerror(-rc));
}

static void out_credit(void *arg, uint32_t n)
{
	struct attach *a = arg;

	if (!a->held_len)
		return;
	send_held(a);
	if (!a->held_len)
		watch_input(a);
}

static void winch_ready(struct base_watch *w, uint32_t events)
{
	struct attach *a = base_container_of(w, struct attach, winch);
	struct signalfd_siginfo si;
	struct control_input in = {0};

	while (read(w->fd, &si, sizeof(si)) > 0)
		continue;
	terminal_size(&in.cols, &in.rows);
	if (in.cols && in.rows && send_input(a, &in))
		log_debug("the size is not passed on now");
}

/* ---- from the guest ---- */

static bool write_all(const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(STDOUT_FILENO, data, len);
		struct timespec pause = {.tv_nsec = BASE_NS_PER_MS};

		if (n < 0 && errno == EAGAIN)
			nanosleep(&pause, NULL); /* a terminal that someone made non-blocking */
		else if (n < 0 && errno != EINTR)
			return false;
		data += BASE_MAX(n, 0);
		len -= (size_t)BASE_MAX(n, 0);
	}
	return true;
}

/* Does the output end with, or hold, the text of --until? Looked for across messages. */
static bool look_for(struct attach *a, const uint8_t *data, size_t len)
{
	const char *until = a->ctl->until;
	size_t want = until ? strlen(until) : 0;

	for (size_t i = 0; want && i < len; i++) {
		if (a->tail_len == want) {
			memmove(a->tail, a->tail + 1, want - 1);
			a->tail_len--;
		}
		a->tail[a->tail_len++] = (char)data[i];
		if (a->tail_len == want && !memcmp(a->tail, until, want))
			return true;
	}
	return false;
}

static void out_item(void *arg, const void *body, size_t len)
{
	struct attach *a = arg;
	struct control_reply item;
	bool ok;

	if (control_reply_decode(body, len, &item)) {
		a->code = CONTROL_FAILED;
		attach_end(a);
		return;
	}
	ok = write_all(item.data, item.data_len);
	a->seen = a->seen || look_for(a, item.data, item.data_len);
	control_reply_fini(&item);
	if (!ok || a->seen)
		attach_end(a);
	else
		chan_out_grant(a->out, 1);
}

static void out_done(void *arg, int error, const void *body, size_t len)
{
	struct attach *a = arg;
	struct control_reply r;

	a->over = true;
	terminal_restore();
	if (error) {
		a->code = ctl_fail(a->ctl, control_code_of(error), "node %s: %s",
				   a->ctl->talking_to, control_error_text(error));
	} else if (control_reply_decode(body, len, &r)) {
		a->code = ctl_fail(a->ctl, CONTROL_FAILED, "the agent's answer is malformed");
	} else {
		a->code = ctl_check(a->ctl, &r);
		if (!a->code && r.text[0] && a->ctl->progress)
			fprintf(stderr, "\n%s\n", r.text);
		control_reply_fini(&r);
	}
}

static const struct chan_out_ops out_ops = {out_item, out_credit, out_done};

static void limit_fired(struct base_timer *t)
{
	attach_end(base_container_of(t, struct attach, limit));
}

/* ---- the session ---- */

static int open_session(struct attach *a, const char *vm)
{
	struct control_request req = {.op = CONTROL_VM_CONSOLE};
	uint8_t *body;
	size_t len;
	int rc;

	if (!ctl_name(a->ctl, "VM", vm, req.vm) ||
	    (a->ctl->node && !ctl_name(a->ctl, "node", a->ctl->node, req.node)))
		return -EINVAL;
	terminal_size(&req.cols, &req.rows);
	rc = control_request_encode(&req, &body, &len);
	if (rc)
		return rc;
	rc = chan_link_call(a->ctl->link, body, len, CTL_CALL_MS, true, &out_ops, a, &a->out);
	free(body);
	return rc;
}

static int watch_terminal(struct attach *a)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	a->winch = (struct base_watch){.events = EPOLLIN, .ready = winch_ready};
	a->winch.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (a->winch.fd < 0)
		return -errno;
	a->input = (struct base_watch){.fd = STDIN_FILENO, .events = EPOLLIN, .ready = input_ready};
	a->again.fire = input_again;
	a->limit.fire = limit_fired;
	return base_loop_add(a->ctl->loop, &a->winch);
}

static void session_run(struct attach *a, const char *vm)
{
	struct ctl *c = a->ctl;
	int rc = 0;

	if (c->timeout_ms)
		base_loop_timer(c->loop, &a->limit,
				base_clock_ns() + (int64_t)c->timeout_ms * BASE_NS_PER_MS);
	if (isatty(STDIN_FILENO) && c->progress)
		fprintf(stderr, "connected to %s; Ctrl-%c leaves\n", vm, c->escape + '@');
	terminal_raw();
	watch_input(a);
	while (!rc && !a->over)
		rc = base_loop_step(c->loop, -1);
	base_loop_remove(&a->input);
	base_loop_timer_cancel(&a->again);
	base_loop_timer_cancel(&a->limit);
	terminal_restore();
	if (!a->code && c->until && !a->seen)
		a->code = ctl_fail(c, c->timeout_ms ? CONTROL_TIMEOUT : CONTROL_FAILED,
				   "the text '%s' did not come", c->until);
}

int ctl_console_attach(struct ctl *c, const char *vm)
{
	struct attach *a = calloc(1, sizeof(*a));
	int rc = a ? 0 : -ENOMEM, code;

	if (rc)
		return ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc));
	a->ctl = c;
	code = ctl_connect(c);
	if (!code)
		rc = watch_terminal(a);
	if (!code && !rc)
		rc = open_session(a, vm);
	if (rc == -EINVAL)
		code = CONTROL_USAGE;
	else if (rc)
		code = ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc));
	if (!code) {
		session_run(a, vm);
		code = a->code;
	}
	base_loop_remove(&a->winch);
	if (a->winch.fd > 0)
		close(a->winch.fd);
	free(a);
	return code;
}

int ctl_vm_console(struct ctl *c)
{
	if (c->until && (strlen(c->until) > TAIL_MAX || !c->until[0]))
		return ctl_fail(c, CONTROL_USAGE, "--until: 1 to %d characters", TAIL_MAX);
	return ctl_console_attach(c, c->args[0]);
}
