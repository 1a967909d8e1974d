/* libs: pg_vmm */
/*
 * Saved machines: the reader of the stream, and the loads that need no KVM. The first byte chooses:
 * 0 is a whole stream; others are the payload of one section, which is framed here, as random
 * bytes hardly ever have the right checksum. What loads must save to bytes that load again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "node/vmm/cpuid.h"
#include "node/vmm/irqchip.h"
#include "node/vmm/lapic.h"
#include "node/vmm/pm.h"
#include "node/vmm/serial.h"
#include "node/vmm/snapshot.h"

enum { PART_MEMORY = 1, PART_CPUID, PART_IRQCHIP, PART_LAPIC, PART_SERIAL, PART_PM, PARTS };

static struct vmm_env env;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int err)
{
	if (err)
		abort();
}

static void on_kick(void *cpu)
{
}

static uint64_t on_tsc(void *cpu)
{
	return 1000;
}

static void on_arm(void *cpu, uint64_t tsc_deadline)
{
}

static const struct vmm_lapic_cpu lapic_ops = {.kick = on_kick, .tsc = on_tsc, .arm = on_arm};

static void on_output(void *arg, const uint8_t *data, size_t len)
{
}

static void on_event(void *arg)
{
}

static const struct vmm_serial_ops serial_ops = {.output = on_output, .input_ready = on_event};
static const struct vmm_pm_ops pm_ops = {.poweroff = on_event, .reset = on_event};

static int load_cpuid(struct base_rbuf *in, struct base_wbuf *out)
{
	struct kvm_cpuid2 *c;
	int err = vmm_cpuid_load(in, &c);

	if (err)
		return err;
	vmm_cpuid_save(c, out);
	if (!vmm_cpuid_fits(c, c))
		abort();
	free(c);
	return 0;
}

static int load_irqchip(struct base_rbuf *in, uint32_t version, struct base_wbuf *out)
{
	int err = vmm_irqchip_load(env.irq, in, version);

	if (!err)
		vmm_irqchip_save(env.irq, out);
	return err;
}

static int load_lapic(struct base_rbuf *in, uint32_t version, struct base_wbuf *out)
{
	struct vmm_lapic *l;
	int err;

	must(vmm_lapic_new(env.irq, 0, 1000000000, &lapic_ops, NULL, &l));
	err = vmm_lapic_load(l, in, version);
	if (!err)
		vmm_lapic_save(l, out);
	vmm_lapic_free(l);
	return err;
}

static int load_device(unsigned part, struct base_rbuf *in, uint32_t version, struct base_wbuf *out)
{
	struct vmm_device *dev;
	int err;

	if (part == PART_SERIAL)
		must(vmm_serial_new(&env, 0x3f8, 4, 0, &serial_ops, NULL, &dev));
	else
		must(vmm_pm_new(&env, &pm_ops, NULL, &dev));
	err = dev->ops->load(dev, in, version);
	if (!err)
		dev->ops->save(dev, out);
	dev->ops->fini(dev);
	return err;
}

static int load_part(unsigned part, const struct vmm_snap_section *s, struct base_wbuf *out)
{
	struct base_rbuf in;

	base_rbuf_init(&in, s->data, s->len);
	switch (part) {
	case PART_MEMORY: return vmm_snap_load_memory(s, env.mem);
	case PART_CPUID: return load_cpuid(&in, out);
	case PART_IRQCHIP: return load_irqchip(&in, s->version, out);
	case PART_LAPIC: return load_lapic(&in, s->version, out);
	default: return load_device(part, &in, s->version, out);
	}
}

/* Through the file and back. */
static void frame(int fd, const void *data, size_t len, struct vmm_snap_section *s)
{
	must(ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET));
	must(vmm_snap_write(fd, "part", 7, 1, data, len, NULL));
	must(lseek(fd, 0, SEEK_SET) != 0);
	must(vmm_snap_read(fd, s));
	if (s->len != len || s->instance != 7 || s->version != 1 || strcmp(s->name, "part") != 0)
		abort();
}

static void one_part(int fd, unsigned part, const uint8_t *data, size_t size,
		     struct vmm_snap_section *s)
{
	struct base_wbuf first, second;

	base_wbuf_init(&first, VMM_SNAP_SECTION_MAX);
	base_wbuf_init(&second, VMM_SNAP_SECTION_MAX);
	frame(fd, data, size, s);
	if (load_part(part, s, &first) == 0 && part != PART_MEMORY) {
		must(first.error);
		frame(fd, first.data, first.len, s);
		must(load_part(part, s, &second));
		if (first.len != second.len || memcmp(first.data, second.data, first.len) != 0)
			abort();
	}
	base_wbuf_fini(&first);
	base_wbuf_fini(&second);
}

static void whole_stream(int fd, const uint8_t *data, size_t size, struct vmm_snap_section *s)
{
	if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) < 0 || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	if (vmm_snap_read_header(fd))
		return;
	while (vmm_snap_read(fd, s) == 0)
		if (strcmp(s->name, "memory") == 0 && vmm_snap_load_memory(s, env.mem))
			return;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vmm_snap_section s = {0};
	static int fd = -1;

	if (fd < 0) {
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		must(fd < 0 || vmm_mem_new(UINT64_C(64) << 20, &env.mem));
		must(base_loop_new(&env.loop));
	}
	if (size == 0)
		return 0;
	must(vmm_bus_new(&env.pio) || vmm_bus_new(&env.mmio));
	must(vmm_irqchip_new(2, env.mmio, &env.irq));
	if (data[0] % PARTS == 0)
		whole_stream(fd, data + 1, size - 1, &s);
	else
		one_part(fd, data[0] % PARTS, data + 1, size - 1, &s);
	vmm_irqchip_free(env.irq);
	vmm_bus_free(env.mmio);
	vmm_bus_free(env.pio);
	free(s.data);
	return 0;
}
