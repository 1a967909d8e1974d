#include <assert.h>
#include <errno.h>
#include <sys/ioctl.h>

#include "node/vmm/kvm.h"

/*
 * KVM_GET_DIRTY_LOG fetches, clears and protects anew in one step: a page that is written after this
 * is in the next fetch. The two-step form with KVM_CLEAR_DIRTY_LOG would spare the protecting in the
 * last fetch, when the guest is paused; that has not been measured yet.
 */
static int dirty_fetch_region(const struct vmm_kvm *kvm, unsigned slot,
			      const struct vmm_mem_region *r, uint64_t *bitmap)
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
	return 0;
}

int vmm_kvm_dirty_fetch(const struct vmm_kvm *kvm, const struct vmm_mem *mem, uint64_t *bitmap)
{
	int err = 0;

	for (unsigned i = 0; i < vmm_mem_region_count(mem) && !err; i++)
		err = dirty_fetch_region(kvm, i, vmm_mem_region_at(mem, i), bitmap);
	return err;
}
