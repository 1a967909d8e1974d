#include "node/vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "node/vmm/aml.h"
#include "node/vmm/boot.h"
#include "node/vmm/irqchip.h"
#include "node/vmm/pm.h"
#include "node/vmm/serial.h"

enum {
	HEADER_LEN = 36,
	RSDP_LEN = 36,
	FADT_LEN = 276,
	ALIGN = 16,
	XAPIC_ID_MAX = 254,

	FADT_WBINVD = 1 << 0,
	FADT_PWR_BUTTON = 1 << 4, /* set: a device, not fixed hardware */
	FADT_SLP_BUTTON = 1 << 5,
	FADT_RESET_REG = 1 << 10,
	FADT_APIC_PHYSICAL = 1 << 19,
	FADT_HW_REDUCED = 1 << 20,
	BOOT_NO_VGA = 1 << 2,
	BOOT_NO_CMOS_CLOCK = 1 << 5,
};

static void put_zeros(struct base_wbuf *b, size_t len)
{
	base_wbuf_reserve(b, len);
}

static void put_checksum(struct base_wbuf *b, size_t start, size_t len, size_t at)
{
	uint8_t sum = 0;

	if (b->error)
		return;
	b->data[start + at] = 0;
	for (size_t i = 0; i < len; i++)
		sum += b->data[start + i];
	b->data[start + at] = (uint8_t)-sum;
}

static size_t table_begin(struct base_wbuf *b, const char *signature, uint8_t revision)
{
	size_t at;

	put_zeros(b, -b->len & (ALIGN - 1));
	at = b->len;
	base_wbuf_bytes(b, signature, 4);
	base_wbuf_u32(b, 0); /* length */
	base_wbuf_u8(b, revision);
	base_wbuf_u8(b, 0); /* checksum */
	base_wbuf_bytes(b, "PANGEA", 6);
	base_wbuf_bytes(b, "PANGAEA ", 8);
	base_wbuf_u32(b, 1);
	base_wbuf_bytes(b, "PNGA", 4);
	base_wbuf_u32(b, 1);
	return at;
}

static void table_end(struct base_wbuf *b, size_t at)
{
	uint32_t len = (uint32_t)(b->len - at);

	if (b->error)
		return;
	memcpy(b->data + at + 4, &len, sizeof(len));
	put_checksum(b, at, len, 9);
}

/* ---- DSDT ---- */

static void put_com1(struct base_wbuf *b)
{
	size_t dev = aml_device(b, "COM1"), crs;

	aml_name_eisaid(b, "_HID", "PNP0501");
	aml_name_int(b, "_UID", 1);
	crs = aml_crs(b);
	aml_crs_port(b, VMM_COM1_PORT, 8);
	aml_crs_edge_irq(b, VMM_COM1_GSI);
	aml_crs_close(b, crs);
	aml_close(b, dev);
}

static void put_virtio(struct base_wbuf *b, unsigned index, const struct vmm_virtio_slot *slot)
{
	char name[5];
	size_t dev, crs;

	snprintf(name, sizeof(name), "VR%02u", index % 100);
	dev = aml_device(b, name);
	aml_name_str(b, "_HID", "LNRO0005");
	aml_name_int(b, "_UID", index);
	aml_name_int(b, "_CCA", 1);
	crs = aml_crs(b);
	aml_crs_memory(b, (uint32_t)slot->base, (uint32_t)VMM_VIRTIO_LEN);
	aml_crs_edge_irq(b, slot->gsi);
	aml_crs_close(b, crs);
	aml_close(b, dev);
}

/* The power button, and the generic event device that tells of it. */
static void put_button(struct base_wbuf *b)
{
	size_t dev = aml_device(b, "PWRB"), crs, method, cond;

	aml_name_eisaid(b, "_HID", "PNP0C0C");
	aml_name_int(b, "_UID", 0);
	aml_close(b, dev);
	dev = aml_device(b, "GED0");
	aml_name_str(b, "_HID", "ACPI0013");
	aml_name_int(b, "_UID", 0);
	crs = aml_crs(b);
	aml_crs_edge_irq(b, VMM_PM_GSI);
	aml_crs_close(b, crs);
	aml_port_field32(b, "EREG", "ESEL", VMM_PM_EVENTS);
	method = aml_method(b, "_EVT", 1, true);
	aml_store_local0(b, "ESEL");
	cond = aml_if(b);
	aml_local0_and(b, VMM_PM_EVENT_BUTTON);
	aml_notify(b, "PWRB", 0x80);
	aml_close(b, cond);
	aml_close(b, method);
	aml_close(b, dev);
}

