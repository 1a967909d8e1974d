/*
 * The DSM against what it is made of: slices in processes of their own over loopback TCP, beside a
 * raw 4 KiB TCP ping-pong and a local userfaultfd fault, both with polling peers, in the same run. The
 * cases named _inproc have all slices in this process, where a message is a few stores.
 *
 * Read faults, write faults and upgrades are of pages whose home and owner is the other slice.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "tests/bench/bench.h"
#include "tests/bench/dsm_raw.h"
#include "tests/unit/dsm/slices.h"

enum { HOME_PAGES = 8192, LATENCY_PAGES = 256, THREADS_MAX = 4 };

enum op { OP_WRITE = 1, OP_READ, OP_PING_PONG, OP_QUIT };

struct command {
	enum op op;
	uint64_t first, count;
};

struct cluster {
	struct slices s;
	bool inproc;
	pid_t child[SLICES_MAX];      /* over TCP */
	pthread_t thread[SLICES_MAX]; /* inproc */
	int to[SLICES_MAX], from[SLICES_MAX];
};

/* One of the other slices: the process's, or the thread's. */
struct other {
	struct slices *s;
	unsigned self;
	int in, out;
};

/* How slices are joined. */
struct way {
	const struct xp_ops *transport;
	const char *suffix;
};

static struct bench bench;
static struct bench_samples raw4k, raw_small, local_fault, raw_stream;

static volatile uint64_t *page_at(struct slices *s, unsigned slice, uint64_t page)
{
	return (volatile uint64_t *)(void *)(s->slice[slice].mem + page * DSM_PAGE_SIZE);
}

/* ---- the other slices ---- */

/* times: of each hand-over, as the half of two. NULL: not wanted. */
static void ping_pong(volatile uint64_t *w, uint64_t count, uint64_t mine,
		      struct bench_samples *times)
{
	double before = 0;

	for (uint64_t i = mine; i < count; i += 2) {
		while (*w != i)
			sched_yield();
		*w = i + 1;
		double now = times ? bench_now_us() : 0;

		if (times && before > 0)
			bench_add(times, (now - before) / 2);
		before = now;
	}
}

static void obey(struct slices *s, unsigned self, const struct command *c)
{
	for (uint64_t p = c->first; p < c->first + c->count && c->op == OP_WRITE; p++)
		for (unsigned k = 0; k < 8; k++)
			page_at(s, self, p)[k * 64] = p + k + 1;
	for (uint64_t p = c->first; p < c->first + c->count && c->op == OP_READ; p++)
		(void)*page_at(s, self, p);
	if (c->op == OP_PING_PONG)
		ping_pong(page_at(s, self, c->first), c->count, 1, NULL);
}

static void *other_main(void *arg)
{
	const struct other *o = arg;
	struct command c;
	char ok = 1;

	while (read(o->in, &c, sizeof(c)) == sizeof(c) && c.op != OP_QUIT) {
		obey(o->s, o->self, &c);
		if (write(o->out, &ok, 1) != 1)
			break;
	}
	return NULL;
}

static void child_main(struct slices *s, const struct slices_options *opt, int listen,
		       struct other *o)
{
	if (slices_open_one(s, opt, o->self, listen) || dsm_start(s->slice[o->self].dsm) ||
	    dsm_wait_up(s->slice[o->self].dsm, 10000))
		_exit(1);
	other_main(o);
	_exit(0);
}

static void die(const char *what)
{
	bench_note("%s: %s", what, strerror(errno));
	exit(1);
}

static void ask(struct cluster *cl, unsigned node, enum op op, uint64_t first, uint64_t count)
{
	struct command c = {.op = op, .first = first, .count = count};

	if (write(cl->to[node], &c, sizeof(c)) != sizeof(c))
		die("a slice is gone");
}

static void answer(struct cluster *cl, unsigned node)
{
	char ok;

	if (read(cl->from[node], &ok, 1) != 1)
		die("a slice is gone");
}

static void command(struct cluster *cl, unsigned node, enum op op, uint64_t first, uint64_t count)
{
	ask(cl, node, op, first, count);
	answer(cl, node);
}

/* The two ends of the conversation with it. */
static struct other *connect_other(struct cluster *cl, unsigned i)
{
	static struct other others[SLICES_MAX];
	int down[2], up[2];

