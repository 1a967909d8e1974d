#include "node/vmm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/devices/virtio_balloon.h"
#include "node/vmm/snapshot.h"
#include "node/vmm/vm_internal.h"

static int vm_refuse(char *why, int err, const char *fmt, ...) BASE_PRINTF(3, 4);

static int vm_refuse(char *why, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, VMM_WHY_MAX, fmt, ap);
	va_end(ap);
	return err;
}

void vm_set_state(struct vmm_vm *vm, enum vmm_state state, const char *reason)
{
	if (vm->state == state)
		return;
	vm->state = state;
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	if (vm->ops->changed)
		vm->ops->changed(vm->arg, state, vm->reason);
	if (vm_is_final(vm))
		vm_span_end_move(vm);
}

bool vm_is_final(const struct vmm_vm *vm)
{
	return vm->state == VMM_STOPPED || vm->state == VMM_FAILED;
}

/* ---- stopping and going on ---- */

/* vCPUs elsewhere may wait for our devices, and ours for their pages: devices stop last. */
void vm_halt_all(struct vmm_vm *vm)
{
	if (vm->span && !vm_follows(vm) && vmm_span_halt(vm->span) < 0)
		vm->lost = true;
	if (vm->lost) {
		vmm_vcpus_close(&vm->vcpus);
		return;
	}
	vmm_vcpus_pause(&vm->vcpus);
	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		if (dev->ops->pause)
			dev->ops->pause(dev);
}

int vm_go_all(struct vmm_vm *vm)
{
	int err;

	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		if (dev->ops->resume)
			dev->ops->resume(dev);
	vmm_vcpus_resume(&vm->vcpus);
	err = vm->span ? vmm_span_go(vm->span) : 0;
	vm_set_state(vm, VMM_RUNNING, "");
	if (err == -ETIMEDOUT)
		vm_finish(vm, VMM_FAILED, "not all slices could go on");
	return err == -ECANCELED ? 0 : err;
}

int vmm_vm_pause(struct vmm_vm *vm)
{
	if (vm_follows(vm))
		return -EOPNOTSUPP;
	if (vm->state == VMM_PAUSED)
		return 0;
	if (vm->state != VMM_RUNNING)
		return -EINVAL;
	vm_halt_all(vm);
	if (vm->lost) {
		vm_finish(vm, VMM_FAILED, "not all slices could be stopped");
		return -ETIMEDOUT;
	}
	vm_set_state(vm, VMM_PAUSED, "");
	return 0;
}

int vmm_vm_resume(struct vmm_vm *vm)
{
	char why[VMM_WHY_MAX];
	int err;

	if (vm_follows(vm))
		return -EOPNOTSUPP;
	if (vm->state == VMM_RUNNING)
		return 0;
	if (vm->state != VMM_PAUSED || vm->incoming)
		return -EINVAL;
	err = vm_disks_acquire(vm, why);
	if (err) {
		log_error("the VM stays paused: %s", why);
		snprintf(vm->reason, sizeof(vm->reason), "%s", why);
		if (vm->ops->changed)
			vm->ops->changed(vm->arg, vm->state, vm->reason);
		return -EBUSY;
	}
	return vm_go_all(vm);
}

void vm_finish(struct vmm_vm *vm, enum vmm_state state, const char *reason)
{
	if (vm_is_final(vm) || vm_span_ask_end(vm, state, reason))
		return;
	/* Threads may sleep until a page comes that never will. */
	if (vm->filling)
		vm->lost = true;
	if (vm->state == VMM_RUNNING)
		vm_halt_all(vm);
	if (atomic_load(&vm->transfer))
		vm->lost = true;
	if (vm->span && !vm_follows(vm))
		vmm_span_end(vm->span, state == VMM_FAILED, reason);
	/* Its end is that of the process, which would take these words along. */
	if (atomic_load(&vm->transfer))
		vmm_span_leave(vm->span);
	vm_set_state(vm, state, reason);
}

void vmm_vm_kill(struct vmm_vm *vm, const char *reason)
{
	vm_finish(vm, VMM_STOPPED, reason);
}

int vm_reset_vcpus(struct vmm_vm *vm)
{
	int err = 0;

	for (unsigned i = 0; i < vm->vcpus.count && !err; i++)
		if (vmm_vcpu_is_here(vm->vcpus.vcpu[i]))
			err = vmm_vcpu_reset(vm->vcpus.vcpu[i], &vm->entry);
	return err;
}

