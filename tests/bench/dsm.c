/*
 * The DSM against what it is made of: slices in processes of their own over loopback TCP, beside a
 * raw 4 KiB TCP ping-pong and a local userfaultfd fault, both with polling peers, in the same run.
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
	pid_t child[SLICES_MAX];
	int to[SLICES_MAX], from[SLICES_MAX];
};

static struct bench bench;
static struct bench_samples raw4k, raw_small, local_fault, raw_stream;

static volatile uint64_t *page_at(struct slices *s, unsigned slice, uint64_t page)
{
	return (volatile uint64_t *)(void *)(s->slice[slice].mem + page * DSM_PAGE_SIZE);
}

/* ---- the other slices ---- */

static void ping_pong(volatile uint64_t *w, uint64_t count, uint64_t mine)
{
	for (uint64_t i = mine; i < count; i += 2) {
		while (*w != i)
			sched_yield();
		*w = i + 1;
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
		ping_pong(page_at(s, self, c->first), c->count, 1);
}

static void child_main(struct cluster *cl, const struct slices_options *o, unsigned self,
		       int listen, int in, int out)
{
	struct command c;
	char ok = 1;

	if (slices_open_one(&cl->s, o, self, listen) || dsm_start(cl->s.slice[self].dsm) ||
	    dsm_wait_up(cl->s.slice[self].dsm, 10000))
		_exit(1);
	while (read(in, &c, sizeof(c)) == sizeof(c) && c.op != OP_QUIT) {
		obey(&cl->s, self, &c);
		if (write(out, &ok, 1) != 1)
			break;
	}
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

static void cluster_open(struct cluster *cl, const struct slices_options *o)
{
	int listen[SLICES_MAX], down[2], up[2];

	*cl = (struct cluster){.s = {.count = o->count, .pages = o->pages}};
	for (unsigned i = 0; i < o->count; i++)
		if (slices_listen(o->transport, cl->s.address[i], &listen[i]))
			die("listen");
	for (unsigned i = 1; i < o->count; i++) {
		if (pipe(down) || pipe(up))
			die("pipe");
		cl->child[i] = fork();
		if (cl->child[i] == 0)
			child_main(cl, o, i, listen[i], down[0], up[1]);
		close(down[0]);
		close(up[1]);
		close(listen[i]);
		cl->to[i] = down[1];
		cl->from[i] = up[0];
	}
	if (slices_open_one(&cl->s, o, 0, listen[0]) || dsm_start(cl->s.slice[0].dsm) ||
	    dsm_wait_up(cl->s.slice[0].dsm, 10000))
		die("a slice does not start");
}

static void cluster_close(struct cluster *cl)
{
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

static void report_p99(const char *name, struct bench_samples *s)
{
	bench_note("%s: p50 %.1f us, p99 %.1f us of %zu", name, bench_quantile(s, 0.5),
		   bench_quantile(s, 0.99), s->n);
}

static void run_latencies(unsigned rounds)
{
	static struct cluster cl;
	static struct latencies l;
	static struct bench_samples page, permission;

	cluster_open(&cl, &(struct slices_options){.count = 2,
						   .pages = HOME_PAGES,
						   .transport = &xp_tcp,
						   .prefetch_max = UINT32_MAX,
						   .around = 64});
	for (unsigned i = 0; i < rounds; i++) {
		raw_ping_pong(4096, 4096, 100, &raw4k);
		raw_ping_pong(32, 32, 100, &raw_small);
		raw_local_fault(100, &local_fault);
		latency_round(&cl, &l);
	}
	sums(&page, &raw4k, &local_fault);
	sums(&permission, &raw_small, &local_fault);
	bench_report(&bench, "read_fault", "us", &l.read, "tcp4k+uffd", &page);
	bench_report(&bench, "write_fault", "us", &l.write, "tcp4k+uffd", &page);
	bench_report(&bench, "upgrade", "us", &l.upgrade, "tcp32+uffd", &permission);
	report_p99("read_fault", &l.read);
	report_p99("write_fault", &l.write);
	report_p99("upgrade", &l.upgrade);
	report_p99("raw 4 KiB ping-pong", &raw4k);
	report_p99("raw 32 byte ping-pong", &raw_small);
	report_p99("local userfaultfd fault", &local_fault);
	cluster_close(&cl);
}

static void run_ping_pong(unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples ours;
	enum { HANDOVERS = 200 };

	cluster_open(&cl, &(struct slices_options){
				  .count = 2, .pages = HOME_PAGES, .transport = &xp_tcp});
	for (unsigned i = 0; i < rounds; i++) {
		ask(&cl, 1, OP_PING_PONG, i, HANDOVERS);
		double start = bench_now_us();

		ping_pong(page_at(&cl.s, 0, i), HANDOVERS, 0);
		answer(&cl, 1);
		bench_add(&ours, (bench_now_us() - start) / HANDOVERS);
	}
	bench_report(&bench, "ping_pong", "us", &ours, NULL, NULL);
	cluster_close(&cl);
}

static void run_invalidate3(unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples ours;

	cluster_open(&cl, &(struct slices_options){.count = 4,
						   .pages = HOME_PAGES,
						   .transport = &xp_tcp,
						   .prefetch_max = UINT32_MAX});
	for (unsigned i = 0; i < rounds; i++) {
		for (uint64_t p = 0; p < 64; p++)
			*page_at(&cl.s, 0, p) = i;
		for (unsigned n = 1; n < 4; n++)
			command(&cl, n, OP_READ, 0, 64);
		for (uint64_t p = 0; p < 64; p++)
			bench_add(&ours, timed_write(page_at(&cl.s, 0, p)));
	}
	bench_report(&bench, "invalidate3", "us", &ours, NULL, NULL);
	report_p99("invalidate3", &ours);
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

static void run_scan(unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples ours;

	cluster_open(&cl,
		     &(struct slices_options){
			     .count = 2, .pages = HOME_PAGES, .transport = &xp_tcp, .around = 64});
	for (unsigned i = 0; i < rounds; i++) {
		command(&cl, 1, OP_WRITE, HOME_PAGES, HOME_PAGES);
		bench_add(&raw_stream, raw_stream_rate((size_t)HOME_PAGES * DSM_PAGE_SIZE));
		bench_add(&ours, scan(&cl.s, HOME_PAGES, HOME_PAGES));
	}
	bench_report(&bench, "scan", "bytes/s", &ours, "tcp stream", &raw_stream);
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

static void run_fault_rates(unsigned rounds)
{
	static struct cluster cl;
	static struct bench_samples rate[3];
	static const char *const names[] = {"faults_per_s_1", "faults_per_s_2", "faults_per_s_4"};

	cluster_open(&cl, &(struct slices_options){.count = 2,
						   .pages = HOME_PAGES,
						   .transport = &xp_tcp,
						   .prefetch_max = UINT32_MAX,
						   .around = 64});
	for (unsigned i = 0; i < rounds; i++)
		for (unsigned k = 0; k < 3; k++)
			bench_add(&rate[k], fault_rate(&cl, 1u << k));
	for (unsigned k = 0; k < 3; k++)
		bench_report(&bench, names[k], "1/s", &rate[k], NULL, NULL);
	cluster_close(&cl);
}

int main(int argc, char **argv)
{
	enum dsm_install install;

	bench_init(&bench, argc, argv,
		   "read_fault write_fault upgrade ping_pong invalidate3 scan faults_per_s_1 "
		   "faults_per_s_2 faults_per_s_4");
	signal(SIGPIPE, SIG_IGN);
	if (dsm_uffd_probe(&install)) {
		bench_note("no userfaultfd here");
		return 77;
	}
	unsigned rounds = bench.quick ? 3 : 15;

	if (bench_wants(&bench, "read_fault") || bench_wants(&bench, "write_fault") ||
	    bench_wants(&bench, "upgrade"))
		run_latencies(rounds);
	if (bench_wants(&bench, "ping_pong"))
		run_ping_pong(rounds);
	if (bench_wants(&bench, "invalidate3"))
		run_invalidate3(rounds);
	if (bench_wants(&bench, "scan"))
		run_scan(rounds);
	if (bench_wants(&bench, "faults_per_s_1") || bench_wants(&bench, "faults_per_s_2") ||
	    bench_wants(&bench, "faults_per_s_4"))
		run_fault_rates(rounds);
	return 0;
}
