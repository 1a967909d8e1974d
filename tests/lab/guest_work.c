/*
 * lab-guest-work [share|remap]: runs inside a Linux guest as one static program. A thread on each processor;
 * together they add, swap under a lock, and write memory that the others check. Prints one line of
 * what was done and "work: OK", or what went wrong.
 * share: all threads write one page until a line comes in, for ten minutes at most.
 * remap: the first processor puts another page at an address that the second reads, again and again.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64, LOCKS = 20, PAGES = 64, PAGE_WORDS = 512, REMAPS = 6 };

static unsigned count;
static _Atomic uint64_t sum, wrong;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static uint64_t guarded;
static uint64_t pages[THREADS_MAX][PAGES][PAGE_WORDS];

/* A number that nobody finds by chance. */
static uint64_t mark(uint64_t thread, uint64_t page, uint64_t word)
{
	return (thread << 40 | page << 20 | word) * UINT64_C(0x9e3779b97f4a7c15);
}

/* The sum of the primes below n, by trial: work that stays in the processor's cache. */
static uint64_t primes(uint64_t from, uint64_t n)
{
	uint64_t s = 0;

	for (uint64_t i = from; i < n; i += count) {
		uint64_t d = 2;

		while (d * d <= i && i % d)
			d++;
		s += i >= 2 && d * d > i ? i : 0;
	}
	return s;
}

static void stay_on(uint64_t processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		wrong++;
}

static void *work(void *arg)
{
	uint64_t me = (uintptr_t)arg, next = (me + 1) % count;

	stay_on(me);
	pthread_barrier_wait(&barrier);
	sum += primes(me, 20000);
	for (int i = 0; i < LOCKS; i++) {
		pthread_mutex_lock(&lock);
		guarded++;
		pthread_mutex_unlock(&lock);
	}
	for (uint64_t p = 0; p < PAGES; p++)
		for (uint64_t w = 0; w < PAGE_WORDS; w++)
			pages[me][p][w] = mark(me, p, w);
	pthread_barrier_wait(&barrier);
	for (uint64_t p = 0; p < PAGES; p++)
		for (uint64_t w = 0; w < PAGE_WORDS; w++)
			wrong += pages[next][p][w] != mark(next, p, w);
	return NULL;
}

/* Nothing else lies in that page. */
static union {
	_Atomic uint64_t sum;
	char bytes[4096];
} shared __attribute__((aligned(4096)));
static _Atomic int enough;

static void *share(void *arg)
{
	uint64_t i;

	stay_on((uintptr_t)arg);
	for (i = 0; !enough; i++) {
		shared.sum++;
		/* The others may have asked for the page meanwhile. */
		for (volatile int n = 0; n < 10000; n++)
			;
	}
	sum += i;
	return NULL;
}

static pthread_t threads[THREADS_MAX];

static int start(void *(*thread)(void *arg))
{
	for (uintptr_t i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, thread, (void *)i) != 0)
			return -1;
	return 0;
}

static void join(void)
{
	for (unsigned i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static int share_page(void)
{
	char line[16];

	if (start(share) != 0)
		return 2;
	puts("work: shares its page");
	fflush(stdout);
	alarm(600);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	enough = 1;
	join();
	if (wrong || shared.sum != sum)
		return 1;
	puts("work: shared it");
	return 0;
}

/*
 * A page of the first processor's making, moved to where the former one was: the kernel has the second
 * processor forget where that lay. What it reads next says whether it did.
 */
static _Atomic uint64_t turn;
static volatile uint64_t *window, *fresh;

static void turn_wait(uint64_t n)
{
	while (turn < n)
		sched_yield();
}

static void *remap(void *arg)
{
	stay_on((uintptr_t)arg);
	for (uint64_t i = 1; i <= REMAPS; i++) {
		void *const at = (void *)window, *const page = (void *)fresh;

		if (arg) {
			turn_wait(2 * i - 1);
			if (*window != mark(0, 0, i)) {
				printf("work: remap %llu read %llx\n", (unsigned long long)i,
				       (unsigned long long)*window);
				wrong++;
			}
			turn = 2 * i;
			continue;
		}
		if (mmap(page, sizeof(shared), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page)
			wrong++;
		*fresh = mark(0, 0, i);
		if (mremap(page, sizeof(shared), sizeof(shared), MREMAP_MAYMOVE | MREMAP_FIXED,
			   at) != at)
			wrong++;
		turn = 2 * i - 1;
		turn_wait(2 * i);
	}
	return NULL;
}

static int remap_pages(void)
{
	char *p = mmap(NULL, 4 * sizeof(shared), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || count < 2)
		return 2;
	window = (void *)p;
	fresh = (void *)(p + 2 * sizeof(shared));
	count = 2;
	if (start(remap) != 0)
		return 2;
	join();
	printf("work: %d pages in turn at one address, wrong %llu\n", REMAPS,
	       (unsigned long long)wrong);
	puts(wrong ? "work: remap FAILED" : "work: remap OK");
	return wrong != 0;
}

int main(int argc, char **argv)
{
	const uint64_t should = 21171191; /* the primes below 20000 */
	struct timespec a, b;

	count = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	if (count == 0 || count > THREADS_MAX || pthread_barrier_init(&barrier, NULL, count) != 0)
		return 2;
	if (argc > 1 && !strcmp(argv[1], "share"))
		return share_page();
	if (argc > 1 && !strcmp(argv[1], "remap"))
		return remap_pages();
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (start(work) != 0)
		return 2;
	join();
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("work: %u threads, sum %llu, guarded %llu, wrong %llu, %ld ms\n", count,
	       (unsigned long long)sum, (unsigned long long)guarded, (unsigned long long)wrong,
	       (long)((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000));
	if (sum != should || guarded != (uint64_t)count * LOCKS || wrong)
		return 1;
	puts("work: OK");
	return 0;
}
