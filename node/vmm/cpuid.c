#include "node/vmm/cpuid.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <string.h>

#define BIT(n) (1u << (n))

enum { EXTRA_ENTRIES = 8, CPUID_LOAD_MAX = 512 };

/* Leaf 1 */
#define C1_ECX_MONITOR	    BIT(3)
#define C1_ECX_VMX	    BIT(5)
#define C1_ECX_CX16	    BIT(13)
#define C1_ECX_PDCM	    BIT(15)
#define C1_ECX_X2APIC	    BIT(21)
#define C1_ECX_TSC_DEADLINE BIT(24)
#define C1_ECX_HYPERVISOR   BIT(31)
#define C1_EDX_APIC	    BIT(9)
#define C1_EDX_HTT	    BIT(28)
/* Leaf 7 */
#define C7_EBX_TSC_ADJUST BIT(1)
#define C7_EBX_SGX	  BIT(2)
#define C7_EBX_INTEL_PT	  BIT(25)
#define C7_ECX_SGX_LC	  BIT(30)
/* Leaf 0x80000001 */
#define CX_ECX_CMP_LEGACY BIT(1)
#define CX_ECX_SVM	  BIT(2)
#define CX_ECX_OSVW	  BIT(9)
#define CX_ECX_PERF	  (BIT(23) | BIT(24) | BIT(28))
#define CX_EDX_APIC	  BIT(9)
/* Leaf 0x80000007 */
#define CX7_EDX_INVARIANT_TSC BIT(8)

static unsigned id_bits(uint32_t count)
{
	return count > 1 ? 32 - (unsigned)__builtin_clz(count - 1) : 0;
}

static void leaf_features(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	e->ebx = (e->ebx & 0xffff) | p->apic_id << 24 | BASE_MIN(p->package_vcpus, 255u) << 16;
	/* Nested guests, MONITOR and performance counters need state that we do not carry over. */
	e->ecx &= ~(C1_ECX_MONITOR | C1_ECX_VMX | C1_ECX_PDCM);
	e->ecx |= C1_ECX_X2APIC | C1_ECX_TSC_DEADLINE | C1_ECX_HYPERVISOR;
	if (!p->has_cmpxchg16b)
		e->ecx &= ~C1_ECX_CX16;
	e->edx |= C1_EDX_APIC;
	if (p->package_vcpus > 1)
		e->edx |= C1_EDX_HTT;
	else
		e->edx &= ~C1_EDX_HTT;
}

/* Cores that share a cache: all for level 3, one each below. */
static uint32_t cache_sharing(uint32_t eax, uint32_t package_vcpus)
{
	uint32_t level = (eax >> 5) & 7;
	uint32_t sharing = level >= 3 ? (UINT32_C(1) << id_bits(package_vcpus)) - 1 : 0;

	return (eax & ~(0xfffu << 14)) | sharing << 14;
}

static void leaf_intel_cache(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	uint32_t cores = (UINT32_C(1) << id_bits(p->package_vcpus)) - 1;

	if ((e->eax & 0x1f) == 0)
		return;
	e->eax = cache_sharing(e->eax, p->package_vcpus);
	e->eax = (e->eax & ~(0x3fu << 26)) | BASE_MIN(cores, 0x3fu) << 26;
}

static void leaf_amd_sizes(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	e->ecx = (e->ecx & ~0xf0ffu) | id_bits(p->package_vcpus) << 12 | (p->package_vcpus - 1);
}

static void leaf_extended(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	e->ecx &= ~(CX_ECX_SVM | CX_ECX_OSVW | CX_ECX_PERF);
	if (p->package_vcpus > 1 && e->edx & CX_EDX_APIC)
		e->ecx |= CX_ECX_CMP_LEGACY;
	else
		e->ecx &= ~CX_ECX_CMP_LEGACY;
}

/*
 * Of KVM's paravirtual features only the clock, which we serve ourselves (msr.c): all others let
 * KVM write guest memory behind the back of migration and of the shared memory.
 */
static void leaf_kvm_features(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	e->eax = BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |
		 BIT(KVM_FEATURE_CLOCKSOURCE2);
	if (p->tsc_stable)
		e->eax |= BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);
	e->ebx = e->ecx = e->edx = 0;
}

