/*
 * pangaea-guest: runs in a guest and carries out what `pangaea pvm` asks for, over the guest channel
 * (proto/guest_line.h): commands as root, which whoever runs the guest could have anyway. Usually
 * /dev/hvc1, the second virtio-console.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include "base/log.h"
#include "node/guest/session.h"

static int channel_fd = -1;
static struct guest_helper helper;
static struct guest_reader reader;

static void send_line(const struct guest_line *l)
{
	char text[GUEST_LINE_MAX + 1];
	size_t len = guest_line_print(l, text), done = 0;

	while (done < len) {
		ssize_t n = write(channel_fd, text + done, len - done);

		if (n < 0 && errno != EINTR)
			return; /* it will be asked for again */
		done += n > 0 ? (size_t)n : 0;
	}
}

static void take_line(void *ctx, const struct guest_line *l)
{
	guest_take(&helper, l);
}

static void channel_ready(struct base_watch *w, uint32_t events)
{
	char data[4096];
	ssize_t n = read(w->fd, data, sizeof(data));

	if (n > 0) {
		guest_reader_feed(&reader, data, (size_t)n, take_line, NULL);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		log_error("the channel has closed");
		base_loop_stop(helper.loop, 1);
	}
}

static void signal_ready(struct base_watch *w, uint32_t events)
{
	struct signalfd_siginfo si;
	int status;
	pid_t pid;

	while (read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		continue;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		guest_reaped(&helper, pid, status);
}

static int open_channel(const char *path)
{
	struct termios t;
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (!tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		tcsetattr(fd, TCSANOW, &t);
	}
	return fd;
}

static int run(const char *path)
{
	struct base_watch channel = {.events = EPOLLIN, .ready = channel_ready};
	struct base_watch signals = {.events = EPOLLIN, .ready = signal_ready};
	sigset_t set;
	int rc;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	channel_fd = open_channel(path);
	if (channel_fd < 0) {
		log_error("%s: %s", path, strerror(-channel_fd));
		return 1;
	}
	channel.fd = channel_fd;
	signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	base_list_init(&helper.sessions);
	helper.send = send_line;
	helper.again_ms = GUEST_AGAIN_MS;
	rc = base_loop_new(&helper.loop);
	if (!rc)
		rc = base_loop_add(helper.loop, &channel);
	if (!rc)
		rc = base_loop_add(helper.loop, &signals);
	if (rc) {
		log_error("cannot start: %s", strerror(-rc));
		return 1;
	}
	return base_loop_run(helper.loop);
}

int main(int argc, char **argv)
{
	base_log_init("pangaea-guest");
	if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
		fputs("usage: pangaea-guest [DEVICE]\n"
		      "Serves 'pangaea pvm' from within a guest; DEVICE is /dev/hvc1 unless given.\n",
		      stderr);
		return 2;
	}
	return run(argc == 2 ? argv[1] : "/dev/hvc1");
}
