#include "node/guest/session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"

struct session {
	struct base_list link;
	struct guest_helper *helper;
	uint64_t id, taken; /* the number of the last open, in or eof */
	pid_t pid;	    /* 0: reaped */
	int status;
	struct base_watch in, out; /* our ends of its standard input and output; -1: closed */
	/* Output from byte `got` on; the first `sent - got` bytes are on the way. */
	uint64_t got, sent;
	size_t len;
	struct base_timer timer;
	int64_t heard_ns, progress_ns;
	size_t in_len, in_done; /* one "in" at a time: acknowledged when written */
	uint8_t in_data[GUEST_DATA_MAX];
	uint8_t data[SESSION_BUFFER];
};

static void session_pump(struct session *s);

static void say(const struct session *s, enum guest_verb verb, uint64_t number)
{
	struct guest_line l = {.direction = '<', .session = s->id, .verb = verb, .number = number};

	s->helper->send(&l);
}

static void close_end(struct base_watch *w)
{
	if (w->loop)
		base_loop_remove(w);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

static void session_free(struct session *s)
{
	if (s->pid)
		kill(-s->pid, SIGHUP);
	close_end(&s->in);
	close_end(&s->out);
	base_loop_timer_cancel(&s->timer);
	base_list_del(&s->link);
	s->helper->session_count--;
	free(s);
}

/* ---- output ---- */

static void send_output(struct session *s)
{
	struct guest_line l = {.direction = '<', .session = s->id, .verb = GUEST_OUT};

	while (s->sent < s->got + s->len && s->sent - s->got < GUEST_WINDOW) {
		size_t from = (size_t)(s->sent - s->got);

		l.number = s->sent;
		l.len = BASE_MIN(s->len - from, (size_t)GUEST_DATA_MAX);
		memcpy(l.data, s->data + from, l.len);
		s->helper->send(&l);
		s->sent += l.len;
	}
}

static bool is_over(const struct session *s)
{
	return !s->pid && s->out.fd < 0;
}

/* Sends what may go; once all of it has arrived, the end. */
static void session_pump(struct session *s)
{
	send_output(s);
	if (is_over(s) && !s->len) {
		struct guest_line l = {
			.direction = '<', .session = s->id, .verb = GUEST_EXIT, .number = s->got};

		l.data[0] = (uint8_t)s->status;
		l.len = 1;
		s->helper->send(&l);
	}
}

static void read_output(struct session *s)
{
	ssize_t n;

	while (s->out.fd >= 0 && s->len < SESSION_BUFFER) {
		n = read(s->out.fd, s->data + s->len, SESSION_BUFFER - s->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n > 0)
			s->len += (size_t)n;
		else
			close_end(&s->out);
	}
	/* A daemon that the command left behind may hold the pipe: the command's end counts. */
	if (!s->pid && s->out.fd >= 0 && s->len < SESSION_BUFFER)
		close_end(&s->out);
	if (s->out.loop && s->len == SESSION_BUFFER)
		base_loop_remove(&s->out);
	session_pump(s);
}

static void out_ready(struct base_watch *w, uint32_t events)
{
	read_output(base_container_of(w, struct session, out));
}

static void take_got(struct session *s, uint64_t number)
{
	uint64_t n = number - s->got;

	if (number < s->got || n > s->len)
		return;
	if (n)
		s->progress_ns = base_clock_ns();
	memmove(s->data, s->data + n, s->len - (size_t)n);
	s->len -= (size_t)n;
	s->got = number;
	s->sent = BASE_MAX(s->sent, s->got);
	if (s->out.fd >= 0 && !s->out.loop && base_loop_add(s->helper->loop, &s->out))
		log_warn("no output can be read");
	session_pump(s);
}

/* ---- input ---- */

static void write_input(struct session *s)
{
	while (s->in.fd >= 0 && s->in_done < s->in_len) {
		ssize_t n = write(s->in.fd, s->in_data + s->in_done, s->in_len - s->in_done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			if (!s->in.loop && base_loop_add(s->helper->loop, &s->in))
				log_warn("no input can be written");
			return;
		}
		if (n < 0)
			close_end(&s->in); /* nobody reads it any more */
		else
			s->in_done += (size_t)n;
	}
	if (s->in.loop)
		base_loop_remove(&s->in);
	s->in_len = s->in_done = 0;
	say(s, GUEST_ACK, s->taken);
}

static void in_ready(struct base_watch *w, uint32_t events)
{
	write_input(base_container_of(w, struct session, in));
}

static void take_input(struct session *s, const struct guest_line *l)
{
	bool busy = s->in_len > 0;

	if (l->number == s->taken + 1 && !busy) {
		s->taken++;
		memcpy(s->in_data, l->data, l->len);
		s->in_len = l->verb == GUEST_IN ? l->len : 0;
		if (l->verb == GUEST_EOF)
			close_end(&s->in);
		write_input(s);
	} else if (l->number <= s->taken && !(busy && l->number == s->taken)) {
		say(s, GUEST_ACK, s->taken); /* ours was lost */
	}
}

/* ---- starting and ending ---- */

static void again(struct base_timer *t)
{
	struct session *s = base_container_of(t, struct session, timer);
	int64_t now = base_clock_ns();

	if (now - s->heard_ns > GUEST_SILENT_MS * BASE_NS_PER_MS) {
		log_warn("session %llx: nobody is there any more", (unsigned long long)s->id);
		session_free(s);
		return;
	}
	base_loop_timer(s->helper->loop, t, now + s->helper->again_ms * BASE_NS_PER_MS);
	if (now - s->progress_ns < s->helper->again_ms * BASE_NS_PER_MS)
		return;
	s->sent = s->got;
	session_pump(s);
}

static void child(const char *command, int in, int out)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(out, 2) >= 0)
		execl("/bin/sh", "sh", "-c", command, NULL);
	_exit(127);
}

