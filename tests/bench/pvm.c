/*
 * Our PVM beside PVM 3.4.6, OpenMPI and raw ping-pongs. One worker program (pvmbench/worker.c) runs
 * with both libpvm3; peers that are not installed are left out with a note.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/tcp.h"
#include "tests/bench/bench.h"

extern char **environ;

static struct {
	struct bench b;
	char build[PATH_MAX], source[PATH_MAX], dir[64], worker[PATH_MAX + 64], mpi[PATH_MAX];
	pid_t ours, original;
	bool has_original, has_mpi, has_net;
} st;

static char *text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *text(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	return s;
}

/* Runs argv with the environment `set` added; what it prints as a number, or -1. */
static double run(char **argv, const char *const *set, bool quiet)
{
	posix_spawn_file_actions_t fa;
	int p[2], status = 0;
	char line[256] = "";
	size_t got = 0;
	ssize_t n;
	pid_t pid;

	for (; set && *set; set += 2)
		setenv(set[0], set[1], 1);
	if (pipe2(p, O_CLOEXEC))
		return -1;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, p[1], 1);
	if (quiet)
		posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	if (posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ))
		pid = -1;
	posix_spawn_file_actions_destroy(&fa);
	close(p[1]);
	while (pid > 0 && got < sizeof(line) - 1 &&
	       (n = read(p[0], line + got, sizeof(line) - 1 - got)) > 0)
		got += (size_t)n;
	close(p[0]);
	if (pid > 0)
		waitpid(pid, &status, 0);
	return pid > 0 && status == 0 && got ? strtod(line, NULL) : -1;
}

static void ours_env(void)
{
	char *lib = text("%s/pvm", st.build), *tmp = text("%s/ours", st.dir);
	char *daemon = text("%s/pvm/pvmd3", st.build);

	setenv("LD_LIBRARY_PATH", lib, 1);
	setenv("PVM_TMP", tmp, 1);
	setenv("PVM_DPATH", daemon, 1);
	setenv("PVM_PATH", lib, 1);
	unsetenv("PVM_SPIN_US");
	free(lib);
	free(tmp);
	free(daemon);
}

static void original_env(void)
{
	char *tmp = text("%s/original", st.dir);

	unsetenv("LD_LIBRARY_PATH");
	unsetenv("PVM_DPATH");
	setenv("PVM_TMP", tmp, 1);
	setenv("PVM_PATH", "/usr/bin", 1);
	free(tmp);
}

static pid_t start(const char *path, const char *tmp, const char *ready)
{
	char *argv[] = {(char *)(uintptr_t)path, NULL};
	char file[PATH_MAX];
	posix_spawn_file_actions_t fa;
	pid_t pid = -1;

	mkdir(tmp, 0700);
	snprintf(file, sizeof(file), "%s/%s", tmp, ready);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	if (posix_spawn(&pid, path, &fa, NULL, argv, environ))
		pid = -1;
	posix_spawn_file_actions_destroy(&fa);
	for (int i = 0; pid > 0 && i < 500 && access(file, F_OK); i++)
		usleep(10000);
	return pid > 0 && !access(file, F_OK) ? pid : -1;
}

static double worker(const char *what, int n, const char *host, int members)
{
	char count[16], size[16];
	char *argv[] = {(char *)(uintptr_t) "timeout",
			(char *)(uintptr_t) "60",
			st.worker,
			(char *)(uintptr_t)what,
			count,
			(char *)(uintptr_t)host,
			members ? size : NULL,
			NULL};

	snprintf(count, sizeof(count), "%d", n);
	snprintf(size, sizeof(size), "%d", members);
	return run(argv, NULL, false);
}

static double mpi(const char *what, int n, int ranks)
{
	char count[16], np[16];
	char *argv[] = {(char *)(uintptr_t) "timeout",
			(char *)(uintptr_t) "100",
			(char *)(uintptr_t) "mpirun",
			(char *)(uintptr_t) "--allow-run-as-root",
			(char *)(uintptr_t) "--oversubscribe",
			(char *)(uintptr_t) "-np",
			np,
			st.mpi,
			(char *)(uintptr_t)what,
			count,
			NULL};

	snprintf(count, sizeof(count), "%d", n);
	snprintf(np, sizeof(np), "%d", ranks);
	unsetenv("LD_LIBRARY_PATH");
	return run(argv, NULL, true);
}

/* Raw peers */

struct pair {
	_Alignas(64) _Atomic uint32_t a;
	_Alignas(64) _Atomic uint32_t b;
};