static size_t put_dsdt(struct base_wbuf *b, const struct vmm_acpi_params *p)
{
	static const uint8_t s5[] = {VMM_PM_SLEEP_TYPE_S5, 0, 0, 0};
	size_t at = table_begin(b, "DSDT", 2), scope;

	aml_name_package(b, "\\_S5_", s5, sizeof(s5));
	scope = aml_scope(b, "\\_SB_");
	put_com1(b);
	for (unsigned i = 0; i < p->virtio_count; i++)
		put_virtio(b, i, &p->virtio[i]);
	put_button(b);
	aml_close(b, scope);
	table_end(b, at);
	return at;
}

/* ---- FADT: offsets as in ACPI 6.4, table 5.9 ---- */

static void fadt_port(uint8_t *gas, uint16_t port)
{
	gas[0] = 1; /* system I/O */
	gas[1] = 8; /* bits */
	gas[3] = 1; /* byte access */
	gas[4] = (uint8_t)port;
	gas[5] = (uint8_t)(port >> 8);
}

static size_t put_fadt(struct base_wbuf *b, uint64_t dsdt)
{
	uint32_t flags = FADT_WBINVD | FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_RESET_REG |
			 FADT_APIC_PHYSICAL | FADT_HW_REDUCED;
	size_t at = table_begin(b, "FACP", 6);
	uint8_t *t;

	put_zeros(b, FADT_LEN - HEADER_LEN);
	if (b->error)
		return at;
	t = b->data + at;
	t[109] = BOOT_NO_VGA | BOOT_NO_CMOS_CLOCK; /* and no 8042 */
	memcpy(t + 112, &flags, 4);
	fadt_port(t + 116, VMM_PM_RESET);
	t[128] = VMM_PM_RESET_VALUE;
	t[131] = 4; /* minor version */
	memcpy(t + 140, &dsdt, 8);
	fadt_port(t + 244, VMM_PM_SLEEP_CONTROL);
	fadt_port(t + 256, VMM_PM_SLEEP_STATUS);
	memcpy(t + 268, "PANGAEA", 8);
	table_end(b, at);
	return at;
}

/* ---- MADT ---- */

static void put_cpu(struct base_wbuf *b, uint32_t id)
{
	if (id <= XAPIC_ID_MAX) {
		base_wbuf_u8(b, 0);
		base_wbuf_u8(b, 8);
		base_wbuf_u8(b, (uint8_t)id);
		base_wbuf_u8(b, (uint8_t)id);
	} else {
		base_wbuf_u8(b, 9);
		base_wbuf_u8(b, 16);
		base_wbuf_u16(b, 0);
		base_wbuf_u32(b, id);
	}
	base_wbuf_u32(b, 1); /* enabled */
	if (id > XAPIC_ID_MAX)
		base_wbuf_u32(b, id);
}

static size_t put_madt(struct base_wbuf *b, const struct vmm_acpi_params *p)
{
	size_t at = table_begin(b, "APIC", 5);

	base_wbuf_u32(b, (uint32_t)VMM_LAPIC_BASE);
	base_wbuf_u32(b, 0); /* there is no 8259 */
	for (uint32_t id = 0; id < p->vcpu_count; id++)
		put_cpu(b, id);
	base_wbuf_u8(b, 1); /* IOAPIC */
	base_wbuf_u8(b, 12);
	base_wbuf_u16(b, 0);
	base_wbuf_u32(b, (uint32_t)VMM_IOAPIC_BASE);
	base_wbuf_u32(b, 0); /* first GSI */
	table_end(b, at);
	return at;
}

/* ---- SRAT, SLIT ---- */

static void put_cpu_affinity(struct base_wbuf *b, uint32_t id, uint32_t node)
{
	if (id <= XAPIC_ID_MAX) {
		base_wbuf_u8(b, 0);
		base_wbuf_u8(b, 16);
		base_wbuf_u8(b, (uint8_t)node);
		base_wbuf_u8(b, (uint8_t)id);
		base_wbuf_u32(b, 1);
		base_wbuf_u32(b, 0);
		base_wbuf_u32(b, 0);
	} else {
		base_wbuf_u8(b, 2);
		base_wbuf_u8(b, 24);
		base_wbuf_u16(b, 0);
		base_wbuf_u32(b, node);
		base_wbuf_u32(b, id);
		base_wbuf_u32(b, 1);
		base_wbuf_u64(b, 0);
	}
}

