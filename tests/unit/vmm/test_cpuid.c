#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "node/vmm/clock.h"
#include "node/vmm/cpuid.h"

static struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[8];
} host;

static void add(uint32_t function, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	host.head.entries[host.head.nent++] = (struct kvm_cpuid_entry2){
		.function = function, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx};
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, uint32_t function,
					   uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

static struct kvm_cpuid2 *build(uint32_t apic_id, uint32_t count, bool cx16)
{
	struct vmm_cpuid_params p = {apic_id, count, true, cx16};
	struct kvm_cpuid2 *c;

	memset(&host, 0, sizeof(host));
	add(1, 0, 0, 0xffffffff, 0xffffffff);
	add(7, 0, 0xffffffff, 0xffffffff, 0xffffffff);
	add(0x40000000, 0x40000010, 1, 2, 3);
	add(0x40000001, 0xffffffff, 0, 0, 1);
	add(0x80000001, 0, 0, 0xffffffff, 0xffffffff);
	add(0x80000008, 0x3030, 0, 0x7001, 0);
	assert_int_equal(vmm_cpuid_build(&host.head, &p, &c), 0);
	return c;
}

static void shows_each_vcpu_its_place(void **state)
{
	struct kvm_cpuid2 *c = build(5, 6, true);

	assert_int_equal(find(c, 1, 0)->ebx >> 24, 5);
	assert_int_equal((find(c, 1, 0)->ebx >> 16) & 0xff, 6);
	assert_int_equal(find(c, 0xb, 1)->eax, 3); /* 6 cores take 3 bits */
	assert_int_equal(find(c, 0xb, 1)->ebx, 6);
	assert_int_equal(find(c, 0xb, 0)->edx, 5);
	assert_int_equal(find(c, 0x80000008, 0)->ecx, 0x3005);
	free(c);
}

/* The ids of a guest of 4 on two hosts: packages {0, 1} and {2, 3}. */
static void puts_each_slice_into_a_package(void **state)
{
	struct kvm_cpuid2 *c = build(2, 2, true);

	assert_int_equal(find(c, 1, 0)->ebx >> 24, 2);
	assert_int_equal(find(c, 0xb, 1)->eax, 1);
	assert_int_equal(find(c, 0xb, 1)->ebx, 2);
	assert_int_equal(find(c, 0xb, 1)->edx, 2);
	assert_int_equal(find(c, 0x80000008, 0)->ecx, 0x1001);
	free(c);
}

static void hides_what_kvm_writes_itself(void **state)
{
	struct kvm_cpuid2 *c = build(0, 1, true);
	uint32_t features = find(c, 0x40000001, 0)->eax;

	/* Async page faults, steal time, PV EOI, PV IPIs and TLB flushes. */
	assert_int_equal(features & (1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11), 0);
	assert_int_equal(features & (1 << 3 | 1 << 24), 1 << 3 | 1 << 24);
	assert_int_equal(find(c, 0x40000000, 0)->eax, 0x40000001);
	assert_memory_equal(&find(c, 0x40000000, 0)->ebx, "KVMKVMKVM\0\0\0", 12);
	free(c);
}

/* KVM keeps EBX of leaf 0xd at what XCR0 needs, but only in entries that it recognizes. */
static void keeps_the_xsave_leaves(void **state)
{
	struct vmm_cpuid_params p = {0, 1, true, true};
	struct kvm_cpuid2 *c;

	memset(&host, 0, sizeof(host));
	add(0xd, 0x7, 0x240, 0x340, 0);
	add(0xd, 0x1, 0x240, 0, 0);
	add(0xd, 0x100, 0x240, 0, 0);
	for (uint32_t i = 0; i < 3; i++) {
		host.head.entries[i].index = i;
		host.head.entries[i].flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	}
	assert_int_equal(vmm_cpuid_build(&host.head, &p, &c), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_memory_equal(find(c, 0xd, i), &host.head.entries[i],
				    sizeof(host.head.entries[i]));
	free(c);
}

/* As when a kernel was loaded between the making of the machine and its start. */
static void begins_when_told(void **state)
{
	struct vmm_clock c, fixed;
	uint64_t before = __rdtsc(), at;

	vmm_clock_init(&c, 1000000000, true, false);
	vmm_clock_set(&c, UINT64_C(1) << 60);
	assert_int_equal(vmm_clock_begin(&c), 0);
	assert_true(vmm_clock_tsc(&c) < UINT64_C(1) << 60);
	vmm_clock_init(&fixed, 1000000000, true, true);
	fixed.base = 0;
	at = vmm_clock_begin(&fixed);
	assert_true(at >= before);
	assert_int_equal(vmm_clock_tsc_to_ns(&fixed, at), 0);
}

static void masks_what_the_machine_has_not(void **state)
{
	struct kvm_cpuid2 *c = build(0, 1, false);

	assert_int_equal(find(c, 1, 0)->ecx & 1 << 13, 0);
	assert_int_equal(find(c, 1, 0)->ecx & 1 << 5, 0);
	assert_true(find(c, 1, 0)->ecx & 1 << 21);
	assert_int_equal(find(c, 7, 0)->ebx & 2, 0);
	assert_int_equal(find(c, 0x80000001, 0)->ecx & 1 << 2, 0);
	free(c);
	c = build(0, 1, true);
	assert_true(find(c, 1, 0)->ecx & 1 << 13);
	free(c);
}

static void clock_scale_is_exact_enough(void **state)
{
	static const uint64_t rates[] = {UINT64_C(100000000), UINT64_C(999999999),
					 UINT64_C(1000000000), UINT64_C(2596098000),
					 UINT64_C(5700000000)};
	const uint64_t day = 86400;

	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		struct vmm_clock k;
		int64_t error;

		vmm_clock_init(&k, rates[i], true, false);
		error = (int64_t)vmm_clock_tsc_to_ns(&k, rates[i] * day) -
			(int64_t)(day * 1000000000);
		assert_in_range(error + 100000, 0, 200000); /* 0.1 ms a day */
		assert_true(vmm_clock_ticks_to_ns(&k, rates[i]) >= 1000000000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_each_vcpu_its_place),
		cmocka_unit_test(puts_each_slice_into_a_package),
		cmocka_unit_test(hides_what_kvm_writes_itself),
		cmocka_unit_test(keeps_the_xsave_leaves),
		cmocka_unit_test(begins_when_told),
		cmocka_unit_test(masks_what_the_machine_has_not),
		cmocka_unit_test(clock_scale_is_exact_enough),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