static int vm_reset_machine(struct vmm_vm *vm, char *why)
{
	int err;

	if (vm->kernel_fd < 0)
		return vm_refuse(why, -EINVAL,
				 "the guest asked for a reset, but has no --kernel to boot");
	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		if (dev->ops->reset)
			dev->ops->reset(dev);
	vmm_irqchip_reset(vm->irq);
	/* Shared memory is cleared as it is loaded, page by page through the DSM. */
	err = vm->span ? 0 : vmm_mem_clear(vm->mem);
	if (err)
		return vm_refuse(why, err, "guest memory: %s", strerror(-err));
	err = vm_boot(vm, why);
	if (!err && vm->span)
		vmm_span_reset(vm->span, &vm->entry);
	return err;
}

int vmm_vm_reset(struct vmm_vm *vm)
{
	char why[VMM_WHY_MAX] = "";
	bool running = vm->state == VMM_RUNNING;
	int err;

	if (vm_follows(vm))
		return -EOPNOTSUPP;
	if (vm_is_final(vm) || vm->state == VMM_STARTING)
		return -EINVAL;
	vm->reset_after_move = vmm_vm_moves(vm);
	if (vm->reset_after_move)
		return 0;
	log_info("reset");
	if (running)
		vm_halt_all(vm);
	if (vm->lost) {
		vm_finish(vm, VMM_FAILED, "not all slices could be stopped");
		return -ETIMEDOUT;
	}
	err = vm_reset_machine(vm, why);
	if (err) {
		if (vm->span)
			vmm_span_end(vm->span, true, why);
		vm_set_state(vm, VMM_FAILED, why);
		return err;
	}
	return running ? vm_go_all(vm) : 0;
}

int vmm_vm_powerdown(struct vmm_vm *vm)
{
	if (vm_follows(vm))
		return -EOPNOTSUPP;
	return vm->state == VMM_RUNNING ? vm_press_power_button(vm) : -EINVAL;
}

/* ---- requests of vCPUs and devices ---- */

static void vm_debug_stop(struct vmm_vm *vm, struct vmm_vcpu *v)
{
	if (vm->state == VMM_RUNNING) {
		vm_halt_all(vm);
		vm_set_state(vm, VMM_PAUSED, "stopped for the debugger");
	}
	if (vm->ops->debug)
		vm->ops->debug(vm->arg, v);
}

/* They stop vCPUs and devices, of which some may wait for a page. */
enum { FILLED_REQUESTS = VM_REQUEST_RESET | VM_REQUEST_POWEROFF | VM_REQUEST_DEBUG };

static void vm_take_requests(void *arg)
{
	struct vmm_vm *vm = arg;
	char failure[VM_REASON_MAX];
	struct vmm_vcpu *v;
	unsigned r;

	pthread_mutex_lock(&vm->request_lock);
	r = vm->requests;
	vm->requests = 0;
	v = vm->debug_vcpu;
	memcpy(failure, vm->failure, sizeof(failure));
	pthread_mutex_unlock(&vm->request_lock);
	if (vm_is_final(vm))
		return;
	if (vm->filling) {
		vm->when_filled |= r & FILLED_REQUESTS;
		r &= ~(unsigned)FILLED_REQUESTS;
	}
	if (r & VM_REQUEST_FAILED)
		vm_finish(vm, VMM_FAILED, failure);
	else if (r & VM_REQUEST_POWEROFF)
		vm_finish(vm, VMM_STOPPED, "the guest powered off");
	else if (r & VM_REQUEST_QUIT)
		vm_finish(vm, VMM_STOPPED, "ended at the terminal");
	else if (r & VM_REQUEST_RESET && vmm_vm_reset(vm) < 0)
		log_error("reset failed");
	else if (r & VM_REQUEST_DEBUG)
		vm_debug_stop(vm, v);
}

void vm_request(struct vmm_vm *vm, enum vm_request what)
{
	bool post;

	pthread_mutex_lock(&vm->request_lock);
	post = vm->requests == 0;
	vm->requests |= what;
	pthread_mutex_unlock(&vm->request_lock);
	/* The loop's queue holds thousands, and we have at most one in it. */
	if (post && base_loop_post(vm->main_loop, vm_take_requests, vm) < 0)
		log_error("the main loop takes no requests");
}