static void futex(_Atomic uint32_t *w, int op, uint32_t v)
{
	syscall(SYS_futex, w, op, v, NULL, NULL, 0);
}

static void wait_for(_Atomic uint32_t *w, uint32_t v, bool spin)
{
	while (atomic_load(w) != v) {
		if (spin)
			__builtin_ia32_pause();
		else
			futex(w, FUTEX_WAIT, v - 1);
	}
}

static void tell(_Atomic uint32_t *w, uint32_t v, bool spin)
{
	atomic_store(w, v);
	if (!spin)
		futex(w, FUTEX_WAKE, 1);
}

/* Who sleeps is woken in a few microseconds or in dozens, by where the other one runs. */
static void pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		_exit(1);
}

static double raw_shared(int n, bool spin)
{
	struct pair *p =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cpu_set_t all;
	pid_t pid;
	double t0;

	if (p == MAP_FAILED)
		return -1;
	pid = fork();
	if (pid == 0) {
		if (!spin)
			pin(1);
		for (int i = 1; i <= n; i++) {
			wait_for(&p->a, (uint32_t)i, spin);
			tell(&p->b, (uint32_t)i, spin);
		}
		_exit(0);
	}
	sched_getaffinity(0, sizeof(all), &all);
	if (!spin)
		pin(0);
	t0 = bench_now_us();
	for (int i = 1; i <= n; i++) {
		tell(&p->a, (uint32_t)i, spin);
		wait_for(&p->b, (uint32_t)i, spin);
	}
	t0 = (bench_now_us() - t0) / n;
	sched_setaffinity(0, sizeof(all), &all);
	waitpid(pid, NULL, 0);
	munmap(p, 4096);
	return t0;
}

static double raw_memcpy(int n)
{
	size_t len = 1 << 20;
	char *a = calloc(1, len), *b = calloc(1, len);
	double t0, v;

	if (!a || !b)
		abort();
	/* Memory of its own: what is only zeroed is one page that the kernel has for all, and stays in the L1 cache. */
	memset(a, 1, len);
	memcpy(b, a, len);
	t0 = bench_now_us();
	for (int i = 0; i < n; i++) {
		a[i % 4096] = (char)i;
		memcpy(b, a, len);
		__asm__ volatile("" : : "r"(b) : "memory");
	}
	v = (double)len * n / ((bench_now_us() - t0) / 1e6);
	free(a);
	free(b);
	return v;
}

static double raw_spawn(int n)
{
	char *argv[] = {(char *)(uintptr_t) "true", NULL};
	double t0 = bench_now_us();
	int started = 0;
	pid_t pid;

	for (int i = 0; i < n; i++)
		started += !posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ);
	while (started > 0 && wait(NULL) > 0)
		started--;
	return (bench_now_us() - t0) / 1e3;
}

static void read_all(int fd, char *buf, size_t len)
{
	for (size_t got = 0; got < len;) {
		ssize_t n = read(fd, buf + got, len - got);

		if (n <= 0)
			exit(1);
		got += (size_t)n;
	}
}

static void write_all(int fd, const char *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, buf + done, len - done);

		if (n <= 0)
			exit(1);
		done += (size_t)n;
	}
}

/* "raw-tcp IP BYTES ROUNDS" connects, with IP "-" it listens: both ends of a TCP ping-pong. */
static int raw_tcp(char **a)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(47123)};
	size_t bytes = strtoul(a[1], NULL, 10);
	int n = (int)strtol(a[2], NULL, 10), one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	bool server = !strcmp(a[0], "-");
	char *buf = calloc(1, bytes);
	double t0 = 0;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!buf || (!server && inet_pton(AF_INET, a[0], &addr.sin_addr) != 1))
		return 1;
	if (server) {
		if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 1))
			return 1;
		fd = accept(fd, NULL, NULL);
	} else {
		for (int i = 0; connect(fd, (struct sockaddr *)&addr, sizeof(addr)); i++) {
			if (i == 200)
				return 1;
			close(fd);
			usleep(20000);
			fd = socket(AF_INET, SOCK_STREAM, 0);
		}
	}
	/* The fastest form of itself, as ours: not paced by BBR, if that is the kernel's default. */
	base_tcp_no_delay(fd);
	base_tcp_keep_unpaced(fd);
	for (int i = -n / 10; i < n; i++) {
		if (i == 0)
			t0 = bench_now_us();
		if (server)
			read_all(fd, buf, bytes);
		write_all(fd, buf, bytes);
		if (!server)
			read_all(fd, buf, bytes);
	}
	t0 = (bench_now_us() - t0) / n;
	if (!server)
		printf("%.9g\n", bytes > 8 ? 2.0 * (double)bytes / (t0 / 1e6) : t0);
	return 0;
}