static void leaf_zero(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	e->eax = e->ebx = e->ecx = e->edx = 0;
}

static void leaf_seven(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	if (e->index != 0)
		return;
	/* One TSC for the whole guest: no vCPU may move its own. */
	e->ebx &= ~(C7_EBX_TSC_ADJUST | C7_EBX_SGX | C7_EBX_INTEL_PT);
	e->ecx &= ~C7_ECX_SGX_LC;
}

/* The guest has one TSC at one rate, whatever becomes of its vCPUs: that is this VMM's promise. */
static void leaf_power(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	if (p->tsc_stable)
		e->edx |= CX7_EDX_INVARIANT_TSC;
	else
		e->edx &= ~CX7_EDX_INVARIANT_TSC;
}

static void leaf_amd_cache(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	if ((e->eax & 0x1f) != 0)
		e->eax = cache_sharing(e->eax, p->package_vcpus);
}

static void leaf_amd_topology(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	e->eax = p->apic_id;
	e->ebx = p->apic_id & 0xff; /* one thread a core */
	e->ecx = 0;		    /* one node a package: SRAT has the real ones */
	e->edx = 0;
}

static void leaf_kvm_signature(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p)
{
	memcpy(&e->ebx, KVM_SIGNATURE, 4);
	memcpy(&e->ecx, &KVM_SIGNATURE[4], 4);
	memcpy(&e->edx, &KVM_SIGNATURE[8], 4);
	e->eax = KVM_CPUID_FEATURES;
}

static const struct {
	uint32_t function;
	void (*fix)(struct kvm_cpuid_entry2 *e, const struct vmm_cpuid_params *p);
} fixes[] = {
	{0x1, leaf_features},
	{0x4, leaf_intel_cache},
	{0x5, leaf_zero}, /* MONITOR */
	{0x7, leaf_seven},
	{0xa, leaf_zero},  /* performance counters */
	{0x12, leaf_zero}, /* SGX */
	{0x14, leaf_zero}, /* Intel PT */
	{KVM_CPUID_FEATURES, leaf_kvm_features},
	{0x80000001, leaf_extended},
	{0x80000007, leaf_power},
	{0x80000008, leaf_amd_sizes},
	{0x8000000a, leaf_zero}, /* SVM */
	{0x8000001d, leaf_amd_cache},
	{0x8000001e, leaf_amd_topology},
	{0x8000001f, leaf_zero}, /* SEV */
	{0x80000022, leaf_zero}, /* performance counters */
};

/* Leaves that are made here, whatever KVM says of them. */
static bool leaf_is_ours(uint32_t function)
{
	return function == 0xb || function == 0x1f ||
	       (function >= KVM_CPUID_SIGNATURE && function < 0x40010000 &&
		function != KVM_CPUID_FEATURES);
}

static struct kvm_cpuid_entry2 *leaf_append(struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	struct kvm_cpuid_entry2 *e = &c->entries[c->nent++];

	*e = (struct kvm_cpuid_entry2){.function = function, .index = index};
	return e;
}

/* Leaf 0xb: level 0 threads (one), level 1 cores of the package, level 2 ends the list. */
static void append_topology(struct kvm_cpuid2 *c, const struct vmm_cpuid_params *p)
{
	const uint32_t shift[] = {0, id_bits(p->package_vcpus), 0};
	const uint32_t count[] = {1, p->package_vcpus, 0};

	for (uint32_t level = 0; level < 3; level++) {
		struct kvm_cpuid_entry2 *e = leaf_append(c, 0xb, level);

		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		e->eax = shift[level];
		e->ebx = count[level];
		e->ecx = level | (level < 2 ? level + 1 : 0) << 8;
		e->edx = p->apic_id;
	}
}

int vmm_cpuid_build(const struct kvm_cpuid2 *in, const struct vmm_cpuid_params *p,
		    struct kvm_cpuid2 **out)
{
	struct kvm_cpuid2 *c;
	bool have_features = false;

