/*
 * The CPUID leaves of one vCPU: what KVM supports, less what this VMM or a spanning guest cannot
 * have, with the topology of packages of `package_vcpus` single-threaded cores, APIC id = index. A
 * package of a spanning guest may not lie on two hosts, nor may a cache: Linux refuses such NUMA nodes.
 */
#ifndef VMM_CPUID_H
#define VMM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct vmm_cpuid_params {
	uint32_t apic_id;
	uint32_t package_vcpus; /* 1 up; where there are several packages, a power of 2 */
	bool tsc_stable;	/* kvmclock may say so */
	bool has_cmpxchg16b;	/* see kvm.h */
};

/*
 * `in` is what KVM supports; *out is for free(3). -ENOMEM.
 */
BASE_MUST_CHECK int vmm_cpuid_build(const struct kvm_cpuid2 *in, const struct vmm_cpuid_params *p,
				    struct kvm_cpuid2 **out);

/* As a section of a saved machine. load: *out is for free(3); -EBADMSG, -ENOMEM. */
void vmm_cpuid_save(const struct kvm_cpuid2 *c, struct base_wbuf *out);
BASE_MUST_CHECK int vmm_cpuid_load(struct base_rbuf *in, struct kvm_cpuid2 **out);
/* Whether every feature that `guest` was promised is in `host` too. */
bool vmm_cpuid_fits(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host);

#endif