/* Cases */

enum { OURS, ORIGINAL, MPI, RAW, PEERS };
static const char *const peer_names[PEERS] = {"", "pvm3", "openmpi", "raw"};

struct def {
	const char *name, *what, *unit;
	/* Iterations: a tenth of a second and more, since two tasks that start on one core part later. */
	int full, quick, original;
	int ranks; /* of OpenMPI; 0: none */
	double (*raw)(int n);
	const char *spin; /* PVM_SPIN_US of ours; with it the two have a core each */
	int members;	  /* of a group */
};

static double raw_spin(int n)
{
	return raw_shared(n, true);
}

static double raw_futex(int n)
{
	return raw_shared(n, false);
}

static const struct def defs[] = {
	{"rtt8_local", "rtt8", "us", 200000, 20000, 1000, 2, raw_spin, NULL, 0},
	{"rtt8_local_blocking", "rtt8", "us", 5000, 1000, 1000, 0, raw_futex, "0", 0},
	{"rate8_local", "rate8", "1/s", 1000000, 100000, 20000, 2, NULL, NULL, 0},
	{"bw1m_local", "bw1m", "B/s", 1000, 100, 40, 2, raw_memcpy, NULL, 0},
	{"bw1m_local_psend", "psend1m", "B/s", 1000, 100, 100, 2, raw_memcpy, NULL, 0},
	{"bw16m_local_psend", "psend16m", "B/s", 50, 5, 10, 2, NULL, NULL, 0},
	{"xdr_doubles", "xdr", "B/s", 2000, 300, 200, 0, NULL, NULL, 0},
	{"spawn256", "spawn", "ms", 256, 256, 256, 0, raw_spawn, NULL, 0},
	{"barrier2", "barrier", "us", 300000, 30000, 1000, 2, NULL, NULL, 2},
	{"bcast2", "bcast", "us", 150000, 15000, 1000, 2, NULL, NULL, 2},
	{"reduce2", "reduce", "us", 200000, 20000, 1000, 2, NULL, NULL, 2},
	{"barrier8", "barrier", "us", 8000, 800, 400, 8, NULL, NULL, 8},
	{"bcast8", "bcast", "us", 5000, 500, 400, 8, NULL, NULL, 8},
	{"reduce8", "reduce", "us", 5000, 500, 400, 8, NULL, NULL, 8},
	{"barrier32", "barrier", "us", 1500, 150, 150, 32, NULL, NULL, 32},
	{"bcast32", "bcast", "us", 800, 80, 100, 32, NULL, NULL, 32},
	{"reduce32", "reduce", "us", 800, 80, 100, 32, NULL, NULL, 32},
	{"barrier64", "barrier", "us", 500, 50, 100, 64, NULL, NULL, 64},
	{"bcast64", "bcast", "us", 300, 30, 60, 64, NULL, NULL, 64},
	{"reduce64", "reduce", "us", 300, 30, 60, 64, NULL, NULL, 64},
	{"mailbox", "mailbox", "1/s", 50000, 12000, 5000, 0, NULL, NULL, 0},
};

static double sample(const struct def *d, int who, int n)
{
	unsetenv("PVM_BENCH_PIN");
	if (d->spin)
		setenv("PVM_BENCH_PIN", "1", 1);
	setenv("PVM_EXPORT", "PVM_SPIN_US:PVM_BENCH_PIN", 1);
	switch (who) {
	case OURS:
		ours_env();
		if (d->spin)
			setenv("PVM_SPIN_US", d->spin, 1);
		return worker(d->what, n, ".", d->members);
	case ORIGINAL:
		if (!st.has_original)
			return -1;
		original_env();
		return worker(d->what, BASE_MIN(n, d->original), ".", d->members);
	case MPI: return d->ranks && st.has_mpi ? mpi(d->what, n, d->ranks) : -1;
	default: return d->raw ? d->raw(n) : -1;
	}
}

static void report(const char *name, const char *unit, struct bench_samples *s)
{
	bool any = false;

	if (!s[OURS].n) {
		bench_note("%s: ours did not run", name);
		return;
	}
	for (int k = ORIGINAL; k < PEERS; k++)
		if (s[k].n) {
			bench_report(&st.b, name, unit, &s[OURS], peer_names[k], &s[k]);
			any = true;
		}
	if (!any)
		bench_report(&st.b, name, unit, &s[OURS], NULL, NULL);
}

