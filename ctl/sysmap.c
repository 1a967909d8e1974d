#include "ctl/sysmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Linux maps its image here, __START_KERNEL_map, and this many bytes of it at most. */
#define IMAGE_BASE UINT64_C(0xffffffff80000000)
#define IMAGE_LEN  UINT64_C(0x40000000)
/* Up to Linux 6.14 per-CPU symbols count from 0. */
#define PERCPU_MAX UINT64_C(0x1000000)

enum { SYMBOLS_MAX = 1 << 20, NAME_CAP = 128, PAGE = 4096 };

struct symbol {
	uint64_t address;
	char *name;
};

struct table {
	size_t count, cap;
	struct symbol *symbols; /* by address */
};

struct range {
	uint64_t from, to;
};

/* Parts of the image whose pages Linux gives away when it has started. */
enum { GIVEN = 3 };
static const char *const given_names[GIVEN][2] = {
	{"__init_begin", "__init_end"}, /* what its start needed */
	{"_etext", "__start_rodata"},	/* the gaps behind code and constants, */
	{"__end_rodata", "_sdata"},	/* up to the next large page */
};

struct sysmap {
	struct table image;
	struct table percpu; /* addresses are offsets into the area that each processor has */
	uint64_t percpu_end;
	struct range given[GIVEN];
};

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int add(struct table *m, uint64_t address, const char *name)
{
	if (m->count == m->cap) {
		size_t cap = m->cap ? 2 * m->cap : 1024;
		struct symbol *more = reallocarray(m->symbols, cap, sizeof(*more));

		if (!more)
			return -ENOMEM;
		m->symbols = more;
		m->cap = cap;
	}
	m->symbols[m->count] = (struct symbol){address, strdup(name)};
	return m->symbols[m->count].name ? (m->count++, 0) : -ENOMEM;
}

static int read_lines(struct sysmap *m, FILE *f)
{
	char line[1024], name[NAME_CAP], type;
	uint64_t address;
	int rc = 0;

	while (!rc && m->image.count < SYMBOLS_MAX && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 " %c %127s", &address, &type, name) != 3)
			continue;
		/* Modules and the like are in neither. */
		if (address >= IMAGE_BASE && address - IMAGE_BASE < IMAGE_LEN)
			rc = add(&m->image, address, name);
		else if (address < PERCPU_MAX && m->percpu.count < SYMBOLS_MAX)
			rc = add(&m->percpu, address, name);
		if (address < PERCPU_MAX && !strcmp(name, "__per_cpu_end"))
			m->percpu_end = address;
	}
	if (!rc && !m->image.count)
		rc = -EBADMSG;
	return rc;
}

static void sort(struct table *t)
{
	if (t->count)
		qsort(t->symbols, t->count, sizeof(*t->symbols), by_address);
}

static void clear(struct table *t)
{
	for (size_t i = 0; i < t->count; i++)
		free(t->symbols[i].name);
	free(t->symbols);
}

/* Both ends or none of them. */
static void find_given(struct sysmap *m)
{
	for (unsigned i = 0; i < GIVEN; i++) {
		struct range *r = &m->given[i];

		if (sysmap_find(m, given_names[i][0], &r->from) ||
		    sysmap_find(m, given_names[i][1], &r->to))
			*r = (struct range){0};
		r->from = (r->from + PAGE - 1) / PAGE * PAGE;
	}
}

static bool is_given(const struct sysmap *m, uint64_t address)
{
	for (unsigned i = 0; i < GIVEN; i++)
		if (address >= m->given[i].from && address < m->given[i].to)
			return true;
	return false;
}

int sysmap_read(const char *path, struct sysmap **out)
{
	BASE_AUTO_FILE FILE *f = fopen(path, "re");
	struct sysmap *m;
	int rc;

	if (!f)
		return -errno;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	rc = read_lines(m, f);
	if (rc) {
		sysmap_free(m);
		return rc;
	}
	sort(&m->image);
	find_given(m);
	sort(&m->percpu);
	*out = m;
	return 0;
}

void sysmap_free(struct sysmap *m)
{
	if (!m)
		return;
	clear(&m->image);
	clear(&m->percpu);
	free(m);
}

int sysmap_find(const struct sysmap *m, const char *name, uint64_t *address)
{
	for (size_t i = 0; i < m->image.count; i++) {
		if (strcmp(m->image.symbols[i].name, name) != 0)
			continue;
		*address = m->image.symbols[i].address - IMAGE_BASE;
		return 0;
	}
	return -ENOENT;
}

/* How many symbols begin below this address. */
static size_t below(const struct table *t, uint64_t address)
{
	size_t low = 0, high = t->count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (t->symbols[mid].address < address)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* What lies in the page from `at` on. */
static void name_page(const struct table *t, uint64_t at, char *out, size_t cap)
{
	size_t first = below(t, at), last = below(t, at + PAGE);

	/* One that began before reaches into the page, unless one begins with it. */
	if (first && (first == t->count || t->symbols[first].address > at))
		first--;
	/* Nothing begins in or behind it: the image has ended. */
	if (first == last || last == 0 || (last == t->count && t->symbols[last - 1].address < at))
		return;
	if (last - first == 1)
		snprintf(out, cap, "%s", t->symbols[first].name);
	else
		snprintf(out, cap, "%s..%s", t->symbols[first].name, t->symbols[last - 1].name);
}

const char *sysmap_page(const struct sysmap *m, uint64_t address, char *out, size_t cap)
{
	out[0] = 0;
	if (address < IMAGE_LEN && !is_given(m, address))
		name_page(&m->image, IMAGE_BASE + address / PAGE * PAGE, out, cap);
	return out;
}

const char *sysmap_percpu_page(const struct sysmap *m, uint64_t offset, char *out, size_t cap)
{
	out[0] = 0;
	if (offset < m->percpu_end)
		name_page(&m->percpu, offset / PAGE * PAGE, out, cap);
	return out;
}
