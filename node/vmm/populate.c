#include "node/vmm/populate.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static const uint64_t STEP_BYTES = 2 << 20, HUGE_STEP_BYTES = 4 << 20;

struct vmm_populate {
	struct vmm_mem *mem;
	uint64_t bytes;
	struct vmm_huge_plan plan;
	pthread_t thread;
	atomic_bool stop;
	atomic_uint_fast64_t done;
};

static void *populate_main(void *arg)
{
	struct vmm_populate *p = arg;

	for (unsigned i = 0; i < vmm_mem_region_count(p->mem); i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(p->mem, i);

		/* Huge pages where the kernel gives them to shared memory at all. */
		madvise(r->host, BASE_MIN(r->len, p->bytes), MADV_HUGEPAGE);
		for (uint64_t at = 0; at < r->len && p->done < p->bytes && !p->stop;
		     at += STEP_BYTES) {
			uint64_t len = BASE_MIN(STEP_BYTES, r->len - at);

			if (madvise(r->host + at, len, MADV_POPULATE_WRITE)) {
				log_debug("memory is not made available beforehand");
				return NULL;
			}
			p->done += len;
		}
	}
	return NULL;
}

bool vmm_huge_step(struct vmm_mem *mem, struct vmm_huge_plan *plan)
{
	while (plan->next < BASE_ARRAY_LEN(plan->range)) {
		uint64_t gpa = plan->range[plan->next].gpa, len = plan->range[plan->next].len;
		uint64_t step = BASE_MIN(len - plan->at, HUGE_STEP_BYTES);

		if (step == 0) {
			plan->next++;
			plan->at = 0;
			continue;
		}
		vmm_mem_populate_huge(mem, gpa + plan->at, step);
		plan->at += step;
		return true;
	}
	return false;
}

static void *populate_huge_main(void *arg)
{
	struct vmm_populate *p = arg;

	while (!p->stop && vmm_huge_step(p->mem, &p->plan))
		;
	return NULL;
}

static int populate_start(const struct vmm_populate *what, void *(*run)(void *arg),
			  struct vmm_populate **out)
{
	struct vmm_populate *p = malloc(sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	*p = *what;
	err = pthread_create(&p->thread, NULL, run, p);
	if (err) {
		free(p);
		return -err;
	}
	*out = p;
	return 0;
}

int vmm_populate_start(struct vmm_mem *mem, uint64_t bytes, struct vmm_populate **out)
{
	return populate_start(&(struct vmm_populate){.mem = mem, .bytes = bytes}, populate_main,
			      out);
}

int vmm_populate_huge_start(struct vmm_mem *mem, const struct vmm_huge_plan *plan,
			    struct vmm_populate **out)
{
	return populate_start(&(struct vmm_populate){.mem = mem, .plan = *plan}, populate_huge_main,
			      out);
}

uint64_t vmm_populate_done(const struct vmm_populate *p)
{
	return p ? p->done : 0;
}

void vmm_populate_stop(struct vmm_populate *p)
{
	if (p)
		p->stop = true;
}

void vmm_populate_free(struct vmm_populate *p)
{
	if (!p)
		return;
	p->stop = true;
	pthread_join(p->thread, NULL);
	free(p);
}