void vm_filled(struct vmm_vm *vm)
{
	unsigned waiting = vm->when_filled;

	vm->filling = false;
	vm->when_filled = 0;
	for (unsigned bit = 1; bit && bit <= waiting; bit <<= 1)
		if (waiting & bit)
			vm_request(vm, (enum vm_request)bit);
}

static void vm_on_vcpu_failed(void *opaque, struct vmm_vcpu *v, const char *reason)
{
	struct vmm_vm *vm = opaque;
	char regs[1024];

	vmm_vcpu_dump(v, regs, sizeof(regs));
	log_error("%s\n%s", reason, regs);
	pthread_mutex_lock(&vm->request_lock);
	snprintf(vm->failure, sizeof(vm->failure), "%s", reason);
	pthread_mutex_unlock(&vm->request_lock);
	vm_request(vm, VM_REQUEST_FAILED);
}

static void vm_on_vcpu_debug(void *opaque, struct vmm_vcpu *v)
{
	struct vmm_vm *vm = opaque;

	pthread_mutex_lock(&vm->request_lock);
	vm->debug_vcpu = v;
	pthread_mutex_unlock(&vm->request_lock);
	vm_request(vm, VM_REQUEST_DEBUG);
}

static void vm_on_vcpu_shutdown(void *opaque, struct vmm_vcpu *v)
{
	struct vmm_vm *vm = opaque;

	log_warn("vCPU %u shut down (triple fault)", vmm_vcpu_apic_id(v));
	if (vm_follows(vm))
		vmm_span_wish_reset(vm->span);
	else
		vm_request(vm, VM_REQUEST_RESET);
}

/* ---- making ---- */

static int vm_open(const char *path, const char *what, int *fd, char *why)
{
	if (!path)
		return 0;
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0) {
		int err = -errno;

		return vm_refuse(why, err, "%s '%.150s': %s", what, path, strerror(-err));
	}
	return 0;
}

static int vm_env_ioeventfd(struct vmm_env *env, uint64_t addr, const uint32_t *match, int fd,
			    bool add)
{
	struct vmm_vm *vm = base_container_of(env, struct vmm_vm, env);

	return vmm_kvm_ioeventfd(&vm->kvm, addr, match, fd, add);
}

static int vm_make_memory(struct vmm_vm *vm, char *why)
{
	int err = vmm_mem_new(vm->config.memory_bytes, &vm->mem);

	if (!err)
		err = vmm_kvm_map_memory(&vm->kvm, vm->mem, false);
	if (err)
		return vm_refuse(why, err, "guest memory of %llu MiB: %s",
				 (unsigned long long)(vm->config.memory_bytes >> 20),
				 strerror(-err));
	return 0;
}

static int vm_make_buses(struct vmm_vm *vm)
{
	int err = vmm_bus_new(&vm->pio);

	if (!err)
		err = vmm_bus_new(&vm->mmio);
	if (!err)
		err = vmm_irqchip_new(vm->config.vcpus, vm->mmio, &vm->irq);
	if (!err)
		err = base_loop_new(&vm->device_loop);
	vm->env = (struct vmm_env){.mem = vm->mem,
				   .pio = vm->pio,
				   .mmio = vm->mmio,
				   .irq = vm->irq,
				   .loop = vm->device_loop,
				   .ioeventfd = vm_env_ioeventfd};
	return err;
}

static void vm_vcpu_io(void *opaque, uint32_t apic_id, bool pio, bool write, uint64_t addr,
		       unsigned len, uint8_t *data)
{
	vmm_span_io(((struct vmm_vm *)opaque)->span, apic_id, pio, write, addr, len, data);
}

/* The APIC ids of this slice. */
static void vm_own_vcpus(const struct vmm_vm *vm, uint32_t *first, uint32_t *end)
{
	const struct vmm_slice_config *s = &vm->config.slices;

	bool all = !s->count || s->alone;

	*first = all ? 0 : vmm_span_first_vcpu(s, s->self);
	*end = all ? vm->config.vcpus : vmm_span_first_vcpu(s, s->self + 1);
}

