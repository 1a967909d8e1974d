#include "node/vmm/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/log.h"
#include "node/vmm/msr.h"

/* Where KVM on Intel CPUs without "unrestricted guest" keeps three pages of its own. */
#define KVM_TSS_ADDR	  0xfffbd000ul
#define KVM_IDENTITY_ADDR UINT64_C(0xfffbc000)

static const struct {
	int cap;
	const char *what;
} needed[] = {
	{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
	{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
	{KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI"},
	{KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
	{KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
	{KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
	{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
	{KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR (Linux 5.10)"},
	{KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER (Linux 5.10)"},
	{KVM_CAP_VCPU_ATTRIBUTES, "KVM_VCPU_TSC_OFFSET (Linux 5.16)"},
};

static int kvm_refuse(char *reason, int err, const char *what)
{
	snprintf(reason, VMM_KVM_REASON_MAX, "/dev/kvm: %s: %s", what, strerror(-err));
	return err;
}

static int kvm_cap(const struct vmm_kvm *kvm, int cap)
{
	int n = ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, cap);

	return n < 0 ? 0 : n;
}

static int kvm_check_needed(const struct vmm_kvm *kvm, char *reason)
{
	for (size_t i = 0; i < BASE_ARRAY_LEN(needed); i++) {
		if (kvm_cap(kvm, needed[i].cap) == 0) {
			snprintf(reason, VMM_KVM_REASON_MAX, "/dev/kvm: this kernel's KVM lacks %s",
				 needed[i].what);
			return -ENOTSUP;
		}
	}
	return 0;
}

/* KVM moves guests' TSC offsets by itself once the kernel distrusts the TSC. */
static bool kvm_host_tsc_stable(void)
{
	const char *path = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
	BASE_AUTO_FILE FILE *f = fopen(path, "re");
	char line[256];

	/* No /sys: assume what is true of nearly every host. */
	return !f || !fgets(line, sizeof(line), f) || strstr(line, "tsc");
}

/* ---- the emulator probe ---- */

enum {
	PROBE_PML4 = 0x1000,
	PROBE_PDPT = 0x2000,
	PROBE_CODE = 0x3000,
	PROBE_PD = 0x4000,
	PROBE_LEN = 0x5000
};

/* lock cmpxchg16b [0x3800]; hlt */
static const uint8_t probe_code[] = {0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25,
				     0x00, 0x38, 0x00, 0x00, 0xf4};

static int probe_set_regs(int vcpu_fd)
{
	struct kvm_regs regs = {.rip = PROBE_CODE, .rsp = PROBE_LEN, .rflags = 2};
	struct kvm_segment code = {.limit = 0xffffffff,
				   .selector = 8,
				   .type = 11,
				   .present = 1,
				   .s = 1,
				   .l = 1,
				   .g = 1};
	struct kvm_segment data = {.limit = 0xffffffff,
				   .selector = 16,
				   .type = 3,
				   .present = 1,
				   .s = 1,
				   .db = 1,
				   .g = 1};
	struct kvm_sregs s;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = 0x80000011;
	s.cr3 = PROBE_PML4;
	s.cr4 = 0x20;
	s.efer = 0x500;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &s) < 0 || ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

struct probe {
	int vm_fd, vcpu_fd;
	uint8_t *low;
	struct kvm_run *run;
};

/* A VM of its own, because a vCPU that has run takes no new CPUID. */
static int probe_open(const struct vmm_kvm *kvm, size_t run_bytes, struct probe *p)
{
	struct kvm_userspace_memory_region slot = {.memory_size = PROBE_LEN};

	p->low = mmap(NULL, PROBE_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	slot.userspace_addr = (uintptr_t)p->low;
	if (p->low == MAP_FAILED || p->vm_fd < 0 ||
	    ioctl(p->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	p->vcpu_fd = ioctl(p->vm_fd, KVM_CREATE_VCPU, 0);
	if (p->vcpu_fd < 0 || ioctl(p->vcpu_fd, KVM_SET_CPUID2, kvm->cpuid) < 0)
		return -errno;
	p->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu_fd, 0);
	return p->run == MAP_FAILED ? -errno : 0;
}

static void probe_close(struct probe *p, size_t run_bytes)
{
	if (p->run != MAP_FAILED)
		munmap(p->run, run_bytes);
	if (p->vcpu_fd >= 0)
		close(p->vcpu_fd);
	if (p->vm_fd >= 0)
		close(p->vm_fd);
	if (p->low != MAP_FAILED)
		munmap(p->low, PROBE_LEN);
}

static bool probe_runs(struct probe *p)
{
	struct kvm_regs regs;
	int err;

	memcpy(p->low + PROBE_PML4, &(uint64_t){PROBE_PDPT | 3}, 8);
	memcpy(p->low + PROBE_PDPT, &(uint64_t){PROBE_PD | 3}, 8);
	memcpy(p->low + PROBE_PD, &(uint64_t){0x83}, 8);
	memcpy(p->low + PROBE_CODE, probe_code, sizeof(probe_code));
	if (probe_set_regs(p->vcpu_fd) < 0)
		return false;
	do
		err = ioctl(p->vcpu_fd, KVM_RUN, 0) < 0 ? errno : 0;
	while (err == EINTR || err == EAGAIN);
	/* Anything but the HLT after it: there is no IDT, so a fault ends as a shutdown. */
	return !err && p->run->exit_reason == KVM_EXIT_HLT &&
	       ioctl(p->vcpu_fd, KVM_GET_REGS, &regs) == 0 &&
	       regs.rip == PROBE_CODE + sizeof(probe_code);
}

/* With VT-x or SVM the processor runs guest kernel mode itself: nothing to find out. */
static bool host_has_virtualisation(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && c & 1u << 5)
		return true;
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1u << 2;
}

/* Runs one cmpxchg16b in guest kernel mode where that is emulated. */
static bool kvm_probe_cmpxchg16b(const struct vmm_kvm *kvm)
{
	struct probe p = {.vm_fd = -1, .vcpu_fd = -1, .low = MAP_FAILED, .run = MAP_FAILED};
	bool ok;

	if (kvm->has_tsc_offset)
		return true;
	ok = probe_open(kvm, kvm->run_bytes, &p) == 0 && probe_runs(&p);
	log_debug("cmpxchg16b in guest kernel mode: %s", ok ? "yes" : "no");
	probe_close(&p, kvm->run_bytes);
	return ok;
}

/* Where neither module is, KVM does without the processor's help. */
static bool kvm_has_shadow_paging(void)
{
	static const char *const nested[] = {"/sys/module/kvm_amd/parameters/npt",
					     "/sys/module/kvm_intel/parameters/ept"};

	for (unsigned i = 0; i < BASE_ARRAY_LEN(nested); i++) {
		int fd = open(nested[i], O_RDONLY | O_CLOEXEC);
		char on = 0;

		if (fd < 0)
			continue;
		if (read(fd, &on, 1) != 1)
			on = 0;
		close(fd);
		return on != 'Y' && on != '1';
	}
	return true;
}

static bool kvm_protect_by_hand(struct vmm_kvm *kvm)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				     .args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};

	return kvm_cap(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) > 0 &&
	       ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}

static void kvm_probe_optional(struct vmm_kvm *kvm)
{
	int n;

	kvm->has_xcrs = kvm_cap(kvm, KVM_CAP_XCRS) > 0;
	kvm->has_debugregs = kvm_cap(kvm, KVM_CAP_DEBUGREGS) > 0;
	kvm->has_ioeventfd = kvm_cap(kvm, KVM_CAP_IOEVENTFD) > 0;
	kvm->has_guest_debug = kvm_cap(kvm, KVM_CAP_SET_GUEST_DEBUG) > 0;
	kvm->manual_protect = kvm_protect_by_hand(kvm);
	kvm->tsc_stable = kvm_host_tsc_stable();
	kvm->shadow_paging = kvm_has_shadow_paging();
	n = kvm_cap(kvm, KVM_CAP_XSAVE2);
	kvm->xsave_bytes = BASE_MAX((size_t)n, sizeof(struct kvm_xsave));
	n = kvm_cap(kvm, KVM_CAP_MAX_VCPUS);
	kvm->vcpu_max = n > 0 ? (unsigned)n : 4;
}

static int kvm_read_lists(struct vmm_kvm *kvm)
{
	kvm->cpuid =
		calloc(1, sizeof(*kvm->cpuid) + VMM_KVM_CPUID_MAX * sizeof(kvm->cpuid->entries[0]));
	kvm->msrs = calloc(1, sizeof(*kvm->msrs) + VMM_KVM_MSR_MAX * sizeof(kvm->msrs->indices[0]));
	if (!kvm->cpuid || !kvm->msrs)
		return -ENOMEM;
	kvm->cpuid->nent = VMM_KVM_CPUID_MAX;
	if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, kvm->cpuid) < 0)
		return -errno;
	kvm->msrs->nmsrs = VMM_KVM_MSR_MAX;
	if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, kvm->msrs) < 0)
		return -errno;
	return 0;
}

static int kvm_make_vm(struct vmm_kvm *kvm, char *reason)
{
	uint64_t identity = KVM_IDENTITY_ADDR;
	int err;

	do
		kvm->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	while (kvm->vm_fd < 0 && errno == EINTR);
	if (kvm->vm_fd < 0)
		return kvm_refuse(reason, -errno, "cannot create a virtual machine");
	err = kvm_check_needed(kvm, reason);
	if (err)
		return err;
	if (kvm_cap(kvm, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
	    ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return kvm_refuse(reason, -errno, "KVM_SET_IDENTITY_MAP_ADDR");
	if (kvm_cap(kvm, KVM_CAP_SET_TSS_ADDR) > 0 &&
	    ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR) < 0)
		return kvm_refuse(reason, -errno, "KVM_SET_TSS_ADDR");
	return 0;
}

int vmm_kvm_open(struct vmm_kvm *kvm, char *reason)
{
	int n, err;

	*kvm = (struct vmm_kvm){.fd = -1, .vm_fd = -1};
	kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0)
		return kvm_refuse(reason, -errno, "cannot be opened");
	n = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
	if (n != KVM_API_VERSION) {
		err = kvm_refuse(reason, -ENOTSUP, "API version is not 12");
		goto err_close;
	}
	err = kvm_make_vm(kvm, reason);
	if (err)
		goto err_close;
	kvm_probe_optional(kvm);
	n = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (n < (int)sizeof(struct kvm_run)) {
		err = kvm_refuse(reason, -ENOTSUP, "KVM_GET_VCPU_MMAP_SIZE");
		goto err_close;
	}
	kvm->run_bytes = (size_t)n;
	err = kvm_read_lists(kvm);
	if (err) {
		kvm_refuse(reason, err, "cannot read the lists of CPUID leaves and MSRs");
		goto err_close;
	}
	kvm->has_tsc_offset = host_has_virtualisation();
	kvm->has_cmpxchg16b = kvm_probe_cmpxchg16b(kvm);
	err = vmm_msr_filter(kvm->vm_fd);
	if (err) {
		kvm_refuse(reason, err, "cannot filter MSRs");
		goto err_close;
	}
	return 0;
err_close:
	vmm_kvm_close(kvm);
	return err;
}

void vmm_kvm_close(struct vmm_kvm *kvm)
{
	free(kvm->cpuid);
	free(kvm->msrs);
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->fd >= 0)
		close(kvm->fd);
	*kvm = (struct vmm_kvm){.fd = -1, .vm_fd = -1};
}

int vmm_kvm_map_memory(const struct vmm_kvm *kvm, const struct vmm_mem *mem, bool dirty_log)
{
	for (unsigned i = 0; i < vmm_mem_region_count(mem); i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(mem, i);
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.flags = dirty_log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = r->gpa,
			.memory_size = r->len,
			.userspace_addr = (uintptr_t)r->host,
		};

		if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return -errno;
	}
	return 0;
}

int vmm_kvm_ioeventfd(const struct vmm_kvm *kvm, uint64_t addr, const uint32_t *match, int fd,
		      bool add)
{
	struct kvm_ioeventfd e = {.addr = addr, .len = 4, .fd = fd};

	if (!kvm->has_ioeventfd)
		return -ENOSYS;
	if (match) {
		e.datamatch = *match;
		e.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	}
	if (!add)
		e.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	return ioctl(kvm->vm_fd, KVM_IOEVENTFD, &e) < 0 ? -errno : 0;
}
