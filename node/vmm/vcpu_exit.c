#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "node/vmm/vcpu_internal.h"

enum {
	SHUTDOWNS_MAX = 3, /* of one second of guest time: it will not get anywhere */
	PERCPU_HLTS = 64,  /* so often its per-CPU area is looked for */
};

void vcpu_fail(struct vmm_vcpu *v, const char *fmt, ...)
{
	char text[256], reason[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(reason, sizeof(reason), "vCPU %u: %s", v->apic_id, text);
	v->held = v->failed = true;
	v->io_unfinished = false;
	v->all->failed(v->all->opaque, v, reason);
}

static void device_access(struct vmm_vcpu *v, bool pio, bool write, uint64_t addr, unsigned len,
			  uint8_t *data)
{
	struct vmm_vcpus *all = v->all;
	struct vmm_bus *bus = pio ? all->pio : all->mmio;

	if (all->io)
		all->io(all->opaque, v->apic_id, pio, write, addr, len, data);
	else if (write)
		vmm_bus_write(bus, addr, len, data);
	else
		vmm_bus_read(bus, addr, len, data);
}

static void exit_io(struct vmm_vcpu *v)
{
	struct kvm_run *r = v->run;
	uint8_t *data = (uint8_t *)r + r->io.data_offset;
	bool out = r->io.direction == KVM_EXIT_IO_OUT;

	vcpu_count(v, VMM_EXIT_PIO);
	v->io_unfinished = true;
	for (uint32_t i = 0; i < r->io.count; i++, data += r->io.size)
		device_access(v, true, out, r->io.port, r->io.size, data);
}

static void mmio_lapic(struct vmm_vcpu *v, uint32_t offset)
{
	struct kvm_run *r = v->run;
	uint32_t value = 0;

	vcpu_count(v, VMM_EXIT_LAPIC);
	if (r->mmio.is_write) {
		memcpy(&value, r->mmio.data, BASE_MIN(r->mmio.len, 4u));
		if (r->mmio.len == 4 && offset % 16 == 0)
			vmm_lapic_write(v->lapic, offset, value);
		return;
	}
	/* Compilers turn some 4-byte reads into narrower ones; the register's bytes are there. */
	value = vmm_lapic_read(v->lapic, offset & ~3u) >> (8 * (offset & 3));
	memset(r->mmio.data, 0, sizeof(r->mmio.data));
	memcpy(r->mmio.data, &value, BASE_MIN(r->mmio.len, 4u));
}

/* KVM's emulator may find a page of shared memory away and take it for a device. */
static bool mmio_memory(struct vmm_vcpu *v)
{
	struct kvm_run *r = v->run;
	uint8_t *p = vcpu_pages_away(v) ? vmm_mem_ptr(v->all->mem, r->mmio.phys_addr, r->mmio.len)
					: NULL;

	if (!p)
		return false;
	vcpu_count(v, VMM_EXIT_OTHER);
	if (r->mmio.is_write)
		memcpy(p, r->mmio.data, r->mmio.len);
	else
		memcpy(r->mmio.data, p, r->mmio.len);
	return true;
}

static void exit_mmio(struct vmm_vcpu *v)
{
	struct kvm_run *r = v->run;
	uint64_t addr = r->mmio.phys_addr;

	v->io_unfinished = true;
	if (mmio_memory(v))
		return;
	if (addr - VMM_LAPIC_BASE < VMM_LAPIC_LEN) {
		mmio_lapic(v, (uint32_t)(addr - VMM_LAPIC_BASE));
		return;
	}
	vcpu_count(v, VMM_EXIT_MMIO);
	device_access(v, false, r->mmio.is_write, addr, r->mmio.len, r->mmio.data);
}

static void exit_rdmsr(struct vmm_vcpu *v)
{
	uint64_t value = 0;

	vcpu_count(v, VMM_EXIT_MSR);
	v->io_unfinished = true;
	v->run->msr.error = vmm_msr_read(&v->msr, v->run->msr.index, &value) < 0;
	v->run->msr.data = value;
}

static void exit_wrmsr(struct vmm_vcpu *v)
{
	vcpu_count(v, VMM_EXIT_MSR);
	v->io_unfinished = true;
	v->run->msr.error = vmm_msr_write(&v->msr, v->run->msr.index, v->run->msr.data) < 0;
}

/*
 * An idle Linux has its per-CPU area in GS, and what is in those areas is most of what its processors
 * take from each other: so `vm stats --system-map` can name it. It moves only when a kernel starts.
 */
static void find_percpu(struct vmm_vcpu *v)
{
	struct kvm_sregs s;
	uint64_t gpa;

	if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0 || !(s.gs.base >> 63) ||
	    vmm_vcpu_translate(v, s.gs.base, &gpa) < 0)
		gpa = 0;
	atomic_store_explicit(&v->percpu, gpa, memory_order_relaxed);
}

uint64_t vmm_vcpu_percpu(const struct vmm_vcpu *v)
{
	return atomic_load_explicit(&v->percpu, memory_order_relaxed);
}

