/*
 * Huge pages for the memory that a guest has had in use for a while. The kernel gives a memfd small pages, and
 * its khugepaged passes over one unless the host is configured otherwise (transparent_hugepage/shmem_enabled). A
 * thread does its work here: pieces of 2 MiB of which every page has been there for some seconds are
 * exchanged for one huge page each (MADV_COLLAPSE), so it never makes memory used that was not. Not for memory
 * that a userfaultfd watches, which goes page by page.
 */
#ifndef VMM_GATHER_H
#define VMM_GATHER_H

#include <stdint.h>

#include "node/vmm/mem.h"

struct vmm_gather;

/* Borrows `mem`. -ENOMEM. */
BASE_MUST_CHECK int vmm_gather_new(struct vmm_mem *mem, struct vmm_gather **out);
/* A thread that makes a pass every few seconds, less often where there is nothing to do. -EAGAIN. */
BASE_MUST_CHECK int vmm_gather_start(struct vmm_gather *g);
/*
 * Looks at all memory once and exchanges what it found complete VMM_GATHER_AGE times in a row. How many pieces
 * it exchanged, or -errno: there are no huge pages to be had, now (-ENOMEM, -EAGAIN) or at all (-EINVAL).
 * One thread at a time.
 */
int vmm_gather_pass(struct vmm_gather *g);
/* Bytes that it exchanged. Any thread; NULL is fine. */
uint64_t vmm_gather_bytes(const struct vmm_gather *g);
/* Ends the thread and waits for it. NULL is fine. */
void vmm_gather_free(struct vmm_gather *g);

/* Passes, 5 s apart. */
enum { VMM_GATHER_AGE = 3 };

#endif
