/*
 * An address space of device registers (port I/O or MMIO). Ranges do not overlap. vCPU threads call
 * the handlers at the same time as each other: a device locks for itself. Ranges are added and
 * removed only while no vCPU runs.
 *
 * A range may belong to another slice: its handler then forwards the access, and the device does
 * not know. So handlers must not look at which vCPU is calling.
 */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

/* len_bytes is 1, 2, 4 or 8 and the access lies within the range. `data` is little-endian. */
struct vmm_bus_ops {
	void (*read)(void *opaque, uint64_t offset, unsigned len_bytes, uint8_t *data);
	void (*write)(void *opaque, uint64_t offset, unsigned len_bytes, const uint8_t *data);
};

struct vmm_bus;

BASE_MUST_CHECK int vmm_bus_new(struct vmm_bus **out);
void vmm_bus_free(struct vmm_bus *bus);
/* -EEXIST where it overlaps another range, -EINVAL for an empty or wrapping one. */
BASE_MUST_CHECK int vmm_bus_add(struct vmm_bus *bus, uint64_t base, uint64_t len,
				const struct vmm_bus_ops *ops, void *opaque);
void vmm_bus_remove(struct vmm_bus *bus, uint64_t base);

/* An address that nobody has reads as all ones; a write to it is dropped. False then. */
bool vmm_bus_read(struct vmm_bus *bus, uint64_t addr, unsigned len_bytes, uint8_t *data);
bool vmm_bus_write(struct vmm_bus *bus, uint64_t addr, unsigned len_bytes, const uint8_t *data);

#endif