static void put_memory_affinity(struct base_wbuf *b, const struct vmm_acpi_memory *m)
{
	base_wbuf_u8(b, 1);
	base_wbuf_u8(b, 40);
	base_wbuf_u32(b, m->node);
	base_wbuf_u16(b, 0);
	base_wbuf_u64(b, m->gpa);
	base_wbuf_u64(b, m->len);
	base_wbuf_u32(b, 0);
	base_wbuf_u32(b, 1); /* enabled */
	base_wbuf_u64(b, 0);
}

static size_t put_srat(struct base_wbuf *b, const struct vmm_acpi_params *p)
{
	size_t at = table_begin(b, "SRAT", 3);

	base_wbuf_u32(b, 1);
	base_wbuf_u64(b, 0);
	for (uint32_t id = 0; id < p->vcpu_count; id++)
		put_cpu_affinity(b, id, p->numa->vcpu_node[id]);
	for (unsigned i = 0; i < p->numa->memory_count; i++)
		put_memory_affinity(b, &p->numa->memory[i]);
	table_end(b, at);
	return at;
}

static size_t put_slit(struct base_wbuf *b, const struct vmm_acpi_numa *numa)
{
	size_t at = table_begin(b, "SLIT", 1);

	base_wbuf_u64(b, numa->node_count);
	base_wbuf_bytes(b, numa->distance, (size_t)numa->node_count * numa->node_count);
	table_end(b, at);
	return at;
}

/* ---- all ---- */

static bool numa_valid(const struct vmm_acpi_numa *numa, unsigned vcpu_count)
{
	if (numa->node_count < 2 || numa->node_count > VMM_ACPI_NODE_MAX)
		return false;
	for (unsigned i = 0; i < vcpu_count; i++)
		if (numa->vcpu_node[i] >= numa->node_count)
			return false;
	for (unsigned i = 0; i < numa->memory_count; i++)
		if (numa->memory[i].node >= numa->node_count)
			return false;
	/* Local is 10 and the least; Linux drops the whole table otherwise. */
	for (unsigned i = 0; i < numa->node_count; i++)
		for (unsigned j = 0; j < numa->node_count; j++) {
			uint8_t d = numa->distance[i * numa->node_count + j];

			if (i == j ? d != 10 : d <= 10)
				return false;
		}
	return true;
}

static void put_rsdp(struct base_wbuf *b, size_t at, uint64_t xsdt)
{
	uint8_t *t;

	if (b->error)
		return;
	t = b->data + at;
	memcpy(t, "RSD PTR ", 8);
	memcpy(t + 9, "PANGEA", 6);
	t[15] = 2;
	t[20] = RSDP_LEN;
	memcpy(t + 24, &xsdt, 8);
	put_checksum(b, at, 20, 8);
	put_checksum(b, at, RSDP_LEN, 32);
}

int vmm_acpi_build(const struct vmm_acpi_params *p, uint64_t gpa, struct base_wbuf *b)
{
	uint64_t tables[4];
	unsigned count = 0;
	size_t start = b->len, dsdt, xsdt;

	if (p->vcpu_count == 0 || p->virtio_count > VMM_VIRTIO_MAX || start % ALIGN ||
	    (p->numa && !numa_valid(p->numa, p->vcpu_count)))
		return -EINVAL;
	put_zeros(b, RSDP_LEN);
	dsdt = put_dsdt(b, p);
	tables[count++] = put_fadt(b, gpa + dsdt - start);
	tables[count++] = put_madt(b, p);
	if (p->numa) {
		tables[count++] = put_srat(b, p);
		tables[count++] = put_slit(b, p->numa);
	}
	xsdt = table_begin(b, "XSDT", 1);
	for (unsigned i = 0; i < count; i++)
		base_wbuf_u64(b, gpa + tables[i] - start);
	table_end(b, xsdt);
	put_rsdp(b, start, gpa + xsdt - start);
	return b->error;
}

int vmm_acpi_load(struct vmm_mem *mem, const struct vmm_acpi_params *params, uint64_t *rsdp)
{
	struct base_wbuf b;
	int err;

	base_wbuf_init(&b, VMM_BOOT_RESET_VECTOR - VMM_BOOT_BIOS);
	err = vmm_acpi_build(params, VMM_BOOT_BIOS, &b);
	if (!err)
		err = vmm_mem_write(mem, VMM_BOOT_BIOS, b.data, b.len);
	base_wbuf_fini(&b);
	if (!err)
		*rsdp = VMM_BOOT_BIOS;
	return err;
}
