/*
 * /dev/kvm: opened, its capabilities probed, one VM made. What this VMM cannot do without is
 * refused with one line that names it; what it can do without is a flag here.
 */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/vmm/mem.h"

enum { VMM_KVM_CPUID_MAX = 256, VMM_KVM_MSR_MAX = 1024, VMM_KVM_REASON_MAX = 256 };

struct vmm_kvm {
	int fd, vm_fd;
	size_t run_bytes;   /* of the mapping of struct kvm_run */
	size_t xsave_bytes; /* of KVM_GET_XSAVE2, at least sizeof(struct kvm_xsave) */
	bool has_xcrs;
	bool has_debugregs;
	bool has_ioeventfd;
	bool has_guest_debug;
	bool manual_protect; /* the dirty log is fetched and cleared in two steps */
	/* The host's TSC counts at one rate on all CPUs; else KVM moves the guests' offsets. */
	bool tsc_stable;
	/* False where guest user mode reads the host's TSC as it is, whatever offset KVM was told:
	 * where it runs without VT-x or SVM. */
	bool has_tsc_offset;
	/* The guest's page tables are not walked by the processor: KVM keeps others for it. shadow.h */
	bool shadow_paging;
	/* False where KVM emulates guest kernel mode one by one and cannot do this one. */
	bool has_cmpxchg16b;
	unsigned vcpu_max;
	uint64_t tsc_hz;	   /* of the guest; known after the first vCPU */
	struct kvm_cpuid2 *cpuid;  /* supported, VMM_KVM_CPUID_MAX entries of room */
	struct kvm_msr_list *msrs; /* to save and load */
};

/* reason[VMM_KVM_REASON_MAX] gets the line for people on failure. */
BASE_MUST_CHECK int vmm_kvm_open(struct vmm_kvm *kvm, char *reason);
void vmm_kvm_close(struct vmm_kvm *kvm);

/* Gives the guest its RAM; dirty_log: KVM keeps one from now on. Also changes the flag later. */
BASE_MUST_CHECK int vmm_kvm_map_memory(const struct vmm_kvm *kvm, const struct vmm_mem *mem,
				       bool dirty_log);
/*
 * ORs the pages that the guest wrote since the last call (or the log's start) into `bitmap`, one bit
 * per 4 KiB in memfd order, and starts over. What user space wrote is in vmm_mem's own log.
 */
BASE_MUST_CHECK int vmm_kvm_dirty_fetch(const struct vmm_kvm *kvm, const struct vmm_mem *mem,
					uint64_t *bitmap);
/* For the last time: the log stays as it is, so nothing has to be protected anew. */
BASE_MUST_CHECK int vmm_kvm_dirty_last(const struct vmm_kvm *kvm, const struct vmm_mem *mem,
				       uint64_t *bitmap);

BASE_MUST_CHECK int vmm_kvm_ioeventfd(const struct vmm_kvm *kvm, uint64_t addr,
				      const uint32_t *match, int fd, bool add);

#endif
