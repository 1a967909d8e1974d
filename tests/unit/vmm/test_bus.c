#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "node/vmm/bus.h"

struct dev {
	uint64_t offset;
	unsigned len;
	uint8_t value;
};

static void dev_read(void *opaque, uint64_t offset, unsigned len, uint8_t *data)
{
	struct dev *d = opaque;

	d->offset = offset;
	d->len = len;
	memset(data, d->value, len);
}

static void dev_write(void *opaque, uint64_t offset, unsigned len, const uint8_t *data)
{
	struct dev *d = opaque;

	d->offset = offset;
	d->len = len;
	d->value = data[0];
}

static const struct vmm_bus_ops ops = {dev_read, dev_write};

static void routes_to_the_range(void **state)
{
	struct dev a = {.value = 0xaa}, b = {.value = 0xbb};
	struct vmm_bus *bus;
	uint8_t data[8];

	assert_int_equal(vmm_bus_new(&bus), 0);
	assert_int_equal(vmm_bus_add(bus, 0x2000, 0x10, &ops, &b), 0);
	assert_int_equal(vmm_bus_add(bus, 0x1000, 0x10, &ops, &a), 0);
	assert_true(vmm_bus_read(bus, 0x100c, 4, data));
	assert_int_equal(data[3], 0xaa);
	assert_int_equal(a.offset, 0xc);
	assert_true(vmm_bus_write(bus, 0x2000, 1, (const uint8_t *)"x"));
	assert_int_equal(b.value, 'x');
	vmm_bus_free(bus);
}

static void nobody_reads_as_ones(void **state)
{
	struct dev a = {.value = 0};
	struct vmm_bus *bus;
	uint8_t data[8] = {0};

	assert_int_equal(vmm_bus_new(&bus), 0);
	assert_int_equal(vmm_bus_add(bus, 0x1000, 0x10, &ops, &a), 0);
	assert_false(vmm_bus_read(bus, 0xfff, 1, data));
	assert_int_equal(data[0], 0xff);
	assert_false(vmm_bus_read(bus, 0x1010, 1, data));
	/* Half in the range is not in the range. */
	assert_false(vmm_bus_read(bus, 0x100e, 4, data));
	assert_false(vmm_bus_write(bus, 0x100e, 4, data));
	assert_int_equal(a.len, 0);
	vmm_bus_free(bus);
}

static void refuses_overlap_and_wrap(void **state)
{
	struct dev a = {.value = 0};
	struct vmm_bus *bus;

	assert_int_equal(vmm_bus_new(&bus), 0);
	assert_int_equal(vmm_bus_add(bus, 0x1000, 0x10, &ops, &a), 0);
	assert_int_equal(vmm_bus_add(bus, 0xfff, 2, &ops, &a), -EEXIST);
	assert_int_equal(vmm_bus_add(bus, 0x100f, 1, &ops, &a), -EEXIST);
	assert_int_equal(vmm_bus_add(bus, 0x800, 0x1000, &ops, &a), -EEXIST);
	assert_int_equal(vmm_bus_add(bus, 0x3000, 0, &ops, &a), -EINVAL);
	assert_int_equal(vmm_bus_add(bus, UINT64_MAX, 2, &ops, &a), -EINVAL);
	assert_int_equal(vmm_bus_add(bus, UINT64_MAX, 1, &ops, &a), 0);
	vmm_bus_remove(bus, 0x1000);
	assert_int_equal(vmm_bus_add(bus, 0xfff, 2, &ops, &a), 0);
	vmm_bus_free(bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(routes_to_the_range),
		cmocka_unit_test(nobody_reads_as_ones),
		cmocka_unit_test(refuses_overlap_and_wrap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
