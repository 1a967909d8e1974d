/* One migration between two QEMU, by QMP. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/bench/bench.h"
#include "tests/bench/migrate_vm.h"

enum { QMP_TEXT = 1 << 16, DOWNTIME_LIMIT_MS = 30 };

struct qmp {
	int fd;
	char text[QMP_TEXT];
	size_t len;
};

static int qmp_connect(struct qmp *q, const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	double until = bench_now_us() + 10e6;

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	while (connect(q->fd, (struct sockaddr *)&sa, sizeof(sa))) {
		if (bench_now_us() > until)
			return -errno;
		poll(NULL, 0, 2);
	}
	return 0;
}

/* Reads until one of the words is there (the index of it), keeping what follows. */
static int qmp_wait(struct qmp *q, const char *a, const char *b)
{
	double until = bench_now_us() + MOVE_TIMEOUT_MS * 1e3;

	for (;;) {
		struct pollfd p = {.fd = q->fd, .events = POLLIN};
		const char *words[] = {a, b};
		ssize_t n;

		q->text[q->len] = 0;
		for (int i = 0; i < 2; i++) {
			char *at = strstr(q->text, words[i]);

			if (at) {
				char *end = strchr(at, '\n');
				size_t drop = (size_t)((end ? end + 1 : at + 1) - q->text);

				memmove(q->text, q->text + drop, q->len - drop);
				q->len -= drop;
				return i;
			}
		}
		if (q->len > QMP_TEXT / 2)
			q->len = 0;
		if (bench_now_us() > until || poll(&p, 1, MOVE_TIMEOUT_MS) != 1)
			return -ETIMEDOUT;
		n = read(q->fd, q->text + q->len, QMP_TEXT - 1 - q->len);
		if (n <= 0)
			return -ECONNRESET;
		q->len += (size_t)n;
	}
}

