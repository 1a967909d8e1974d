#include "ctl/sysmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Linux maps its image here, __START_KERNEL_map, and this many bytes of it at most. */
#define IMAGE_BASE UINT64_C(0xffffffff80000000)
#define IMAGE_LEN  UINT64_C(0x40000000)

enum { SYMBOLS_MAX = 1 << 20, NAME_CAP = 128, PAGE = 4096 };

struct symbol {
	uint64_t address;
	char *name;
};

struct sysmap {
	size_t count, cap;
	struct symbol *symbols; /* by address */
};

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int add(struct sysmap *m, uint64_t address, const char *name)
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

	while (!rc && m->count < SYMBOLS_MAX && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 " %c %127s", &address, &type, name) != 3)
			continue;
		/* Per-CPU offsets, modules and the like are not in the image. */
		if (address >= IMAGE_BASE && address - IMAGE_BASE < IMAGE_LEN)
			rc = add(m, address, name);
	}
	if (!rc && !m->count)
		rc = -EBADMSG;
	return rc;
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
	qsort(m->symbols, m->count, sizeof(*m->symbols), by_address);
	*out = m;
	return 0;
}

void sysmap_free(struct sysmap *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->count; i++)
		free(m->symbols[i].name);
	free(m->symbols);
	free(m);
}

/* How many symbols begin below this address. */
static size_t below(const struct sysmap *m, uint64_t address)
{
	size_t low = 0, high = m->count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (m->symbols[mid].address < address)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

const char *sysmap_page(const struct sysmap *m, uint64_t address, char *out, size_t cap)
{
	uint64_t at = IMAGE_BASE + address / PAGE * PAGE;
	size_t first, last;

	out[0] = 0;
	if (address >= IMAGE_LEN)
		return out;
	first = below(m, at);
	last = below(m, at + PAGE);
	/* One that began before reaches into the page, unless one begins with it. */
	if (first && (first == m->count || m->symbols[first].address > at))
		first--;
	/* Nothing begins in or behind it: the image has ended. */
	if (first == last || last == 0 || (last == m->count && m->symbols[last - 1].address < at))
		return out;
	if (last - first == 1)
		snprintf(out, cap, "%s", m->symbols[first].name);
	else
		snprintf(out, cap, "%s..%s", m->symbols[first].name, m->symbols[last - 1].name);
	return out;
}
