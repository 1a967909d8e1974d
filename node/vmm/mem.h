/*
 * Guest physical memory of one slice: a memfd, mapped once for the guest and the devices. RAM lies
 * below the hole at VMM_MEM_HOLE_START and goes on at 4 GiB.
 *
 * Device back ends reach memory only through this interface. Under a spanning guest any access
 * through a pointer from vmm_mem_ptr() may fault and block the thread until the page is here, so no
 * lock that the fault service needs may be held across an access.
 */
#ifndef VMM_MEM_H
#define VMM_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define VMM_MEM_HOLE_START UINT64_C(0xc0000000) /* 3 GiB: MMIO from here to 4 GiB */
#define VMM_MEM_HOLE_END   UINT64_C(0x100000000)
#define VMM_PAGE_SIZE	   4096u
#define VMM_HUGE_PAGE_SIZE (2u << 20)

struct vmm_mem_region {
	uint64_t gpa;
	uint64_t len;	    /* bytes */
	uint64_t fd_offset; /* in the memfd */
	uint8_t *host;
};

struct vmm_mem;

/* size_bytes: 64 MiB up, a multiple of 4 KiB. -EINVAL, -ENOMEM or what memfd_create/mmap say. */
BASE_MUST_CHECK int vmm_mem_new(uint64_t size_bytes, struct vmm_mem **out);
void vmm_mem_free(struct vmm_mem *mem);

uint64_t vmm_mem_size(const struct vmm_mem *mem);
int vmm_mem_fd(const struct vmm_mem *mem);
unsigned vmm_mem_region_count(const struct vmm_mem *mem);
const struct vmm_mem_region *vmm_mem_region_at(const struct vmm_mem *mem, unsigned index);

/* Host address of [gpa, gpa+len), or NULL unless all of it is RAM of one region. Any thread. */
void *vmm_mem_ptr(const struct vmm_mem *mem, uint64_t gpa, uint64_t len);
/* Copies; may cross regions. -EFAULT where any byte is not RAM (then nothing was copied). */
BASE_MUST_CHECK int vmm_mem_read(const struct vmm_mem *mem, uint64_t gpa, void *out, size_t len);
BASE_MUST_CHECK int vmm_mem_write(struct vmm_mem *mem, uint64_t gpa, const void *data, size_t len);

/* All memory reads as zero again, and takes none of the host's. vCPUs and devices are stopped. */
BASE_MUST_CHECK int vmm_mem_clear(struct vmm_mem *mem);

/*
 * Fills the 2 MiB pages around a range that will all be used soon, with huge pages where the kernel
 * gives them: fewer faults for the guest. Only a hint. Not for memory that the DSM watches.
 */
void vmm_mem_populate_huge(struct vmm_mem *mem, uint64_t gpa, uint64_t len);
/*
 * Has `len` bytes of a region, whole huge pages, in huge pages now: -EINVAL where the host has none for shared
 * memory, -ENOMEM, or -EAGAIN and -EBUSY while somebody holds one of the pages.
 */
BASE_MUST_CHECK int vmm_mem_make_huge(uint8_t *host, uint64_t len);

/*
 * Every write through a pointer must be followed by this, once the bytes are there: KVM's dirty log
 * does not see what user space writes. Costs one test while no log is kept. Any thread.
 */
void vmm_mem_dirty(struct vmm_mem *mem, uint64_t gpa, uint64_t len);

/*
 * The user-space half of the dirty log: one bit per 4 KiB page in memfd order. start allocates and
 * clears; fetch_and_clear copies out (bitmap of vmm_mem_size()/4096 bits, in 64-bit words) and
 * clears.
 */
BASE_MUST_CHECK int vmm_mem_dirty_start(struct vmm_mem *mem);
void vmm_mem_dirty_stop(struct vmm_mem *mem);
void vmm_mem_dirty_fetch_and_clear(struct vmm_mem *mem, uint64_t *bitmap);

#endif