static int qmp_do(struct qmp *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int qmp_do(struct qmp *q, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (write(q->fd, line, (size_t)n) != n)
		return -EPIPE;
	n = qmp_wait(q, "\"return\"", "\"error\"");
	return n == 1 ? -EINVAL : n;
}

static int qemu_start(struct move_pair *p, int which, const char *qemu, const char *build,
		      const struct move_job *job)
{
	char program[512], share[512], guest[512], memory[128], args[128], qmp[128], m[16];
	const char *argv[] = {program,
			      "-L",
			      share,
			      "-M",
			      "microvm,accel=kvm,rtc=off,memory-backend=m",
			      "-cpu",
			      "kvm64",
			      "-m",
			      m,
			      "-object",
			      memory,
			      "-kernel",
			      guest,
			      "-append",
			      args,
			      "-nodefaults",
			      "-no-user-config",
			      "-display",
			      "none",
			      "-serial",
			      "stdio",
			      "-qmp",
			      qmp,
			      which ? "-incoming" : NULL,
			      "defer",
			      NULL};

	snprintf(program, sizeof(program), "%s/qemu-system-x86_64", qemu);
	snprintf(share, sizeof(share), "%s/qemu", qemu);
	snprintf(guest, sizeof(guest), "%s/tests/guests/writer", build);
	snprintf(m, sizeof(m), "%u", job->memory_mib);
	/* The destination's memory is there before the first page comes. */
	snprintf(memory, sizeof(memory), "memory-backend-ram,id=m,size=%uM,prealloc=%s",
		 job->memory_mib, which ? "on" : "off");
	move_guest_args(job, args, sizeof(args));
	snprintf(qmp, sizeof(qmp), "unix:%s/qmp%d,server=on,wait=off", p->dir, which);
	return move_side_start(p, which, argv);
}

static int qemu_set(struct qmp *q, const struct move_job *job)
{
	int err = qmp_do(q, "{\"execute\":\"qmp_capabilities\"}\n");

	if (!err)
		err = qmp_do(q,
			     "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{"
			     "\"capabilities\":[{\"capability\":\"events\",\"state\":true},"
			     "{\"capability\":\"return-path\",\"state\":true},"
			     "{\"capability\":\"multifd\",\"state\":%s},"
			     "{\"capability\":\"postcopy-ram\",\"state\":%s},"
			     "{\"capability\":\"auto-converge\",\"state\":%s}]}}\n",
			     job->channels ? "true" : "false", job->postcopy ? "true" : "false",
			     job->unthrottled && !job->postcopy ? "true" : "false");
	if (!err)
		err = qmp_do(
			q,
			"{\"execute\":\"migrate-set-parameters\",\"arguments\":{"
			"\"max-bandwidth\":0,\"downtime-limit\":%u,\"multifd-channels\":%u}}\n",
			job->max_downtime_ms ? job->max_downtime_ms : DOWNTIME_LIMIT_MS,
			job->channels ? job->channels : 2);
	return err;
}

static double qmp_number(struct qmp *q, const char *key)
{
	const char *p = strstr(q->text, key);

	return p ? strtod(p + strlen(key), NULL) : -1;
}

/* "transferred" of query-migrate, which qmp_wait() would drop. */
static double qemu_bytes(struct qmp *q)
{
	static const char ask[] = "{\"execute\":\"query-migrate\"}\n";
	struct pollfd p = {.fd = q->fd, .events = POLLIN};
	double bytes = -1;

	if (write(q->fd, ask, sizeof(ask) - 1) < 0)
		return -1;
	while (bytes < 0 && poll(&p, 1, 2000) == 1) {
		ssize_t n = read(q->fd, q->text + q->len, QMP_TEXT - 1 - q->len);

		if (n <= 0)
			break;
		q->len += (size_t)n;
		q->text[q->len] = 0;
		bytes = qmp_number(q, "\"transferred\": ");
	}
	return bytes;
}

static int qemu_move(struct move_pair *p, struct qmp q[2], const struct move_job *job,
		     struct move_result *r)
{
	char path[100];
	double start = 0;
	int err = move_wait(p, 0, "writer: ready", 0);

	for (int i = 0; i < 2 && !err; i++) {
		snprintf(path, sizeof(path), "%s/qmp%d", p->dir, i);
		err = qmp_connect(&q[i], path);
		if (!err)
			err = qemu_set(&q[i], job);
	}
	if (!err)
		err = qmp_do(&q[1],
			     "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":"
			     "\"tcp:127.0.0.1:%d\"}}\n",
			     20000 + (int)(getpid() % 20000));
	if (!err)
		err = move_wait(p, 0, NULL, 500);
	start = bench_now_us();
	if (!err)
		err = qmp_do(
			&q[0],
			"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:127.0.0.1:%d\"}}\n",
			20000 + (int)(getpid() % 20000));
	if (!err && job->postcopy)
		err = qmp_do(&q[0], "{\"execute\":\"migrate-start-postcopy\"}\n");
	if (!err)
		err = qmp_wait(&q[0], "\"status\": \"completed\"", "\"status\": \"failed\"");
	if (err) {
		snprintf(r->why, sizeof(r->why), "%s",
			 err == -ETIMEDOUT ? "no end" : "the migration failed");
		return err < 0 ? err : -EIO;
	}
	r->total_ms = (bench_now_us() - start) / 1e3;
	err = move_wait(p, 1, NULL, 500);
	r->downtime_ms = move_gap_ms(p);
	r->bytes = qemu_bytes(&q[0]);
	return err;
}

int move_qemu(const char *qemu, const char *build, const struct move_job *job,
	      struct move_result *r)
{
	static struct qmp q[2];
	struct move_pair p;
	int err = move_pair_init(&p);

	if (err)
		return err;
	for (int i = 0; i < 2; i++)
		q[i] = (struct qmp){.fd = -1};
	for (int i = 0; i < 2 && !err; i++)
		err = qemu_start(&p, i, qemu, build, job);
	if (!err)
		err = move_watch(&p);
	if (!err)
		err = qemu_move(&p, q, job, r);
	for (int i = 0; i < 2; i++)
		if (q[i].fd >= 0)
			close(q[i].fd);
	if (err && !r->why[0])
		snprintf(r->why, sizeof(r->why), "%s", strerror(-err));
	move_pair_fini(&p);
	return err;
}
