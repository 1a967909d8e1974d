/*
 * Guest memory that is still on its way while the guest runs already: after a post-copy switch. Pages
 * that have not come are holes of the memory file; whoever touches one, KVM itself included, sleeps in
 * a page fault until vmm_fill_page() has put it there.
 */
#ifndef VMM_FILL_H
#define VMM_FILL_H

#include "node/vmm/mem.h"

struct vmm_fill;

/*
 * Before the sandbox closes. Faults in kernel mode need /dev/userfaultfd or CAP_SYS_PTRACE: -EPERM
 * without; -EOPNOTSUPP: the kernel cannot watch shared memory; -ENOMEM.
 */
BASE_MUST_CHECK int vmm_fill_new(struct vmm_mem *mem, struct vmm_fill **out);
/* Stops. NULL is fine. */
void vmm_fill_free(struct vmm_fill *f);

/* Pages count from the start of the memory file. */

/* Makes them holes. Before the start; one thread. -EIO: the kernel kept something of them. */
BASE_MUST_CHECK int vmm_fill_discard(struct vmm_fill *f, uint64_t page, uint64_t count);
/* From now on holes are waited for. */
BASE_MUST_CHECK int vmm_fill_start(struct vmm_fill *f);
/* Readable when someone waits. */
int vmm_fill_fd(const struct vmm_fill *f);
/* Pages that someone waits for: how many, 0 to max, or -errno. */
BASE_MUST_CHECK int vmm_fill_faults(struct vmm_fill *f, uint64_t *pages, unsigned max);
/* Puts a page there, NULL: of zeros, and wakes; one that is there stays. Any thread. */
BASE_MUST_CHECK int vmm_fill_page(struct vmm_fill *f, uint64_t page, const void *bytes);
/* Holes read as zeros again; nobody waits. */
void vmm_fill_stop(struct vmm_fill *f);

#endif