/* A package for each slice where APIC ids can say so, else one for each vCPU. */
static unsigned vm_package_vcpus(const struct vmm_config *c)
{
	const struct vmm_slice_config *s = &c->slices;
	unsigned n = s->part[0].vcpus;

	if (s->count == 0)
		return c->vcpus;
	for (unsigned i = 1; i < s->count; i++)
		if (s->part[i].vcpus != n)
			return 1;
	return n & (n - 1) ? 1 : n;
}

static int vm_make_vcpus(struct vmm_vm *vm, char *why)
{
	uint32_t first, end;
	int err;

	if (vm->config.vcpus > vm->kvm.vcpu_max)
		return vm_refuse(why, -EINVAL, "%u vCPUs: this host's KVM has at most %u",
				 vm->config.vcpus, vm->kvm.vcpu_max);
	vm->vcpus = (struct vmm_vcpus){
		.kvm = &vm->kvm,
		.mem = vm->mem,
		.pio = vm->pio,
		.mmio = vm->mmio,
		.irq = vm->irq,
		.guest_vcpu_count = vm->config.vcpus,
		.package_vcpus = vm_package_vcpus(&vm->config),
		.shared = vm->config.slices.count > 0,
		.io = vm_follows(vm) ? vm_vcpu_io : NULL,
		.failed = vm_on_vcpu_failed,
		.debug = vm_on_vcpu_debug,
		.shutdown = vm_on_vcpu_shutdown,
		.opaque = vm,
	};
	err = vmm_vcpus_init(&vm->vcpus);
	if (err)
		return vm_refuse(why, err, "vCPUs: %s", strerror(-err));
	vm->vcpus_ready = true;
	vm_own_vcpus(vm, &first, &end);
	for (uint32_t id = first; id < end; id++) {
		struct vmm_vcpu *v;

		err = vm->config.slices.joins ? vmm_vcpu_new_away(&vm->vcpus, id, &v)
					      : vmm_vcpu_new(&vm->vcpus, id, &v);
		if (err)
			return vm_refuse(why, err, "vCPU %u: %s", id, strerror(-err));
	}
	return 0;
}

/* An agent's checkpoint has what the agent needs before the machine. */
static int vm_skip_checkpoint_head(int fd)
{
	char magic[sizeof(VMM_SNAP_CHECKPOINT_MAGIC) - 1];

	if (pread(fd, magic, sizeof(magic), 0) != sizeof(magic) ||
	    memcmp(magic, VMM_SNAP_CHECKPOINT_MAGIC, sizeof(magic)) != 0)
		return 0;
	return lseek(fd, VMM_SNAP_CHECKPOINT_BYTES, SEEK_SET) < 0 ? -errno : 0;
}

int vm_open_restore(struct vmm_vm *vm, int *fd, char *why)
{
	int err = vm_open(vm->config.restore, "--restore", fd, why);

	return err ? err : vm_skip_checkpoint_head(*fd);
}

static int vm_restore(struct vmm_vm *vm, char *why)
{
	BASE_AUTO_FD int fd = -1;
	int err = vm_open_restore(vm, &fd, why);

	return err ? err : vm_load(vm, fd, why);
}

static int vm_first_state(struct vmm_vm *vm, char *why)
{
	vm->incoming = vm->vcpus.restored = vm->config.incoming;
	if (vm->incoming && vmm_fill_new(vm->mem, &vm->fill))
		log_info("no userfaultfd: post-copy is not possible");
	if (vm->config.slices.count)
		return vm_span_new(vm, why);
	if (vm->config.restore)
		return vm_restore(vm, why);
	return vm->incoming ? 0 : vm_boot(vm, why);
}

static int vm_build(struct vmm_vm *vm, char *why)
{
	int err;

	err = vm_open(vm->config.kernel, "--kernel", &vm->kernel_fd, why);
	if (!err)
		err = vm_open(vm->config.initrd, "--initrd", &vm->initrd_fd, why);
	if (!err)
		err = vmm_kvm_open(&vm->kvm, why);
	if (!err)
		err = vm_make_memory(vm, why);
	if (err)
		return err;
	err = vm_make_buses(vm);
	if (err)
		return vm_refuse(why, err, "buses: %s", strerror(-err));
	err = vm_make_vcpus(vm, why);
	if (!err)
		err = vm_follows(vm) ? vm_make_console(vm, why) : vm_make_devices(vm, why);
	if (!err)
		err = vm_first_state(vm, why);
	return err;
}