static void measure(const struct def *d)
{
	static struct bench_samples s[PEERS];
	int rounds = st.b.quick ? 3 : 5, n = st.b.quick ? d->quick : d->full;

	memset(s, 0, sizeof(s));
	for (int r = 0; r < rounds; r++)
		for (int k = 0; k < PEERS; k++) {
			double v;

			/* A peer that fails once is not waited for again. */
			if (r && !s[k].n)
				continue;
			v = sample(d, k, n);
			if (v > 0)
				bench_add(&s[k], v);
		}
	report(d->name, d->unit, s);
}

/* Two hosts in namespaces */

static double on_host(const char *i, char **argv, int argc)
{
	char *script = text("%s/tests/pvm/hosts.sh", st.source);
	char *av[16] = {script, (char *)(uintptr_t) "run", (char *)(uintptr_t)i};
	double v;

	memcpy(av + 3, argv, (size_t)argc * sizeof(*av));
	v = run(av, NULL, false);
	free(script);
	return v;
}

static double hosts(const char *verb, const char *arg)
{
	char *script = text("%s/tests/pvm/hosts.sh", st.source);
	char *av[] = {script, (char *)(uintptr_t)verb, (char *)(uintptr_t)arg, NULL};
	double v = run(av, NULL, true);

	free(script);
	return v;
}

static double net_ours(const char *what, int n)
{
	char count[16];
	char *argv[] = {(char *)(uintptr_t) "timeout",
			(char *)(uintptr_t) "60",
			st.worker,
			(char *)(uintptr_t)what,
			count,
			(char *)(uintptr_t) "h2"};

	snprintf(count, sizeof(count), "%d", n);
	return on_host("1", argv, 6);
}

static double net_raw(int bytes, int n)
{
	char size[16], count[16], self[PATH_MAX] = "";
	char *server[] = {(char *)(uintptr_t) "timeout",
			  (char *)(uintptr_t) "60",
			  self,
			  (char *)(uintptr_t) "raw-tcp",
			  (char *)(uintptr_t) "-",
			  size,
			  count};
	char *client[] = {(char *)(uintptr_t) "timeout",
			  (char *)(uintptr_t) "60",
			  self,
			  (char *)(uintptr_t) "raw-tcp",
			  (char *)(uintptr_t) "10.92.3.2",
			  size,
			  count};
	double v;
	pid_t pid;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return -1;
	snprintf(size, sizeof(size), "%d", bytes);
	snprintf(count, sizeof(count), "%d", n);
	pid = fork();
	if (pid == 0) {
		on_host("2", server, 7);
		_exit(0);
	}
	v = on_host("1", client, 7);
	waitpid(pid, NULL, 0);
	return v;
}

static void net_env(void)
{
	char *dir = text("%s/net", st.dir);
	char *env = text("LD_LIBRARY_PATH=%s/pvm PVM_DPATH=%s/pvm/pvmd3", st.build, st.build);

	unsetenv("LD_LIBRARY_PATH");
	setenv("PVMHOSTS_DIR", dir, 1);
	setenv("PVMHOSTS_NET", "10.92.3", 1);
	setenv("PVMHOSTS_ENV", env, 1);
	free(dir);
	free(env);
}

static bool net_up(void)
{
	char *daemon = text("%s/pvm/pvmd3", st.build),
	     *add = text("%s/tests/pvm/pvmtest_twohosts", st.build);
	char *d[] = {(char *)(uintptr_t) "setsid", daemon}, *a[] = {add, (char *)(uintptr_t) "h2"};
	pid_t pid;
	bool ok = false;

	net_env();
	hosts("upnet", "2");
	pid = fork();
	if (pid == 0) {
		on_host("1", d, 2);
		_exit(0);
	}
	for (int i = 0; i < 50 && !ok; i++) {
		usleep(100000);
		ok = on_host("1", a, 2) >= 0;
	}
	free(daemon);
	free(add);
	return ok;
}

