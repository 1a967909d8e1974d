/*
 * lab-keeper DIR [OWNER_PID]: the one parent of a lab's hosts and their switch. Serves requests on
 * DIR/control, one line each:
 *   start HOST | kill HOST | cut HOST | join HOST | status | down
 * A host is the folder DIR/HOST with an executable `start` that becomes its QEMU. The hosts die
 * with the keeper, however it ends, and the keeper ends with its owner, so that nothing is left
 * running.
 */
#include "tests/lab/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct host {
	pid_t pid; /* 0: stopped */
	int status;
};

struct keeper {
	struct wire wire;
	struct host host[WIRE_PORTS_MAX]; /* as the ports of the wire */
	int control, signals, owner;
	bool down;
};

static void host_ended(struct keeper *k, unsigned i, int status)
{
	k->host[i].pid = 0;
	k->host[i].status = status;
	wire_reset(&k->wire, i);
}

static void reap(struct keeper *k)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (unsigned i = 0; i < k->wire.count; i++)
			if (k->host[i].pid == pid)
				host_ended(k, i, status);
}

/*
 * Hosts wait for each other most of the time: a short slice lets them and the switch between them run
 * as soon as they wake, for no more of the processor (Linux 6.12; elsewhere no harm). Inherited.
 */
static void wake_quickly(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime_ns, deadline_ns, period_ns;
	} attr = {.size = sizeof(attr), .runtime_ns = 100000};

	errno = 0;
	attr.nice = getpriority(PRIO_PROCESS, 0);
	(void)syscall(SYS_sched_setattr, 0, &attr, 0);
}

