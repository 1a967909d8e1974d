/*
 * The CPUID leaves of one vCPU: what KVM supports, less what this VMM or a spanning guest cannot
 * have, with the topology of one package of `vcpu_count` single-threaded cores, APIC id = index.
 */
#ifndef VMM_CPUID_H
#define VMM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct vmm_cpuid_params {
	uint32_t apic_id;
	uint32_t vcpu_count;
	bool tsc_stable;     /* kvmclock may say so */
	bool has_cmpxchg16b; /* see kvm.h */
};

/*
 * `in` is what KVM supports; *out is for free(3). -ENOMEM.
 */
BASE_MUST_CHECK int vmm_cpuid_build(const struct kvm_cpuid2 *in, const struct vmm_cpuid_params *p,
				    struct kvm_cpuid2 **out);

#endif
