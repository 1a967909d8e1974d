/*
 * One vCPU's state to bytes and back. Section version 1, little-endian, in this order:
 *   u32 APIC id, u8 activity, u64 kvmclock system time and wall clock,
 *   general registers, segment and control registers, XCRs, XSAVE area, debug registers,
 *   pending events, MSRs {u32 index, u64 value}.
 * The TSC is not here: the machine has one (clock.h). The LAPIC has a section of its own.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "node/vmm/cpuid.h"
#include "node/vmm/vcpu_internal.h"

#define MSR_MTRR_DEF_TYPE 0x2ff

enum { XSAVE_MAX = 64 << 10, LOAD_MSR_MAX = VMM_KVM_MSR_MAX + 64, MSR_BATCH = 128 };

/* ---- general registers ---- */

static void regs_list(struct kvm_regs *r, uint64_t *list[18])
{
	uint64_t *const l[18] = {
		(uint64_t *)&r->rax, (uint64_t *)&r->rbx, (uint64_t *)&r->rcx,
		(uint64_t *)&r->rdx, (uint64_t *)&r->rsi, (uint64_t *)&r->rdi,
		(uint64_t *)&r->rsp, (uint64_t *)&r->rbp, (uint64_t *)&r->r8,
		(uint64_t *)&r->r9,  (uint64_t *)&r->r10, (uint64_t *)&r->r11,
		(uint64_t *)&r->r12, (uint64_t *)&r->r13, (uint64_t *)&r->r14,
		(uint64_t *)&r->r15, (uint64_t *)&r->rip, (uint64_t *)&r->rflags,
	};

	memcpy(list, l, sizeof(l));
}

static int save_regs(struct vmm_vcpu *v, struct base_wbuf *out)
{
	struct kvm_regs r;
	uint64_t *list[18];

	if (ioctl(v->fd, KVM_GET_REGS, &r) < 0)
		return -errno;
	regs_list(&r, list);
	for (size_t i = 0; i < BASE_ARRAY_LEN(list); i++)
		base_wbuf_u64(out, *list[i]);
	return 0;
}