	c = calloc(1, sizeof(*c) + (in->nent + EXTRA_ENTRIES) * sizeof(c->entries[0]));
	if (!c)
		return -ENOMEM;
	for (uint32_t i = 0; i < in->nent; i++) {
		struct kvm_cpuid_entry2 *e;

		if (leaf_is_ours(in->entries[i].function))
			continue;
		e = &c->entries[c->nent++];
		*e = in->entries[i];
		for (size_t f = 0; f < BASE_ARRAY_LEN(fixes); f++)
			if (fixes[f].function == e->function)
				fixes[f].fix(e, p);
		have_features |= e->function == KVM_CPUID_FEATURES;
	}
	append_topology(c, p);
	leaf_kvm_signature(leaf_append(c, KVM_CPUID_SIGNATURE, 0), p);
	if (!have_features)
		leaf_kvm_features(leaf_append(c, KVM_CPUID_FEATURES, 0), p);
	*out = c;
	return 0;
}

/* ---- of a saved machine ---- */

void vmm_cpuid_save(const struct kvm_cpuid2 *c, struct base_wbuf *out)
{
	base_wbuf_u32(out, c->nent);
	for (uint32_t i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];
		const uint32_t words[] = {e->function, e->index, e->flags, e->eax,
					  e->ebx,      e->ecx,	 e->edx};

		for (size_t w = 0; w < BASE_ARRAY_LEN(words); w++)
			base_wbuf_u32(out, words[w]);
	}
}

int vmm_cpuid_load(struct base_rbuf *in, struct kvm_cpuid2 **out)
{
	uint32_t count = base_rbuf_u32(in);
	struct kvm_cpuid2 *c;

	if (in->error || count > CPUID_LOAD_MAX)
		return -EBADMSG;
	c = calloc(1, sizeof(*c) + count * sizeof(c->entries[0]));
	if (!c)
		return -ENOMEM;
	c->nent = count;
	for (uint32_t i = 0; i < count; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];
		uint32_t *const words[] = {&e->function, &e->index, &e->flags, &e->eax,
					   &e->ebx,	 &e->ecx,   &e->edx};

		for (size_t w = 0; w < BASE_ARRAY_LEN(words); w++)
			*words[w] = base_rbuf_u32(in);
	}
	if (in->error) {
		free(c);
		return in->error;
	}
	*out = c;
	return 0;
}

static const struct kvm_cpuid_entry2 *leaf_find(const struct kvm_cpuid2 *c, uint32_t function,
						uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

/* The leaves whose words are sets of features, and which words. */
static const struct {
	uint32_t function, index;
	uint32_t eax, ebx, ecx, edx; /* the bits that are features */
} feature_leaves[] = {
	{0x1, 0, 0, 0, ~(C1_ECX_X2APIC | C1_ECX_TSC_DEADLINE | C1_ECX_HYPERVISOR | BIT(27)),
	 ~(C1_EDX_HTT | C1_EDX_APIC)},
	{0x7, 0, 0, ~0u, ~BIT(4), ~0u},
	{0xd, 0, ~0u, 0, 0, 0},
	{0xd, 1, ~0u, 0, 0, 0},
	{0x80000001, 0, 0, 0, ~CX_ECX_CMP_LEGACY, ~CX_EDX_APIC},
	{0x80000007, 0, 0, 0, 0, BIT(8)},
	{0x80000008, 0, 0, ~0u, 0, 0},
};

bool vmm_cpuid_fits(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host)
{
	for (size_t i = 0; i < BASE_ARRAY_LEN(feature_leaves); i++) {
		const struct kvm_cpuid_entry2 none = {0}, *g, *h;

		g = leaf_find(guest, feature_leaves[i].function, feature_leaves[i].index);
		h = leaf_find(host, feature_leaves[i].function, feature_leaves[i].index);
		g = g ? g : &none;
		h = h ? h : &none;
		if ((g->eax & ~h->eax & feature_leaves[i].eax) ||
		    (g->ebx & ~h->ebx & feature_leaves[i].ebx) ||
		    (g->ecx & ~h->ecx & feature_leaves[i].ecx) ||
		    (g->edx & ~h->edx & feature_leaves[i].edx))
			return false;
	}
	return true;
}
