#include "node/vmm/bus.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

struct range {
	uint64_t base, len;
	const struct vmm_bus_ops *ops;
	void *opaque;
};

/* Sorted by base, so that a look-up is a binary search in one small array. */
struct vmm_bus {
	struct range *ranges;
	size_t count, cap;
};

int vmm_bus_new(struct vmm_bus **out)
{
	struct vmm_bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	*out = bus;
	return 0;
}

void vmm_bus_free(struct vmm_bus *bus)
{
	if (!bus)
		return;
	free(bus->ranges);
	free(bus);
}

/* Index of the first range whose base is above `addr`. */
static size_t bus_above(const struct vmm_bus *bus, uint64_t addr)
{
	size_t lo = 0, hi = bus->count;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (bus->ranges[mid].base > addr)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

int vmm_bus_add(struct vmm_bus *bus, uint64_t base, uint64_t len, const struct vmm_bus_ops *ops,
		void *opaque)
{
	size_t at;

	assert(ops->read && ops->write);
	if (len == 0 || base + len - 1 < base)
		return -EINVAL;
	at = bus_above(bus, base);
	if (at > 0 && base - bus->ranges[at - 1].base < bus->ranges[at - 1].len)
		return -EEXIST;
	if (at < bus->count && bus->ranges[at].base - base < len)
		return -EEXIST;
	if (bus->count == bus->cap) {
		size_t cap = bus->cap ? 2 * bus->cap : 16;
		struct range *p = reallocarray(bus->ranges, cap, sizeof(*p));

		if (!p)
			return -ENOMEM;
		bus->ranges = p;
		bus->cap = cap;
	}
	memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof(struct range));
	bus->ranges[at] = (struct range){base, len, ops, opaque};
	bus->count++;
	return 0;
}

void vmm_bus_remove(struct vmm_bus *bus, uint64_t base)
{
	size_t at = bus_above(bus, base);

	if (at == 0 || bus->ranges[at - 1].base != base)
		return;
	memmove(&bus->ranges[at - 1], &bus->ranges[at], (bus->count - at) * sizeof(struct range));
	bus->count--;
}

static const struct range *bus_find(const struct vmm_bus *bus, uint64_t addr, unsigned len)
{
	size_t at = bus_above(bus, addr);
	const struct range *r;

	if (at == 0)
		return NULL;
	r = &bus->ranges[at - 1];
	return addr - r->base < r->len && len <= r->len - (addr - r->base) ? r : NULL;
}

bool vmm_bus_read(struct vmm_bus *bus, uint64_t addr, unsigned len_bytes, uint8_t *data)
{
	const struct range *r = bus_find(bus, addr, len_bytes);

	if (!r) {
		memset(data, 0xff, len_bytes);
		return false;
	}
	r->ops->read(r->opaque, addr - r->base, len_bytes, data);
	return true;
}

bool vmm_bus_write(struct vmm_bus *bus, uint64_t addr, unsigned len_bytes, const uint8_t *data)
{
	const struct range *r = bus_find(bus, addr, len_bytes);

	if (r)
		r->ops->write(r->opaque, addr - r->base, len_bytes, data);
	return r != NULL;
}
