/* Pages that a guest which stands still will touch first when it goes on. */
#ifndef VMM_HOT_PAGES_H
#define VMM_HOT_PAGES_H

#include "node/vmm/vcpu.h"

/*
 * Indices of pages of the memfd, each once: where the registers of a vCPU point, its tables, and the page
 * tables on the way there. `count` are there already; returns how many are now, at most max. A guess: no
 * page is promised. Where the guest has 32-bit page tables: none.
 */
unsigned vmm_hot_pages_of(const struct vmm_mem *mem, const struct kvm_regs *r,
			  const struct kvm_sregs *s, uint64_t *index, unsigned count, unsigned max);
/* Of all vCPUs, which are paused. */
unsigned vmm_hot_pages(const struct vmm_vcpus *all, uint64_t *index, unsigned max);

#endif