static void measure_net(void)
{
	static struct bench_samples s[2][PEERS];
	int rounds = st.b.quick ? 3 : 5;

	if (geteuid() || !net_up()) {
		bench_note("two hosts: namespaces need root");
		hosts("down", NULL);
		return;
	}
	memset(s, 0, sizeof(s));
	for (int r = 0; r < rounds; r++)
		for (int k = 0; k < 4; k++) {
			int n = k % 2 ? (st.b.quick ? 30 : 200) : (st.b.quick ? 500 : 3000);
			double v = k < 2 ? net_ours(k % 2 ? "psend1m" : "rtt8", n)
					 : net_raw(k % 2 ? 1 << 20 : 8, n);

			if (v > 0)
				bench_add(&s[k % 2][k < 2 ? OURS : RAW], v);
		}
	hosts("down", NULL);
	report("rtt8_net", "us", s[0]);
	report("bw1m_net", "B/s", s[1]);
}

static void prepare(char *argv0)
{
	char *tmp, *source, *slash;

	if (!realpath(argv0, st.build) && readlink("/proc/self/exe", st.build, PATH_MAX - 1) < 0)
		exit(1);
	for (int i = 0; i < 3 && (slash = strrchr(st.build, '/')); i++)
		*slash = 0;
	snprintf(st.source, sizeof(st.source), "%s", PVM_SOURCE);
	snprintf(st.worker, sizeof(st.worker), "%s/tests/bench/pvm_worker", st.build);
	snprintf(st.dir, sizeof(st.dir), "/tmp/pvmbench.XXXXXX");
	if (!mkdtemp(st.dir))
		exit(1);
	setenv("PVM_ROOT", "/usr/lib/pvm3", 1);
	setenv("PVM_ARCH", "LINUX64", 1);
	setenv("PVM_ALLOW_ROOT", "1", 1);
	ours_env();
	tmp = text("%s/ours", st.dir);
	mkdir(tmp, 0700);
	source = text("%s/pvm/pvmd3", st.build);
	slash = text("pvmd.%u.d/sock", (unsigned)getuid());
	st.ours = start(source, tmp, slash);
	free(tmp);
	free(source);
	free(slash);
	original_env();
	tmp = text("%s/original", st.dir);
	slash = text("pvmd.%u", (unsigned)getuid());
	st.original = access("/usr/lib/pvm3/lib/pvmd", X_OK)
			      ? -1
			      : start("/usr/lib/pvm3/lib/pvmd", tmp, slash);
	st.has_original = st.original > 0;
	free(tmp);
	free(slash);
	if (!st.has_original)
		bench_note("PVM 3.4.6 is not installed or does not start");
}

static void prepare_mpi(void)
{
	char *source = text("%s/tests/bench/pvmbench/mpi.c", st.source);
	char *argv[] = {(char *)(uintptr_t) "mpicc",
			(char *)(uintptr_t) "-O2",
			source,
			(char *)(uintptr_t) "-o",
			st.mpi,
			NULL};

	snprintf(st.mpi, sizeof(st.mpi), "%s/mpi", st.dir);
	unsetenv("LD_LIBRARY_PATH");
	run(argv, NULL, true);
	st.has_mpi = !access(st.mpi, X_OK);
	if (!st.has_mpi)
		bench_note("OpenMPI (mpicc) is not installed");
	free(source);
}

static void finish(void)
{
	char *argv[] = {(char *)(uintptr_t) "rm", (char *)(uintptr_t) "-rf", st.dir, NULL};

	if (st.ours > 0)
		kill(st.ours, SIGTERM);
	if (st.original > 0)
		kill(st.original, SIGTERM);
	if (st.ours > 0)
		waitpid(st.ours, NULL, 0);
	if (st.original > 0)
		waitpid(st.original, NULL, 0);
	run(argv, NULL, true);
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "raw-tcp"))
		return raw_tcp(argv + 2);
	bench_init(
		&st.b, argc, argv,
		"rtt8_local rtt8_local_blocking rate8_local bw1m_local bw1m_local_psend "
		"bw16m_local_psend xdr_doubles spawn256 barrier2 bcast2 reduce2 barrier8 bcast8 reduce8 "
		"barrier32 bcast32 reduce32 barrier64 bcast64 reduce64 mailbox rtt8_net bw1m_net");
	st.b.rounds = true;
	prepare(argv[0]);
	if (st.ours < 0) {
		bench_note("our daemon does not start");
		finish();
		return 1;
	}
	prepare_mpi();
	for (size_t i = 0; i < sizeof(defs) / sizeof(defs[0]); i++)
		if (bench_wants(&st.b, defs[i].name))
			measure(&defs[i]);
	if (bench_wants(&st.b, "rtt8_net") || bench_wants(&st.b, "bw1m_net"))
		measure_net();
	finish();
	return 0;
}
