/*
 * ACPI tables of a hardware-reduced machine, built into the guest's BIOS area (boot.h): FADT, DSDT
 * with COM1, the virtio transports, power button and S5, MADT, and SRAT and SLIT where the guest
 * has several NUMA nodes.
 */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include "base/buf.h"
#include "node/vmm/device.h"

enum { VMM_ACPI_NODE_MAX = 64 };

struct vmm_acpi_memory {
	uint64_t gpa, len;
	uint32_t node;
};

struct vmm_acpi_numa {
	unsigned node_count;	   /* 2 .. VMM_ACPI_NODE_MAX */
	const uint32_t *vcpu_node; /* vcpu_count entries */
	const struct vmm_acpi_memory *memory;
	unsigned memory_count;
	const uint8_t *distance; /* node_count * node_count, row by row; 10 is local */
};

struct vmm_acpi_params {
	unsigned vcpu_count; /* APIC ids 0 .. count-1 */
	const struct vmm_virtio_slot *virtio;
	unsigned virtio_count;		  /* at most VMM_VIRTIO_MAX */
	const struct vmm_acpi_numa *numa; /* NULL: one node */
};

/*
 * Appends the tables as they stand from guest address `gpa` on, each aligned to 16 bytes; the RSDP
 * comes first. out->error says what went wrong; -EINVAL for parameters that contradict each other.
 */
BASE_MUST_CHECK int vmm_acpi_build(const struct vmm_acpi_params *params, uint64_t gpa,
				   struct base_wbuf *out);
/* Builds into guest memory at VMM_BOOT_BIOS; *rsdp for vmm_boot_image. */
BASE_MUST_CHECK int vmm_acpi_load(struct vmm_mem *mem, const struct vmm_acpi_params *params,
				  uint64_t *rsdp);

#endif
