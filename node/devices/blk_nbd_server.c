#include "node/devices/blk_nbd_server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct blk_nbd_server {
	int fd; /* to the child: a byte there, an answer back */
};

enum { ASK_WAIT = 0x40 }; /* of the child; a mode means start */

enum {
	ANSWER_SECONDS = 20,
	LISTENER = 3, /* the first descriptor of socket activation */
	CONTROL = 4,
	IMAGE = 5, /* where the path was a descriptor of ours */
	FREE_FROM,
};

/* ---- the child ---- */

struct keeper {
	char *options[BLK_NBD_PEEK + 1];
	sigset_t mask; /* of who made us */
	pid_t server;
};

/* A path as a value of QEMU's option lists: commas are doubled. */
static char *image_options(const char *path, enum blk_nbd_mode mode)
{
	size_t len = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fprintf(f, "driver=qcow2,discard=unmap,%sfile.driver=file,file.filename=",
		mode == BLK_NBD_PEEK ? "force-share=on," : "");
	for (const char *p = path; *p; p++) {
		if (*p == ',')
			fputc(',', f);
		fputc(*p, f);
	}
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

/* A listener of which no name is left, and connections to it that wait. */
static int connect_all(int fds[BLK_NBD_CONNECTIONS])
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/pangaea-nbd-XXXXXX";
	int rc = 0, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	for (unsigned i = 0; i < BLK_NBD_CONNECTIONS; i++)
		fds[i] = -1;
	if (fd < 0 || !mkdtemp(dir)) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) || listen(fd, BLK_NBD_CONNECTIONS))
		rc = -errno;
	for (unsigned i = 0; i < BLK_NBD_CONNECTIONS && !rc; i++) {
		fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fds[i] < 0 || connect(fds[i], (struct sockaddr *)&sa, sizeof(sa)))
			rc = -errno;
	}
	unlink(sa.sun_path);
	rmdir(dir);
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

static void server_exec(const struct keeper *k, enum blk_nbd_mode mode, int listener)
{
	const char *const argv[] = {"qemu-nbd",
				    "--image-opts",
				    k->options[mode],
				    "--cache=writeback",
				    "--aio=threads",
				    "--shared=2",
				    mode == BLK_NBD_WRITE ? NULL : "-r",
				    NULL};
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", pid, 1);
	unsetenv("LISTEN_FDNAMES");
	/* It may be there already. */
	fcntl(listener, F_SETFD, 0);
	dup2(listener, LISTENER);
	close_range(LISTENER + 1, ~0u, 0);
	sigprocmask(SIG_SETMASK, &k->mask, NULL);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	fprintf(stderr, "qemu-nbd cannot be started: %s\n", strerror(errno));
	_exit(127);
}

static void answer(int error, const int *fds)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(BLK_NBD_CONNECTIONS * sizeof(int))];
	} control = {0};
	struct iovec iov = {&error, sizeof(error)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (!error && fds) {
		m.msg_control = control.room;
		m.msg_controllen = sizeof(control.room);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(BLK_NBD_CONNECTIONS * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, BLK_NBD_CONNECTIONS * sizeof(int));
	}
	if (sendmsg(CONTROL, &m, MSG_NOSIGNAL) < 0)
		_exit(1);
}

/*
 * It ends with its connections, but not where one of them was closed before it came to speak to it. Asked to
 * end it closes the image as well.
 */
static void keeper_wait(struct keeper *k)
{
	if (k->server > 0)
		kill(k->server, SIGTERM);
	while (k->server > 0 && waitpid(k->server, NULL, 0) < 0 && errno == EINTR)
		;
	k->server = 0;
}

