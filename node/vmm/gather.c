#include "node/vmm/gather.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

enum {
	PIECE_PAGES = VMM_HUGE_PAGE_SIZE / VMM_PAGE_SIZE,
	PASS_MS = 5000,
	PASS_MAX_MS = 60000,
	/* A thread that copies memory takes that part of a processor at most. */
	SHARE_PERCENT = 10,
	/* An age: it has its huge page. */
	GATHERED = 255,
};
static const uint64_t PIECE_BYTES = VMM_HUGE_PAGE_SIZE;

struct vmm_gather {
	struct vmm_mem *mem;
	/* Of each piece: in how many passes it was complete, or GATHERED. By region, one after the other. */
	uint8_t *age;
	bool due_soon; /* the last pass saw pieces that are complete, but not for long enough */
	atomic_uint_fast64_t bytes;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop;
};

int vmm_gather_new(struct vmm_mem *mem, struct vmm_gather **out)
{
	struct vmm_gather *g = calloc(1, sizeof(*g));
	pthread_condattr_t attr;

	if (!g)
		return -ENOMEM;
	g->mem = mem;
	g->age = calloc(vmm_mem_size(mem) / PIECE_BYTES + 1, 1);
	if (!g->age) {
		free(g);
		return -ENOMEM;
	}
	pthread_mutex_init(&g->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&g->wake, &attr);
	pthread_condattr_destroy(&attr);
	*out = g;
	return 0;
}

/* Sleeps; false: it shall end. */
static bool gather_rest(struct vmm_gather *g, uint64_t ns)
{
	uint64_t until = base_clock_ns() + ns;
	struct timespec ts = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
	bool stop;

	pthread_mutex_lock(&g->lock);
	while (!g->stop && pthread_cond_timedwait(&g->wake, &g->lock, &ts) != ETIMEDOUT)
		;
	stop = g->stop;
	pthread_mutex_unlock(&g->lock);
	return !stop;
}

static bool piece_is_complete(void *host)
{
	unsigned char there[PIECE_PAGES];

	if (mincore(host, PIECE_BYTES, there))
		return false;
	for (unsigned i = 0; i < PIECE_PAGES; i++)
		if (!(there[i] & 1))
			return false;
	return true;
}

/* 1 when the piece has got a huge page now, 0 when it is not due, or -errno. */
static int piece_look(uint8_t *host, uint8_t *age)
{
	int rc;

	if (!piece_is_complete(host)) {
		*age = 0;
		return 0;
	}
	if (*age == GATHERED)
		return 0;
	if (*age + 1 < VMM_GATHER_AGE) {
		++*age;
		return 0;
	}
	rc = vmm_mem_make_huge(host, PIECE_BYTES);
	if (rc) {
		/* Not the next time already: to try costs something, too. */
		*age = 0;
		return rc;
	}
	*age = GATHERED;
	return 1;
}

int vmm_gather_pass(struct vmm_gather *g)
{
	uint8_t *age = g->age;
	int done = 0;

	g->due_soon = false;
	for (unsigned i = 0; i < vmm_mem_region_count(g->mem); i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(g->mem, i);

		for (uint64_t at = 0; at + PIECE_BYTES <= r->len; at += PIECE_BYTES) {
			uint64_t start = base_clock_ns(), took;
			int rc = piece_look(r->host + at, age);

			g->due_soon |= *age > 0 && *age != GATHERED;
			age++;
			/* Somebody holds one of its pages, such as the disk: another time. */
			if (rc == -EAGAIN || rc == -EBUSY)
				continue;
			if (rc < 0)
				return done ? done : rc;
			if (rc == 0)
				continue;
			done++;
			g->bytes += PIECE_BYTES;
			took = base_clock_ns() - start;
			if (g->started &&
			    !gather_rest(g, took * (100 - SHARE_PERCENT) / SHARE_PERCENT))
				return done;
		}
	}
	return done;
}

static void *gather_main(void *arg)
{
	struct vmm_gather *g = arg;
	uint64_t pause_ms = PASS_MS;
	int rc = 0;

	/* By itself: from another thread it would need /proc, which the sandbox has not. */
	prctl(PR_SET_NAME, "huge-pages");
	while (rc != -EINVAL && gather_rest(g, pause_ms * 1000000)) {
		rc = vmm_gather_pass(g);
		pause_ms = rc > 0 || g->due_soon ? PASS_MS
						 : BASE_MIN(2 * pause_ms, (uint64_t)PASS_MAX_MS);
	}
	if (rc == -EINVAL)
		log_debug("memory: this host has no huge pages for shared memory");
	return NULL;
}

int vmm_gather_start(struct vmm_gather *g)
{
	int err;

	g->started = true;
	err = pthread_create(&g->thread, NULL, gather_main, g);
	g->started = !err;
	return -err;
}

uint64_t vmm_gather_bytes(const struct vmm_gather *g)
{
	return g ? g->bytes : 0;
}

void vmm_gather_free(struct vmm_gather *g)
{
	if (!g)
		return;
	if (g->started) {
		pthread_mutex_lock(&g->lock);
		g->stop = true;
		pthread_cond_signal(&g->wake);
		pthread_mutex_unlock(&g->lock);
		pthread_join(g->thread, NULL);
	}
	pthread_cond_destroy(&g->wake);
	pthread_mutex_destroy(&g->lock);
	free(g->age);
	free(g);
}
