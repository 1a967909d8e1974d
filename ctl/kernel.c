#include "ctl/kernel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ctl/btf.h"
#include "proto/text.h"

enum {
	/* Pages in one look: 6 MiB at most. A power of two. */
	CACHE_SLOTS = 2048,
	CACHE_MAX = 1536,
	BTF_MAX = 32 << 20,
	NODES_MAX = 128, /* of one tree of mappings */
	STRUCT_PAGE_MAX = 256,
	LEVELS = 4,
	PTE_PRESENT = 1,
	PTE_HUGE = 1 << 7,
	MAPPING_FLAGS = 3,
	MAPPING_ANON = 1,
};

#define PTE_ADDRESS UINT64_C(0x000ffffffffff000)
/* Where Linux describes its pages, where no symbol says so. */
#define VMEMMAP_BASE UINT64_C(0xffffea0000000000)
#define BANNER	     "Linux version "

/* Offsets in the guest's structs. */
struct places {
	uint32_t page_size, page_flags, page_mapping, page_index, page_head, page_type;
	uint32_t anon_root, chain_vma, chain_rb, rb_left, rb_right;
	uint32_t vma_start, vma_end, vma_pgoff, vma_mm, vma_rb;
	uint32_t mm_pgd, mm_owner, task_comm, task_tgid;
	uint32_t mapping_host, mapping_root, inode_mapping, inode_dentry, dentry_alias, dentry_name;
	uint32_t cache_name, slab_cache;
	/* How a page says that it is of the slab allocator: a flag up to Linux 6.9, a type later. */
	uint32_t slab_flag, slab_type;
	bool has_slab_flag, has_slab_type;
};

static const struct field {
	const char *type, *path;
	size_t at; /* in struct places */
} fields[] = {
	{"page", "flags", offsetof(struct places, page_flags)},
	{"page", "mapping", offsetof(struct places, page_mapping)},
	{"page", "index", offsetof(struct places, page_index)},
	{"page", "compound_head", offsetof(struct places, page_head)},
	{"page", "page_type", offsetof(struct places, page_type)},
	{"anon_vma", "rb_root.rb_root.rb_node", offsetof(struct places, anon_root)},
	{"anon_vma_chain", "vma", offsetof(struct places, chain_vma)},
	{"anon_vma_chain", "rb", offsetof(struct places, chain_rb)},
	{"rb_node", "rb_left", offsetof(struct places, rb_left)},
	{"rb_node", "rb_right", offsetof(struct places, rb_right)},
	{"vm_area_struct", "vm_start", offsetof(struct places, vma_start)},
	{"vm_area_struct", "vm_end", offsetof(struct places, vma_end)},
	{"vm_area_struct", "vm_pgoff", offsetof(struct places, vma_pgoff)},
	{"vm_area_struct", "vm_mm", offsetof(struct places, vma_mm)},
	{"vm_area_struct", "shared.rb", offsetof(struct places, vma_rb)},
	{"mm_struct", "pgd", offsetof(struct places, mm_pgd)},
	{"mm_struct", "owner", offsetof(struct places, mm_owner)},
	{"task_struct", "comm", offsetof(struct places, task_comm)},
	{"task_struct", "tgid", offsetof(struct places, task_tgid)},
	{"address_space", "host", offsetof(struct places, mapping_host)},
	{"address_space", "i_mmap.rb_root.rb_node", offsetof(struct places, mapping_root)},
	{"inode", "i_mapping", offsetof(struct places, inode_mapping)},
	{"inode", "i_dentry.first", offsetof(struct places, inode_dentry)},
	{"dentry", "d_u.d_alias", offsetof(struct places, dentry_alias)},
	{"dentry", "d_name.name", offsetof(struct places, dentry_name)},
	{"kmem_cache", "name", offsetof(struct places, cache_name)},
	{"slab", "slab_cache", offsetof(struct places, slab_cache)},
};

struct cached {
	uint64_t address;
	uint8_t *bytes; /* NULL: the slot is free, unless `lacking` */
	bool lacking;	/* it is not to be had */
};

struct kernel {
	const struct sysmap *map;
	kernel_read *read;
	void *ctx;
	struct places places;
	uint64_t tables;  /* physical, of the kernel's own address space */
	uint64_t vmemmap; /* the first struct page */
	unsigned cached;
	struct cached cache[CACHE_SLOTS];
};

/* ---- reading ---- */

