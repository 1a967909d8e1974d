/*
 * lab-agent: runs in a lab host and serves each virtio-serial port named lab.N: one process a port,
 * one session at a time, a command (with or without a terminal) or a TCP connection a session.
 * Not secure by design: whoever may open the host's sockets is root in the host.
 */
#include "tests/lab/frame.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <netdb.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { ARGS_MAX = 512, KILL_WAIT_MS = 2000 };

struct session {
	int port;
	struct lab_reader reader;
	struct lab_writer writer;
	uint8_t raw[4096]; /* read from the port, not yet parsed */
	size_t raw_len, raw_pos;
	bool open; /* the nonce was answered */

	pid_t pid;		 /* 0: none */
	int pidfd, in, out, err; /* -1: closed; for a terminal and TCP in and out are duplicates */
	bool tty, tcp;
	uint8_t input[LAB_FRAME_PAYLOAD_MAX];
	size_t input_len, input_pos;
	bool input_ended;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int pidfd_open(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Ends what the session runs; its process group gets the time to clean up. */
static void session_stop(struct session *s)
{
	if (s->pid > 0) {
		struct pollfd p = {.fd = s->pidfd, .events = POLLIN};

		kill(-s->pid, SIGHUP);
		kill(-s->pid, SIGTERM);
		if (poll(&p, 1, KILL_WAIT_MS) == 0)
			kill(-s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
	s->pid = 0;
	close_fd(&s->pidfd);
	close_fd(&s->in);
	close_fd(&s->out);
	close_fd(&s->err);
	s->tty = s->tcp = s->input_ended = false;
	s->input_len = s->input_pos = 0;
}

static void session_exit(struct session *s, int code)
{
	uint8_t byte = (uint8_t)code;

	lab_writer_put(&s->writer, LAB_EXIT, &byte, 1);
	session_stop(s);
}

static void session_fail(struct session *s, const char *what, int error)
{
	char text[256];
	int n = snprintf(text, sizeof(text), "lab-agent: %s: %s\n", what, strerror(error));

	lab_writer_put(&s->writer, LAB_STDERR, text, BASE_MIN((size_t)n, sizeof(text) - 1));
	session_exit(s, 127);
}

_Noreturn static void child_exec(char **argv)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (chdir("/root") != 0 && chdir("/") != 0)
		_exit(126);
	execvp(argv[0], argv);
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static void spawn_pipes(struct session *s, char **argv)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0)
		exit(1); /* started anew; nothing else is left to do without descriptors */
	s->pid = fork();
	if (s->pid == 0) {
		setsid();
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		child_exec(argv);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	s->in = in[1];
	s->out = out[0];
	s->err = err[0];
}

static void spawn_tty(struct session *s, char **argv, struct winsize *size)
{
	int master = -1;

	s->pid = forkpty(&master, NULL, NULL, size);
	if (s->pid == 0)
		child_exec(argv);
	if (s->pid < 0)
		return;
	s->tty = true;
	s->in = master;
	s->out = fcntl(master, F_DUPFD_CLOEXEC, 3);
	fcntl(master, F_SETFD, FD_CLOEXEC);
}

/* Splits the strings in p[0..len), each ended by a byte 0; their number or -1. */
static int split_strings(char *p, size_t len, char **out, int max)
{
	int n = 0;

	if (len == 0 || p[len - 1] != '\0')
		return -1;
	for (size_t at = 0; at < len; at += strlen(p + at) + 1) {
		if (n == max)
			return -1;
		out[n++] = p + at;
	}
	return n;
}

static void session_run(struct session *s, uint8_t *p, size_t len)
{
	char *argv[ARGS_MAX + 1] = {NULL};
	struct winsize size = {0};

	if (len < 6 || split_strings((char *)p + 5, len - 5, argv, ARGS_MAX) < 1) {
		session_fail(s, "bad command", EINVAL);
		return;
	}
	size.ws_row = (unsigned short)(p[1] | p[2] << 8);
	size.ws_col = (unsigned short)(p[3] | p[4] << 8);
	if (p[0])
		spawn_tty(s, argv, &size);
	else
		spawn_pipes(s, argv);
	if (s->pid < 0) {
		s->pid = 0;
		session_fail(s, "fork", errno);
		return;
	}
	s->pidfd = pidfd_open(s->pid);
	if (s->pidfd < 0) {
		session_fail(s, "pidfd_open", errno);
		return;
	}
	fcntl(s->in, F_SETFL, O_NONBLOCK);
}

static void session_tcp(struct session *s, char *p, size_t len)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	char *arg[2];
	int rc, fd;

	if (split_strings(p, len, arg, 2) != 2) {
		session_fail(s, "bad address", EINVAL);
		return;
	}
	rc = getaddrinfo(arg[0], arg[1], &hints, &list);
	if (rc != 0) {
		session_fail(s, gai_strerror(rc), EINVAL);
		return;
	}
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	rc = fd < 0 ? -1 : connect(fd, list->ai_addr, list->ai_addrlen);
	freeaddrinfo(list);
	if (rc != 0) {
		rc = errno;
		close_fd(&fd);
		session_fail(s, "connect", rc);
		return;
	}
	s->tcp = true;
	s->in = fd;
	s->out = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void session_resize(struct session *s, const uint8_t *p, size_t len)
{
	struct winsize size = {0};

	if (len != 4 || !s->tty || s->in < 0)
		return;
	size.ws_row = (unsigned short)(p[0] | p[1] << 8);
	size.ws_col = (unsigned short)(p[2] | p[3] << 8);
	ioctl(s->in, TIOCSWINSZ, &size);
}

static void session_start(struct session *s, const uint8_t *nonce, size_t len)
{
	session_stop(s);
	s->writer.len = 0;
	s->open = len == LAB_NONCE_LEN;
	if (s->open)
		lab_writer_put(&s->writer, LAB_SESSION, nonce, len);
}

static void session_frame(struct session *s)
{
	uint8_t *p = s->reader.data + 1;
	size_t len = s->reader.len - 1;
	bool busy = s->pid > 0 || s->tcp;

	if (s->reader.data[0] == LAB_SESSION) {
		session_start(s, p, len);
		return;
	}
	if (!s->open)
		return;
	switch (s->reader.data[0]) {
	case LAB_RUN:
		if (!busy)
			session_run(s, p, len);
		break;
	case LAB_TCP:
		if (!busy)
			session_tcp(s, (char *)p, len);
		break;
	case LAB_STDIN:
		if (s->in >= 0) {
			memcpy(s->input, p, len);
			s->input_len = len;
			s->input_pos = 0;
		}
		break;
	case LAB_EOF: s->input_ended = true; break;
	case LAB_SIZE: session_resize(s, p, len); break;
	default: break;
	}
}

static void session_parse(struct session *s)
{
	while (s->raw_pos < s->raw_len && s->input_len == 0 && lab_writer_has_room(&s->writer)) {
		if (lab_reader_push(&s->reader, s->raw[s->raw_pos++]))
			session_frame(s);
	}
}

static void feed_input(struct session *s)
{
	if (s->in >= 0 && s->input_len > 0) {
		ssize_t n = write(s->in, s->input + s->input_pos, s->input_len - s->input_pos);

		if (n > 0)
			s->input_pos += (size_t)n;
		else if (errno != EAGAIN && errno != EINTR)
			close_fd(&s->in);
	}
	if (s->in < 0 || s->input_pos == s->input_len)
		s->input_len = s->input_pos = 0;
	if (s->input_len > 0 || !s->input_ended || s->in < 0)
		return;
	if (s->tcp)
		shutdown(s->in, SHUT_WR);
	else if (s->tty && write(s->in, "\004", 1) < 0 && errno == EAGAIN)
		return;
	if (!s->tty)
		close_fd(&s->in);
	s->input_ended = false;
}

/* Moves at most one frame; false at the end of the output. */
static bool take_output(struct session *s, int *fd, enum lab_frame_type type)
{
	uint8_t data[LAB_FRAME_PAYLOAD_MAX];
	ssize_t n = read(*fd, data, sizeof(data));

	if (n > 0) {
		lab_writer_put(&s->writer, type, data, (size_t)n);
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	close_fd(fd);
	return false;
}

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return fd >= 0 && poll(&p, 1, 0) == 1;
}

/* After the command ended: what it wrote still goes out; what others hold open is not waited for.
 */
static void finish_if_done(struct session *s)
{
	int status;

	if (s->tcp && s->out < 0 && lab_writer_has_room(&s->writer)) {
		session_exit(s, 0);
		return;
	}
	if (s->pid == 0 || !readable(s->pidfd) || readable(s->out) || readable(s->err) ||
	    !lab_writer_has_room(&s->writer))
		return;
	if (waitpid(s->pid, &status, WNOHANG) != s->pid)
		return;
	s->pid = 0;
	session_exit(s, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* The port then reports POLLIN as well, for its end of file. */
static bool port_hung_up(const struct session *s)
{
	struct pollfd p = {.fd = s->port};

	return poll(&p, 1, 0) == 1 && p.revents & POLLHUP;
}

/*
 * While nobody is connected the port reports POLLHUP at once; SIGIO says when that changes. The
 * report of a past hang-up may come after the next client's first bytes, so only one that lasts
 * ends the session.
 */
static void wait_for_peer(struct session *s)
{
	struct timespec moment = {.tv_nsec = 300 * 1000 * 1000}, second = {.tv_sec = 1};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	while (s->open && port_hung_up(s)) {
		if (sigtimedwait(&set, NULL, &moment) >= 0 || !port_hung_up(s))
			continue;
		session_stop(s);
		s->open = false;
		s->writer.len = 0;
	}
	if (port_hung_up(s))
		sigtimedwait(&set, NULL, &second);
}

static void session_turn(struct session *s)
{
	bool room;
	short port_events;

	/* What an ended session left unread would keep the port from being read for ever. */
	session_parse(s);
	room = lab_writer_has_room(&s->writer);
	port_events = (short)((s->raw_pos == s->raw_len ? POLLIN : 0) |
			      (s->writer.len > 0 ? POLLOUT : 0));

	struct pollfd p[] = {
		{.fd = s->port, .events = port_events},
		{.fd = s->input_len > 0 || s->input_ended ? s->in : -1, .events = POLLOUT},
		{.fd = room ? s->out : -1, .events = POLLIN},
		{.fd = room ? s->err : -1, .events = POLLIN},
		{.fd = room ? s->pidfd : -1, .events = POLLIN},
	};

	if (poll(p, BASE_ARRAY_LEN(p), -1) < 0)
		return;
	if (p[0].revents & (POLLHUP | POLLERR) && !(p[0].revents & POLLIN)) {
		wait_for_peer(s);
		return;
	}
	if (p[0].revents & POLLIN) {
		ssize_t n = read(s->port, s->raw, sizeof(s->raw));

		s->raw_len = n > 0 ? (size_t)n : 0;
		s->raw_pos = 0;
		if (n == 0) {
			wait_for_peer(s);
			return;
		}
	}
	session_parse(s);
	feed_input(s);
	session_parse(s);
	if (p[2].revents && s->out >= 0 && lab_writer_has_room(&s->writer))
		take_output(s, &s->out, LAB_STDOUT);
	if (p[3].revents && s->err >= 0 && lab_writer_has_room(&s->writer))
		take_output(s, &s->err, LAB_STDERR);
	finish_if_done(s);
	if (lab_writer_flush(&s->writer, s->port) != 0)
		s->writer.len = 0;
}

_Noreturn static void serve(const char *path)
{
	static struct session s = {.pidfd = -1, .in = -1, .out = -1, .err = -1};
	sigset_t set;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	s.port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (s.port < 0) {
		perror(path);
		exit(1);
	}
	fcntl(s.port, F_SETOWN, getpid());
	fcntl(s.port, F_SETFL, O_NONBLOCK | O_ASYNC);
	for (;;)
		session_turn(&s);
}

/* Starts one server for each port named lab.*; their number. */
static int start_servers(void)
{
	const char *dir = "/sys/class/virtio-ports";
	DIR *d = opendir(dir);
	struct dirent *e;
	int count = 0;

	while (d && (e = readdir(d))) {
		char path[300], name[64] = "";
		BASE_AUTO_FILE FILE *f = NULL;

		snprintf(path, sizeof(path), "%s/%s/name", dir, e->d_name);
		f = fopen(path, "r");
		if (!f || !fgets(name, sizeof(name), f) || strncmp(name, "lab.", 4) != 0)
			continue;
		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		count++;
		if (fork() == 0)
			serve(path);
	}
	if (d)
		closedir(d);
	return count;
}

/*
 * The kernel rewrites its scheduler's code when the first VM of a host comes and when the last one
 * goes. QEMU's emulation of several processors now and then runs the breakpoint that stands there
 * meanwhile, after the kernel has forgotten it: the host panics ("int3" in __schedule). So there is
 * always one VM, which does nothing; with maxcpus=1 it comes while the host has one processor.
 */
static void keep_a_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return;
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	close(kvm);
	if (vm >= 0)
		(void)fcntl(vm, F_SETFD, FD_CLOEXEC); /* stays open */
}

/* Those that the kernel's command line has left off. */
static void processors_on(void)
{
	char path[64];

	for (unsigned cpu = 1;; cpu++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
		int fd = open(path, O_WRONLY | O_CLOEXEC);

		if (fd < 0)
			return;
		if (write(fd, "1", 1) != 1)
			fprintf(stderr, "lab-agent: processor %u stays off\n", cpu);
		close(fd);
	}
}

int main(void)
{
	keep_a_vm();
	processors_on();
	if (start_servers() == 0) {
		fprintf(stderr, "lab-agent: no virtio port named lab.*\n");
		return 1;
	}
	/* Ends only when every server did; the children of ended sessions are reaped by init. */
	while (wait(NULL) > 0 || errno == EINTR)
		;
	return 1;
}