	if (pipe(down) || pipe(up))
		die("pipe");
	cl->to[i] = down[1];
	cl->from[i] = up[0];
	others[i] = (struct other){.s = &cl->s, .self = i, .in = down[0], .out = up[1]};
	return &others[i];
}

static void open_processes(struct cluster *cl, const struct slices_options *o)
{
	int listen[SLICES_MAX];

	*cl = (struct cluster){.s = {.count = o->count, .pages = o->pages}};
	for (unsigned i = 0; i < o->count; i++)
		if (slices_listen(o->transport, cl->s.address[i], &listen[i]))
			die("listen");
	for (unsigned i = 1; i < o->count; i++) {
		struct other *other = connect_other(cl, i);

		cl->child[i] = fork();
		if (cl->child[i] == 0)
			child_main(&cl->s, o, listen[i], other);
		close(other->in);
		close(other->out);
		close(listen[i]);
	}
	if (slices_open_one(&cl->s, o, 0, listen[0]) || dsm_start(cl->s.slice[0].dsm) ||
	    dsm_wait_up(cl->s.slice[0].dsm, 10000))
		die("a slice does not start");
}

static void open_threads(struct cluster *cl, const struct slices_options *o)
{
	*cl = (struct cluster){.inproc = true};
	if (slices_open(&cl->s, o) || slices_start(&cl->s))
		die("a slice does not start");
	for (unsigned i = 1; i < o->count; i++)
		if (pthread_create(&cl->thread[i], NULL, other_main, connect_other(cl, i)))
			die("pthread_create");
}

static void cluster_open(struct cluster *cl, const struct slices_options *o)
{
	if (o->transport == &xp_inproc)
		open_threads(cl, o);
	else
		open_processes(cl, o);
}

static void close_threads(struct cluster *cl)
{
	for (unsigned i = 1; i < cl->s.count; i++) {
		ask(cl, i, OP_QUIT, 0, 0);
		pthread_join(cl->thread[i], NULL);
		close(cl->to[i]);
		close(cl->from[i]);
	}
	slices_close(&cl->s);
}

static void cluster_close(struct cluster *cl)
{
	if (cl->inproc) {
		close_threads(cl);
		return;
	}
	dsm_stop(cl->s.slice[0].dsm);
	dsm_free(cl->s.slice[0].dsm);
	munmap(cl->s.slice[0].mem, slices_len(&cl->s));
	close(cl->s.slice[0].fd);
	for (unsigned i = 1; i < cl->s.count; i++) {
		ask(cl, i, OP_QUIT, 0, 0);
		waitpid(cl->child[i], NULL, 0);
		close(cl->to[i]);
		close(cl->from[i]);
	}
}

static const char *full_name(const struct way *way, const char *name)
{
	static char full[64];

	snprintf(full, sizeof(full), "%s%s", name, way->suffix);
	return full;
}

static bool wants(const struct way *way, const char *name)
{
	return bench_wants(&bench, full_name(way, name));
}

static void report(const struct way *way, const char *name, const char *unit,
		   struct bench_samples *ours, const char *peer, struct bench_samples *peer_samples)
{
	bench_report(&bench, full_name(way, name), unit, ours, peer, peer_samples);
}

/* ---- latencies ---- */

static double timed_read(volatile uint64_t *w)
{
	double start = bench_now_us();

	(void)*w;
	return bench_now_us() - start;
}

static double timed_write(volatile uint64_t *w)
{
	double start = bench_now_us();

	*w = 1;
	return bench_now_us() - start;
}

struct latencies {
	struct bench_samples read, write, upgrade;
};

/* Pages of the other's home, in an order that is not sequential. */
static uint64_t scattered(uint64_t i)
{
	return HOME_PAGES + (i * 37 % LATENCY_PAGES) * 2;
}

static void latency_round(struct cluster *cl, struct latencies *l)
{
	command(cl, 1, OP_WRITE, HOME_PAGES, LATENCY_PAGES * 2);
	for (uint64_t i = 0; i < LATENCY_PAGES; i++)
		bench_add(&l->read, timed_read(page_at(&cl->s, 0, scattered(i))));
	for (uint64_t i = 0; i < LATENCY_PAGES; i++)
		bench_add(&l->upgrade, timed_write(page_at(&cl->s, 0, scattered(i))));
	command(cl, 1, OP_WRITE, HOME_PAGES, LATENCY_PAGES * 2);
	for (uint64_t i = 0; i < LATENCY_PAGES; i++)
		bench_add(&l->write, timed_write(page_at(&cl->s, 0, scattered(i))));
}