/* The page at this physical address, or NULL. */
static const uint8_t *page_at(struct kernel *k, uint64_t address)
{
	size_t i = address / KERNEL_PAGE * UINT64_C(0x9e3779b97f4a7c15) >> 53;
	struct cached *c;

	for (c = &k->cache[i]; c->bytes || c->lacking; c = &k->cache[i]) {
		if (c->address == address)
			return c->bytes;
		i = (i + 1) % CACHE_SLOTS;
	}
	if (k->cached == CACHE_MAX)
		return NULL;
	c->address = address;
	c->bytes = malloc(KERNEL_PAGE);
	if (!c->bytes)
		return NULL;
	k->cached++;
	if (k->read(k->ctx, address, 1, c->bytes) != KERNEL_PAGE) {
		free(c->bytes);
		c->bytes = NULL;
		c->lacking = true;
	}
	return c->bytes;
}

static bool read_physical(struct kernel *k, uint64_t address, void *out, size_t len)
{
	uint8_t *to = out;

	while (len > 0) {
		size_t skip = address % KERNEL_PAGE, part = BASE_MIN(len, KERNEL_PAGE - skip);
		const uint8_t *page = page_at(k, address - skip);

		if (!page)
			return false;
		memcpy(to, page + skip, part);
		to += part;
		address += part;
		len -= part;
	}
	return true;
}

/* Through the page tables at `tables`. */
static bool translate(struct kernel *k, uint64_t tables, uint64_t virtual, uint64_t *out)
{
	uint64_t at = tables & PTE_ADDRESS, entry;

	for (int shift = 12 + 9 * (LEVELS - 1); shift >= 12; shift -= 9) {
		uint64_t within = (UINT64_C(1) << shift) - 1;

		if (!read_physical(k, at + (virtual >> shift & 511) * 8, &entry, sizeof(entry)) ||
		    !(entry & PTE_PRESENT))
			return false;
		at = entry & PTE_ADDRESS;
		if (shift == 12 || (shift < 12 + 9 * (LEVELS - 1) && entry & PTE_HUGE)) {
			*out = (at & ~within) | (virtual & within);
			return true;
		}
	}
	return false;
}

/* Of the kernel's address space. */
static bool read_kernel(struct kernel *k, uint64_t virtual, void *out, size_t len)
{
	uint8_t *to = out;

	while (len > 0) {
		size_t part = BASE_MIN(len, KERNEL_PAGE - virtual % KERNEL_PAGE);
		uint64_t address;

		if (!translate(k, k->tables, virtual, &address) ||
		    !read_physical(k, address, to, part))
			return false;
		to += part;
		virtual += part;
		len -= part;
	}
	return true;
}

/* 0: it is not to be had, and what is at 0 neither. */
static uint64_t read_pointer(struct kernel *k, uint64_t virtual)
{
	uint64_t p;

	return virtual && read_kernel(k, virtual, &p, sizeof(p)) ? p : 0;
}

/* A string that may end at the end of what can be read. */
static void read_name(struct kernel *k, uint64_t virtual, char out[KERNEL_NAME_MAX])
{
	size_t n = 0;

	while (virtual && n + 1 < KERNEL_NAME_MAX && read_kernel(k, virtual + n, out + n, 1) &&
	       out[n])
		n++;
	out[n] = 0;
	text_clean(out);
}

/* ---- address spaces ---- */

struct found {
	uint64_t pfn, index; /* the page, and its place in what it is a page of */
	struct kernel_page *out;
};

static void name_process(struct kernel *k, uint64_t mm, struct kernel_page *out)
{
	const struct places *p = &k->places;
	uint64_t task = read_pointer(k, mm + p->mm_owner);
	char comm[16] = "";
	uint32_t pid;

	if (!task || !read_kernel(k, task + p->task_comm, comm, sizeof(comm)) ||
	    !read_kernel(k, task + p->task_tgid, &pid, sizeof(pid)) || !comm[0])
		return;
	if (out->process[0]) {
		out->others += pid != out->pid;
		return;
	}
	snprintf(out->process, sizeof(out->process), "%.*s", (int)sizeof(comm), comm);
	text_clean(out->process);
	out->pid = pid;
}

/* A mapping in whose range the page lies: only what the page tables say as well counts. */
static void look_at_vma(struct kernel *k, uint64_t vma, const struct found *f)
{
	const struct places *p = &k->places;
	uint64_t start = read_pointer(k, vma + p->vma_start);
	uint64_t end = read_pointer(k, vma + p->vma_end);
	uint64_t first = read_pointer(k, vma + p->vma_pgoff);
	uint64_t mm = read_pointer(k, vma + p->vma_mm), tables, address;

	if (!mm || end <= start || f->index < first ||
	    f->index - first >= (end - start) / KERNEL_PAGE)
		return;
	if (!translate(k, k->tables, read_pointer(k, mm + p->mm_pgd), &tables) ||
	    !translate(k, tables, start + (f->index - first) * KERNEL_PAGE, &address))
		return;
	if (address / KERNEL_PAGE == f->pfn)
		name_process(k, mm, f->out);
}

