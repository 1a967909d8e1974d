/* libs: pg_vmm */
/* Kernel files, bzImage and ELF: the first byte chooses whether the guest unpacks for itself. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "node/vmm/boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vmm_mem *mem;
	static int fd = -1;
	struct vmm_boot_entry entry;
	char why[256];
	struct vmm_boot_image image = {.initrd_fd = -1, .kernel_name = "k", .cmdline = "quiet"};

	if (!mem && vmm_mem_new(UINT64_C(64) << 20, &mem))
		abort();
	if (fd < 0)
		fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (size == 0 || fd < 0 || ftruncate(fd, 0) || pwrite(fd, data + 1, size - 1, 0) < 0)
		return 0;
	image.kernel_fd = fd;
	image.guest_unpacks = data[0] & 1;
	if (vmm_boot_load(mem, &image, &entry, why, sizeof(why)) == 0 &&
	    !vmm_mem_ptr(mem, entry.rip, 1))
		abort(); /* an entry must lie in memory */
	return 0;
}
