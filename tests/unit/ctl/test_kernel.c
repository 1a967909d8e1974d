/*
 * Whose a page of a guest is, from a made-up image of a kernel: its BTF, page tables, struct pages and
 * what they point to. Then the same with bytes that no kernel writes: it ends, and reads nothing else.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/rng.h"
#include "ctl/btf.h"
#include "ctl/kernel.h"
#include "tests/unit/ctl/printed.h"

enum { MEM_PAGES = 256, MEM_LEN = MEM_PAGES * KERNEL_PAGE };

#define IMAGE	UINT64_C(0xffffffff80000000)
#define VMEMMAP UINT64_C(0xffffea0000000000)
#define DIRECT	UINT64_C(0xffff888000000000)
#define USER	UINT64_C(0x00007f0000000000)

/* Where things lie in it, by page. */
enum {
	AT_BANNER = 1,
	AT_TABLES = 2,
	AT_BTF = 4, /* up to 12 */
	AT_OBJECTS = 12,
	AT_PAGES = 16, /* the struct pages: 64 bytes for each page */
	AT_FREE = 32,  /* page tables and the rest, from here on */
	AT_ANON = 200, /* of a process, and of its child */
	AT_FILE = 201,
	AT_SLAB = 202,
	AT_TAIL = 205, /* the second of a compound page that begins before */
	AT_NONE = 210,
};

/* ---- BTF ---- */

struct member {
	const char *name;
	uint32_t type, offset;
};

static uint8_t types[4096], strings[4096];
static uint32_t types_len, strings_len, type_count;

static void put(uint32_t v)
{
	memcpy(types + types_len, &v, sizeof(v));
	types_len += sizeof(v);
	assert_true(types_len < sizeof(types));
}

static uint32_t string(const char *s)
{
	uint32_t at = strings_len;

	assert_true(at + strlen(s) + 1 < sizeof(strings));
	memcpy(strings + at, s, strlen(s) + 1);
	strings_len += (uint32_t)strlen(s) + 1;
	return at;
}

/* kind 4: struct, 5: union. The number of the type. */
static uint32_t put_struct(uint32_t kind, const char *name, uint32_t size, const struct member *m,
			   uint32_t count)
{
	put(*name ? string(name) : 0);
	put(kind << 24 | count);
	put(size);
	for (uint32_t i = 0; i < count; i++) {
		put(*m[i].name ? string(m[i].name) : 0);
		put(m[i].type);
		put(m[i].offset * 8);
	}
	return ++type_count;
}
#define STRUCT(kind, name, size, ...)                                                              \
	put_struct(kind, name, size, (const struct member[]){__VA_ARGS__},                         \
		   sizeof((const struct member[]){__VA_ARGS__}) / sizeof(struct member))