_Noreturn static void host_exec(const char *name, pid_t parent)
{
	int log, null = open("/dev/null", O_RDWR);
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || chdir(name) != 0)
		_exit(1);
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	log = open("qemu.log", O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (log < 0 || null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
		_exit(1);
	close(log);
	execl("./start", "./start", (char *)NULL);
	perror("start");
	_exit(127);
}

static int host_start(struct keeper *k, unsigned i)
{
	pid_t self = getpid(), pid;

	if (k->host[i].pid)
		return -EALREADY;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		host_exec(k->wire.port[i].name, self);
	k->host[i].pid = pid;
	return 0;
}

static void host_kill(struct keeper *k, unsigned i)
{
	int status = 0;

	if (k->host[i].pid == 0)
		return;
	kill(k->host[i].pid, SIGKILL);
	waitpid(k->host[i].pid, &status, 0);
	host_ended(k, i, status);
}

static void report(const struct keeper *k, int fd)
{
	for (unsigned i = 0; i < k->wire.count; i++) {
		const struct wire_port *p = &k->wire.port[i];
		const struct host *h = &k->host[i];

		if (h->pid)
			dprintf(fd, "%s running pid=%d", p->name, h->pid);
		else if (WIFSIGNALED(h->status))
			dprintf(fd, "%s stopped signal=%d", p->name, WTERMSIG(h->status));
		else
			dprintf(fd, "%s stopped exit=%d", p->name, WEXITSTATUS(h->status));
		dprintf(fd, " net=%s frames=%llu dropped=%llu\n", p->cut ? "cut" : "joined",
			(unsigned long long)p->frames, (unsigned long long)p->dropped);
	}
}

/* The port of a host; `start` makes a new one for a folder that has a start script. */
static int find_host(struct keeper *k, const char *name, bool create)
{
	char path[WIRE_NAME_MAX + 16];

	for (unsigned i = 0; i < k->wire.count; i++)
		if (strcmp(k->wire.port[i].name, name) == 0)
			return (int)i;
	snprintf(path, sizeof(path), "%s/start", name);
	if (!create || strchr(name, '/') || access(path, X_OK) != 0)
		return -ENOENT;
	return wire_add(&k->wire, name);
}

static int run_request(struct keeper *k, const char *verb, const char *name)
{
	int i = find_host(k, name, strcmp(verb, "start") == 0);

	if (i < 0)
		return i;
	if (strcmp(verb, "start") == 0)
		return host_start(k, (unsigned)i);
	if (strcmp(verb, "kill") == 0)
		host_kill(k, (unsigned)i);
	else if (strcmp(verb, "cut") == 0)
		k->wire.port[i].cut = true;
	else if (strcmp(verb, "join") == 0)
		k->wire.port[i].cut = false;
	else
		return -EINVAL;
	return 0;
}

/* The peer is a user of this machine who may as well kill us: a stalled one costs a second. */
static void serve(struct keeper *k)
{
	BASE_AUTO_FD int fd = accept4(k->control, NULL, NULL, SOCK_CLOEXEC);
	struct timeval limit = {.tv_sec = 1};
	char line[256], verb[16] = "", name[WIRE_NAME_MAX] = "";
	ssize_t n;
	int rc;

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	n = recv(fd, line, sizeof(line) - 1, 0);
	if (n <= 0)
		return;
	line[n] = '\0';
	(void)sscanf(line, "%15s %31s", verb, name);
	if (strcmp(verb, "status") == 0) {
		report(k, fd);
	} else if (strcmp(verb, "down") == 0) {
		k->down = true;
		fd = -1; /* closed by our end, which is what the client waits for */
	} else {
		rc = run_request(k, verb, name);
		if (rc != 0)
			dprintf(fd, "error: %s %s: %s\n", verb, name, strerror(-rc));
	}
}

static int open_control(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "control"};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(a.sun_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, 8) != 0)
		return -errno;
	return fd;
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void handle_signals(struct keeper *k)
{
	struct signalfd_siginfo info;

	while (read(k->signals, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD)
			k->down = true;
	reap(k);
}

static void run(struct keeper *k)
{
	struct pollfd p[3 + WIRE_PORTS_MAX];

	while (!k->down) {
		p[0] = (struct pollfd){.fd = k->control, .events = POLLIN};
		p[1] = (struct pollfd){.fd = k->signals, .events = POLLIN};
		p[2] = (struct pollfd){.fd = k->owner, .events = POLLIN};
		wire_poll(&k->wire, p + 3);
		if (poll(p, 3 + k->wire.count, -1) < 0)
			continue;
		wire_handle(&k->wire, p + 3);
		if (p[2].revents)
			k->down = true;
		if (p[1].revents)
			handle_signals(k);
		if (p[0].revents)
			serve(k);
	}
	for (unsigned i = 0; i < k->wire.count; i++)
		host_kill(k, i);
	unlink("control");
}

/* The caller returns when the control socket takes requests, and the keeper goes on without it. */
static void leave_parent(int ready)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (write(ready, "", 1) != 1)
		exit(1);
	close(ready);
}

int main(int argc, char **argv)
{
	static struct keeper k = {.owner = -1};
	int ready[2];
	char byte;

	if (argc < 2 || chdir(argv[1]) != 0 || pipe2(ready, O_CLOEXEC) != 0) {
		fprintf(stderr, "usage: lab-keeper DIR [OWNER_PID]\n");
		return 2;
	}
	if (argc > 2)
		k.owner = (int)syscall(SYS_pidfd_open, (pid_t)strtol(argv[2], NULL, 10), 0);
	if (argc > 2 && k.owner < 0) {
		perror("lab-keeper: owner");
		return 1;
	}
	switch (fork()) {
	case -1: perror("lab-keeper"); return 1;
	case 0: break;
	default: close(ready[1]); return read(ready[0], &byte, 1) == 1 ? 0 : 1;
	}
	close(ready[0]);
	k.control = open_control();
	k.signals = open_signals();
	if (k.control < 0 || k.signals < 0) {
		perror("lab-keeper");
		return 1;
	}
	wake_quickly();
	leave_parent(ready[1]);
	run(&k);
	return 0;
}
