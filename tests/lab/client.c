/*
 * lab-client: the outer side of a lab, used by tests/lab/lab.
 *   exec [-t] [-w SECONDS] HOSTDIR CMD...   runs CMD in the host; its exit code comes back;
 *                                           -w: the host may still be starting
 *   tcp HOSTDIR ADDRESS PORT                joins stdin and stdout to a connection made in the host
 *   control DIR WORD...                     one request to the lab's keeper
 *   console HOSTDIR                         the serial console; Ctrl-] leaves
 *   tsc                                     the rate of this machine's TSC in kHz
 * Exit code 255: the host could not be reached.
 */
#include "tests/lab/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { PORTS = 8, ASK_AGAIN_MS = 5000, UNREACHABLE = 255 };

static int patience_ms; /* for a host that is being started */
static struct termios saved_tty;
static bool tty_is_raw;
static volatile sig_atomic_t resized;

static void tty_restore(void)
{
	if (tty_is_raw)
		tcsetattr(0, TCSANOW, &saved_tty);
}

static void tty_raw(void)
{
	struct termios t;

	if (tcgetattr(0, &saved_tty) != 0)
		return;
	t = saved_tty;
	cfmakeraw(&t);
	tty_is_raw = tcsetattr(0, TCSANOW, &t) == 0;
	atexit(tty_restore);
}

static void on_resize(int sig)
{
	resized = 1;
}

static void on_signal(int sig)
{
	tty_restore();
	_exit(128 + sig);
}

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "lab: %s: %s\n", what, why);
	return UNREACHABLE;
}

static int connect_unix(const char *name)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	BASE_AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int out;

	if (fd < 0)
		return -errno;
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", name);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
		return -errno;
	out = fd;
	fd = -1;
	return out;
}

/* Paths of sockets are short because all of them are relative to the working directory. */
static int enter(const char *dir)
{
	if (chdir(dir) == 0)
		return 0;
	return fail(dir, "no such host or lab");
}

static int write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd w = {.fd = fd, .events = POLLOUT};

			poll(&w, 1, -1);
			continue;
		}
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* Takes the first free of the host's ports; the lock lives as long as this process. */
static int open_channel(void)
{
	for (int i = 0;; i++) {
		char name[16];
		int fd;

		snprintf(name, sizeof(name), "x%d.lock", i % PORTS);
		fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		/* All are busy: wait for the last one. */
		if (flock(fd, LOCK_EX | (i < PORTS - 1 ? LOCK_NB : 0)) == 0) {
			int channel;

			snprintf(name, sizeof(name), "x%d", i % PORTS);
			channel = connect_unix(name);
			if (channel < 0)
				close(fd);
			return channel;
		}
		close(fd);
	}
}

struct link {
	int fd;
	struct lab_reader reader;
	struct lab_writer writer;
	uint8_t raw[16384];
	size_t len, pos;
	bool stdin_open;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The next frame in l->reader: 1, 0 when the time is over, -errno. */
static int next_frame(struct link *l, int64_t deadline_ms)
{
	for (;;) {
		struct pollfd p = {.fd = l->fd, .events = POLLIN};
		ssize_t n;

		while (l->pos < l->len)
			if (lab_reader_push(&l->reader, l->raw[l->pos++]))
				return 1;
		if (poll(&p, 1, (int)BASE_MAX(deadline_ms - now_ms(), 0)) <= 0)
			return 0;
		n = read(l->fd, l->raw, sizeof(l->raw));
		if (n <= 0)
			return n == 0 ? -ECONNRESET : -errno;
		l->len = (size_t)n;
		l->pos = 0;
	}
}

static int send_frame(struct link *l, enum lab_frame_type type, const void *p, size_t len)
{
	lab_writer_put(&l->writer, type, p, len);
	while (l->writer.len > 0) {
		struct pollfd w = {.fd = l->fd, .events = POLLOUT};
		int rc = lab_writer_flush(&l->writer, l->fd);

		if (rc != 0)
			return rc;
		if (l->writer.len > 0)
			poll(&w, 1, -1);
	}
	return 0;
}

static int handshake(struct link *l, int wait_s)
{
	int64_t deadline_ms = now_ms() + wait_s * 1000;
	uint8_t nonce[LAB_NONCE_LEN];
	int rc;

	if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce))
		return -errno;
	rc = send_frame(l, LAB_SESSION, nonce, sizeof(nonce));
	while (rc == 0) {
		int64_t again_ms = now_ms() + ASK_AGAIN_MS;

		rc = next_frame(l, BASE_MIN(deadline_ms, again_ms));
		if (rc == 0 && now_ms() >= deadline_ms)
			return -ETIMEDOUT;
		/* What comes while a host boots may be lost; asked twice, it answers twice. */
		if (rc == 0) {
			rc = send_frame(l, LAB_SESSION, nonce, sizeof(nonce));
			continue;
		}
		if (rc < 0)
			return rc;
		rc = 0;
		if (l->reader.len == 1 + LAB_NONCE_LEN && l->reader.data[0] == LAB_SESSION &&
		    memcmp(l->reader.data + 1, nonce, LAB_NONCE_LEN) == 0)
			return 0;
	}
	return rc;
}