/* `chain`: the tree is of anon_vma_chain, else of vm_area_struct. */
static void look_at_tree(struct kernel *k, uint64_t root, bool chain, const struct found *f)
{
	const struct places *p = &k->places;
	uint64_t pending[NODES_MAX];
	unsigned count = 0, seen = 0;

	if (root)
		pending[count++] = root;
	while (count > 0 && seen++ < NODES_MAX) {
		uint64_t node = pending[--count], left, right;

		look_at_vma(k,
			    chain ? read_pointer(k, node - p->chain_rb + p->chain_vma)
				  : node - p->vma_rb,
			    f);
		left = read_pointer(k, node + p->rb_left);
		right = read_pointer(k, node + p->rb_right);
		if (left && count < NODES_MAX)
			pending[count++] = left;
		if (right && count < NODES_MAX)
			pending[count++] = right;
	}
}

/* False: it is no mapping of a file's. */
static bool look_at_file(struct kernel *k, uint64_t mapping, const struct found *f)
{
	const struct places *p = &k->places;
	uint64_t inode = read_pointer(k, mapping + p->mapping_host), alias;

	if (!inode || read_pointer(k, inode + p->inode_mapping) != mapping)
		return false;
	alias = read_pointer(k, inode + p->inode_dentry);
	if (alias)
		read_name(k, read_pointer(k, alias - p->dentry_alias + p->dentry_name),
			  f->out->file);
	look_at_tree(k, read_pointer(k, mapping + p->mapping_root), false, f);
	return f->out->file[0] || f->out->process[0];
}

/* ---- pages ---- */

static uint64_t field_of(const uint8_t *page, uint32_t at, size_t len)
{
	uint64_t v = 0;

	memcpy(&v, page + at, len);
	return v;
}

static bool is_slab(const struct places *p, const uint8_t *page)
{
	if (p->has_slab_flag)
		return field_of(page, p->page_flags, 8) >> p->slab_flag & 1;
	return p->has_slab_type && field_of(page, p->page_type, 4) >> 24 == p->slab_type;
}

static bool look_at_slab(struct kernel *k, const uint8_t *page, struct kernel_page *out)
{
	const struct places *p = &k->places;
	uint64_t cache = field_of(page, p->slab_cache, 8);

	if (cache)
		read_name(k, read_pointer(k, cache + p->cache_name), out->slab);
	return out->slab[0];
}

bool kernel_page(struct kernel *k, uint64_t address, struct kernel_page *out)
{
	const struct places *p = &k->places;
	struct found f = {.pfn = address / KERNEL_PAGE, .out = out};
	uint64_t at = k->vmemmap + f.pfn * p->page_size, head, mapping;
	uint8_t page[STRUCT_PAGE_MAX];

	memset(out, 0, sizeof(*out));
	if (!read_kernel(k, at, page, p->page_size))
		return false;
	head = field_of(page, p->page_head, 8);
	if (head & 1) {
		head -= 1;
		if (head >= at || (at - head) % p->page_size ||
		    !read_kernel(k, head, page, p->page_size))
			return false;
		f.index = (at - head) / p->page_size;
	}
	if (is_slab(p, page))
		return look_at_slab(k, page, out);
	f.index += field_of(page, p->page_index, 8);
	mapping = field_of(page, p->page_mapping, 8);
	if (!mapping)
		return false;
	if ((mapping & MAPPING_FLAGS) == 0)
		return look_at_file(k, mapping, &f);
	if ((mapping & MAPPING_FLAGS) != MAPPING_ANON)
		return false;
	look_at_tree(k, read_pointer(k, mapping - MAPPING_ANON + p->anon_root), true, &f);
	return out->process[0];
}

/* ---- making ---- */

static int find_places(const struct btf *b, struct places *p, char *why)
{
	for (size_t i = 0; i < BASE_ARRAY_LEN(fields); i++) {
		const struct field *f = &fields[i];

		if (btf_member(b, f->type, f->path, (uint32_t *)((char *)p + f->at))) {
			snprintf(why, KERNEL_WHY_MAX, "the guest's kernel has no %s.%s", f->type,
				 f->path);
			return -EOPNOTSUPP;
		}
	}
	if (btf_struct_size(b, "page", &p->page_size) || p->page_size > STRUCT_PAGE_MAX ||
	    p->page_flags + 8 > p->page_size || p->page_mapping + 8 > p->page_size ||
	    p->page_index + 8 > p->page_size || p->page_head + 8 > p->page_size ||
	    p->page_type + 4 > p->page_size || p->slab_cache + 8 > p->page_size) {
		snprintf(why, KERNEL_WHY_MAX,
			 "the guest's kernel describes its pages in no known way");
		return -EOPNOTSUPP;
	}
	p->has_slab_flag = !btf_enum_value(b, "PG_slab", &p->slab_flag) && p->slab_flag < 64;
	p->has_slab_type = !btf_enum_value(b, "PGTY_slab", &p->slab_type);
	return 0;
}