static void sums(struct bench_samples *out, const struct bench_samples *a,
		 const struct bench_samples *b)
{
	struct bench_samples x = *a, y = *b;

	out->n = 0;
	bench_add(out, bench_quantile(&x, 0.5) + bench_quantile(&y, 0.5));
}

static void report_p99(const struct way *way, const char *name, struct bench_samples *s)
{
	bench_note("%s: p50 %.1f us, p99 %.1f us of %zu", full_name(way, name),
		   bench_quantile(s, 0.5), bench_quantile(s, 0.99), s->n);
}

static void report_latencies(const struct way *way, struct latencies *l)
{
	static struct bench_samples page, permission;
	const struct way none = {.suffix = ""};

	report_p99(way, "read_fault", &l->read);
	report_p99(way, "write_fault", &l->write);
	report_p99(way, "upgrade", &l->upgrade);
	report_p99(&none, "local userfaultfd fault", &local_fault);
	if (way->transport == &xp_inproc) {
		report(way, "read_fault", "us", &l->read, "uffd", &local_fault);
		report(way, "write_fault", "us", &l->write, "uffd", &local_fault);
		report(way, "upgrade", "us", &l->upgrade, "uffd", &local_fault);
		return;
	}
	report_p99(&none, "raw 4 KiB ping-pong", &raw4k);
	report_p99(&none, "raw 32 byte ping-pong", &raw_small);
	sums(&page, &raw4k, &local_fault);
	sums(&permission, &raw_small, &local_fault);
	report(way, "read_fault", "us", &l->read, "tcp4k+uffd", &page);
	report(way, "write_fault", "us", &l->write, "tcp4k+uffd", &page);
	report(way, "upgrade", "us", &l->upgrade, "tcp32+uffd", &permission);
}

static void run_latencies(const struct way *way, unsigned rounds)
{
	static struct cluster cl;
	static struct latencies l;

	l = (struct latencies){0};
	local_fault.n = 0;
	cluster_open(&cl, &(struct slices_options){.count = 2,
						   .pages = HOME_PAGES,
						   .transport = way->transport,
						   .prefetch_max = UINT32_MAX,
						   .around = 64,
						   .rewrites = UINT8_MAX});
	for (unsigned i = 0; i < rounds; i++) {
		if (way->transport != &xp_inproc) {
			raw_ping_pong(4096, 4096, 100, &raw4k);
			raw_ping_pong(32, 32, 100, &raw_small);
		}
		raw_local_fault(100, &local_fault);
		latency_round(&cl, &l);
	}
	report_latencies(way, &l);
	cluster_close(&cl);
}

static void run_ping_pong(const struct way *way, unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples ours;
	enum { HANDOVERS = 200 };

	ours.n = 0;
	cluster_open(&cl, &(struct slices_options){
				  .count = 2, .pages = HOME_PAGES, .transport = way->transport});
	for (unsigned i = 0; i < rounds; i++) {
		ask(&cl, 1, OP_PING_PONG, i, HANDOVERS);
		ping_pong(page_at(&cl.s, 0, i), HANDOVERS, 0, &ours);
		answer(&cl, 1);
	}
	report(way, "ping_pong", "us", &ours, NULL, NULL);
	report_p99(way, "ping_pong", &ours);
	cluster_close(&cl);
}

static void run_invalidate3(const struct way *way, unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples ours;

	ours.n = 0;
	cluster_open(&cl, &(struct slices_options){.count = 4,
						   .pages = HOME_PAGES,
						   .transport = way->transport,
						   .prefetch_max = UINT32_MAX});
	for (unsigned i = 0; i < rounds; i++) {
		for (uint64_t p = 0; p < 64; p++)
			*page_at(&cl.s, 0, p) = i;
		for (unsigned n = 1; n < 4; n++)
			command(&cl, n, OP_READ, 0, 64);
		for (uint64_t p = 0; p < 64; p++)
			bench_add(&ours, timed_write(page_at(&cl.s, 0, p)));
	}
	report(way, "invalidate3", "us", &ours, NULL, NULL);
	report_p99(way, "invalidate3", &ours);
	cluster_close(&cl);
}

/* ---- throughput ---- */

