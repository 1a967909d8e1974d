#include "tests/bench/migrate_vm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

int move_pair_init(struct move_pair *p)
{
	*p = (struct move_pair){0};
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	for (int i = 0; i < 2; i++)
		p->side[i].out = -1;
	snprintf(p->dir, sizeof(p->dir), "/tmp/pangaea-bench.XXXXXX");
	return mkdtemp(p->dir) ? 0 : -errno;
}

static volatile sig_atomic_t running[2]; /* process ids, for who is told to end */

static void end_all(int sig)
{
	for (int i = 0; i < 2; i++)
		if (running[i])
			kill(running[i], SIGKILL);
	_exit(128 + sig);
}

/* It must not outlive the benchmark. What changes its user has no such signal any more: see end_all(). */
static void side_exec(const char *const argv[], int out, const char *log)
{
	int null = open("/dev/null", O_RDONLY), err = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(null, 0);
	dup2(out, 1);
	dup2(err, 2);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	_exit(127);
}

int move_side_start(struct move_pair *p, int which, const char *const argv[])
{
	struct move_side *s = &p->side[which];
	char log[96];
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	snprintf(log, sizeof(log), "%s/%d.log", p->dir, which);
	s->pid = fork();
	if (s->pid == 0)
		side_exec(argv, fds[1], log);
	close(fds[1]);
	if (s->pid < 0) {
		close(fds[0]);
		s->pid = 0;
		return -EAGAIN;
	}
	running[which] = s->pid;
	signal(SIGTERM, end_all);
	signal(SIGINT, end_all);
	s->out = fds[0];
	return 0;
}

static void side_take(struct move_side *s, const char *data, size_t len, double now)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] != '.') {
			if (s->len < MOVE_TEXT - 1)
				s->text[s->len++] = data[i];
			continue;
		}
		s->dots++;
		s->last_us = now;
		if (s->first_us == 0)
			s->first_us = now;
	}
}

static void *watch_main(void *arg)
{
	struct move_pair *p = arg;
	struct sched_param rt = {.sched_priority = 10};
	bool open[2] = {p->side[0].out >= 0, p->side[1].out >= 0};

	/* It only notes times; without the right to it the times are a little later. */
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &rt);
	while (!p->quit) {
		struct pollfd f[2] = {{.fd = open[0] ? p->side[0].out : -1, .events = POLLIN},
				      {.fd = open[1] ? p->side[1].out : -1, .events = POLLIN}};
		double now;

		if (poll(f, 2, 100) <= 0)
			continue;
		now = bench_now_us();
		pthread_mutex_lock(&p->lock);
		for (int i = 0; i < 2; i++) {
			char buf[4096];
			ssize_t n = f[i].revents ? read(p->side[i].out, buf, sizeof(buf)) : -1;

			if (n > 0)
				side_take(&p->side[i], buf, (size_t)n, now);
			else if (n == 0)
				open[i] = false;
		}
		pthread_cond_broadcast(&p->cond);
		pthread_mutex_unlock(&p->lock);
	}
	return NULL;
}

int move_watch(struct move_pair *p)
{
	int err = -pthread_create(&p->watcher, NULL, watch_main, p);

	p->watching = !err;
	return err;
}

int move_wait(struct move_pair *p, int which, const char *text, unsigned long dots)
{
	struct move_side *s = &p->side[which];
	struct timespec t;
	unsigned long want;
	int err = 0;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += MOVE_TIMEOUT_MS / 1000;
	pthread_mutex_lock(&p->lock);
	want = s->dots + dots;
	while (!err && (text ? !strstr(s->text, text) : s->dots < want))
		err = -pthread_cond_timedwait(&p->cond, &p->lock, &t);
	if (strstr(s->text, "FAIL"))
		err = -EIO;
	pthread_mutex_unlock(&p->lock);
	return err;
}

double move_gap_ms(struct move_pair *p)
{
	double gap;

	pthread_mutex_lock(&p->lock);
	gap = (p->side[1].first_us - p->side[0].last_us) / 1e3;
	pthread_mutex_unlock(&p->lock);
	return gap;
}

void move_pair_fini(struct move_pair *p)
{
	char command[96];

	p->quit = true;
	if (p->watching)
		pthread_join(p->watcher, NULL);
	for (int i = 0; i < 2; i++) {
		if (p->side[i].pid > 0) {
			kill(p->side[i].pid, SIGKILL);
			running[i] = 0;
			waitpid(p->side[i].pid, NULL, 0);
		}
		if (p->side[i].out >= 0)
			close(p->side[i].out);
	}
	snprintf(command, sizeof(command), "rm -rf %s", p->dir);
	if (system(command))
		bench_note("%s: left behind", p->dir);
}

void move_guest_args(const struct move_job *job, char *out, size_t cap)
{
	snprintf(out, cap, "fill=%u rate=%u all=%d beat=200", job->fill_mib, job->rate_mb,
		 job->unthrottled);
}

int move_tcp_pair(int fds[2])
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), err = 0;

	fds[0] = fds[1] = -1;
	if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof(sa)) ||
	    listen(listener, 1) || getsockname(listener, (struct sockaddr *)&sa, &len))
		err = -errno;
	if (!err) {
		fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fds[0] < 0 || connect(fds[0], (struct sockaddr *)&sa, sizeof(sa)))
			err = -errno;
	}
	if (!err) {
		fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fds[1] < 0)
			err = -errno;
	}
	if (listener >= 0)
		close(listener);
	return err;
}

/* ---- the raw stream ---- */

static void raw_receive(int fd)
{
	static char buf[1 << 20];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		;
	_exit(n < 0);
}

int move_raw(size_t bytes, struct move_result *r)
{
	static char buf[1 << 20];
	double start;
	int fds[2], err = move_tcp_pair(fds), status = 0;
	pid_t pid;

	if (err)
		return err;
	memset(buf, 1, sizeof(buf));
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		raw_receive(fds[1]);
	}
	close(fds[1]);
	start = bench_now_us();
	for (size_t left = bytes; left > 0 && !err;) {
		ssize_t n = write(fds[0], buf, left < sizeof(buf) ? left : sizeof(buf));

		if (n <= 0)
			err = -EPIPE;
		else
			left -= (size_t)n;
	}
	close(fds[0]);
	waitpid(pid, &status, 0);
	r->total_ms = (bench_now_us() - start) / 1e3;
	return err ? err : status ? -EPIPE : 0;
}
