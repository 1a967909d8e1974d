/*
 * Loads a kernel into guest memory and says in which state vCPU 0 starts.
 *
 * bzImage: the payload (LZ4, XZ, ZSTD, gzip) is unpacked here, straight into the place for which
 * the ELF kernel inside is linked, and entered by the 64-bit boot protocol; or, for other
 * compressions and on request, the image is loaded as it is and unpacks itself in the guest.
 * ELF: entered by its PVH note (32-bit protected mode, hvm_start_info in ebx), else at its entry
 * in 64-bit mode with boot_params in rsi.
 *
 * Files, sizes and offsets are hostile. Guest memory must be all zero (new, or punched after a
 * reset), or `used_memory` must say that it is not: then a kernel's zeroed data is cleared, and nothing
 * else. One thread.
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include "node/vmm/mem.h"
#include "node/vmm/populate.h"

/* Low memory: what lies where when the kernel is entered. All below 1 MiB is ours. */
#define VMM_BOOT_GDT	    UINT64_C(0x500)
#define VMM_BOOT_STACK_TOP  UINT64_C(0x6000)
#define VMM_BOOT_START_INFO UINT64_C(0x6000)
#define VMM_BOOT_PARAMS	    UINT64_C(0x7000)
#define VMM_BOOT_PAGE_TABLE UINT64_C(0x9000)
#define VMM_BOOT_CMDLINE    UINT64_C(0x20000)
/* Not RAM for the guest: the ACPI tables go here (acpi.h), and where they end code that resets. */
#define VMM_BOOT_BIOS	      UINT64_C(0xe0000)
#define VMM_BOOT_BIOS_LEN     UINT64_C(0x20000)
#define VMM_BOOT_RESET_VECTOR UINT64_C(0xffff0)

/* Selectors in the table at VMM_BOOT_GDT, flat 4 GiB segments each. */
enum {
	VMM_BOOT_CS64 = 0x10,
	VMM_BOOT_DS = 0x18,
	VMM_BOOT_CS32 = 0x20,
	VMM_BOOT_GDT_LIMIT = 0x27,
};

struct vmm_boot_image {
	int kernel_fd;
	int initrd_fd;		 /* -1: none */
	const char *kernel_name; /* for messages */
	const char *initrd_name;
	const char *cmdline;
	uint64_t rsdp;	    /* gpa of the ACPI tables' root, 0: none */
	uint64_t ram_end;   /* the initrd ends below this gpa; 0: anywhere in low memory */
	bool huge_pages;    /* take huge pages where the kernel will be busy */
	bool used_memory;   /* an earlier kernel of this guest has run in it */
	bool guest_unpacks; /* let a bzImage unpack itself */
};

enum vmm_boot_mode {
	VMM_BOOT_PVH32,	 /* protected mode, paging off, rbx set */
	VMM_BOOT_LONG64, /* long mode, cr3 set (4 GiB mapped one to one), rsi set */
};

struct vmm_boot_entry {
	enum vmm_boot_mode mode;
	uint64_t rip, rsp, rsi, rbx, cr3;
	struct vmm_huge_plan huge; /* what is left of it */
};

/*
 * 0; -ENOEXEC: not a kernel that we can boot; -E2BIG: does not fit into the guest's memory;
 * -EINVAL: command line too long; -ENOMEM; -errno of reading. Then `why` has one line for people.
 */
BASE_MUST_CHECK int vmm_boot_load(struct vmm_mem *mem, const struct vmm_boot_image *image,
				  struct vmm_boot_entry *out, char *why, size_t why_cap);

#endif
