/*
 * Under shadow paging KVM translates by tables of its own. It made them from the guest's, and keeps them for
 * as long as no vCPU *here* writes those; from a flush of the TLB it does not read them anew. In a guest that
 * spans hosts a vCPU elsewhere writes them too, and then this one would go on with what was there before.
 *
 * So, when this slice loses a page that KVM may have read as a table, and before another slice may write it,
 * the vCPUs here are held back, and they go on when KVM has thrown all its tables away. That is done by a
 * thread of its own, since KVM waits for vCPUs that sleep in a page fault; their pages still come.
 *
 * Which page is a table shows in what it holds: KVM translates only by entries that are present and accessed, as
 * it has set the latter itself. A page where a present entry leads to where there is neither memory nor a device
 * is data, since no kernel has such an entry in a table, unless it is a large page; and so is one where only small numbers look like
 * entries. 4-byte entries (32-bit kernels without PAE) are not looked for.
 */
#ifndef VMM_SHADOW_H
#define VMM_SHADOW_H

#include "node/vmm/vcpu.h"

struct vmm_shadow;

/* *out is NULL where the processor walks the guest's tables: nothing to do. Its thread ends with it. -errno. */
BASE_MUST_CHECK int vmm_shadow_new(struct vmm_vcpus *vcpus, struct vmm_shadow **out);
void vmm_shadow_free(struct vmm_shadow *s);

/* The guest's view has lost these pages (4096 bytes each at `bytes`). One thread; does not block. NULL is fine. */
void vmm_shadow_lost(struct vmm_shadow *s, const uint8_t *bytes, uint64_t count);

/* How often tables were thrown away, and for how many pages. */
void vmm_shadow_stats(const struct vmm_shadow *s, uint64_t *flushes, uint64_t *tables);

/* Whether KVM may have translated by an entry of this page. memory_end: of the guest's addresses. */
bool vmm_shadow_is_table(const uint64_t entries[VMM_PAGE_SIZE / 8], uint64_t memory_end);

#endif