int vmm_vm_new(const struct vmm_config *config, struct base_loop *main_loop,
	       const struct vmm_vm_ops *ops, void *arg, char *why, struct vmm_vm **out)
{
	struct vmm_vm *vm = calloc(1, sizeof(*vm));
	int err;

	_Static_assert((int)VMM_WHY_MAX >= (int)VMM_KVM_REASON_MAX, "kvm writes into why");
	if (!vm)
		return vm_refuse(why, -ENOMEM, "out of memory");
	vm->config = *config;
	vm->ops = ops;
	vm->arg = arg;
	vm->main_loop = main_loop;
	vm->state = VMM_STARTING;
	vm->restore_fd = vm->kernel_fd = vm->initrd_fd = vm->kvm.fd = vm->kvm.vm_fd = -1;
	base_list_init(&vm->devices);
	pthread_mutex_init(&vm->request_lock, NULL);
	err = vm_build(vm, why);
	if (err) {
		vmm_vm_free(vm);
		return err;
	}
	*out = vm;
	return 0;
}

static void *vm_device_main(void *arg)
{
	struct vmm_vm *vm = arg;
	int err;

	pthread_setname_np(pthread_self(), "devices");
	err = base_loop_run(vm->device_loop);

	if (err)
		log_error("device loop: %s", strerror(-err));
	return NULL;
}

static void vm_populate(struct vmm_vm *vm)
{
	int err = 0;

	if (vm->config.populate_bytes)
		err = vmm_populate_start(vm->mem, vm->config.populate_bytes, &vm->populate);
	else if (vm->huge.range[0].len)
		err = vmm_populate_huge_start(vm->mem, &vm->huge, &vm->populate);
	if (err)
		log_debug("no thread to populate memory: %s", strerror(-err));
	/* What a userfaultfd watches goes page by page. */
	if (vm->span || vm->fill)
		return;
	err = vmm_gather_new(vm->mem, &vm->gather);
	if (!err)
		err = vmm_gather_start(vm->gather);
	if (err)
		log_debug("no thread that makes huge pages: %s", strerror(-err));
}

int vmm_vm_start(struct vmm_vm *vm, bool resume)
{
	int err = pthread_create(&vm->device_thread, NULL, vm_device_main, vm);

	if (err)
		return -err;
	vm->device_thread_started = true;
	err = vmm_vcpus_start(&vm->vcpus);
	if (err)
		return err;
	vm->started_ns = base_clock_ns();
	vm_populate(vm);
	if (vm->span)
		return vm_span_start(vm, resume);
	vm_set_state(vm, VMM_PAUSED, "");
	return resume ? vmm_vm_resume(vm) : 0;
}

void vmm_vm_free(struct vmm_vm *vm)
{
	if (!vm)
		return;
	if (vm->state == VMM_RUNNING)
		vm_halt_all(vm);
	if (vm->vcpus_ready)
		vmm_vcpus_stop(&vm->vcpus);
	base_loop_timer_cancel(&vm->end_timer);
	base_loop_timer_cancel(&vm->join.timer);
	if (vm->device_thread_started) {
		base_loop_stop(vm->device_loop, 0);
		pthread_join(vm->device_thread, NULL);
	}
	if (vm->console)
		vmm_console_flush(vm->console);
	base_list_foreach_safe (dev, &vm->devices, struct vmm_device, link) {
		base_list_del(&dev->link);
		dev->ops->fini(dev);
	}
	vmm_console_free(vm->console);
	vmm_console_free(vm->channel);
	base_loop_free(vm->device_loop);
	/* Devices are still: nothing waits for a page or sends to another slice. */
	vmm_span_free(vm->span);
	if (vm->vcpus_ready)
		vmm_vcpus_fini(&vm->vcpus);
	vmm_irqchip_free(vm->irq);
	vmm_bus_free(vm->mmio);
	vmm_bus_free(vm->pio);
	vmm_kvm_close(&vm->kvm);
	vmm_gather_free(vm->gather);
	vmm_populate_free(vm->populate);
	vmm_fill_free(vm->fill);
	vmm_mem_free(vm->mem);
	if (vm->kernel_fd >= 0)
		close(vm->kernel_fd);
	if (vm->restore_fd >= 0)
		close(vm->restore_fd);
	if (vm->initrd_fd >= 0)
		close(vm->initrd_fd);
	pthread_mutex_destroy(&vm->request_lock);
	free(vm);
}

