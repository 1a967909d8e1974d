#include "node/vmm/hot_pages.h"

#define ENTRY_ADDR   UINT64_C(0x000ffffffffff000)
#define ENTRY_HERE   UINT64_C(1)
#define ENTRY_LARGE  UINT64_C(0x80)
#define CR0_PG	     (UINT64_C(1) << 31)
#define CR4_LA57     (UINT64_C(1) << 12)
#define EFER_LMA     (UINT64_C(1) << 10)
#define LARGE_LEVELS 3 /* 4 KiB, 2 MiB, 1 GiB */
#define TASK_MAX     0x4000

struct hot {
	const struct vmm_mem *mem;
	uint64_t *index;
	unsigned count, max;
};

static void hot_add(struct hot *h, uint64_t gpa)
{
	const uint8_t *first = vmm_mem_region_at(h->mem, 0)->host, *p = vmm_mem_ptr(h->mem, gpa, 1);
	uint64_t index;

	if (!p || h->count == h->max)
		return;
	index = (uint64_t)(p - first) / VMM_PAGE_SIZE;
	for (unsigned i = 0; i < h->count; i++)
		if (h->index[i] == index)
			return;
	h->index[h->count++] = index;
}

/* The guest made these tables: whatever stands there, it ends after `levels` steps. */
static void hot_walk(struct hot *h, uint64_t table, unsigned levels, uint64_t linear)
{
	while (levels-- > 0) {
		unsigned shift = 12 + 9 * levels;
		uint64_t entry, at = table + (linear >> shift & 511) * sizeof(entry);

		hot_add(h, table);
		if (vmm_mem_read(h->mem, at, &entry, sizeof(entry)) < 0 || !(entry & ENTRY_HERE))
			return;
		table = entry & ENTRY_ADDR;
		if (levels > 0 && levels < LARGE_LEVELS && entry & ENTRY_LARGE) {
			uint64_t inside = (UINT64_C(1) << shift) - 1;

			table = (table & ~inside) | (linear & inside);
			break;
		}
	}
	hot_add(h, table);
}

static void hot_linear(struct hot *h, const struct kvm_sregs *s, uint64_t linear)
{
	if (!(s->cr0 & CR0_PG))
		hot_add(h, linear);
	else if (s->efer & EFER_LMA)
		hot_walk(h, s->cr3 & ENTRY_ADDR, s->cr4 & CR4_LA57 ? 5 : 4, linear);
}

unsigned vmm_hot_pages_of(const struct vmm_mem *mem, const struct kvm_regs *r,
			  const struct kvm_sregs *s, uint64_t *index, unsigned count, unsigned max)
{
	const uint64_t linear[] = {
		r->rip, r->rip + 64, r->rsp,	  r->rsp - 8, r->rbp,	  r->rax,
		r->rbx, r->rcx,	     r->rdx,	  r->rsi,     r->rdi,	  r->r8,
		r->r9,	r->r10,	     r->r11,	  r->r12,     r->r13,	  r->r14,
		r->r15, s->idt.base, s->gdt.base, s->tr.base, s->gs.base, s->fs.base,
	};
	struct hot h = {.mem = mem, .index = index, .count = count, .max = max};
	uint64_t task = BASE_MIN((uint64_t)s->tr.limit, (uint64_t)TASK_MAX);

	for (unsigned i = 0; i < BASE_ARRAY_LEN(linear); i++)
		hot_linear(&h, s, linear[i]);
	/* Which ports a program may use stands behind the task's state. */
	for (uint64_t at = VMM_PAGE_SIZE; at < task + VMM_PAGE_SIZE; at += VMM_PAGE_SIZE)
		hot_linear(&h, s, s->tr.base + BASE_MIN(at, task));
	return h.count;
}

unsigned vmm_hot_pages(const struct vmm_vcpus *all, uint64_t *index, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < all->count; i++) {
		struct kvm_regs r;
		struct kvm_sregs s;

		if (vmm_vcpu_get_regs(all->vcpu[i], &r, &s) == 0)
			n = vmm_hot_pages_of(all->mem, &r, &s, index, n, max);
	}
	return n;
}