static double scan(struct slices *s, uint64_t first, uint64_t count)
{
	double start = bench_now_us();

	for (uint64_t p = first; p < first + count; p++) {
		volatile uint64_t *w = page_at(s, 0, p);

		for (unsigned k = 0; k < 8; k++) {
			if (w[k * 64] != p + k + 1) {
				bench_note("wrong byte in page %llu", (unsigned long long)p);
				exit(1);
			}
		}
	}
	return (double)count * DSM_PAGE_SIZE / ((bench_now_us() - start) / 1e6);
}

static void run_scan(const struct way *way, unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples ours;
	bool tcp = way->transport != &xp_inproc;

	ours.n = 0;
	cluster_open(&cl, &(struct slices_options){.count = 2,
						   .pages = HOME_PAGES,
						   .transport = way->transport,
						   .around = 64});
	for (unsigned i = 0; i < rounds; i++) {
		command(&cl, 1, OP_WRITE, HOME_PAGES, HOME_PAGES);
		if (tcp)
			bench_add(&raw_stream, raw_stream_rate((size_t)HOME_PAGES * DSM_PAGE_SIZE));
		bench_add(&ours, scan(&cl.s, HOME_PAGES, HOME_PAGES));
	}
	report(way, "scan", "bytes/s", &ours, tcp ? "tcp stream" : NULL, tcp ? &raw_stream : NULL);
	cluster_close(&cl);
}

struct reader {
	struct slices *s;
	uint64_t first, count;
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	for (uint64_t i = 0; i < r->count; i++)
		(void)*page_at(r->s, 0, r->first + i * 37 % r->count);
	return NULL;
}

static double fault_rate(struct cluster *cl, unsigned threads)
{
	pthread_t t[THREADS_MAX];
	struct reader r[THREADS_MAX];
	uint64_t each = 2048 / threads;

	command(cl, 1, OP_WRITE, HOME_PAGES, 2048);
	double start = bench_now_us();

	for (unsigned i = 0; i < threads; i++) {
		r[i] = (struct reader){.s = &cl->s, .first = HOME_PAGES + i * each, .count = each};
		if (pthread_create(&t[i], NULL, reader_main, &r[i]))
			die("pthread_create");
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	return (double)(each * threads) / ((bench_now_us() - start) / 1e6);
}

static const char *const rate_names[] = {"faults_per_s_1", "faults_per_s_2", "faults_per_s_4"};

static void run_fault_rates(const struct way *way, unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples rate[3];

	for (unsigned k = 0; k < 3; k++)
		rate[k].n = 0;
	cluster_open(&cl, &(struct slices_options){.count = 2,
						   .pages = HOME_PAGES,
						   .transport = way->transport,
						   .prefetch_max = UINT32_MAX,
						   .around = 64});
	for (unsigned i = 0; i < rounds; i++)
		for (unsigned k = 0; k < 3; k++)
			bench_add(&rate[k], fault_rate(&cl, 1u << k));
	for (unsigned k = 0; k < 3; k++)
		report(way, rate_names[k], "1/s", &rate[k], NULL, NULL);
	cluster_close(&cl);
}

static void run(const struct way *way, unsigned rounds)
{
	bool rates = false;

	if (wants(way, "read_fault") || wants(way, "write_fault") || wants(way, "upgrade"))
		run_latencies(way, rounds);
	if (wants(way, "ping_pong"))
		run_ping_pong(way, rounds);
	if (wants(way, "invalidate3"))
		run_invalidate3(way, rounds);
	if (wants(way, "scan"))
		run_scan(way, rounds);
	for (unsigned k = 0; k < 3; k++)
		rates |= wants(way, rate_names[k]);
	if (rates)
		run_fault_rates(way, rounds);
}

int main(int argc, char **argv)
{
	static const struct way tcp = {&xp_tcp, ""}, inproc = {&xp_inproc, "_inproc"};
	enum dsm_install install;

	bench_init(&bench, argc, argv,
		   "read_fault write_fault upgrade ping_pong invalidate3 scan faults_per_s_1 "
		   "faults_per_s_2 faults_per_s_4, and each with _inproc");
	signal(SIGPIPE, SIG_IGN);
	if (dsm_uffd_probe(&install)) {
		bench_note("no userfaultfd here");
		return 77;
	}
	unsigned rounds = bench.quick ? 3 : 15;

	run(&tcp, rounds);
	run(&inproc, rounds);
	return 0;
}
