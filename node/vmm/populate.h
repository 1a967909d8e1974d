/*
 * Makes memory of the host available before it is needed: a machine that migrates here would take a
 * page fault for each page that arrives. A thread of its own runs ahead, from address 0 up.
 */
#ifndef VMM_POPULATE_H
#define VMM_POPULATE_H

#include <stdint.h>

#include "node/vmm/mem.h"

struct vmm_populate;

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
