/*
 * The MSRs that KVM leaves to us: the LAPIC's (KVM has none in the kernel here), kvmclock's, and
 * the writes that would give a vCPU a TSC of its own. All calls from the vCPU's own thread.
 */
#ifndef VMM_MSR_H
#define VMM_MSR_H

#include <stdint.h>

#include "base/buf.h"
#include "node/vmm/clock.h"
#include "node/vmm/lapic.h"
#include "node/vmm/mem.h"

/* What kvmclock keeps of one vCPU. */
struct vmm_pvclock {
	uint64_t system_time; /* the MSR: address | 1 while enabled */
	uint64_t wall_clock;
};

struct vmm_msr_ctx {
	struct vmm_mem *mem;
	const struct vmm_clock *clock;
	struct vmm_lapic *lapic;
	struct vmm_pvclock pv;
};

/* Tells KVM which MSRs are ours. Before vCPUs run. */
BASE_MUST_CHECK int vmm_msr_filter(int vm_fd);
/* -EINVAL: the guest gets #GP. */
BASE_MUST_CHECK int vmm_msr_read(struct vmm_msr_ctx *ctx, uint32_t msr, uint64_t *value);
BASE_MUST_CHECK int vmm_msr_write(struct vmm_msr_ctx *ctx, uint32_t msr, uint64_t value);

#endif