/* As a kernel's: nested, unnamed, behind typedefs; the places are our own. */
static size_t make_btf(uint8_t *out)
{
	uint32_t word, node, root, cached, inner, other, shared, name, head, u;

	types_len = type_count = 0;
	strings_len = 1;
	put(string("unsigned long"));
	put(1u << 24);
	put(8);
	put(64);
	word = ++type_count;
	node = STRUCT(4, "rb_node", 24, {"__rb_parent_color", word, 0}, {"rb_right", word, 8},
		      {"rb_left", word, 16});
	root = STRUCT(4, "rb_root", 8, {"rb_node", word, 0});
	cached = STRUCT(4, "rb_root_cached", 16, {"rb_root", root, 0}, {"rb_leftmost", word, 8});
	inner = STRUCT(4, "", 32, {"lru", word, 0}, {"mapping", word, 16}, {"index", word, 24});
	other = STRUCT(4, "", 8, {"compound_head", word, 0});
	u = STRUCT(5, "", 40, {"", inner, 0}, {"", other, 0});
	STRUCT(4, "page", 64, {"flags", word, 0}, {"", u, 8}, {"page_type", word, 48});
	STRUCT(4, "anon_vma", 64, {"root", word, 0}, {"rb_root", cached, 32});
	STRUCT(4, "anon_vma_chain", 64, {"vma", word, 0}, {"rb", node, 32});
	shared = STRUCT(4, "", 32, {"rb", node, 0}, {"rb_subtree_last", word, 24});
	put(string("shared_t")); /* a typedef of it */
	put(8u << 24);
	put(shared);
	shared = ++type_count;
	STRUCT(4, "vm_area_struct", 128, {"vm_start", word, 0}, {"vm_end", word, 8},
	       {"vm_mm", word, 16}, {"shared", shared, 40}, {"vm_pgoff", word, 104});
	inner = STRUCT(4, "", 128, {"pgd", word, 72}, {"owner", word, 96});
	STRUCT(4, "mm_struct", 128, {"", inner, 0});
	STRUCT(4, "task_struct", 128, {"tgid", word, 20}, {"comm", word, 64});
	STRUCT(4, "address_space", 64, {"host", word, 0}, {"i_mmap", cached, 24});
	head = STRUCT(4, "hlist_head", 8, {"first", word, 0});
	STRUCT(4, "inode", 64, {"i_mapping", word, 48}, {"i_dentry", head, 56});
	u = STRUCT(5, "", 16, {"d_alias", word, 0});
	name = STRUCT(4, "qstr", 16, {"hash_len", word, 0}, {"name", word, 8});
	STRUCT(4, "dentry", 128, {"d_name", name, 32}, {"d_u", u, 112});
	STRUCT(4, "kmem_cache", 64, {"name", word, 40});
	STRUCT(4, "slab", 64, {"slab_cache", word, 24});
	put(string("pageflags"));
	put(6u << 24 | 1);
	put(4);
	put(string("PG_slab"));
	put(9);
	type_count++;

	memcpy(out, (const uint32_t[]){0x0001eb9f, 24, 0, types_len, types_len, strings_len}, 24);
	memcpy(out + 24, types, types_len);
	memcpy(out + 24 + types_len, strings, strings_len);
	return 24 + types_len + strings_len;
}

/* ---- memory ---- */

static uint8_t memory[MEM_LEN];
static unsigned next_page, reads;
static uint64_t next_object, lacking;
static size_t btf_len;

static void poke(uint64_t at, uint64_t v)
{
	assert_true(at + 8 <= MEM_LEN);
	memcpy(memory + at, &v, sizeof(v));
}

static uint64_t peek(uint64_t at)
{
	uint64_t v;

	assert_true(at + 8 <= MEM_LEN);
	memcpy(&v, memory + at, sizeof(v));
	return v;
}

/* So many pages of physical memory seen at a virtual address. */
static void map(uint64_t tables, uint64_t virtual, uint64_t physical, unsigned pages)
{
	for (unsigned i = 0; i < pages; i++, virtual += KERNEL_PAGE, physical += KERNEL_PAGE) {
		uint64_t at = tables;

		for (int shift = 39; shift > 12; shift -= 9) {
			uint64_t entry = at + (virtual >> shift & 511) * 8;

			if (!peek(entry))
				poke(entry, (uint64_t)next_page++ * KERNEL_PAGE | 0x67);
			at = peek(entry) / KERNEL_PAGE * KERNEL_PAGE;
		}
		poke(at + (virtual >> 12 & 511) * 8, physical | 0x8000000000000067);
	}
}

/* Bytes of the kernel's own, as it sees them; `physical` of that is without DIRECT. */
static uint64_t object(size_t len)
{
	uint64_t at = next_object;

	next_object += (len + 63) / 64 * 64;
	assert_true(next_object <= AT_PAGES * KERNEL_PAGE);
	return DIRECT + at;
}

static void set(uint64_t object, uint32_t at, uint64_t v)
{
	poke(object - DIRECT + at, v);
}

static void set_text(uint64_t object, uint32_t at, const char *s)
{
	memcpy(memory + (object - DIRECT) + at, s, strlen(s) + 1);
}

static uint64_t make_mm(const char *comm, uint32_t pid, uint64_t virtual, unsigned page)
{
	uint64_t task = object(128), mm = object(128), pgd = (uint64_t)next_page++ * KERNEL_PAGE;

	map(pgd, virtual, (uint64_t)page * KERNEL_PAGE, 1);
	set(task, 20, pid);
	set_text(task, 64, comm);
	set(mm, 72, DIRECT + pgd);
	set(mm, 96, task);
	return mm;
}

