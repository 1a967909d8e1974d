/*
 * What a running Linux guest itself knows of a page of its memory: whose it is. Read from that memory,
 * with the places of its structs from the BTF that lies in its image; so nothing here depends on a
 * version. x86-64 with four levels of page tables, an image that is not moved (nokaslr), and a kernel
 * that keeps the owner of an address space (CONFIG_MEMCG).
 *
 * The guest may write anything there: every list, depth and string is bounded, and so is what is read.
 * The guest runs meanwhile. What was half changed is not found, or found wrong until the next look.
 */
#ifndef CTL_KERNEL_H
#define CTL_KERNEL_H

#include <stdbool.h>
#include <sys/types.h>

#include "ctl/sysmap.h"

enum { KERNEL_PAGE = 4096, KERNEL_READ_PAGES = 4, KERNEL_WHY_MAX = 160, KERNEL_NAME_MAX = 64 };

/*
 * Up to `pages` (KERNEL_READ_PAGES at most) of guest memory from this address on: the number of bytes,
 * 0: nobody has the page; or -errno.
 */
typedef ssize_t kernel_read(void *ctx, uint64_t address, unsigned pages, uint8_t *out);

struct kernel;

/* What is not known is "". Names are clean. */
struct kernel_page {
	char process[KERNEL_NAME_MAX]; /* that has it in its address space: its name */
	uint32_t pid;		       /* as the guest counts */
	unsigned others;	       /* how many others share it */
	char file[KERNEL_NAME_MAX];    /* a page of the cache: the file's own name */
	char slab[KERNEL_NAME_MAX];    /* the kernel's objects of one kind: their name */
};

/*
 * Reads the BTF, some megabytes. `map` must live as long; `read` is called with `ctx`. -errno with one line in why[KERNEL_WHY_MAX]
 * that a person can do something about; -ENOMEM.
 */
BASE_MUST_CHECK int kernel_new(const struct sysmap *map, kernel_read *read, void *ctx,
			       struct kernel **out, char *why);
void kernel_free(struct kernel *k);
/* A new look: what was read is forgotten, and as much may be read again. */
void kernel_refresh(struct kernel *k);
/* False: nothing is known of the page. */
bool kernel_page(struct kernel *k, uint64_t address, struct kernel_page *out);

#endif