static int start_process(struct session *s, const char *command)
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC))
		return -errno;
	if (pipe2(out, O_CLOEXEC)) {
		close(in[0]);
		close(in[1]);
		return -EMFILE;
	}
	s->pid = fork();
	if (s->pid == 0)
		child(command, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	s->in = (struct base_watch){.fd = in[1], .events = EPOLLOUT, .ready = in_ready};
	s->out = (struct base_watch){.fd = out[0], .events = EPOLLIN, .ready = out_ready};
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	if (s->pid < 0) {
		s->pid = 0;
		return -EAGAIN;
	}
	return base_loop_add(s->helper->loop, &s->out);
}

static void session_open(struct guest_helper *h, const struct guest_line *l)
{
	struct session *s = h->session_count < SESSION_MAX ? calloc(1, sizeof(*s)) : NULL;
	char command[GUEST_DATA_MAX + 1];

	if (!s || !l->len || l->number != 1) {
		log_warn("a session is refused");
		free(s);
		return;
	}
	memcpy(command, l->data, l->len);
	command[l->len] = 0;
	s->helper = h;
	s->id = l->session;
	s->taken = 1;
	s->in.fd = s->out.fd = -1;
	s->heard_ns = s->progress_ns = base_clock_ns();
	s->timer.fire = again;
	h->session_count++;
	base_list_add_tail(&h->sessions, &s->link);
	base_loop_timer(h->loop, &s->timer, s->heard_ns + h->again_ms * BASE_NS_PER_MS);
	if (start_process(s, command)) {
		s->status = 126;
		close_end(&s->in);
		close_end(&s->out);
	}
	say(s, GUEST_ACK, 1);
}

void guest_take(struct guest_helper *h, const struct guest_line *l)
{
	struct session *s = NULL;

	if (l->direction != '>')
		return;
	base_list_foreach (other, &h->sessions, struct session, link)
		if (other->id == l->session)
			s = other;
	if (!s) {
		struct session none = {.helper = h, .id = l->session};

		if (l->verb == GUEST_OPEN)
			session_open(h, l);
		else
			say(&none, GUEST_GONE, 0);
		return;
	}
	s->heard_ns = base_clock_ns();
	switch (l->verb) {
	case GUEST_OPEN: say(s, GUEST_ACK, s->taken); break;
	case GUEST_IN:
	case GUEST_EOF: take_input(s, l); break;
	case GUEST_GOT: take_got(s, l->number); break;
	case GUEST_KILL:
		if (s->pid)
			kill(-s->pid, SIGHUP);
		break;
	case GUEST_CLOSE: session_free(s); break;
	default: break;
	}
}

void guest_reaped(struct guest_helper *h, pid_t pid, int status)
{
	base_list_foreach (s, &h->sessions, struct session, link) {
		if (s->pid != pid)
			continue;
		s->pid = 0;
		s->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		read_output(s);
	}
}