static uint64_t make_vma(uint64_t mm, uint64_t start, unsigned pages, uint64_t first)
{
	uint64_t vma = object(128);

	set(vma, 0, start);
	set(vma, 8, start + (uint64_t)pages * KERNEL_PAGE);
	set(vma, 16, mm);
	set(vma, 104, first);
	return vma;
}

static void make_page(unsigned page, uint64_t flags, uint64_t mapping, uint64_t index)
{
	uint64_t at = AT_PAGES * KERNEL_PAGE + page * 64;

	poke(at, flags);
	poke(at + 24, mapping);
	poke(at + 32, index);
}

/* A process, its child that shares the page, and one that has written since and so has its own. */
static void make_anon(void)
{
	const uint64_t start = USER + 4 * KERNEL_PAGE, at = USER + 5 * KERNEL_PAGE;
	static const struct {
		const char *comm;
		unsigned pid, page;
	} who[] = {{"work", 312, AT_ANON}, {"w\033[31m", 313, AT_ANON}, {"other", 314, AT_NONE}};
	uint64_t anon = object(64), chain[3];

	for (unsigned i = 0; i < 3; i++) {
		uint64_t mm = make_mm(who[i].comm, who[i].pid, at, who[i].page);

		chain[i] = object(64);
		set(chain[i], 0, make_vma(mm, start, 3, USER / KERNEL_PAGE + 4));
	}
	set(anon, 32, chain[2] + 32);
	set(chain[2], 32 + 16, chain[0] + 32);
	set(chain[2], 32 + 8, chain[1] + 32);
	make_page(AT_ANON, 0, anon + 1, USER / KERNEL_PAGE + 5);
}

static void make_file(void)
{
	uint64_t mapping = object(64), inode = object(64), dentry = object(128), text = object(32);
	uint64_t mm = make_mm("sh", 1, USER + 2 * KERNEL_PAGE, AT_FILE);
	uint64_t vma = make_vma(mm, USER, 4, 10);

	set(mapping, 0, inode);
	set(mapping, 24, vma + 40);
	set(inode, 48, mapping);
	set(inode, 56, dentry + 112);
	set(dentry, 40, text);
	set_text(text, 0, "libc.so.6");
	make_page(AT_FILE, 0, mapping, 12);
	/* One page on, the second of a page of two. */
	make_page(AT_TAIL - 1, 0, mapping, 20);
	poke(AT_PAGES * KERNEL_PAGE + AT_TAIL * 64 + 8, VMEMMAP + (AT_TAIL - 1) * 64 + 1);
}

static void make_slab(void)
{
	uint64_t cache = object(64), name = object(32);

	set(cache, 40, name);
	set_text(name, 0, "dentry");
	make_page(AT_SLAB, 1 << 9, cache, 0);
}

static void make_memory(void)
{
	memset(memory, 0, sizeof(memory));
	next_page = AT_FREE;
	next_object = AT_OBJECTS * KERNEL_PAGE;
	lacking = UINT64_MAX;
	strcpy((char *)memory + AT_BANNER * KERNEL_PAGE, "Linux version 6.1.0");
	poke(AT_BANNER * KERNEL_PAGE + 256, VMEMMAP);
	btf_len = make_btf(memory + AT_BTF * KERNEL_PAGE + 100);
	map(AT_TABLES * KERNEL_PAGE, DIRECT, 0, MEM_PAGES);
	map(AT_TABLES * KERNEL_PAGE, VMEMMAP, AT_PAGES * KERNEL_PAGE, 4);
	make_anon();
	make_file();
	make_slab();
	assert_true(next_page <= AT_ANON);
}

static ssize_t read_memory(void *ctx, uint64_t address, unsigned pages, uint8_t *out)
{
	size_t len;

	reads++;
	assert_true(pages >= 1 && pages <= KERNEL_READ_PAGES && address % KERNEL_PAGE == 0);
	if (address >= MEM_LEN || address == lacking)
		return 0;
	len = BASE_MIN((size_t)pages * KERNEL_PAGE, MEM_LEN - address);
	memcpy(out, memory + address, len);
	return (ssize_t)len;
}

/* ---- the symbols ---- */

