/* One migration between two pangaea-vmm, as the agents do it: proto/vmmctl.h, then proto/migctl.h. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/migctl.h"
#include "proto/vmmctl.h"
#include "tests/bench/bench.h"
#include "tests/bench/migrate_vm.h"

enum { GUEST_MIB = 18 }; /* of memory below what the guest fills, and a little more */

struct ours {
	struct move_pair pair;
	char run[2][80];
	int control[2], session[2];
};

static int side_start(struct ours *o, int which, const char *build, const struct move_job *job)
{
	char program[512], guest[512], memory[16], args[128];
	char populate[16];
	const char *argv[20] = {program, "--name",    "bench",	    "--vcpus",
				"1",	 "--memory",  memory,	    "--console",
				"stdio", "--run-dir", o->run[which]};
	int n = 11;

	snprintf(program, sizeof(program), "%s/node/vmm/pangaea-vmm", build);
	snprintf(guest, sizeof(guest), "%s/tests/guests/writer", build);
	snprintf(memory, sizeof(memory), "%uM", job->memory_mib);
	move_guest_args(job, args, sizeof(args));
	snprintf(o->run[which], sizeof(o->run[which]), "%s/%d", o->pair.dir, which);
	if (mkdir(o->run[which], 0700))
		return -errno;
	if (which == 1) {
		argv[n++] = "--incoming";
		if (job->fill_mib && !job->postcopy) {
			snprintf(populate, sizeof(populate), "%uM", job->fill_mib + GUEST_MIB);
			argv[n++] = "--populate";
			argv[n++] = populate;
		}
	} else {
		argv[n++] = "--kernel";
		argv[n++] = guest;
		argv[n++] = "--cmdline";
		argv[n++] = args;
	}
	return move_side_start(&o->pair, which, argv);
}

/* The process makes its socket when it is ready. */
static int control_connect(struct ours *o, int which)
{
	double until = bench_now_us() + 10e6;

	do {
		o->control[which] = vmmctl_connect(o->run[which], VMMCTL_SOCKET, SOCK_SEQPACKET);
		if (o->control[which] >= 0)
			return 0;
		poll(NULL, 0, 2);
	} while (bench_now_us() < until);
	return o->control[which];
}