/* ---- looking ---- */

enum vmm_state vmm_vm_state(const struct vmm_vm *vm)
{
	return vm->state;
}

const char *vmm_vm_reason(const struct vmm_vm *vm)
{
	return vm->reason;
}

const struct vmm_config *vmm_vm_config(const struct vmm_vm *vm)
{
	return &vm->config;
}

bool vmm_vm_keeps_user(const struct vmm_vm *vm)
{
	return vm->span && vmm_span_keeps_user(vm->span);
}

bool vmm_vm_is_lost(const struct vmm_vm *vm)
{
	return vm->lost;
}

uint64_t vmm_vm_uptime_ns(const struct vmm_vm *vm)
{
	return vm->started_ns ? (uint64_t)(base_clock_ns() - vm->started_ns) : 0;
}

struct vmm_console *vmm_vm_console(struct vmm_vm *vm)
{
	return vm->console;
}

struct vmm_console *vmm_vm_channel(struct vmm_vm *vm)
{
	return vm->channel;
}

struct vmm_vcpus *vmm_vm_vcpus(struct vmm_vm *vm)
{
	return &vm->vcpus;
}

struct vmm_mem *vmm_vm_mem(struct vmm_vm *vm)
{
	return vm->mem;
}

const struct base_list *vmm_vm_devices(const struct vmm_vm *vm)
{
	return &vm->devices;
}

struct stat_prefix {
	void (*put)(void *arg, const char *name, uint64_t value);
	void *arg;
	const struct vmm_device *dev;
};

static void vm_put_device_stat(void *arg, const char *name, uint64_t value)
{
	const struct stat_prefix *p = arg;
	char full[64];

	snprintf(full, sizeof(full), "%s%u.%s", p->dev->ops->name, p->dev->instance, name);
	p->put(p->arg, full, value);
}

static void vm_put_exits(const struct vmm_vcpu *v,
			 void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
	char name[64];

	for (int k = 0; k < VMM_EXIT_KINDS; k++) {
		snprintf(name, sizeof(name), "vcpu%u.exits.%s", vmm_vcpu_apic_id(v),
			 vmm_vcpu_exit_name(k));
		put(arg, name, vmm_vcpu_exits(v, k));
	}
	if (vmm_vcpu_percpu(v)) {
		snprintf(name, sizeof(name), "vcpu%u.percpu", vmm_vcpu_apic_id(v));
		put(arg, name, vmm_vcpu_percpu(v));
	}
}

void vmm_vm_stats(struct vmm_vm *vm, void (*put)(void *arg, const char *name, uint64_t value),
		  void *arg)
{
	for (unsigned i = 0; i < vm->vcpus.count; i++)
		if (vmm_vcpu_is_here(vm->vcpus.vcpu[i]))
			vm_put_exits(vm->vcpus.vcpu[i], put, arg);
	put(arg, "memory.populated", vmm_populate_done(vm->populate));
	put(arg, "memory.gathered", vmm_gather_bytes(vm->gather));
	if (vm->span)
		vmm_span_stats(vm->span, put, arg);
	base_list_foreach (dev, &vm->devices, struct vmm_device, link) {
		struct stat_prefix p = {put, arg, dev};

		if (dev->ops->stats)
			dev->ops->stats(dev, vm_put_device_stat, &p);
	}
	/* What the guest says of its memory comes by and by: the next call shows it. */
	if (vm->balloon)
		virtio_balloon_refresh(vm->balloon);
}

void vmm_vm_dump(struct vmm_vm *vm, char *out, size_t cap)
{
	bool running = vm->state == VMM_RUNNING;
	size_t at = 0;

	out[0] = 0;
	if (running)
		vmm_vcpus_pause(&vm->vcpus);
	for (unsigned i = 0; i < vm->vcpus.count && at + 1 < cap; i++) {
		if (!vmm_vcpu_is_here(vm->vcpus.vcpu[i]))
			continue;
		vmm_vcpu_dump(vm->vcpus.vcpu[i], out + at, cap - at);
		at += strlen(out + at);
	}
	if (running)
		vmm_vcpus_resume(&vm->vcpus);
}