static struct sysmap *make_map(const char *without)
{
	const struct {
		const char *name;
		uint64_t at;
	} symbols[] = {
		{"linux_banner", AT_BANNER * KERNEL_PAGE},
		{"vmemmap_base", AT_BANNER * KERNEL_PAGE + 256},
		{"__pgtable_l5_enabled", AT_BANNER * KERNEL_PAGE + 264},
		{"init_top_pgt", AT_TABLES * KERNEL_PAGE},
		{"__start_BTF", AT_BTF * KERNEL_PAGE + 100},
		{"__stop_BTF", AT_BTF * KERNEL_PAGE + 100 + btf_len},
		{"_end", MEM_LEN},
	};
	char path[] = "/tmp/kernel.XXXXXX";
	FILE *f = fdopen(mkstemp(path), "w");
	struct sysmap *m = NULL;

	assert_non_null(f);
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++)
		if (strcmp(symbols[i].name, without) != 0)
			fprintf(f, "%llx D %s\n", (unsigned long long)(IMAGE + symbols[i].at),
				symbols[i].name);
	fclose(f);
	assert_int_equal(sysmap_read(path, &m), 0);
	unlink(path);
	return m;
}

static char why[KERNEL_WHY_MAX];

static struct kernel *make_kernel(const struct sysmap *m)
{
	struct kernel *k = NULL;
	int rc = kernel_new(m, read_memory, NULL, &k, why);

	if (rc)
		print_message("%s\n", why);
	assert_int_equal(rc, 0);
	return k;
}

/* ---- tests ---- */

static void pages_have_owners(void **state)
{
	struct kernel_page p;
	struct sysmap *m;
	struct kernel *k;

	make_memory();
	m = make_map("");
	k = make_kernel(m);
	assert_true(kernel_page(k, AT_ANON * KERNEL_PAGE + 8, &p));
	assert_true(p.pid == 312 || p.pid == 313);
	assert_string_equal(p.process, p.pid == 312 ? "work" : "w?[31m");
	assert_int_equal(p.others, 1);
	assert_string_equal(p.file, "");
	assert_true(kernel_page(k, AT_FILE * KERNEL_PAGE, &p));
	assert_string_equal(p.file, "libc.so.6");
	assert_string_equal(p.process, "sh");
	assert_int_equal(p.pid, 1);
	assert_int_equal(p.others, 0);
	/* Of the file, and mapped by nobody. */
	assert_true(kernel_page(k, AT_TAIL * KERNEL_PAGE, &p));
	assert_string_equal(p.file, "libc.so.6");
	assert_string_equal(p.process, "");
	assert_true(kernel_page(k, AT_SLAB * KERNEL_PAGE, &p));
	assert_string_equal(p.slab, "dentry");
	assert_string_equal(p.process, "");
	assert_false(kernel_page(k, AT_NONE * KERNEL_PAGE, &p));
	assert_false(kernel_page(k, UINT64_C(1) << 40, &p));
	kernel_free(k);
	sysmap_free(m);
}

/* Parts of the kernel's image are given away: then a symbol before them says nothing. */
static void what_the_guest_says_comes_before_symbols(void **state)
{
	struct control_item items[] = {{.name = "dsm.hot.0.gfn", .value = AT_FILE},
				       {.name = "dsm.hot.0.count", .value = 9},
				       {.name = "dsm.hot.1.gfn", .value = AT_NONE},
				       {.name = "dsm.hot.1.count", .value = 8}};
	struct stats_sample s = {
		.count = 1,
		.node = {"a"},
		.there = {true},
		.reply = {{.items = items, .item_count = sizeof(items) / sizeof(items[0])}}};
	struct stats_names names = {0};
	struct sysmap *m;
	char *printed;

	make_memory();
	m = make_map("");
	names.map = m;
	printed = printed_json(&s, &names);
	assert_non_null(strstr(printed, "\"taken\":9,\"symbol\":\"__stop_BTF\""));
	free(printed);
	names.kernel = make_kernel(m);
	printed = printed_json(&s, &names);
	assert_non_null(strstr(printed, "\"taken\":9,\"symbol\":\"\",\"process\":\"sh\""));
	assert_non_null(strstr(printed, "\"taken\":8,\"symbol\":\"__stop_BTF\""));
	free(printed);
	kernel_free(names.kernel);
	sysmap_free(m);
}