static void keeper_start(struct keeper *k, enum blk_nbd_mode mode)
{
	int fds[BLK_NBD_CONNECTIONS], listener;

	/* One that found that it cannot open the image. */
	keeper_wait(k);
	listener = connect_all(fds);
	if (listener >= 0) {
		k->server = fork();
		if (k->server == 0)
			server_exec(k, mode, listener);
		close(listener);
	}
	answer(listener < 0 ? listener : k->server < 0 ? -EAGAIN : 0, fds);
	for (unsigned i = 0; i < BLK_NBD_CONNECTIONS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Nothing of the VM's process stays here but its error output, and the image where that came as a descriptor. */
static bool keeper_prepare(struct keeper *k, const char *path, int fd, const sigset_t *mask)
{
	static const char self[] = "/proc/self/fd/";
	char own[64], *end;
	int image = -1;

	prctl(PR_SET_NAME, "vmm-disk");
	k->mask = *mask;
	if (!strncmp(path, self, sizeof(self) - 1)) {
		image = fcntl((int)strtol(path + sizeof(self) - 1, &end, 10), F_DUPFD_CLOEXEC,
			      FREE_FROM);
		if (*end || image < 0)
			return false;
		snprintf(own, sizeof(own), "/proc/%d/fd/%d", (int)getpid(), IMAGE);
		path = own;
	}
	fd = fcntl(fd, F_DUPFD_CLOEXEC, FREE_FROM);
	if (fd < 0 || dup3(fd, CONTROL, O_CLOEXEC) < 0 ||
	    (image >= 0 && dup3(image, IMAGE, O_CLOEXEC) < 0))
		return false;
	close(LISTENER);
	close_range(image < 0 ? IMAGE : FREE_FROM, ~0u, 0);
	for (enum blk_nbd_mode m = BLK_NBD_WRITE; m <= BLK_NBD_PEEK; m++) {
		k->options[m] = image_options(path, m);
		if (!k->options[m])
			return false;
	}
	return true;
}

static _Noreturn void keeper_run(const char *path, int fd, const sigset_t *mask)
{
	struct keeper k = {0};
	uint8_t ask;

	if (!keeper_prepare(&k, path, fd, mask))
		_exit(1);
	while (recv(CONTROL, &ask, 1, 0) == 1) {
		if (ask == ASK_WAIT) {
			keeper_wait(&k);
			answer(0, NULL);
		} else if (ask >= BLK_NBD_WRITE && ask <= BLK_NBD_PEEK) {
			keeper_start(&k, ask);
		}
	}
	/* Whoever asked has ended. */
	keeper_wait(&k);
	_exit(0);
}

/* ---- the VM's process ---- */

/* An answer that came too late would pass for the next one. */
static void server_give_up(struct blk_nbd_server *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

static int server_ask(struct blk_nbd_server *s, uint8_t ask, int *fds)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(BLK_NBD_CONNECTIONS * sizeof(int))];
	} control;
	int error = -EIO;
	struct iovec iov = {&error, sizeof(error)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.room,
			   .msg_controllen = sizeof(control.room)};
	ssize_t n;

	if (s->fd < 0 || send(s->fd, &ask, 1, MSG_NOSIGNAL) != 1)
		return -EPIPE;
	do
		n = recvmsg(s->fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(error)) {
		error = n < 0 && errno == EAGAIN ? -ETIMEDOUT : -EPIPE;
		server_give_up(s);
	}
	if (error || !fds)
		return error;
	if (!CMSG_FIRSTHDR(&m) ||
	    control.head.cmsg_len != CMSG_LEN(BLK_NBD_CONNECTIONS * sizeof(int)))
		return -EPROTO;
	memcpy(fds, CMSG_DATA(&control.head), BLK_NBD_CONNECTIONS * sizeof(int));
	return 0;
}

int blk_nbd_server_start(struct blk_nbd_server *s, enum blk_nbd_mode mode,
			 int fds[BLK_NBD_CONNECTIONS])
{
	return server_ask(s, mode, fds);
}

int blk_nbd_server_wait(struct blk_nbd_server *s)
{
	return server_ask(s, ASK_WAIT, NULL);
}

int blk_nbd_server_new(const char *path, struct blk_nbd_server **out)
{
	const struct timeval limit = {.tv_sec = ANSWER_SECONDS};
	struct blk_nbd_server *s = malloc(sizeof(*s));
	sigset_t all, old;
	int fds[2], rc = 0;
	pid_t pid;

	if (!s)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
		free(s);
		return -errno;
	}
	/* A signal to all of us is the VM's process's to answer. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0)
		keeper_run(path, fds[1], &old);
	if (pid < 0)
		rc = -errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(fds[1]);
	s->fd = fds[0];
	if (rc || setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))) {
		rc = rc ? rc : -errno;
		blk_nbd_server_free(s);
		return rc;
	}
	*out = s;
	return 0;
}

void blk_nbd_server_free(struct blk_nbd_server *s)
{
	if (!s)
		return;
	server_give_up(s);
	free(s);
}
