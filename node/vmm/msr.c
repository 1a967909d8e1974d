#include "node/vmm/msr.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/clock.h"

#define MSR_TSC		   0x10
#define MSR_APIC_BASE	   0x1b
#define MSR_TSC_ADJUST	   0x3b
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_X2APIC_FIRST   0x800
#define MSR_X2APIC_LAST	   0x8ff

#define PVCLOCK_TSC_STABLE 1

int vmm_msr_filter(int vm_fd)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = {KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER},
	};
	static uint8_t none[8];
	const uint32_t rw = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
	/* A bit 0 denies; x2APIC's come as INVAL because KVM has no LAPIC. */
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges =
			{
				{rw, 2, MSR_KVM_WALL_CLOCK, none},
				{rw, 1, MSR_APIC_BASE, none},
				{rw, 1, MSR_TSC_DEADLINE, none},
				{rw, 16, MSR_KVM_WALL_CLOCK_NEW, none},
				{KVM_MSR_FILTER_WRITE, 1, MSR_TSC, none},
				{KVM_MSR_FILTER_WRITE, 1, MSR_TSC_ADJUST, none},
			},
	};

	if (ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0 ||
	    ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
		return -errno;
	return 0;
}

static bool msr_is_lapic(uint32_t msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

/* struct pvclock_vcpu_time_info, little-endian, 32 bytes. */
static int pvclock_write_time(struct vmm_msr_ctx *ctx, uint64_t gpa)
{
	const struct vmm_clock *c = ctx->clock;
	uint64_t tsc = c->stable ? c->base : vmm_clock_tsc(c);
	struct __attribute__((packed)) {
		uint32_t version, pad0;
		uint64_t tsc_timestamp, system_time;
		uint32_t mul;
		int8_t shift;
		uint8_t flags, pad[2];
	} t = {
		.tsc_timestamp = tsc,
		.system_time = vmm_clock_tsc_to_ns(c, tsc),
		.mul = c->mul,
		.shift = c->shift,
		.flags = c->stable ? PVCLOCK_TSC_STABLE : 0,
	};

	_Static_assert(sizeof(t) == 32, "kvmclock's layout");
	/* Odd while it changes. The vCPU that asked for it is the only reader now. */
	t.version = 2;
	return vmm_mem_write(ctx->mem, gpa, &t, sizeof(t));
}

/* struct pvclock_wall_clock: the wall time at which the guest's clock was 0. */
static int pvclock_write_wall(struct vmm_msr_ctx *ctx, uint64_t gpa)
{
	uint64_t guest_ns = vmm_clock_tsc_to_ns(ctx->clock, vmm_clock_tsc(ctx->clock));
	struct timespec now;
	uint64_t ns;
	uint32_t w[3];

	clock_gettime(CLOCK_REALTIME, &now);
	ns = (uint64_t)now.tv_sec * BASE_NS_PER_SEC + (uint64_t)now.tv_nsec - guest_ns;
	w[0] = 2;
	w[1] = (uint32_t)(ns / BASE_NS_PER_SEC);
	w[2] = (uint32_t)(ns % BASE_NS_PER_SEC);
	return vmm_mem_write(ctx->mem, gpa, w, sizeof(w));
}

static int pvclock_wrmsr(struct vmm_msr_ctx *ctx, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		if (value % 4 || (value && pvclock_write_wall(ctx, value) < 0))
			return -EINVAL;
		ctx->pv.wall_clock = value;
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		if (value & 1 && pvclock_write_time(ctx, value & ~UINT64_C(1)) < 0)
			return -EINVAL;
		ctx->pv.system_time = value;
		return 0;
	default: return -EINVAL;
	}
}

int vmm_msr_read(struct vmm_msr_ctx *ctx, uint32_t msr, uint64_t *value)
{
	if (msr_is_lapic(msr))
		return vmm_lapic_rdmsr(ctx->lapic, msr, value);
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW: *value = ctx->pv.wall_clock; return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW: *value = ctx->pv.system_time; return 0;
	default: return -EINVAL;
	}
}

int vmm_msr_write(struct vmm_msr_ctx *ctx, uint32_t msr, uint64_t value)
{
	if (msr_is_lapic(msr))
		return vmm_lapic_wrmsr(ctx->lapic, msr, value);
	/* The guest has one TSC; a vCPU that sets its own is not obeyed. */
	if (msr == MSR_TSC || msr == MSR_TSC_ADJUST)
		return 0;
	return pvclock_wrmsr(ctx, msr, value);
}