static void pages_are_read_once_in_a_look(void **state)
{
	struct kernel_page p;
	struct sysmap *m;
	struct kernel *k;
	unsigned before;

	make_memory();
	m = make_map("");
	k = make_kernel(m);
	assert_true(kernel_page(k, AT_ANON * KERNEL_PAGE, &p));
	before = reads;
	assert_true(kernel_page(k, AT_ANON * KERNEL_PAGE, &p));
	assert_int_equal(reads, before);
	/* It exits, and its child has the page. */
	memset(memory + AT_PAGES * KERNEL_PAGE + AT_ANON * 64, 0, 64);
	kernel_refresh(k);
	assert_false(kernel_page(k, AT_ANON * KERNEL_PAGE, &p));
	assert_true(reads > before);
	kernel_free(k);
	sysmap_free(m);
}

static void refuse(const struct sysmap *m, const char *text)
{
	struct kernel *k = NULL;

	assert_true(kernel_new(m, read_memory, NULL, &k, why) < 0);
	assert_null(k);
	if (!strstr(why, text))
		print_message("not '%s' but: %s\n", text, why);
	assert_non_null(strstr(why, text));
}

static void what_is_missing_is_said(void **state)
{
	static const char *const needed[][2] = {{"linux_banner", "lack linux_banner"},
						{"init_top_pgt", "lack linux_banner or init_top"},
						{"__stop_BTF", "name no BTF"}};
	struct sysmap *m;
	uint8_t *btf = memory + AT_BTF * KERNEL_PAGE + 100, *name;

	make_memory();
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		m = make_map(needed[i][0]);
		refuse(m, needed[i][1]);
		sysmap_free(m);
	}
	m = make_map("");
	memory[AT_BANNER * KERNEL_PAGE] = 'l';
	refuse(m, "nokaslr");
	memory[AT_BANNER * KERNEL_PAGE] = 'L';
	memory[AT_BANNER * KERNEL_PAGE + 264] = 1;
	refuse(m, "five levels");
	memory[AT_BANNER * KERNEL_PAGE + 264] = 0;
	btf[0] ^= 1;
	refuse(m, "is no BTF");
	btf[0] ^= 1;
	lacking = AT_BTF * KERNEL_PAGE;
	refuse(m, "cannot be read");
	lacking = UINT64_MAX;
	name = memmem(btf, btf_len, "owner", 6);
	assert_non_null(name);
	name[0] = 'O';
	refuse(m, "no mm_struct.owner");
	sysmap_free(m);
}

/* A vmemmap_base that is not named is where Linux has it by default. */
static void defaults_hold(void **state)
{
	struct kernel_page p;
	struct sysmap *m;
	struct kernel *k;

	make_memory();
	m = make_map("vmemmap_base");
	k = make_kernel(m);
	assert_true(kernel_page(k, AT_SLAB * KERNEL_PAGE, &p));
	kernel_free(k);
	sysmap_free(m);
}

/* A tree that is a ring, page tables that are their own, names without an end. */
static void rings_end(void **state)
{
	uint64_t start = AT_OBJECTS * KERNEL_PAGE, end = next_object;
	struct kernel_page p;
	struct sysmap *m;
	struct kernel *k;

	make_memory();
	m = make_map("");
	k = make_kernel(m);
	/* Whatever points at the kernel's objects points at the first of them. */
	for (uint64_t at = start; at < end; at += 8)
		if (peek(at) >> 32 == DIRECT >> 32)
			poke(at, DIRECT + start + 32);
	memset(memory + (MEM_PAGES - 1) * KERNEL_PAGE, 'n', KERNEL_PAGE);
	for (unsigned i = 0; i < MEM_PAGES; i++)
		kernel_page(k, (uint64_t)i * KERNEL_PAGE, &p);
	assert_true(reads < 100000);
	kernel_free(k);
	sysmap_free(m);
}

/* One that writes anything anywhere: no crash, no end that does not come, no unclean name. */
static void any_bytes_are_survived(void **state)
{
	struct base_rng rng;
	struct kernel_page p;

	base_rng_seed(&rng, 4);
	for (int round = 0; round < 300; round++) {
		struct kernel *k = NULL;
		struct sysmap *m;

		make_memory();
		m = make_map("");
		for (int i = 0; i < 200; i++) {
			uint64_t at = base_rng_below(&rng, AT_FREE * KERNEL_PAGE);

			/* Pointers to somewhere in it as well. */
			if (i % 2)
				poke(at / 8 * 8, DIRECT + base_rng_below(&rng, MEM_LEN));
			else
				memory[at] = (uint8_t)base_rng_next(&rng);
		}
		if (!kernel_new(m, read_memory, NULL, &k, why)) {
			for (unsigned i = AT_ANON; i <= AT_NONE; i++)
				if (kernel_page(k, (uint64_t)i * KERNEL_PAGE, &p))
					assert_true(p.process[0] || p.file[0] || p.slab[0]);
			kernel_free(k);
		}
		sysmap_free(m);
	}
}