static int read_btf(struct kernel *k, char *why)
{
	uint64_t from, to, at;
	BASE_AUTO_FREE uint8_t *bytes = NULL;
	struct btf *b;
	size_t len;
	int rc;

	if (sysmap_find(k->map, "__start_BTF", &from) || sysmap_find(k->map, "__stop_BTF", &to) ||
	    to <= from || to - from > BTF_MAX) {
		snprintf(why, KERNEL_WHY_MAX,
			 "the kernel's symbols name no BTF (__start_BTF, CONFIG_DEBUG_INFO_BTF)");
		return -EOPNOTSUPP;
	}
	at = from / KERNEL_PAGE * KERNEL_PAGE;
	len = (to - at + KERNEL_PAGE - 1) / KERNEL_PAGE * KERNEL_PAGE;
	bytes = malloc(len);
	if (!bytes)
		return -ENOMEM;
	for (size_t done = 0; done < len;) {
		size_t pages = BASE_MIN((len - done) / KERNEL_PAGE, (size_t)KERNEL_READ_PAGES);
		ssize_t n = k->read(k->ctx, at + done, (unsigned)pages, bytes + done);

		if (n <= 0 || n % KERNEL_PAGE || (size_t)n > pages * KERNEL_PAGE) {
			snprintf(why, KERNEL_WHY_MAX,
				 "the BTF of the guest's kernel cannot be read");
			return n < 0 ? (int)n : -EIO;
		}
		done += (size_t)n;
	}
	rc = btf_new(bytes + (from - at), to - from, &b);
	if (rc) {
		snprintf(why, KERNEL_WHY_MAX, "what the guest has at __start_BTF is no BTF");
		return rc;
	}
	rc = find_places(b, &k->places, why);
	btf_free(b);
	return rc;
}

static int find_kernel(struct kernel *k, char *why)
{
	char banner[sizeof(BANNER) - 1];
	uint64_t at;
	uint32_t five = 0;

	if (sysmap_find(k->map, "linux_banner", &at) ||
	    sysmap_find(k->map, "init_top_pgt", &k->tables)) {
		snprintf(why, KERNEL_WHY_MAX,
			 "the symbols lack linux_banner or init_top_pgt: take all of the guest's "
			 "/proc/kallsyms");
		return -EOPNOTSUPP;
	}
	if (!read_physical(k, at, banner, sizeof(banner)) ||
	    memcmp(banner, BANNER, sizeof(banner)) != 0) {
		snprintf(
			why, KERNEL_WHY_MAX,
			"the guest's kernel is not where its symbols say: boot it with nokaslr, or "
			"take its own symbols");
		return -EOPNOTSUPP;
	}
	if (!sysmap_find(k->map, "__pgtable_l5_enabled", &at) &&
	    read_physical(k, at, &five, sizeof(five)) && five) {
		snprintf(why, KERNEL_WHY_MAX, "the guest uses five levels of page tables (no5lvl)");
		return -EOPNOTSUPP;
	}
	k->vmemmap = VMEMMAP_BASE;
	if (!sysmap_find(k->map, "vmemmap_base", &at) &&
	    !read_physical(k, at, &k->vmemmap, sizeof(k->vmemmap))) {
		snprintf(why, KERNEL_WHY_MAX, "the guest's vmemmap_base cannot be read");
		return -EIO;
	}
	return 0;
}

int kernel_new(const struct sysmap *map, kernel_read *read, void *ctx, struct kernel **out,
	       char *why)
{
	struct kernel *k = calloc(1, sizeof(*k));
	int rc;

	snprintf(why, KERNEL_WHY_MAX, "out of memory");
	if (!k)
		return -ENOMEM;
	k->map = map;
	k->read = read;
	k->ctx = ctx;
	rc = find_kernel(k, why);
	if (!rc)
		rc = read_btf(k, why);
	if (rc) {
		kernel_free(k);
		return rc;
	}
	*out = k;
	return 0;
}

void kernel_free(struct kernel *k)
{
	if (!k)
		return;
	kernel_refresh(k);
	free(k);
}

void kernel_refresh(struct kernel *k)
{
	for (size_t i = 0; i < CACHE_SLOTS; i++)
		free(k->cache[i].bytes);
	memset(k->cache, 0, sizeof(k->cache));
	k->cached = 0;
}
