/* What this machine is made of: which devices, where, and how the kernel is started. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "node/vmm/acpi.h"
#include "node/vmm/legacy.h"
#include "node/vmm/pm.h"
#include "node/vmm/serial.h"
#include "node/vmm/vm_internal.h"

static void machine_refuse(char *why, const char *what, int err)
{
	snprintf(why, VMM_WHY_MAX, "%s: %s", what, strerror(-err));
}

/* ---- the console ---- */

static size_t console_input(void *arg, const uint8_t *data, size_t len)
{
	struct vmm_vm *vm = arg;

	return vmm_serial_input(vm->serial, data, len);
}

static void serial_output(void *arg, const uint8_t *data, size_t len)
{
	struct vmm_vm *vm = arg;

	vmm_console_write(vm->console, data, len);
}

static void serial_input_ready(void *arg)
{
	struct vmm_vm *vm = arg;

	vmm_console_input_ready(vm->console);
}

static void console_quit(void *arg)
{
	vmm_vm_kill(arg, "ended at the terminal");
}

static const struct vmm_console_ops console_ops = {
	.input = console_input,
	.quit = console_quit,
};

static const struct vmm_serial_ops serial_ops = {
	.output = serial_output,
	.input_ready = serial_input_ready,
};

/* ---- power ---- */

static void on_poweroff(void *arg)
{
	vm_request(arg, VM_REQUEST_POWEROFF);
}

static void on_reset(void *arg)
{
	vm_request(arg, VM_REQUEST_RESET);
}

static const struct vmm_pm_ops pm_ops = {
	.poweroff = on_poweroff,
	.reset = on_reset,
};

int vm_press_power_button(struct vmm_vm *vm)
{
	vmm_pm_press_button(vm->pm);
	return 0;
}

/* ---- devices ---- */

static int make_console(struct vmm_vm *vm)
{
	int err = vmm_console_new(vm->main_loop, &console_ops, vm, &vm->console);

	if (!err && vm->config.console == VMM_CONSOLE_STDIO)
		err = vmm_console_stdio(vm->console);
	return err;
}

static int make_serial(struct vmm_vm *vm)
{
	int err = vmm_serial_new(&vm->env, VMM_COM1_PORT, VMM_COM1_GSI, 0, &serial_ops, vm,
				 &vm->serial);

	if (!err)
		base_list_add_tail(&vm->devices, &vm->serial->link);
	return err;
}

static int make_pm(struct vmm_vm *vm)
{
	int err = vmm_pm_new(&vm->env, &pm_ops, vm, &vm->pm);

	if (!err)
		base_list_add_tail(&vm->devices, &vm->pm->link);
	return err;
}

static int make_legacy(struct vmm_vm *vm)
{
	struct vmm_device *dev;
	int err = vmm_legacy_new(&vm->env, on_reset, vm, &dev);

	if (!err)
		base_list_add_tail(&vm->devices, &dev->link);
	return err;
}

int vm_make_devices(struct vmm_vm *vm, char *why)
{
	static const struct {
		const char *what;
		int (*make)(struct vmm_vm *vm);
	} parts[] = {
		{"console", make_console},
		{"serial port", make_serial},
		{"power management", make_pm},
		{"PC leftovers", make_legacy},
	};

	for (size_t i = 0; i < BASE_ARRAY_LEN(parts); i++) {
		int err = parts[i].make(vm);

		if (err) {
			machine_refuse(why, parts[i].what, err);
			return err;
		}
	}
	return 0;
}

/* ---- start ---- */

static struct vmm_entry machine_entry(const struct vmm_boot_entry *b)
{
	bool wide = b->mode == VMM_BOOT_LONG64;

	return (struct vmm_entry){
		.mode = wide ? VMM_ENTRY_LONG64 : VMM_ENTRY_PROTECTED32,
		.rip = b->rip,
		.rsp = b->rsp,
		.rbx = b->rbx,
		.rsi = b->rsi,
		.cr3 = b->cr3,
		.gdt = VMM_BOOT_GDT,
		.gdt_len = VMM_BOOT_GDT_LIMIT + 1,
		.cs = wide ? VMM_BOOT_CS64 : VMM_BOOT_CS32,
		.ds = VMM_BOOT_DS,
	};
}

int vm_boot(struct vmm_vm *vm, char *why)
{
	struct vmm_boot_image image = {
		.kernel_fd = vm->kernel_fd,
		.initrd_fd = vm->initrd_fd,
		.kernel_name = vm->config.kernel,
		.initrd_name = vm->config.initrd,
		.cmdline = vm->config.cmdline,
	};
	struct vmm_acpi_params acpi = {
		.vcpu_count = vm->config.vcpus,
		.virtio = vm->slots,
		.virtio_count = vm->slot_count,
	};
	struct vmm_boot_entry boot;
	struct vmm_entry entry;
	int err = vmm_acpi_load(vm->mem, &acpi, &image.rsdp);

	if (err) {
		machine_refuse(why, "ACPI tables", err);
		return err;
	}
	err = vmm_boot_load(vm->mem, &image, &boot, why, VMM_WHY_MAX);
	if (err)
		return err;
	entry = machine_entry(&boot);
	for (unsigned i = 0; i < vm->vcpus.count; i++) {
		err = vmm_vcpu_reset(vm->vcpus.vcpu[i], &entry);
		if (err) {
			machine_refuse(why, "vCPU registers", err);
			return err;
		}
	}
	return 0;
}