/* Each length of it, and each byte of its head and types turned round. */
static void hostile_btf_is_refused_or_harmless(void **state)
{
	static uint8_t bytes[8192], copy[8192];
	size_t len = make_btf(bytes);
	struct btf *b;
	uint32_t v;

	for (size_t n = 0; n < len; n++) {
		uint8_t *part = malloc(n ? n : 1);

		memcpy(part, bytes, n);
		assert_int_equal(btf_new(part, n, &b), -EBADMSG);
		free(part);
	}
	for (size_t i = 0; i < len; i++) {
		memcpy(copy, bytes, len);
		copy[i] ^= 0xff;
		if (btf_new(copy, len, &b))
			continue;
		if (btf_member(b, "vm_area_struct", "shared.rb", &v) == 0)
			assert_true(v <= UINT32_MAX / 8);
		if (btf_struct_size(b, "page", &v) || btf_enum_value(b, "PG_slab", &v))
			v = 0;
		btf_free(b);
	}
}

/* Unnamed structs that hold themselves, many times over, cost no time. */
static void nested_structs_are_bounded(void **state)
{
	static uint8_t out[8192];
	struct member self[64];
	struct btf *b;
	uint32_t v;

	types_len = type_count = 0;
	strings_len = 1;
	for (int i = 0; i < 64; i++)
		self[i] = (struct member){"", 2, 0};
	put_struct(4, "outer", 8, self, 64);
	put_struct(4, "", 8, self, 64);
	memcpy(out, (const uint32_t[]){0x0001eb9f, 24, 0, types_len, types_len, strings_len}, 24);
	memcpy(out + 24, types, types_len);
	memcpy(out + 24 + types_len, strings, strings_len);
	assert_int_equal(btf_new(out, 24 + types_len + strings_len, &b), 0);
	assert_int_equal(btf_member(b, "outer", "nothing", &v), -ENOENT);
	btf_free(b);
}

static void members_are_found(void **state)
{
	static uint8_t bytes[8192];
	size_t len = make_btf(bytes);
	struct btf *b;
	uint32_t v;

	assert_int_equal(btf_new(bytes, len, &b), 0);
	assert_int_equal(btf_member(b, "page", "mapping", &v), 0);
	assert_int_equal(v, 24);
	assert_int_equal(btf_member(b, "vm_area_struct", "shared.rb", &v), 0);
	assert_int_equal(v, 40);
	assert_int_equal(btf_member(b, "anon_vma", "rb_root.rb_root.rb_node", &v), 0);
	assert_int_equal(v, 32);
	assert_int_equal(btf_member(b, "page", "flags.lower", &v), -ENOENT);
	assert_int_equal(btf_member(b, "page", "none", &v), -ENOENT);
	assert_int_equal(btf_member(b, "none", "flags", &v), -ENOENT);
	assert_int_equal(btf_member(b, "page", "", &v), -ENOENT);
	assert_int_equal(btf_struct_size(b, "page", &v), 0);
	assert_int_equal(v, 64);
	assert_int_equal(btf_enum_value(b, "PG_slab", &v), 0);
	assert_int_equal(v, 9);
	assert_int_equal(btf_enum_value(b, "PG_none", &v), -ENOENT);
	btf_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members_are_found),
		cmocka_unit_test(nested_structs_are_bounded),
		cmocka_unit_test(hostile_btf_is_refused_or_harmless),
		cmocka_unit_test(pages_have_owners),
		cmocka_unit_test(what_the_guest_says_comes_before_symbols),
		cmocka_unit_test(pages_are_read_once_in_a_look),
		cmocka_unit_test(what_is_missing_is_said),
		cmocka_unit_test(defaults_hold),
		cmocka_unit_test(rings_end),
		cmocka_unit_test(any_bytes_are_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
