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
	int fd; /* to the child: a struct ask there, a struct answer back */
	uint32_t asked;
};

enum { ASK_WAIT = 0x40 }; /* of the child; a mode means start */

enum {
	ANSWER_SECONDS = 20,
	LISTENER = 3, /* the first descriptor of socket activation */
	INHERITED,    /* of qemu-nbd: the image, where the path was a descriptor of ours */
	CONTROL = 4,
	IMAGE,
	FREE_FROM,
};

/* The answer to an ask has its number: one that comes after the asker's patience is nobody's. */
struct ask {
	uint32_t number, what;
};

struct answer {
	uint32_t number;
	int32_t error;
};

/* ---- the child ---- */

struct keeper {
	char *options[BLK_NBD_PEEK + 1];
	sigset_t mask; /* of who made us */
	pid_t server;
	pid_t self;
	bool image; /* at IMAGE */
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

	/* Who has the image open must not outlive who can close it. */
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) || getppid() != k->self)
		_exit(127);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", pid, 1);
	unsetenv("LISTEN_FDNAMES");
	/* It may be there already. */
	fcntl(listener, F_SETFD, 0);
	dup2(listener, LISTENER);
	if (k->image)
		dup2(IMAGE, INHERITED);
	close_range(k->image ? INHERITED + 1 : INHERITED, ~0u, 0);
	sigprocmask(SIG_SETMASK, &k->mask, NULL);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	fprintf(stderr, "qemu-nbd cannot be started: %s\n", strerror(errno));
	_exit(127);
}

/* Where nobody is there to hear it, the next recv(2) tells. */
static void answer(uint32_t number, int error, const int *fds)
{
	struct answer a = {number, error};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(BLK_NBD_CONNECTIONS * sizeof(int))];
	} control = {0};
	struct iovec iov = {&a, sizeof(a)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (!error && fds) {
		m.msg_control = control.room;
		m.msg_controllen = sizeof(control.room);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(BLK_NBD_CONNECTIONS * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, BLK_NBD_CONNECTIONS * sizeof(int));
	}
	(void)!sendmsg(CONTROL, &m, MSG_NOSIGNAL);
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

static void keeper_start(struct keeper *k, uint32_t number, enum blk_nbd_mode mode)
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
	answer(number, listener < 0 ? listener : k->server < 0 ? -EAGAIN : 0, fds);
	for (unsigned i = 0; i < BLK_NBD_CONNECTIONS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Like the VM's process: nobody else may look into it, and it reads and prints nothing. */
static bool keeper_hide(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	return null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
	       !prctl(PR_SET_DUMPABLE, 0);
}

/*
 * Of the VM's process stay the error output, the image where that came as a descriptor, and what it had in private
 * memory; the guest's memory and its vCPUs are not inherited (MADV_DONTFORK).
 */
static bool keeper_prepare(struct keeper *k, const char *path, int fd, const sigset_t *mask)
{
	static const char self[] = "/proc/self/fd/";
	char own[64], *end;
	int image = -1;

	prctl(PR_SET_NAME, "vmm-disk");
	k->mask = *mask;
	k->self = getpid();
	if (!strncmp(path, self, sizeof(self) - 1)) {
		image = fcntl((int)strtol(path + sizeof(self) - 1, &end, 10), F_DUPFD_CLOEXEC,
			      FREE_FROM);
		if (*end || image < 0)
			return false;
		snprintf(own, sizeof(own), "%s%d", self, INHERITED);
		path = own;
		k->image = true;
	}
	fd = fcntl(fd, F_DUPFD_CLOEXEC, FREE_FROM);
	if (fd < 0 || dup3(fd, CONTROL, O_CLOEXEC) < 0 ||
	    (image >= 0 && dup3(image, IMAGE, O_CLOEXEC) < 0))
		return false;
	close(LISTENER);
	close_range(k->image ? FREE_FROM : IMAGE, ~0u, 0);
	if (!keeper_hide())
		return false;
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
	struct ask ask;

	if (!keeper_prepare(&k, path, fd, mask))
		_exit(1);
	while (recv(CONTROL, &ask, sizeof(ask), 0) == sizeof(ask)) {
		if (ask.what == ASK_WAIT) {
			keeper_wait(&k);
			answer(ask.number, 0, NULL);
		} else if (ask.what >= BLK_NBD_WRITE && ask.what <= BLK_NBD_PEEK) {
			keeper_start(&k, ask.number, ask.what);
		}
	}
	/* Whoever asked has ended. */
	keeper_wait(&k);
	_exit(0);
}

/* ---- the VM's process ---- */

static void server_give_up(struct blk_nbd_server *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* The next answer, whatever it is to; `count` descriptors came with it. 0 or -errno. */
static int server_hear(struct blk_nbd_server *s, struct answer *a, int fds[BLK_NBD_CONNECTIONS],
		       unsigned *count)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(BLK_NBD_CONNECTIONS * sizeof(int))];
	} control;
	struct iovec iov = {a, sizeof(*a)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.room,
			   .msg_controllen = sizeof(control.room)};
	ssize_t n;

	do
		n = recvmsg(s->fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return -ETIMEDOUT;
	*count = 0;
	if (n >= 0 && CMSG_FIRSTHDR(&m)) {
		*count = (unsigned)((control.head.cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(&control.head), *count * sizeof(int));
	}
	return n == sizeof(*a) ? 0 : -EPIPE;
}

/* fds: NULL, or where its connections go. */
static int server_ask(struct blk_nbd_server *s, uint32_t what, int *fds)
{
	const struct ask ask = {++s->asked, what};
	unsigned want = fds ? BLK_NBD_CONNECTIONS : 0, count;
	int got[BLK_NBD_CONNECTIONS], rc;
	struct answer a;

	if (s->fd < 0 || send(s->fd, &ask, sizeof(ask), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(ask))
		return -EPIPE;
	for (;;) {
		rc = server_hear(s, &a, got, &count);
		if (rc == -ETIMEDOUT)
			return rc;
		if (!rc && a.number == ask.number && (a.error || count == want))
			break;
		for (unsigned i = 0; i < count; i++)
			close(got[i]);
		if (rc) {
			server_give_up(s);
			return rc;
		}
	}
	if (!a.error && fds)
		memcpy(fds, got, sizeof(got));
	return a.error;
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
	s->asked = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
		rc = -errno;
		free(s);
		return rc;
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
