#include "node/vmm/populate.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static const uint64_t STEP_BYTES = 2 << 20;

struct vmm_populate {
	struct vmm_mem *mem;
	uint64_t bytes;
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

int vmm_populate_start(struct vmm_mem *mem, uint64_t bytes, struct vmm_populate **out)
{
	struct vmm_populate *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	p->mem = mem;
	p->bytes = bytes;
	err = pthread_create(&p->thread, NULL, populate_main, p);
	if (err) {
		free(p);
		return -err;
	}
	*out = p;
	return 0;
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
