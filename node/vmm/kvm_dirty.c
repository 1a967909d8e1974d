#include <assert.h>
#include <errno.h>
#include <sys/ioctl.h>

#include "node/vmm/kvm.h"

/*
 * Where KVM lets us protect by hand, fetching is cheap and the clearing, which protects every page of
 * the log anew, is a step of its own that the last fetch does without. Otherwise one call does both.
 */
static int dirty_clear(const struct vmm_kvm *kvm, unsigned slot, const struct vmm_mem_region *r,
		       uint64_t *log)
{
	struct kvm_clear_dirty_log clear = {
		.slot = slot,
		.num_pages = (uint32_t)(r->len / VMM_PAGE_SIZE),
		.dirty_bitmap = log,
	};

	return ioctl(kvm->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0 ? -errno : 0;
}

static int dirty_fetch_region(const struct vmm_kvm *kvm, unsigned slot,
			      const struct vmm_mem_region *r, uint64_t *bitmap, bool last)
{
	size_t words = (r->len / VMM_PAGE_SIZE + 63) / 64;
	BASE_AUTO_FREE uint64_t *log = calloc(words, sizeof(*log));
	struct kvm_dirty_log get = {.slot = slot, .dirty_bitmap = log};
	uint64_t *to = bitmap + r->fd_offset / VMM_PAGE_SIZE / 64;

	assert(r->fd_offset / VMM_PAGE_SIZE % 64 == 0);
	if (!log)
		return -ENOMEM;
	if (ioctl(kvm->vm_fd, KVM_GET_DIRTY_LOG, &get) < 0)
		return -errno;
	for (size_t i = 0; i < words; i++)
		to[i] |= log[i];
	return kvm->manual_protect && !last ? dirty_clear(kvm, slot, r, log) : 0;
}

static int dirty_fetch(const struct vmm_kvm *kvm, const struct vmm_mem *mem, uint64_t *bitmap,
		       bool last)
{
	int err = 0;

	for (unsigned i = 0; i < vmm_mem_region_count(mem) && !err; i++)
		err = dirty_fetch_region(kvm, i, vmm_mem_region_at(mem, i), bitmap, last);
	return err;
}

int vmm_kvm_dirty_fetch(const struct vmm_kvm *kvm, const struct vmm_mem *mem, uint64_t *bitmap)
{
	return dirty_fetch(kvm, mem, bitmap, false);
}

int vmm_kvm_dirty_last(const struct vmm_kvm *kvm, const struct vmm_mem *mem, uint64_t *bitmap)
{
	return dirty_fetch(kvm, mem, bitmap, true);
}