static void put_size(uint8_t *p)
{
	struct winsize size = {.ws_row = 24, .ws_col = 80};

	ioctl(0, TIOCGWINSZ, &size);
	p[0] = (uint8_t)size.ws_row;
	p[1] = (uint8_t)(size.ws_row >> 8);
	p[2] = (uint8_t)size.ws_col;
	p[3] = (uint8_t)(size.ws_col >> 8);
}

/* 0..255 is the exit code, -1 goes on. */
static int handle_frame(const struct lab_reader *r)
{
	switch (r->data[0]) {
	case LAB_STDOUT:
	case LAB_STDERR:
		if (write_all(r->data[0] == LAB_STDOUT ? 1 : 2, r->data + 1, r->len - 1) != 0)
			return UNREACHABLE;
		return -1;
	case LAB_EXIT: return r->len == 2 ? r->data[1] : UNREACHABLE;
	default: return -1;
	}
}

static int forward_stdin(struct link *l)
{
	uint8_t data[4096];
	ssize_t n = read(0, data, sizeof(data));

	if (n > 0) {
		lab_writer_put(&l->writer, LAB_STDIN, data, (size_t)n);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		lab_writer_put(&l->writer, LAB_EOF, NULL, 0);
		l->stdin_open = false;
	}
	return 0;
}

static int drain_input(struct link *l)
{
	int code = -1;

	while (l->pos < l->len && code < 0)
		if (lab_reader_push(&l->reader, l->raw[l->pos++]))
			code = handle_frame(&l->reader);
	return code;
}

static int pump(struct link *l)
{
	int code = drain_input(l);

	while (code < 0) {
		struct pollfd p[] = {
			{.fd = l->fd, .events = (short)(POLLIN | (l->writer.len ? POLLOUT : 0))},
			{.fd = l->stdin_open && l->writer.len == 0 ? 0 : -1, .events = POLLIN},
		};

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return fail("poll", strerror(errno));
		if (resized) {
			uint8_t size[4];

			resized = 0;
			put_size(size);
			if (lab_writer_has_room(&l->writer))
				lab_writer_put(&l->writer, LAB_SIZE, size, sizeof(size));
			continue;
		}
		if (p[1].revents)
			(void)forward_stdin(l);
		if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			ssize_t n = read(l->fd, l->raw, sizeof(l->raw));

			if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
				return fail("connection lost", "the host is gone");
			l->len = n > 0 ? (size_t)n : 0;
			l->pos = 0;
			code = drain_input(l);
		}
		if (lab_writer_flush(&l->writer, l->fd) != 0)
			return fail("connection lost", "the host is gone");
	}
	return code;
}

static int session(const char *dir, int wait_s, enum lab_frame_type type, const uint8_t *request,
		   size_t len)
{
	static struct link l = {.stdin_open = true};
	int rc = enter(dir);

	if (rc != 0)
		return rc;
	l.fd = open_channel();
	/* QEMU makes its sockets a moment after its start. */
	for (int64_t end = now_ms() + patience_ms; l.fd < 0 && now_ms() < end;
	     l.fd = open_channel())
		poll(NULL, 0, 20);
	if (l.fd < 0)
		return fail(dir, "is not running");
	fcntl(l.fd, F_SETFL, O_NONBLOCK);
	rc = handshake(&l, wait_s);
	if (rc == -ETIMEDOUT)
		return fail(dir, "does not answer; its console is in console.log");
	if (rc == 0)
		rc = send_frame(&l, type, request, len);
	if (rc != 0)
		return fail(dir, strerror(-rc));
	return pump(&l);
}

/* Appends the words to p, each with its byte 0; the new length or 0 when they do not fit. */
static size_t put_words(uint8_t *p, size_t at, char **words)
{
	for (; *words; words++) {
		size_t n = strlen(*words) + 1;

		if (n > LAB_FRAME_PAYLOAD_MAX - at)
			return 0;
		memcpy(p + at, *words, n);
		at += n;
	}
	return at;
}

