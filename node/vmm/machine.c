/* What this machine is made of: which devices, where, and how the kernel is started. */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/devices/virtio_balloon.h"
#include "node/devices/virtio_blk.h"
#include "node/devices/virtio_console.h"
#include "node/devices/virtio_net.h"
#include "node/devices/virtio_rng.h"
#include "node/net/switch.h"
#include "node/vmm/acpi.h"
#include "node/vmm/legacy.h"
#include "node/vmm/pm.h"
#include "node/vmm/serial.h"
#include "node/vmm/vm_internal.h"

enum { RNG_BYTES_PER_S = 1 << 20, DISK_QUEUES_MAX = 4, ACQUIRE_MS = 2000, ACQUIRE_STEP_MS = 50 };

static void machine_refuse(char *why, const char *what, int err)
{
	snprintf(why, VMM_WHY_MAX, "%s: %s", what, strerror(-err));
}

/* ---- the console: all on the device loop's thread, but for the serial port's output ---- */

/*
 * Typed bytes go to the serial port once the guest has read from it, else to the virtio console if
 * the guest drives that: a guest with a login on both must not see a line torn between them.
 */
static size_t console_input(void *arg, const uint8_t *data, size_t len)
{
	struct vmm_vm *vm = arg;

	/* A slice without devices: the guest's console is the lead's. */
	if (!vm->serial)
		return len;
	if (vmm_serial_listens(vm->serial))
		vm->serial_listened = true;
	if (vm->serial_listened || !virtio_console_listens(virtio_console_of(vm->hvc)))
		return vmm_serial_input(vm->serial, data, len);
	return virtio_console_input(virtio_console_of(vm->hvc), data, len);
}

static void console_quit(void *arg)
{
	vm_request(arg, VM_REQUEST_QUIT);
}

static void serial_output(void *arg, const uint8_t *data, size_t len)
{
	struct vmm_vm *vm = arg;

	vmm_console_write(vm->console, data, len);
}

static size_t hvc_output(void *arg, const void *data, size_t len)
{
	struct vmm_vm *vm = arg;

	vmm_console_write(vm->console, data, len);
	return len;
}

void vmm_vm_console_resize(struct vmm_vm *vm, uint16_t cols, uint16_t rows)
{
	if (vm->hvc)
		virtio_console_resize(virtio_console_of(vm->hvc), cols, rows);
}

static void console_input_ready(void *arg)
{
	struct vmm_vm *vm = arg;

	vmm_console_input_ready(vm->console);
}

/* ---- the guest channel: bytes to and from pangaea-guest, on the device loop's thread ---- */

static size_t channel_input(void *arg, const uint8_t *data, size_t len)
{
	struct vmm_vm *vm = arg;

	return vm->channel_dev ? virtio_console_input(virtio_console_of(vm->channel_dev), data, len)
			       : 0;
}

static size_t channel_output(void *arg, const void *data, size_t len)
{
	struct vmm_vm *vm = arg;

	vmm_console_write(vm->channel, data, len);
	return len;
}

static void channel_input_ready(void *arg)
{
	struct vmm_vm *vm = arg;

	vmm_console_input_ready(vm->channel);
}

static const struct vmm_console_ops channel_ops = {.input = channel_input};

static const struct vmm_console_ops console_ops = {
	.input = console_input,
	.quit = console_quit,
};

