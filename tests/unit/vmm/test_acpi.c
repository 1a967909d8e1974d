/* libs: pg_vmm */
/* With $ACPI_DUMP set to a folder, the tables of each case are left there for iasl. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "node/vmm/acpi.h"
#include "node/vmm/boot.h"

#define GPA UINT64_C(0xe0000)

static uint64_t get(const uint8_t *p, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, p, len);
	return v;
}

static void check_sum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += p[i];
	assert_int_equal(sum, 0);
}

static void dump(const char *name, const uint8_t *table)
{
	const char *dir = getenv("ACPI_DUMP");
	char path[4096];
	FILE *f;

	if (!dir)
		return;
	snprintf(path, sizeof(path), "%s/%s-%.4s.dat", dir, name, (const char *)table);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(table, get(table + 4, 4), 1, f), 1);
	fclose(f);
}

/* A table by its address; checks that it lies inside and its sum. */
static const uint8_t *table_at(const struct base_wbuf *b, uint64_t gpa)
{
	const uint8_t *t = b->data + (gpa - GPA);

	assert_true(gpa >= GPA && gpa % 16 == 0 && gpa - GPA + 36 <= b->len);
	assert_true(get(t + 4, 4) <= b->len - (gpa - GPA));
	check_sum(t, get(t + 4, 4));
	return t;
}

/* Finds a table from the RSDP on; NULL without one. Dumps and checks all on the way. */
static const uint8_t *find(const struct base_wbuf *b, const char *name, const char *signature)
{
	const uint8_t *xsdt, *found = NULL;

	assert_memory_equal(b->data, "RSD PTR ", 8);
	check_sum(b->data, 20);
	check_sum(b->data, 36);
	xsdt = table_at(b, get(b->data + 24, 8));
	assert_memory_equal(xsdt, "XSDT", 4);
	for (unsigned i = 36; i < get(xsdt + 4, 4); i += 8) {
		const uint8_t *t = table_at(b, get(xsdt + i, 8));

		dump(name, t);
		if (memcmp(t, signature, 4) == 0)
			found = t;
		if (memcmp(t, "FACP", 4) == 0) {
			const uint8_t *dsdt = table_at(b, get(t + 140, 8));

			dump(name, dsdt);
			if (memcmp("DSDT", signature, 4) == 0)
				found = dsdt;
		}
	}
	return found;
}

static void plain_machine(void **state)
{
	struct vmm_virtio_slot slots[3];
	struct vmm_acpi_params p = {.vcpu_count = 2, .virtio = slots, .virtio_count = 3};
	struct base_wbuf b;
	const uint8_t *t;

	for (unsigned i = 0; i < 3; i++)
		slots[i] = vmm_virtio_slot_at(i);
	base_wbuf_init(&b, VMM_BOOT_BIOS_LEN);
	assert_int_equal(vmm_acpi_build(&p, GPA, &b), 0);
	t = find(&b, "plain", "FACP");
	assert_non_null(t);
	assert_int_equal(get(t + 4, 4), 276);
	assert_true(get(t + 112, 4) & 1 << 20); /* hardware-reduced */
	t = find(&b, "plain", "APIC");
	assert_int_equal(get(t + 4, 4), 44 + 2 * 8 + 12);
	assert_int_equal(t[44 + 8 + 3], 1); /* APIC id of the second */
	assert_null(find(&b, "plain", "SRAT"));
	t = find(&b, "plain", "DSDT");
	assert_non_null(memmem(t, get(t + 4, 4), "LNRO0005", 9));
	assert_non_null(memmem(t, get(t + 4, 4), "VR02", 4));
	assert_null(memmem(t, get(t + 4, 4), "VR03", 4));
	base_wbuf_fini(&b);
}

static void large_machine_with_nodes(void **state)
{
	enum { CPUS = 300 };
	static uint32_t nodes[CPUS];
	static const uint8_t distance[9] = {10, 20, 30, 20, 10, 20, 30, 20, 10};
	static const struct vmm_acpi_memory memory[] = {
		{0, 0xc0000000, 0}, {0x100000000, 0x40000000, 1}, {0x140000000, 0x40000000, 2}};
	struct vmm_acpi_numa numa = {3, nodes, memory, 3, distance};
	struct vmm_virtio_slot slots[VMM_VIRTIO_MAX];
	struct vmm_acpi_params p = {CPUS, slots, VMM_VIRTIO_MAX, &numa};
	struct base_wbuf b;
	const uint8_t *t;

	for (unsigned i = 0; i < VMM_VIRTIO_MAX; i++)
		slots[i] = vmm_virtio_slot_at(i);
	for (unsigned i = 0; i < CPUS; i++)
		nodes[i] = i / 100;
	base_wbuf_init(&b, VMM_BOOT_BIOS_LEN);
	assert_int_equal(vmm_acpi_build(&p, GPA, &b), 0);
	t = find(&b, "large", "SRAT");
	assert_int_equal(get(t + 4, 4), 48 + 255 * 16 + 45 * 24 + 3 * 40);
	assert_int_equal(t[48 + 150 * 16 + 2], 1);
	t = find(&b, "large", "SLIT");
	assert_int_equal(get(t + 36, 8), 3);
	assert_memory_equal(t + 44, distance, 9);
	base_wbuf_fini(&b);
}

static void contradictions_are_refused(void **state)
{
	uint32_t nodes[2] = {0, 2};
	uint8_t distance[4] = {10, 20, 20, 10};
	struct vmm_acpi_numa numa = {2, nodes, NULL, 0, distance};
	struct vmm_acpi_params p = {.vcpu_count = 2, .numa = &numa};
	struct base_wbuf b;

	base_wbuf_init(&b, VMM_BOOT_BIOS_LEN);
	assert_int_equal(vmm_acpi_build(&p, GPA, &b), -EINVAL);
	nodes[1] = 1;
	distance[1] = 10;
	assert_int_equal(vmm_acpi_build(&p, GPA, &b), -EINVAL);
	distance[1] = 20;
	assert_int_equal(vmm_acpi_build(&p, GPA, &b), 0);
	p.vcpu_count = 0;
	assert_int_equal(vmm_acpi_build(&p, GPA, &b), -EINVAL);
	base_wbuf_fini(&b);
	/* no room */
	p = (struct vmm_acpi_params){.vcpu_count = 64};
	base_wbuf_init(&b, 500);
	assert_int_equal(vmm_acpi_build(&p, GPA, &b), -E2BIG);
	base_wbuf_fini(&b);
}

static void loads_into_the_bios_area(void **state)
{
	struct vmm_acpi_params p = {.vcpu_count = 64};
	struct vmm_mem *mem;
	uint64_t rsdp;

	assert_int_equal(vmm_mem_new(UINT64_C(64) << 20, &mem), 0);
	assert_int_equal(vmm_acpi_load(mem, &p, &rsdp), 0);
	assert_memory_equal(vmm_mem_ptr(mem, rsdp, 8), "RSD PTR ", 8);
	vmm_mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_machine),
		cmocka_unit_test(large_machine_with_nodes),
		cmocka_unit_test(contradictions_are_refused),
		cmocka_unit_test(loads_into_the_bios_area),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