static void exit_hlt(struct vmm_vcpu *v)
{
	if (v->all->shared && vmm_vcpu_exits(v, VMM_EXIT_HLT) % PERCPU_HLTS == 0)
		find_percpu(v);
	vcpu_count(v, VMM_EXIT_HLT);
	v->activity = VCPU_HALTED;
}

static void exit_window(struct vmm_vcpu *v)
{
	vcpu_count(v, VMM_EXIT_WINDOW);
}

static void exit_tpr(struct vmm_vcpu *v)
{
	vcpu_count(v, VMM_EXIT_LAPIC);
}

static void exit_intr(struct vmm_vcpu *v)
{
	vcpu_count(v, VMM_EXIT_KICK);
}

/* A PC resets then, and some kernels reboot that way. */
static void exit_shutdown(struct vmm_vcpu *v)
{
	struct vmm_vcpus *all = v->all;
	uint64_t now = vmm_clock_tsc(&all->clock);
	bool often;

	vcpu_count(v, VMM_EXIT_OTHER);
	pthread_mutex_lock(&all->lock);
	if (all->shutdowns == 0 || now - all->shutdown_tsc > all->clock.tsc_hz) {
		all->shutdowns = 0;
		all->shutdown_tsc = now;
	}
	often = ++all->shutdowns >= SHUTDOWNS_MAX;
	pthread_mutex_unlock(&all->lock);
	if (often || !all->shutdown) {
		vcpu_fail(v, "the guest's CPU shut down (triple fault)");
		return;
	}
	v->held = true;
	all->shutdown(all->opaque, v);
}

static void exit_fail_entry(struct vmm_vcpu *v)
{
	vcpu_fail(v, "KVM cannot enter the guest: hardware reason 0x%llx",
		  (unsigned long long)v->run->fail_entry.hardware_entry_failure_reason);
}

/* The bytes that KVM could not emulate, for the one line that says what is missing. */
static void internal_error_bytes(const struct kvm_run *r, char *out, size_t cap)
{
	size_t n = 0;

	out[0] = 0;
	if (r->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || r->internal.ndata < 4 ||
	    !(r->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		return;
	n += (size_t)snprintf(out, cap, ", instruction");
	for (unsigned i = 0; i < BASE_MIN(r->emulation_failure.insn_size, 15u) && n < cap; i++)
		n += (size_t)snprintf(out + n, cap - n, " %02x",
				      r->emulation_failure.insn_bytes[i]);
}

static void exit_internal_error(struct vmm_vcpu *v)
{
	char bytes[80];

	internal_error_bytes(v->run, bytes, sizeof(bytes));
	vcpu_fail(v, "KVM internal error %u%s%s", v->run->internal.suberror,
		  v->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
			  ? " (it cannot emulate an instruction of the guest)"
			  : "",
		  bytes);
}

static void exit_debug(struct vmm_vcpu *v)
{
	v->debug = v->run->debug.arch;
	v->held = true;
	v->all->debug(v->all->opaque, v);
}

static void (*const exit_handlers[])(struct vmm_vcpu *v) = {
	[KVM_EXIT_IO] = exit_io,
	[KVM_EXIT_MMIO] = exit_mmio,
	[KVM_EXIT_X86_RDMSR] = exit_rdmsr,
	[KVM_EXIT_X86_WRMSR] = exit_wrmsr,
	[KVM_EXIT_HLT] = exit_hlt,
	[KVM_EXIT_IRQ_WINDOW_OPEN] = exit_window,
	[KVM_EXIT_SET_TPR] = exit_tpr,
	[KVM_EXIT_INTR] = exit_intr,
	[KVM_EXIT_SHUTDOWN] = exit_shutdown,
	[KVM_EXIT_FAIL_ENTRY] = exit_fail_entry,
	[KVM_EXIT_INTERNAL_ERROR] = exit_internal_error,
	[KVM_EXIT_DEBUG] = exit_debug,
};

void vcpu_handle_exit(struct vmm_vcpu *v)
{
	uint32_t reason = v->run->exit_reason;

	v->io_unfinished = false;
	if (reason < BASE_ARRAY_LEN(exit_handlers) && exit_handlers[reason]) {
		exit_handlers[reason](v);
		return;
	}
	vcpu_count(v, VMM_EXIT_OTHER);
	vcpu_fail(v, "unexpected KVM exit %u", reason);
}

void vcpu_finish_io(struct vmm_vcpu *v)
{
	while (v->io_unfinished) {
		v->run->immediate_exit = 1;
		if (ioctl(v->fd, KVM_RUN, 0) == 0) {
			vcpu_handle_exit(v);
		} else if (errno == EINTR) {
			v->io_unfinished = false;
		} else if (errno != EAGAIN) {
			vcpu_fail(v, "KVM_RUN: %s", strerror(errno));
		}
	}
	v->run->immediate_exit = 0;
}