static const struct vmm_serial_ops serial_ops = {
	.output = serial_output,
	.input_ready = console_input_ready,
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

static void machine_add(struct vmm_vm *vm, struct vmm_device *dev)
{
	base_list_add_tail(&vm->devices, &dev->link);
}

int vm_make_console(struct vmm_vm *vm, char *why)
{
	int err = vmm_console_new(vm->device_loop, &console_ops, vm, &vm->console);

	if (!err && vm->config.console == VMM_CONSOLE_STDIO)
		err = vmm_console_stdio(vm->console);
	return err;
}

static int make_serial(struct vmm_vm *vm, char *why)
{
	int err = vmm_serial_new(&vm->env, VMM_COM1_PORT, VMM_COM1_GSI, 0, &serial_ops, vm,
				 &vm->serial);

	if (!err)
		machine_add(vm, vm->serial);
	return err;
}

static int make_pm(struct vmm_vm *vm, char *why)
{
	int err = vmm_pm_new(&vm->env, &pm_ops, vm, &vm->pm);

	if (!err)
		machine_add(vm, vm->pm);
	return err;
}

static int make_legacy(struct vmm_vm *vm, char *why)
{
	struct vmm_device *dev;
	int err = vmm_legacy_new(&vm->env, on_reset, vm, &dev);

	if (!err)
		machine_add(vm, dev);
	return err;
}

/* ---- virtio devices: each takes the next slot ---- */

static struct vmm_virtio_slot machine_slot(struct vmm_vm *vm)
{
	return vmm_virtio_slot_at(vm->slot_count);
}

static void machine_add_virtio(struct vmm_vm *vm, struct vmm_device *dev)
{
	vm->slots[vm->slot_count] = machine_slot(vm);
	vm->slot_count++;
	machine_add(vm, dev);
}

static int make_rng(struct vmm_vm *vm, char *why)
{
	const struct virtio_rng_options opts = {.bytes_per_s = RNG_BYTES_PER_S};
	struct vmm_device *dev;
	int err = virtio_rng_new(&vm->env, machine_slot(vm), &opts, &dev);

	if (!err)
		machine_add_virtio(vm, dev);
	return err;
}

static int make_hvc(struct vmm_vm *vm, char *why)
{
	const struct virtio_console_options opts = {
		.output = hvc_output,
		.input_ready = console_input_ready,
		.opaque = vm,
	};
	int err = virtio_console_new(&vm->env, machine_slot(vm), &opts, &vm->hvc);

	if (!err)
		machine_add_virtio(vm, vm->hvc);
	return err;
}

/* Last of all, so that the other devices are where they were before there was one. */
static int make_channel(struct vmm_vm *vm, char *why)
{
	const struct virtio_console_options opts = {
		.output = channel_output,
		.input_ready = channel_input_ready,
		.opaque = vm,
	};
	int err = vmm_console_new(vm->device_loop, &channel_ops, vm, &vm->channel);

	if (!err)
		err = virtio_console_new(&vm->env, machine_slot(vm), &opts, &vm->channel_dev);
	if (!err)
		machine_add_virtio(vm, vm->channel_dev);
	return err;
}

static int make_disk(struct vmm_vm *vm, const struct vmm_disk_config *d)
{
	const struct virtio_blk_options opts = {
		.path = d->path,
		.format = d->format == VMM_DISK_QCOW2 ? VIRTIO_BLK_QCOW2 : VIRTIO_BLK_RAW,
		.read_only = d->read_only,
		/* A copy of our own comes as a descriptor; what has a name the source has open. */
		.later = vm->config.incoming && strncmp(d->path, "/proc/self/", 11) != 0,
		.queues = BASE_MIN(vm->config.vcpus, (unsigned)DISK_QUEUES_MAX),
	};
	struct vmm_device *dev;
	int err = virtio_blk_new(&vm->env, machine_slot(vm), &opts, &dev);

	if (!err)
		machine_add_virtio(vm, dev);
	return err;
}

static int make_disks(struct vmm_vm *vm, char *why)
{
	for (unsigned i = 0; i < vm->config.disk_count; i++) {
		const struct vmm_disk_config *d = &vm->config.disk[i];
		int err = make_disk(vm, d);

		if (err) {
			snprintf(why, VMM_WHY_MAX, "--disk '%.150s': %s", d->path, strerror(-err));
			return err;
		}
	}
	return 0;
}

/* ---- disks that two hosts reach ---- */

static bool is_disk(const struct vmm_device *dev)
{
	return !strcmp(dev->ops->name, "virtio-blk");
}

void vm_disks_release_soon(struct vmm_vm *vm)
{
	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		if (is_disk(dev))
			virtio_blk_release_soon(dev);
}

int vm_disks_release(struct vmm_vm *vm)
{
	int err = 0;

	base_list_foreach (dev, &vm->devices, struct vmm_device, link) {
		if (err || !is_disk(dev))
			continue;
		err = virtio_blk_release(dev);
		if (err)
			log_error("virtio-blk %u cannot be let go: %s", dev->instance,
				  strerror(-err));
	}
	return err;
}

/* Who had it may be about to end. */
static int disk_acquire(struct vmm_device *dev, int64_t until_ns)
{
	const struct timespec step = {.tv_nsec = ACQUIRE_STEP_MS * BASE_NS_PER_MS};
	int err;

	while ((err = virtio_blk_acquire(dev)) == -ENOEXEC && base_clock_ns() < until_ns)
		nanosleep(&step, NULL);
	return err;
}

int vm_disks_acquire(struct vmm_vm *vm, char *why)
{
	int64_t until = base_clock_ns() + ACQUIRE_MS * BASE_NS_PER_MS;

	base_list_foreach (dev, &vm->devices, struct vmm_device, link) {
		int err = is_disk(dev) ? disk_acquire(dev, until) : 0;

		if (err) {
			snprintf(
				why, VMM_WHY_MAX,
				"virtio-blk %u: its image cannot be opened; another node may have it still",
				dev->instance);
			return err;
		}
	}
	return 0;
}

static int open_nic(const struct vmm_nic_config *n, int *fd)
{
	switch (n->kind) {
	case VMM_NIC_TAP:
		/* Opening it would make one, that nobody has connected to anything. */
		if (if_nametoindex(n->target) == 0)
			return -ENODEV;
		return virtio_net_open_tap(n->target, 1, fd);
	case VMM_NIC_PORT: return virtio_net_open_port(n->target, fd);
	case VMM_NIC_FD: *fd = n->fd; return 0;
	}
	return -EINVAL;
}

/* A port of the switch, whose tunnels take a part of each packet; 0: a TAP, nothing to tell. */
static uint16_t nic_mtu(int fd)
{
	int type;
	socklen_t len = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 ? NODE_SWITCH_MTU : 0;
}

static int make_nic(struct vmm_vm *vm, const struct vmm_nic_config *n)
{
	struct virtio_net_options opts = {.pairs = 1};
	struct vmm_device *dev;
	int err = open_nic(n, &opts.fds[0]);

	if (err)
		return err;
	memcpy(opts.mac, n->mac, sizeof(opts.mac));
	opts.mtu = nic_mtu(opts.fds[0]);
	err = virtio_net_new(&vm->env, machine_slot(vm), &opts, &dev);
	if (!err)
		machine_add_virtio(vm, dev);
	else if (n->kind != VMM_NIC_FD)
		close(opts.fds[0]);
	return err;
}

static int make_nics(struct vmm_vm *vm, char *why)
{
	for (unsigned i = 0; i < vm->config.nic_count; i++) {
		const struct vmm_nic_config *n = &vm->config.nic[i];
		int err = make_nic(vm, n);

		if (err) {
			snprintf(why, VMM_WHY_MAX, "--nic %u (%.150s): %s", i,
				 n->kind == VMM_NIC_FD ? "fd" : n->target, strerror(-err));
			return err;
		}
	}
	return 0;
}

/* Not for a spanning guest: its memory is the DSM's, which knows no holes. */
static int make_balloon(struct vmm_vm *vm, char *why)
{
	const struct virtio_balloon_options opts = {0};
	int err;

	if (vm->config.slices.count || vm->config.no_balloon)
		return 0;
	err = virtio_balloon_new(&vm->env, machine_slot(vm), &opts, &vm->balloon);
	if (!err)
		machine_add_virtio(vm, vm->balloon);
	return err;
}

int vm_make_devices(struct vmm_vm *vm, char *why)
{
	static const struct {
		const char *what;
		int (*make)(struct vmm_vm *vm, char *why);
	} parts[] = {
		{"console", vm_make_console},	 {"serial port", make_serial},
		{"power management", make_pm},	 {"PC leftovers", make_legacy},
		{"virtio-console", make_hvc},	 {"virtio-rng", make_rng},
		{"disks", make_disks},		 {"network", make_nics},
		{"guest channel", make_channel}, {"virtio-balloon", make_balloon},
	};

	_Static_assert(4 + VMM_DISK_MAX + VMM_NIC_MAX <= VMM_VIRTIO_MAX, "a slot for each");
	for (size_t i = 0; i < BASE_ARRAY_LEN(parts); i++) {
		int err = parts[i].make(vm, why);

		if (err) {
			if (!why[0])
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

/* A NUMA node for each slice. */
struct machine_numa {
	struct vmm_acpi_numa numa;
	uint32_t vcpu_node[VMM_VCPU_MAX];
	struct vmm_acpi_memory memory[2 * VMM_SLICE_MAX];
	uint8_t distance[VMM_SLICE_MAX * VMM_SLICE_MAX];
};

/* Bytes [first, first + len) of the memory file as guest addresses: around the hole. */
static void numa_add_memory(struct vmm_vm *vm, struct machine_numa *n, unsigned node,
			    uint64_t first, uint64_t len)
{
	for (unsigned i = 0; i < vmm_mem_region_count(vm->mem); i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(vm->mem, i);
		uint64_t from = BASE_MAX(first, r->fd_offset);
		uint64_t to = BASE_MIN(first + len, r->fd_offset + r->len);

		if (from < to)
			n->memory[n->numa.memory_count++] =
				(struct vmm_acpi_memory){.gpa = r->gpa + (from - r->fd_offset),
							 .len = to - from,
							 .node = node};
	}
}

static const struct vmm_acpi_numa *machine_numa(struct vmm_vm *vm, struct machine_numa *n)
{
	/*
	 * More than 30, from which on Linux starts and wakes tasks on their own node and moves them
	 * only when another has been idle for a while: a fork that goes astray costs its whole
	 * address space, page by page.
	 */
	enum { LOCAL = 10, REMOTE = 40 };
	const struct vmm_slice_config *s = &vm->config.slices;

	if (s->count == 0)
		return NULL;
	*n = (struct machine_numa){.numa = {.node_count = s->count,
					    .vcpu_node = n->vcpu_node,
					    .memory = n->memory,
					    .distance = n->distance}};
	for (unsigned i = 0; i < s->count; i++) {
		unsigned first = vmm_span_first_vcpu(s, i);

		for (unsigned v = 0; v < s->part[i].vcpus; v++)
			n->vcpu_node[first + v] = i;
		numa_add_memory(vm, n, i, vmm_span_first_byte(s, i), s->part[i].memory_bytes);
		for (unsigned k = 0; k < s->count; k++)
			n->distance[i * s->count + k] = i == k ? LOCAL : REMOTE;
	}
	return &n->numa;
}

/* The loader's pages must be at home on the lead. */
static uint64_t machine_ram_end(const struct vmm_vm *vm)
{
	const struct vmm_slice_config *s = &vm->config.slices;

	return s->count ? BASE_MIN(s->part[0].memory_bytes, VMM_MEM_HOLE_START) : 0;
}

int vm_boot(struct vmm_vm *vm, char *why)
{
	struct machine_numa numa;
	struct vmm_boot_image image = {
		.kernel_fd = vm->kernel_fd,
		.initrd_fd = vm->initrd_fd,
		.kernel_name = vm->config.kernel,
		.initrd_name = vm->config.initrd,
		.cmdline = vm->config.cmdline,
		.ram_end = machine_ram_end(vm),
		.huge_pages = vm->config.slices.count == 0,
		.used_memory = vm->span && vm->state != VMM_STARTING,
	};
	struct vmm_acpi_params acpi = {
		.vcpu_count = vm->config.vcpus,
		.virtio = vm->slots,
		.virtio_count = vm->slot_count,
		.numa = machine_numa(vm, &numa),
	};
	struct vmm_boot_entry boot;
	int err = vmm_acpi_load(vm->mem, &acpi, &image.rsdp);

	if (err) {
		machine_refuse(why, "ACPI tables", err);
		return err;
	}
	err = vmm_boot_load(vm->mem, &image, &boot, why, VMM_WHY_MAX);
	if (err)
		return err;
	vm->entry = machine_entry(&boot);
	vm->huge = boot.huge;
	err = vm_reset_vcpus(vm);
	if (err)
		machine_refuse(why, "vCPU registers", err);
	return err;
}
