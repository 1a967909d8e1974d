/* What must fit before the first page moves. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "node/vmm/migration_impl.h"

enum { CONFIG_VERSION = 1 };

void migration_config_write(struct vmm_vm *vm, struct base_wbuf *out)
{
	uint32_t devices = 0;

	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		devices++;
	base_wbuf_u32(out, CONFIG_VERSION);
	base_wbuf_u32(out, vm->config.vcpus);
	base_wbuf_u64(out, vmm_mem_size(vm->mem));
	base_wbuf_u64(out, vm->vcpus.clock.tsc_hz);
	base_wbuf_u32(out, devices);
	base_list_foreach (dev, &vm->devices, struct vmm_device, link) {
		base_wbuf_str(out, dev->ops->name);
		base_wbuf_u32(out, dev->instance);
		base_wbuf_u32(out, dev->ops->version);
	}
	vmm_vcpu_save_cpuid(vm->vcpus.vcpu[0], out);
}

static const struct vmm_device *find_device(const struct vmm_vm *vm, const char *name,
					    uint32_t instance)
{
	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		if (!strcmp(dev->ops->name, name) && dev->instance == instance)
			return dev;
	return NULL;
}

static int config_check_devices(struct vmm_vm *vm, struct base_rbuf *in, char *why)
{
	uint32_t count = base_rbuf_u32(in), ours = 0;

	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		ours++;
	for (uint32_t i = 0; i < count && !in->error; i++) {
		const struct vmm_device *dev;
		uint32_t instance, version;
		char name[32];

		base_rbuf_str(in, name, sizeof(name));
		instance = base_rbuf_u32(in);
		version = base_rbuf_u32(in);
		dev = find_device(vm, name, instance);
		if (!in->error && (!dev || dev->ops->version < version)) {
			snprintf(why, MIG_TEXT_MAX, "the destination has no device %.31s.%u%s",
				 name, instance, dev ? " of that version" : "");
			return -EINVAL;
		}
	}
	if (!in->error && count != ours) {
		snprintf(why, MIG_TEXT_MAX, "the destination has %u devices, the source %u", ours,
			 count);
		return -EINVAL;
	}
	return in->error;
}

static int config_check_cpu(struct vmm_vm *vm, struct base_rbuf *in, char *why)
{
	int err = vmm_vcpu_load_cpuid(vm->vcpus.vcpu[0], in, VMM_VCPU_CPUID_VERSION);

	if (err == -ENOTSUP)
		snprintf(why, MIG_TEXT_MAX,
			 "the destination's CPU lacks features that the guest was promised");
	return err ? err : base_rbuf_end(in);
}

int migration_config_check(struct vmm_vm *vm, const void *config, size_t len, char *why)
{
	struct base_rbuf in;
	uint32_t version, vcpus;
	uint64_t memory, hz, ours = vm->vcpus.clock.tsc_hz;
	int err;

	base_rbuf_init(&in, config, len);
	version = base_rbuf_u32(&in);
	vcpus = base_rbuf_u32(&in);
	memory = base_rbuf_u64(&in);
	hz = base_rbuf_u64(&in);
	if (in.error || version != CONFIG_VERSION)
		return -EPROTO;
	if (vcpus != vm->config.vcpus || memory != vmm_mem_size(vm->mem)) {
		snprintf(why, MIG_TEXT_MAX, "the source has %u vCPUs and %llu MiB", vcpus,
			 (unsigned long long)(memory >> 20));
		return -EINVAL;
	}
	if ((hz > ours ? hz - ours : ours - hz) > ours / VM_TSC_TOLERANCE) {
		snprintf(why, MIG_TEXT_MAX, "TSC: %llu kHz at the source, %llu kHz here",
			 (unsigned long long)hz / 1000, (unsigned long long)ours / 1000);
		return -EINVAL;
	}
	err = config_check_devices(vm, &in, why);
	return err ? err : config_check_cpu(vm, &in, why);
}