static int do_exec(int argc, char **argv)
{
	uint8_t request[LAB_FRAME_PAYLOAD_MAX] = {0};
	int wait_s = 30, opt;
	size_t len;

	while ((opt = getopt(argc, argv, "+tw:")) != -1) {
		if (opt == 't')
			request[0] = 1;
		else if (opt == 'w')
			patience_ms = 1000 * (wait_s = (int)strtol(optarg, NULL, 10));
		else
			return 2;
	}
	if (argc - optind < 2)
		return 2;
	put_size(request + 1);
	len = put_words(request, 5, argv + optind + 1);
	if (len == 0)
		return fail("exec", "the command is too long");
	if (request[0]) {
		struct sigaction resize = {.sa_handler = on_resize};

		sigaction(SIGWINCH, &resize, NULL);
		tty_raw();
	}
	return session(argv[optind], wait_s, LAB_RUN, request, len);
}

static int do_tcp(int argc, char **argv)
{
	uint8_t request[LAB_FRAME_PAYLOAD_MAX];
	size_t len;

	if (argc != 4)
		return 2;
	len = put_words(request, 0, argv + 2);
	return session(argv[1], 30, LAB_TCP, request, len);
}

static int do_control(int argc, char **argv)
{
	char line[512] = "";
	int fd, rc;
	ssize_t n;

	if (argc < 3 || (rc = enter(argv[1])) != 0)
		return argc < 3 ? 2 : rc;
	for (int i = 2; i < argc; i++) {
		size_t at = strlen(line);

		snprintf(line + at, sizeof(line) - at, "%s%c", argv[i], i + 1 < argc ? ' ' : '\n');
	}
	fd = connect_unix("control");
	if (fd < 0)
		return fail(argv[1], "no lab runs here");
	if (write_all(fd, line, strlen(line)) != 0)
		return fail("control", strerror(errno));
	rc = 0;
	while ((n = read(fd, line, sizeof(line))) > 0) {
		if (strncmp(line, "error", BASE_MIN((size_t)n, 5)) == 0)
			rc = 1;
		if (write_all(rc ? 2 : 1, line, (size_t)n) != 0)
			return 1;
	}
	return rc;
}

static int do_console(int argc, char **argv)
{
	char data[4096];
	int fd;

	if (argc != 2 || enter(argv[1]) != 0)
		return 2;
	fd = connect_unix("console");
	if (fd < 0)
		return fail(argv[1], "is not running");
	fprintf(stderr, "console of %s; Ctrl-] leaves\r\n", argv[1]);
	tty_raw();
	for (;;) {
		struct pollfd p[] = {{.fd = 0, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
		ssize_t n;

		if (poll(p, 2, -1) < 0)
			return 1;
		if (p[0].revents) {
			n = read(0, data, sizeof(data));
			if (n <= 0 || memchr(data, 0x1d, (size_t)n))
				return 0;
			if (write_all(fd, data, (size_t)n) != 0)
				return 1;
		}
		if (p[1].revents) {
			n = read(fd, data, sizeof(data));
			if (n <= 0)
				return fail("console", "the host is gone");
			if (write_all(1, data, (size_t)n) != 0)
				return 1;
		}
	}
}

/* ---- tsc ---- */

struct tsc_sample {
	uint64_t tsc;
	int64_t ns;
};

/* The clock and the counter at one instant: of many tries the one that nothing came between. */
static struct tsc_sample tsc_sample(void)
{
	struct tsc_sample best = {0};
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 1000; i++) {
		uint64_t before = __builtin_ia32_rdtsc(), after;
		struct timespec t;

		clock_gettime(CLOCK_MONOTONIC_RAW, &t);
		after = __builtin_ia32_rdtsc();
		if (after - before >= least)
			continue;
		least = after - before;
		best.tsc = before + least / 2;
		best.ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
	}
	return best;
}

static int do_tsc(int argc, char **argv)
{
	const struct timespec while_it_counts = {.tv_nsec = 100000000};
	struct tsc_sample a = tsc_sample(), b;

	nanosleep(&while_it_counts, NULL);
	b = tsc_sample();
	if (argc != 1 || b.ns <= a.ns)
		return fail(argv[0], "the clock stands still");
	printf("%.0f\n", (double)(b.tsc - a.tsc) * 1e6 / (double)(b.ns - a.ns));
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} verbs[] = {
		{"exec", do_exec},	 {"tcp", do_tcp}, {"control", do_control},
		{"console", do_console}, {"tsc", do_tsc},
	};

	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	signal(SIGHUP, on_signal);
	for (size_t i = 0; argc > 1 && i < BASE_ARRAY_LEN(verbs); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1);
	fprintf(stderr, "usage: lab-client exec|tcp|control|console|tsc ...\n");
	return 2;
}
