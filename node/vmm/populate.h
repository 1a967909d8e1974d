/*
 * Makes memory of the host available before it is needed, by a thread that runs ahead: for a machine that
 * migrates here, which would take a page fault for each page that arrives, from address 0 up; for a
 * kernel that starts, where it will be busy at once.
 */
#ifndef VMM_POPULATE_H
#define VMM_POPULATE_H

#include <stdbool.h>
#include <stdint.h>

#include "node/vmm/mem.h"

struct vmm_populate;

/* Ranges that shall have huge pages, the first one first. */
struct vmm_huge_plan {
	struct {
		uint64_t gpa, len;
	} range[2];
	unsigned next; /* what is to be done: from here on */
	uint64_t at;   /* bytes into that one */
};

/* A few huge pages, which take milliseconds; false: nothing is left. */
bool vmm_huge_step(struct vmm_mem *mem, struct vmm_huge_plan *plan);
/* Goes on with what is left of it. -EAGAIN, -ENOMEM. */
BASE_MUST_CHECK int vmm_populate_huge_start(struct vmm_mem *mem, const struct vmm_huge_plan *plan,
					    struct vmm_populate **out);
/* Only a hint: memory that the DSM watches must not be given. -EAGAIN, -ENOMEM. */
BASE_MUST_CHECK int vmm_populate_start(struct vmm_mem *mem, uint64_t bytes,
				       struct vmm_populate **out);
/* Bytes that are there already. Any thread. */
uint64_t vmm_populate_done(const struct vmm_populate *p);
/* It ends soon; does not wait for that, which the kernel may take milliseconds for. NULL is fine. */
void vmm_populate_stop(struct vmm_populate *p);
/* Ends it where it is, and waits. NULL is fine. */
void vmm_populate_free(struct vmm_populate *p);

#endif