static int control_send(int sock, enum vmmctl_op op, int fd)
{
	struct vmmctl_msg m = {.kind = VMMCTL_REQUEST, .id = 1, .request.op = op};
	static uint8_t data[VMMCTL_MAX_BYTES];
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {data, 0};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control.room,
			    .msg_controllen = sizeof(control.room)};
	int err = vmmctl_encode(&m, data, &iov.iov_len);

	if (err)
		return err;
	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return sendmsg(sock, &mh, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int control_answer(int sock)
{
	static uint8_t data[VMMCTL_MAX_BYTES];

	for (;;) {
		struct pollfd p = {.fd = sock, .events = POLLIN};
		struct vmmctl_msg *m;
		ssize_t n;
		int err;

		if (poll(&p, 1, MOVE_TIMEOUT_MS) != 1)
			return -ETIMEDOUT;
		n = recv(sock, data, sizeof(data), 0);
		if (n <= 0)
			return -ECONNRESET;
		err = vmmctl_decode(data, (size_t)n, &m);
		if (err)
			return err;
		err = m->kind == VMMCTL_REPLY ? m->reply.error : 1;
		free(m);
		if (err <= 0)
			return err;
	}
}

/* Makes the session that the agent has with the process. */
static int session_make(struct ours *o, int which)
{
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	err = control_send(o->control[which], which ? VMMCTL_MIGRATE_IN : VMMCTL_MIGRATE_OUT,
			   pair[1]);
	close(pair[1]);
	o->session[which] = pair[0];
	return err ? err : control_answer(o->control[which]);
}

static int sessions_begin(struct ours *o, const struct move_job *job, double *start)
{
	struct migctl_msg m[2] = {{.kind = MIGCTL_START}, {.kind = MIGCTL_START}};
	int err = 0;

	m[0].start.encrypt = job->encrypt;
	m[0].start.auto_converge = true;
	m[0].start.mode = job->postcopy ? 1 : 0;
	m[0].start.channels = job->channels ? job->channels : MOVE_CHANNELS;
	m[0].start.max_downtime_ms = job->max_downtime_ms;
	if (getrandom(m[0].start.id, MIGCTL_ID_LEN, 0) < 0 ||
	    getrandom(m[0].start.key, MIGCTL_KEY_LEN, 0) < 0)
		return -errno;
	m[1].start = m[0].start;
	for (unsigned i = 0; i <= m[0].start.channels && !err; i++) {
		int fds[2];

		err = move_tcp_pair(fds);
		m[0].fds[m[0].fd_count++] = fds[0];
		m[1].fds[m[1].fd_count++] = fds[1];
	}
	*start = bench_now_us();
	for (int i = 1; i >= 0 && !err; i--)
		err = migctl_send(o->session[i], &m[i]);
	for (int i = 0; i < 2; i++)
		for (unsigned k = 0; k < m[i].fd_count; k++)
			close(m[i].fds[k]);
	return err;
}

static int session_result(struct ours *o, int which, struct move_result *r)
{
	for (;;) {
		struct pollfd p = {.fd = o->session[which], .events = POLLIN};
		struct migctl_msg m;
		int err;

		if (poll(&p, 1, MOVE_TIMEOUT_MS) != 1)
			return -ETIMEDOUT;
		err = migctl_recv(o->session[which], &m);
		if (err)
			return err;
		if (which == 0 && m.kind != MIGCTL_START)
			r->bytes = (double)m.progress.bytes_sent;
		if (m.kind != MIGCTL_RESULT)
			continue;
		if (which == 0 && getenv("BENCH_VERBOSE"))
			bench_note(
				"ours: %u rounds, %.1f ms, paused %.1f ms, %.0f MB, %lu pages, %lu "
				"zero, %lu again, throttle %u",
				m.progress.round, (double)m.progress.total_ns / 1e6,
				(double)m.progress.downtime_ns / 1e6, r->bytes / 1e6,
				(unsigned long)m.progress.pages_sent,
				(unsigned long)m.progress.pages_zero,
				(unsigned long)m.progress.pages_resent, m.progress.throttle);
		if (m.result.end == MIGCTL_DONE)
			return 0;
		snprintf(r->why, sizeof(r->why), "%s", m.result.text);
		return -ECANCELED;
	}
}

/* Until the destination's memory is there, as QEMU's is before it listens. */
static int wait_populated(struct ours *o, const struct move_job *job)
{
	unsigned long kib = 0, want = job->fill_mib && !job->postcopy ? job->fill_mib * 1024UL : 0;
	double until = bench_now_us() + MOVE_TIMEOUT_MS * 1e3;
	char path[64], line[256];

	snprintf(path, sizeof(path), "/proc/%d/status", (int)o->pair.side[1].pid);
	while (kib < want && bench_now_us() < until) {
		FILE *f = fopen(path, "re");

		if (!f)
			return -errno;
		while (fgets(line, sizeof(line), f))
			sscanf(line, "RssShmem: %lu", &kib);
		fclose(f);
		poll(NULL, 0, 5);
	}
	return kib < want ? -ETIMEDOUT : 0;
}

/*
 * Processor time of a side but its vCPU's, ms: what a move costs, whatever else runs beside it. 0: not known, its
 * vCPU has ended.
 */
static double side_cpu_ms(const struct ours *o, int which)
{
	pid_t pid = o->pair.side[which].pid;
	char pattern[64], path[320];
	struct timespec t = {0};
	bool vcpu = false;
	double sum = 0;
	clockid_t clock;
	glob_t g;

	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
		return 0;
	sum = (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
	snprintf(pattern, sizeof(pattern), "/proc/%d/task/*", (int)pid);
	if (glob(pattern, GLOB_NOSORT, NULL, &g))
		return 0;
	for (size_t i = 0; i < g.gl_pathc; i++) {
		unsigned long ns = 0;
		char comm[32] = "";
		FILE *f;

		snprintf(path, sizeof(path), "%.200s/comm", g.gl_pathv[i]);
		f = fopen(path, "re");
		if (f && !fgets(comm, sizeof(comm), f))
			comm[0] = 0;
		if (f)
			fclose(f);
		snprintf(path, sizeof(path), "%.200s/schedstat", g.gl_pathv[i]);
		f = strncmp(comm, "vcpu", 4) ? NULL : fopen(path, "re");
		if (f && fscanf(f, "%lu", &ns) == 1)
			sum -= (double)ns / 1e6;
		vcpu |= f != NULL;
		if (f)
			fclose(f);
	}
	globfree(&g);
	return vcpu ? sum : 0;
}

static int ours_move(struct ours *o, const struct move_job *job, struct move_result *r)
{
	double start = 0, cpu[2];
	int err = move_wait(&o->pair, 0, "writer: ready", 0);

	for (int i = 0; i < 2 && !err; i++)
		err = control_connect(o, i);
	if (!err)
		err = wait_populated(o, job);
	for (int i = 0; i < 2 && !err; i++)
		err = session_make(o, i);
	if (!err)
		err = move_wait(&o->pair, 0, NULL, 500);
	for (int i = 0; i < 2; i++)
		cpu[i] = side_cpu_ms(o, i);
	if (!err)
		err = sessions_begin(o, job, &start);
	for (int i = 0; i < 2 && !err; i++)
		err = session_result(o, i, r);
	if (err)
		return err;
	r->total_ms = (bench_now_us() - start) / 1e3;
	if (getenv("BENCH_VERBOSE"))
		bench_note(
			"ours: %.0f ms; of a processor at the source %.0f ms, at the destination %.0f",
			r->total_ms, BASE_MAX(side_cpu_ms(o, 0) - cpu[0], 0.0),
			BASE_MAX(side_cpu_ms(o, 1) - cpu[1], 0.0));
	err = move_wait(&o->pair, 1, NULL, 500);
	r->downtime_ms = move_gap_ms(&o->pair);
	return err;
}

/* What a side wrote of where the downtime went. */
static void show_downtime(const struct move_pair *p, int which, const char *what)
{
	char path[128], line[512], *at;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%d.log", p->dir, which);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		at = strstr(line, what);
		line[strcspn(line, "\n")] = 0;
		if (at)
			bench_note("ours: %s", at);
	}
	if (f)
		fclose(f);
}

int move_ours(const char *build, const struct move_job *job, struct move_result *r)
{
	struct ours o = {.control = {-1, -1}, .session = {-1, -1}};
	int err = move_pair_init(&o.pair);

	if (err)
		return err;
	for (int i = 0; i < 2 && !err; i++)
		err = side_start(&o, i, build, job);
	if (!err)
		err = move_watch(&o.pair);
	if (!err)
		err = ours_move(&o, job, r);
	if (!err && getenv("BENCH_VERBOSE")) {
		bench_note("ours: downtime %.1f ms as seen from outside", r->downtime_ms);
		show_downtime(&o.pair, 0, "the guest stood");
		show_downtime(&o.pair, 1, "the guest waited");
	}
	for (int i = 0; i < 2; i++) {
		if (o.control[i] >= 0)
			close(o.control[i]);
		if (o.session[i] >= 0)
			close(o.session[i]);
	}
	if (err && !r->why[0])
		snprintf(r->why, sizeof(r->why), "%s", strerror(-err));
	move_pair_fini(&o.pair);
	return err;
}
