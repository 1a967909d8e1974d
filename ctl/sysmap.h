/* Names for guest pages out of a kernel's System.map. */
#ifndef CTL_SYSMAP_H
#define CTL_SYSMAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct sysmap;

/* -errno of open(2); -EBADMSG: no line of it is "ADDRESS TYPE NAME" of a kernel's image. */
BASE_MUST_CHECK int sysmap_read(const char *path, struct sysmap **out);
void sysmap_free(struct sysmap *m);
/*
 * Where a symbol of the image lies in guest memory, in an image that is not moved. -ENOENT: it is none.
 */
BASE_MUST_CHECK int sysmap_find(const struct sysmap *m, const char *name, uint64_t *address);
/*
 * What of the kernel's image lies in the page at this guest-physical address, where x86-64 puts an
 * image that is not moved (nokaslr): "name", "first..last", or "" for memory outside the image. What only
 * its start needed (__init_begin to __init_end) and the gaps behind code and constants are outside: Linux
 * gives them away.
 */
const char *sysmap_page(const struct sysmap *m, uint64_t address, char *out, size_t cap);
/*
 * The same at this offset into the area that the kernel has for each processor; "" behind its named
 * part, and for kernels whose per-CPU symbols do not count from 0 (Linux 6.15).
 */
const char *sysmap_percpu_page(const struct sysmap *m, uint64_t offset, char *out, size_t cap);

#endif