static int load_regs(struct vmm_vcpu *v, struct base_rbuf *in)
{
	struct kvm_regs r = {0};
	uint64_t *list[18];

	regs_list(&r, list);
	for (size_t i = 0; i < BASE_ARRAY_LEN(list); i++)
		*list[i] = base_rbuf_u64(in);
	if (in->error)
		return in->error;
	if (ioctl(v->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	/* KVM tells these at an exit; here is none. */
	v->run->if_flag = (r.rflags >> 9) & 1;
	v->run->ready_for_interrupt_injection = 0;
	return 0;
}

/* ---- segments and control registers ---- */

static void put_segment(struct base_wbuf *out, const struct kvm_segment *s)
{
	base_wbuf_u64(out, s->base);
	base_wbuf_u32(out, s->limit);
	base_wbuf_u16(out, s->selector);
	/* As in the descriptor's attribute word, and "unusable" on top. */
	base_wbuf_u16(out,
		      (uint16_t)((s->type & 15) | (s->s & 1) << 4 | (s->dpl & 3) << 5 |
				 (s->present & 1) << 7 | (s->avl & 1) << 8 | (s->l & 1) << 9 |
				 (s->db & 1) << 10 | (s->g & 1) << 11 | (s->unusable & 1) << 12));
}

static void get_segment(struct base_rbuf *in, struct kvm_segment *s)
{
	uint16_t a;

	memset(s, 0, sizeof(*s));
	s->base = base_rbuf_u64(in);
	s->limit = base_rbuf_u32(in);
	s->selector = base_rbuf_u16(in);
	a = base_rbuf_u16(in);
	s->type = a & 15;
	s->s = (a >> 4) & 1;
	s->dpl = (a >> 5) & 3;
	s->present = (a >> 7) & 1;
	s->avl = (a >> 8) & 1;
	s->l = (a >> 9) & 1;
	s->db = (a >> 10) & 1;
	s->g = (a >> 11) & 1;
	s->unusable = (a >> 12) & 1;
}

static void sregs_segments(struct kvm_sregs *s, struct kvm_segment *list[8])
{
	struct kvm_segment *const l[8] = {&s->cs, &s->ds, &s->es, &s->fs,
					  &s->gs, &s->ss, &s->tr, &s->ldt};

	memcpy(list, l, sizeof(l));
}

static int save_sregs(struct vmm_vcpu *v, struct base_wbuf *out)
{
	struct kvm_sregs s;
	struct kvm_segment *seg[8];

	if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	sregs_segments(&s, seg);
	for (size_t i = 0; i < BASE_ARRAY_LEN(seg); i++)
		put_segment(out, seg[i]);
	base_wbuf_u64(out, s.gdt.base);
	base_wbuf_u16(out, s.gdt.limit);
	base_wbuf_u64(out, s.idt.base);
	base_wbuf_u16(out, s.idt.limit);
	base_wbuf_u64(out, s.cr0);
	base_wbuf_u64(out, s.cr2);
	base_wbuf_u64(out, s.cr3);
	base_wbuf_u64(out, s.cr4);
	base_wbuf_u64(out, s.efer);
	base_wbuf_u64(out, s.apic_base);
	return 0;
}

static int load_sregs(struct vmm_vcpu *v, struct base_rbuf *in)
{
	struct kvm_sregs s;
	struct kvm_segment *seg[8];

	memset(&s, 0, sizeof(s));
	sregs_segments(&s, seg);
	for (size_t i = 0; i < BASE_ARRAY_LEN(seg); i++)
		get_segment(in, seg[i]);
	s.gdt.base = base_rbuf_u64(in);
	s.gdt.limit = base_rbuf_u16(in);
	s.idt.base = base_rbuf_u64(in);
	s.idt.limit = base_rbuf_u16(in);
	s.cr0 = base_rbuf_u64(in);
	s.cr2 = base_rbuf_u64(in);
	s.cr3 = base_rbuf_u64(in);
	s.cr4 = base_rbuf_u64(in);
	s.efer = base_rbuf_u64(in);
	s.apic_base = base_rbuf_u64(in);
	if (in->error)
		return in->error;
	return ioctl(v->fd, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

/* ---- XCRs, XSAVE, debug registers ---- */

static int save_fpu(struct vmm_vcpu *v, struct base_wbuf *out)
{
	size_t len = v->all->kvm->xsave_bytes;
	BASE_AUTO_FREE struct kvm_xsave *area = calloc(1, len);
	struct kvm_xcrs x = {0};
	/* KVM_GET_XSAVE writes sizeof(struct kvm_xsave) only. */
	unsigned long get = len > sizeof(*area) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;

	if (!area)
		return -ENOMEM;
	if (v->all->kvm->has_xcrs && ioctl(v->fd, KVM_GET_XCRS, &x) < 0)
		return -errno;
	if (ioctl(v->fd, get, area) < 0)
		return -errno;
	base_wbuf_u32(out, x.nr_xcrs);
	for (uint32_t i = 0; i < x.nr_xcrs; i++) {
		base_wbuf_u32(out, x.xcrs[i].xcr);
		base_wbuf_u64(out, x.xcrs[i].value);
	}
	base_wbuf_blob(out, area, (uint32_t)len);
	return 0;
}

static int load_fpu(struct vmm_vcpu *v, struct base_rbuf *in)
{
	BASE_AUTO_FREE void *area = calloc(1, v->all->kvm->xsave_bytes);
	struct kvm_xcrs x = {.nr_xcrs = base_rbuf_u32(in)};
	const void *bytes;
	size_t len = 0;

	if (!area)
		return -ENOMEM;
	if (x.nr_xcrs > KVM_MAX_XCRS)
		return -EBADMSG;
	for (uint32_t i = 0; i < x.nr_xcrs; i++) {
		x.xcrs[i].xcr = base_rbuf_u32(in);
		x.xcrs[i].value = base_rbuf_u64(in);
	}
	bytes = base_rbuf_blob(in, XSAVE_MAX, &len);
	if (in->error)
		return in->error;
	if (len > v->all->kvm->xsave_bytes)
		return -EPROTO;
	memcpy(area, bytes, len);
	if (x.nr_xcrs && v->all->kvm->has_xcrs && ioctl(v->fd, KVM_SET_XCRS, &x) < 0)
		return -errno;
	return ioctl(v->fd, KVM_SET_XSAVE, area) < 0 ? -errno : 0;
}

static int save_debugregs(struct vmm_vcpu *v, struct base_wbuf *out)
{
	struct kvm_debugregs d = {.dr6 = 0xffff0ff0, .dr7 = 0x400};

	if (v->all->kvm->has_debugregs && ioctl(v->fd, KVM_GET_DEBUGREGS, &d) < 0)
		return -errno;
	for (int i = 0; i < 4; i++)
		base_wbuf_u64(out, d.db[i]);
	base_wbuf_u64(out, d.dr6);
	base_wbuf_u64(out, d.dr7);
	return 0;
}

static int load_debugregs(struct vmm_vcpu *v, struct base_rbuf *in)
{
	struct kvm_debugregs d = {0};

	for (int i = 0; i < 4; i++)
		d.db[i] = base_rbuf_u64(in);
	d.dr6 = base_rbuf_u64(in);
	d.dr7 = base_rbuf_u64(in);
	if (in->error || !v->all->kvm->has_debugregs)
		return in->error;
	return ioctl(v->fd, KVM_SET_DEBUGREGS, &d) < 0 ? -errno : 0;
}

/* ---- pending events ---- */

static void events_list(struct kvm_vcpu_events *e, uint8_t *list[13])
{
	uint8_t *const l[13] = {
		&e->exception.injected,	  &e->exception.nr,	  &e->exception.has_error_code,
		&e->exception.pending,	  &e->interrupt.injected, &e->interrupt.nr,
		&e->interrupt.soft,	  &e->interrupt.shadow,	  &e->nmi.injected,
		&e->nmi.pending,	  &e->nmi.masked,	  &e->exception_has_payload,
		&e->triple_fault.pending,
	};

	memcpy(list, l, sizeof(l));
}

static int save_events(struct vmm_vcpu *v, struct base_wbuf *out)
{
	struct kvm_vcpu_events e;
	uint8_t *list[13];

	memset(&e, 0, sizeof(e));
	if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
		return -errno;
	events_list(&e, list);
	for (size_t i = 0; i < BASE_ARRAY_LEN(list); i++)
		base_wbuf_u8(out, *list[i]);
	base_wbuf_u32(out, e.exception.error_code);
	base_wbuf_u64(out, e.exception_payload);
	return 0;
}

static int load_events(struct vmm_vcpu *v, struct base_rbuf *in)
{
	struct kvm_vcpu_events e;
	uint8_t *list[13];

	memset(&e, 0, sizeof(e));
	events_list(&e, list);
	for (size_t i = 0; i < BASE_ARRAY_LEN(list); i++)
		*list[i] = base_rbuf_u8(in);
	e.exception.error_code = base_rbuf_u32(in);
	e.exception_payload = base_rbuf_u64(in);
	if (in->error)
		return in->error;
	/* KVM without payloads and triple-fault events gives 0 for both and refuses the flags. */
	e.exception.pending = 0;
	e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	return ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e) < 0 ? -errno : 0;
}

/* ---- MSRs ---- */

/* State that KVM has but does not list. */
static const struct {
	uint32_t first, count;
} unlisted[] = {{0x200, 16}, {0x250, 1}, {0x258, 2}, {0x268, 8}, {MSR_MTRR_DEF_TYPE, 1}};

/* Ours, the machine's, or KVM's paravirtual ones that the guest does not have. */
static bool msr_skipped(uint32_t index)
{
	return index == 0x10 || index == 0x3b || index == 0x1b || index == 0x6e0 || index == 0x11 ||
	       index == 0x12 || (index & 0xffffff00) == 0x4b564d00;
}

static bool msr_get(struct vmm_vcpu *v, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head = {.nmsrs = 1}, .entry = {.index = index}};

	if (ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
		return false;
	*value = m.entry.data;
	return true;
}

static bool msr_set(struct vmm_vcpu *v, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head = {.nmsrs = 1}, .entry = {.index = index, .data = value}};

	return ioctl(v->fd, KVM_SET_MSRS, &m) == 1;
}

/* Many in one call: the guest stands meanwhile. */
struct msr_batch {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSR_BATCH];
};

static void batch_drop(struct msr_batch *b, uint32_t count)
{
	count = BASE_MIN(count, b->head.nmsrs);
	b->head.nmsrs -= count;
	memmove(b->entry, b->entry + count, b->head.nmsrs * sizeof(b->entry[0]));
}

/* KVM stops at one that it does not have, which is left out. */
static void batch_save(struct vmm_vcpu *v, struct msr_batch *b, struct base_wbuf *out,
		       uint32_t *count)
{
	while (b->head.nmsrs) {
		int got = ioctl(v->fd, KVM_GET_MSRS, b), n = BASE_MAX(got, 0);

		for (int i = 0; i < n; i++) {
			base_wbuf_u32(out, b->entry[i].index);
			base_wbuf_u64(out, b->entry[i].data);
		}
		*count += (uint32_t)n;
		batch_drop(b, (uint32_t)n + 1);
	}
}

static void save_msr(struct vmm_vcpu *v, struct msr_batch *b, struct base_wbuf *out, uint32_t index,
		     uint32_t *count)
{
	if (msr_skipped(index))
		return;
	b->entry[b->head.nmsrs++] = (struct kvm_msr_entry){.index = index};
	if (b->head.nmsrs == MSR_BATCH)
		batch_save(v, b, out, count);
}

static void save_msrs(struct vmm_vcpu *v, struct base_wbuf *out)
{
	const struct kvm_msr_list *list = v->all->kvm->msrs;
	struct msr_batch b = {.head = {.nmsrs = 0}};
	size_t at = out->len;
	uint32_t count = 0;

	base_wbuf_u32(out, 0);
	for (uint32_t i = 0; i < list->nmsrs; i++)
		save_msr(v, &b, out, list->indices[i], &count);
	for (size_t i = 0; i < BASE_ARRAY_LEN(unlisted); i++)
		for (uint32_t j = 0; j < unlisted[i].count; j++)
			save_msr(v, &b, out, unlisted[i].first + j, &count);
	batch_save(v, &b, out, &count);
	if (!out->error)
		memcpy(out->data + at, &count, sizeof(count));
}

/* Some can be read and not written; that matters only where the value differs. */
static bool msr_may_stay(struct vmm_vcpu *v, const struct kvm_msr_entry *e)
{
	uint64_t now;

	if (msr_get(v, e->index, &now) && now == e->data)
		return true;
	log_debug("vCPU %u: MSR 0x%x cannot be set to 0x%llx", v->apic_id, e->index,
		  (unsigned long long)e->data);
	return e->data == 0;
}

static int batch_load(struct vmm_vcpu *v, struct msr_batch *b)
{
	while (b->head.nmsrs) {
		int set = ioctl(v->fd, KVM_SET_MSRS, b);
		uint32_t n = (uint32_t)BASE_MAX(set, 0);

		if (n < b->head.nmsrs && !msr_may_stay(v, &b->entry[n]))
			return -EPROTO;
		batch_drop(b, n + 1);
	}
	return 0;
}

static int load_msrs(struct vmm_vcpu *v, struct base_rbuf *in)
{
	uint32_t count = base_rbuf_u32(in);
	struct msr_batch b = {.head = {.nmsrs = 0}};
	int err = 0;

	if (count > LOAD_MSR_MAX)
		return -EBADMSG;
	for (uint32_t i = 0; i < count && !err; i++) {
		uint32_t index = base_rbuf_u32(in);
		uint64_t value = base_rbuf_u64(in);

		if (in->error)
			return in->error;
		if (!msr_skipped(index))
			b.entry[b.head.nmsrs++] =
				(struct kvm_msr_entry){.index = index, .data = value};
		if (b.head.nmsrs == MSR_BATCH)
			err = batch_load(v, &b);
	}
	return err ? err : in->error ? in->error : batch_load(v, &b);
}

/* ---- the whole ---- */

void vmm_vcpu_save(struct vmm_vcpu *v, struct base_wbuf *out)
{
	int err;

	base_wbuf_u32(out, v->apic_id);
	base_wbuf_u8(out, (uint8_t)v->activity);
	base_wbuf_u64(out, v->msr.pv.system_time);
	base_wbuf_u64(out, v->msr.pv.wall_clock);
	err = save_regs(v, out);
	if (!err)
		err = save_sregs(v, out);
	if (!err)
		err = save_fpu(v, out);
	if (!err)
		err = save_debugregs(v, out);
	if (!err)
		err = save_events(v, out);
	if (!err)
		save_msrs(v, out);
	if (err && !out->error)
		out->error = err;
}

static int load_parts(struct vmm_vcpu *v, struct base_rbuf *in)
{
	int (*const parts[])(struct vmm_vcpu *, struct base_rbuf *) = {
		load_regs, load_sregs, load_fpu, load_debugregs, load_events, load_msrs,
	};
	int err = 0;

	for (size_t i = 0; i < BASE_ARRAY_LEN(parts) && !err; i++)
		err = parts[i](v, in);
	return err;
}

int vmm_vcpu_load(struct vmm_vcpu *v, struct base_rbuf *in, uint32_t version)
{
	uint32_t id = base_rbuf_u32(in);
	uint8_t activity = base_rbuf_u8(in);
	struct vmm_pvclock pv = {.system_time = base_rbuf_u64(in), .wall_clock = base_rbuf_u64(in)};
	int err;

	if (in->error)
		return in->error;
	if (version != VMM_VCPU_STATE_VERSION || id != v->apic_id)
		return -EPROTO;
	if (activity < VCPU_RUNS || activity > VCPU_WAIT_SIPI)
		return -EBADMSG;
	err = load_parts(v, in);
	if (err)
		return err;
	v->activity = activity;
	v->msr.pv = pv;
	v->held = v->failed = v->io_unfinished = false;
	return 0;
}

void vmm_vcpu_save_cpuid(struct vmm_vcpu *v, struct base_wbuf *out)
{
	vmm_cpuid_save(v->cpuid, out);
}

static bool same_cpuid(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
	return a->nent == b->nent &&
	       memcmp(a->entries, b->entries, a->nent * sizeof(a->entries[0])) == 0;
}

int vmm_vcpu_load_cpuid(struct vmm_vcpu *v, struct base_rbuf *in, uint32_t version)
{
	struct kvm_cpuid2 *c;
	int err;

	if (version != VMM_VCPU_CPUID_VERSION)
		return -EPROTO;
	err = vmm_cpuid_load(in, &c);
	if (err)
		return err;
	/* One that has run before takes no other, and need not. */
	if (same_cpuid(c, v->cpuid)) {
		free(c);
		return 0;
	}
	if (!vmm_cpuid_fits(c, v->cpuid))
		err = -ENOTSUP;
	else if (ioctl(v->fd, KVM_SET_CPUID2, c) < 0)
		err = -errno;
	if (err) {
		free(c);
		return err;
	}
	free(v->cpuid);
	v->cpuid = c;
	return 0;
}

int vcpu_load_power_up(struct vmm_vcpu *v)
{
	struct base_rbuf in;
	int err;

	base_rbuf_init(&in, v->power_up.data, v->power_up.len);
	err = vmm_vcpu_load(v, &in, VMM_VCPU_STATE_VERSION);
	/* What firmware would have done, on every vCPU: all memory is write-back. INIT keeps it. */
	if (!err && !msr_set(v, MSR_MTRR_DEF_TYPE, 0xc06))
		log_debug("vCPU %u: no MTRRs", v->apic_id);
	return err;
}

int vcpu_enter_sipi(struct vmm_vcpu *v, uint8_t vector)
{
	struct kvm_sregs s;
	struct kvm_regs r;
	int err = vmm_vcpu_get_regs(v, &r, &s);

	if (err)
		return err;
	s.cs.selector = (uint16_t)(vector << 8);
	s.cs.base = (uint64_t)vector << 12;
	r.rip = 0;
	if (ioctl(v->fd, KVM_SET_SREGS, &s) < 0 || ioctl(v->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	v->activity = VCPU_RUNS;
	return 0;
}

/* ---- start of the guest ---- */

static void entry_flat_segments(struct kvm_sregs *s, const struct vmm_entry *e)
{
	bool wide = e->mode == VMM_ENTRY_LONG64;
	struct kvm_segment code = {.limit = 0xffffffff,
				   .selector = e->cs,
				   .type = 11,
				   .present = 1,
				   .s = 1,
				   .db = !wide,
				   .l = wide,
				   .g = 1};
	struct kvm_segment data = {.limit = 0xffffffff,
				   .selector = e->ds,
				   .type = 3,
				   .present = 1,
				   .s = 1,
				   .db = 1,
				   .g = 1};

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr.type = 11;
	s->tr.limit = 0x67;
	s->tr.present = 1;
	s->gdt.base = e->gdt;
	s->gdt.limit = e->gdt_len ? e->gdt_len - 1 : 0;
	s->idt.limit = 0;
	s->cr0 = 0x11; /* PE ET */
	if (wide) {
		s->cr0 |= 0x80000000;
		s->cr3 = e->cr3;
		s->cr4 |= 0x20;	  /* PAE */
		s->efer |= 0x500; /* LME LMA */
	}
}

static int vcpu_set_entry(struct vmm_vcpu *v, const struct vmm_entry *e)
{
	struct kvm_regs r = {
		.rip = e->rip, .rsp = e->rsp, .rbx = e->rbx, .rsi = e->rsi, .rflags = 2};
	struct kvm_sregs s;

	if (e->mode == VMM_ENTRY_RESET_VECTOR)
		return 0;
	if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	entry_flat_segments(&s, e);
	if (ioctl(v->fd, KVM_SET_SREGS, &s) < 0 || ioctl(v->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	return 0;
}

int vmm_vcpu_reset(struct vmm_vcpu *v, const struct vmm_entry *entry)
{
	int err = vcpu_load_power_up(v);

	if (err)
		return err;
	vmm_lapic_reset(v->lapic, false);
	v->deadline = 0;
	atomic_store_explicit(&v->percpu, 0, memory_order_relaxed);
	if (v->apic_id != 0)
		return 0;
	v->activity = VCPU_RUNS;
	return vcpu_set_entry(v, entry);
}

/* ---- for people and debuggers ---- */

int vmm_vcpu_get_regs(struct vmm_vcpu *v, struct kvm_regs *r, struct kvm_sregs *s)
{
	if (ioctl(v->fd, KVM_GET_REGS, r) < 0 || ioctl(v->fd, KVM_GET_SREGS, s) < 0)
		return -errno;
	return 0;
}

int vmm_vcpu_set_regs(struct vmm_vcpu *v, const struct kvm_regs *r)
{
	if (ioctl(v->fd, KVM_SET_REGS, r) < 0)
		return -errno;
	v->run->if_flag = (r->rflags >> 9) & 1;
	v->run->ready_for_interrupt_injection = 0;
	return 0;
}

int vmm_vcpu_set_debug(struct vmm_vcpu *v, const struct kvm_guest_debug *d)
{
	return ioctl(v->fd, KVM_SET_GUEST_DEBUG, d) < 0 ? -errno : 0;
}

int vmm_vcpu_translate(struct vmm_vcpu *v, uint64_t linear, uint64_t *gpa)
{
	struct kvm_translation t = {.linear_address = linear};

	if (ioctl(v->fd, KVM_TRANSLATE, &t) < 0)
		return -errno;
	if (!t.valid)
		return -EFAULT;
	*gpa = t.physical_address;
	return 0;
}

void vmm_vcpu_dump(struct vmm_vcpu *v, char *out, size_t cap)
{
	static const char *const activity[] = {"?", "runs", "halted", "waits for SIPI"};
	struct kvm_regs r;
	struct kvm_sregs s;

	if (vmm_vcpu_get_regs(v, &r, &s) < 0) {
		snprintf(out, cap, "vCPU %u: registers cannot be read\n", v->apic_id);
		return;
	}
	snprintf(out, cap,
		 "vCPU %u (%s)\n"
		 "  rip %016llx rflags %08llx cs %04x ss %04x cpl %u\n"
		 "  rax %016llx rbx %016llx rcx %016llx rdx %016llx\n"
		 "  rsi %016llx rdi %016llx rsp %016llx rbp %016llx\n"
		 "  r8  %016llx r9  %016llx r10 %016llx r11 %016llx\n"
		 "  r12 %016llx r13 %016llx r14 %016llx r15 %016llx\n"
		 "  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %04llx\n"
		 "  gdt %016llx/%04x idt %016llx/%04x fs %016llx gs %016llx\n",
		 v->apic_id, activity[v->activity], r.rip, r.rflags, s.cs.selector, s.ss.selector,
		 s.cs.selector & 3u, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8,
		 r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, s.cr0, s.cr2, s.cr3, s.cr4, s.efer,
		 s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit, s.fs.base, s.gs.base);
}
