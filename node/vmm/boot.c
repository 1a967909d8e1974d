#include "node/vmm/boot.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "node/vmm/boot_internal.h"
#include "node/vmm/pm.h"

#define TABLES_LEN (UINT64_C(32) << 20)
#define EBDA_START UINT64_C(0x9fc00)
#define PTE_TABLE  UINT64_C(0x3)  /* present, writable */
#define PTE_LARGE  UINT64_C(0x83) /* and a 2 MiB page */

enum {
	SETUP_HEADER_AT = 0x1f1,
	PROTOCOL_MIN = 0x20c, /* the first with xloadflags */
	ENTRY64_OFFSET = 0x200,
	CMDLINE_ROOM = 0x10000,
	START_INFO_MAGIC = 0x336ec578,
	START_INFO_MODULE = 0x40, /* offsets in the page at VMM_BOOT_START_INFO */
	START_INFO_MEMMAP = 0x80,
	MAP_RAM = 1, /* types of both protocols' memory maps */
	MAP_RESERVED = 2,
};

struct loader {
	struct vmm_mem *mem;
	const struct vmm_boot_image *image;
	struct boot_why why;
	struct boot_params params;
	uint64_t kernel_end; /* gpa behind the kernel and what it uses at once */
	uint64_t initrd, initrd_len;
	uint64_t initrd_max; /* highest gpa of its last byte */
	uint64_t cmdline_max;
	struct vmm_boot_entry entry;
	struct vmm_huge_plan huge;
	pthread_t populate;
	bool populating;
	atomic_bool loaded;
};

int boot_refuse(const struct boot_why *why, int err, const char *fmt, ...)
{
	int n = snprintf(why->text, why->cap, "%s: ", why->file);
	va_list ap;

	if (n >= 0 && (size_t)n < why->cap) {
		va_start(ap, fmt);
		vsnprintf(why->text + n, why->cap - (size_t)n, fmt, ap);
		va_end(ap);
	}
	return err;
}

int boot_src_pread(int fd, void *buf, size_t len, uint64_t off)
{
	uint8_t *to = buf;

	while (len > 0) {
		ssize_t n = pread(fd, to, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EBADMSG;
		to += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t boot_src_read(struct boot_src *src, void *buf, size_t len)
{
	size_t n = BASE_MIN(len, src->end - src->pos);
	int err = boot_src_pread(src->fd, buf, n, src->pos);

	if (err)
		return err;
	src->pos += n;
	return (ssize_t)n;
}

static int refuse_read(const struct boot_why *why, int err)
{
	if (err == -EBADMSG)
		return boot_refuse(why, -ENOEXEC, "is cut short");
	return boot_refuse(why, err, "cannot be read: %s", strerror(-err));
}

static int file_size(const struct boot_why *why, int fd, uint64_t *out)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return refuse_read(why, -errno);
	if (!S_ISREG(st.st_mode))
		return boot_refuse(why, -ENOEXEC, "is not a regular file");
	*out = (uint64_t)st.st_size;
	return 0;
}

/* ---- what both protocols share ---- */

struct map_entry {
	uint64_t gpa, len;
	uint32_t type;
};

static unsigned memory_map(const struct loader *ld, struct map_entry out[8])
{
	unsigned n = 0;

	out[n++] = (struct map_entry){0, EBDA_START, MAP_RAM};
	out[n++] = (struct map_entry){EBDA_START, 0xa0000 - EBDA_START, MAP_RESERVED};
	out[n++] = (struct map_entry){VMM_BOOT_BIOS, VMM_BOOT_BIOS_LEN, MAP_RESERVED};
	for (unsigned i = 0; i < vmm_mem_region_count(ld->mem); i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(ld->mem, i);
		uint64_t start = BASE_MAX(r->gpa, BOOT_LOW_END);

		out[n++] = (struct map_entry){start, r->gpa + r->len - start, MAP_RAM};
	}
	return n;
}

static int put(struct loader *ld, uint64_t gpa, const void *data, size_t len)
{
	int err = vmm_mem_write(ld->mem, gpa, data, len);

	return err ? boot_refuse(&ld->why, -E2BIG, "the guest's memory is too small") : 0;
}

static int load_cmdline(struct loader *ld)
{
	size_t len = strlen(ld->image->cmdline);

	if (len > ld->cmdline_max || len >= CMDLINE_ROOM)
		return boot_refuse(&ld->why, -EINVAL,
				   "takes a command line of %llu bytes at most, this one has %zu",
				   (unsigned long long)BASE_MIN(ld->cmdline_max, CMDLINE_ROOM - 1),
				   len);
	return put(ld, VMM_BOOT_CMDLINE, ld->image->cmdline, len + 1);
}

/*
 * The kernel's own range, and the top of low memory, where Linux puts its first tables. Each page
 * that is not there costs the guest an exit, several under shadow paging. Clearing them takes as long as
 * unpacking the kernel: a thread does it meanwhile, and whoever starts the guest goes on with what is left.
 */
static void *populate_main(void *arg)
{
	struct loader *ld = arg;

	while (!atomic_load(&ld->loaded) && vmm_huge_step(ld->mem, &ld->huge))
		;
	return NULL;
}

static void populate(struct loader *ld)
{
	const struct vmm_mem_region *low = vmm_mem_region_at(ld->mem, 0);
	uint64_t top = BASE_MIN(low->len, TABLES_LEN);

	if (!ld->image->huge_pages)
		return;
	ld->huge = (struct vmm_huge_plan){
		.range = {{ld->params.hdr.pref_address, ld->params.hdr.init_size},
			  {low->gpa + low->len - top, top}}};
	ld->populating = !pthread_create(&ld->populate, NULL, populate_main, ld);
}

static void populated(struct loader *ld)
{
	atomic_store(&ld->loaded, true);
	if (ld->populating)
		pthread_join(ld->populate, NULL);
}

/* As high as it may lie: kernels place their own things from below. */
static int load_initrd(struct loader *ld)
{
	const struct vmm_mem_region *low = vmm_mem_region_at(ld->mem, 0);
	struct boot_why why = ld->why;
	uint64_t top, len;
	uint8_t *to;
	int err;

	if (ld->image->initrd_fd < 0)
		return 0;
	why.file = ld->image->initrd_name;
	err = file_size(&why, ld->image->initrd_fd, &len);
	if (err || len == 0)
		return err;
	top = BASE_MIN(low->gpa + low->len, ld->initrd_max + 1);
	if (ld->image->ram_end)
		top = BASE_MIN(top, ld->image->ram_end);
	if (len > top || ((top - len) & ~(uint64_t)(VMM_PAGE_SIZE - 1)) < ld->kernel_end)
		return boot_refuse(&why, -E2BIG,
				   "%llu KiB do not fit into the guest's memory beside the kernel",
				   (unsigned long long)len / 1024);
	ld->initrd = (top - len) & ~(uint64_t)(VMM_PAGE_SIZE - 1);
	ld->initrd_len = len;
	to = vmm_mem_ptr(ld->mem, ld->initrd, len);
	err = boot_src_pread(ld->image->initrd_fd, to, len, 0);
	if (err)
		return refuse_read(&why, err);
	vmm_mem_dirty(ld->mem, ld->initrd, len);
	return 0;
}

static int load_gdt(struct loader *ld)
{
	static const uint64_t gdt[] = {
		0,
		0,
		UINT64_C(0x00af9b000000ffff), /* VMM_BOOT_CS64 */
		UINT64_C(0x00cf93000000ffff), /* VMM_BOOT_DS */
		UINT64_C(0x00cf9b000000ffff), /* VMM_BOOT_CS32 */
	};

	return put(ld, VMM_BOOT_GDT, gdt, sizeof(gdt));
}

/*
 * Where a PC's processor starts, and where Linux jumps in real mode to reboot: without an i8042 and
 * PM1 registers in the FADT it tries only EFI before. Firmware would reset the machine there.
 */
static int load_reset_vector(struct loader *ld)
{
	/* mov dx, VMM_PM_RESET; mov al, VMM_PM_RESET_VALUE; out dx, al; halt: hlt; jmp halt */
	static const uint8_t code[] = {0xba,
				       VMM_PM_RESET & 0xff,
				       VMM_PM_RESET >> 8,
				       0xb0,
				       VMM_PM_RESET_VALUE,
				       0xee,
				       0xf4,
				       0xeb,
				       0xfd};

	return put(ld, VMM_BOOT_RESET_VECTOR, code, sizeof(code));
}

/* The first 4 GiB one to one in 2 MiB pages; 1 GiB pages are not on every CPU. */
static int load_page_table(struct loader *ld)
{
	enum { ENTRIES = 512, DIRS = 4 };
	uint64_t table[ENTRIES] = {(VMM_BOOT_PAGE_TABLE + VMM_PAGE_SIZE) | PTE_TABLE};
	int err = put(ld, VMM_BOOT_PAGE_TABLE, table, sizeof(table));

	for (unsigned i = 0; i < DIRS; i++)
		table[i] = (VMM_BOOT_PAGE_TABLE + (2 + i) * VMM_PAGE_SIZE) | PTE_TABLE;
	if (!err)
		err = put(ld, VMM_BOOT_PAGE_TABLE + VMM_PAGE_SIZE, table, sizeof(table));
	for (unsigned d = 0; d < DIRS && !err; d++) {
		for (unsigned i = 0; i < ENTRIES; i++)
			table[i] = (uint64_t)(d * ENTRIES + i) << 21 | PTE_LARGE;
		err = put(ld, VMM_BOOT_PAGE_TABLE + (2 + d) * VMM_PAGE_SIZE, table, sizeof(table));
	}
	return err;
}

/* ---- 64-bit boot protocol: boot_params ---- */

static int enter_long64(struct loader *ld, uint64_t rip)
{
	struct boot_params *bp = &ld->params;
	struct map_entry map[8];
	unsigned n = memory_map(ld, map);
	int err;

	bp->hdr.type_of_loader = 0xff;
	bp->hdr.vid_mode = 0xffff;
	bp->hdr.ramdisk_image = (uint32_t)ld->initrd;
	bp->hdr.ramdisk_size = (uint32_t)ld->initrd_len;
	bp->hdr.cmd_line_ptr = (uint32_t)VMM_BOOT_CMDLINE;
	bp->acpi_rsdp_addr = ld->image->rsdp;
	for (unsigned i = 0; i < n; i++)
		bp->e820_table[i] = (struct boot_e820_entry){map[i].gpa, map[i].len, map[i].type};
	bp->e820_entries = (uint8_t)n;
	err = put(ld, VMM_BOOT_PARAMS, bp, sizeof(*bp));
	if (!err)
		err = load_page_table(ld);
	ld->entry = (struct vmm_boot_entry){.mode = VMM_BOOT_LONG64,
					    .rip = rip,
					    .rsp = VMM_BOOT_STACK_TOP,
					    .rsi = VMM_BOOT_PARAMS,
					    .cr3 = VMM_BOOT_PAGE_TABLE};
	return err;
}

/* ---- PVH: hvm_start_info, version 1 ---- */

struct le_page {
	uint8_t bytes[VMM_PAGE_SIZE];
};

static void le_put(struct le_page *page, size_t at, unsigned len, uint64_t v)
{
	for (unsigned i = 0; i < len; i++)
		page->bytes[at + i] = (uint8_t)(v >> 8 * i);
}

static int enter_pvh(struct loader *ld, uint32_t rip)
{
	struct le_page page = {{0}};
	struct map_entry map[8];
	unsigned n = memory_map(ld, map);

	le_put(&page, 0, 4, START_INFO_MAGIC);
	le_put(&page, 4, 4, 1); /* version */
	le_put(&page, 12, 4, ld->initrd_len ? 1 : 0);
	le_put(&page, 16, 8, VMM_BOOT_START_INFO + START_INFO_MODULE);
	le_put(&page, 24, 8, VMM_BOOT_CMDLINE);
	le_put(&page, 32, 8, ld->image->rsdp);
	le_put(&page, 40, 8, VMM_BOOT_START_INFO + START_INFO_MEMMAP);
	le_put(&page, 48, 4, n);
	le_put(&page, START_INFO_MODULE, 8, ld->initrd);
	le_put(&page, START_INFO_MODULE + 8, 8, ld->initrd_len);
	for (unsigned i = 0; i < n; i++) {
		size_t at = START_INFO_MEMMAP + i * 24;

		le_put(&page, at, 8, map[i].gpa);
		le_put(&page, at + 8, 8, map[i].len);
		le_put(&page, at + 16, 4, map[i].type);
	}
	ld->entry = (struct vmm_boot_entry){.mode = VMM_BOOT_PVH32,
					    .rip = rip,
					    .rsp = VMM_BOOT_STACK_TOP,
					    .rbx = VMM_BOOT_START_INFO};
	return put(ld, VMM_BOOT_START_INFO, &page, sizeof(page));
}

/* ---- ELF ---- */

static int feed_file(struct boot_src *src, struct boot_elf *elf)
{
	BASE_AUTO_FREE uint8_t *chunk = malloc(BOOT_CHUNK);

	if (!chunk)
		return boot_refuse(elf->why, -ENOMEM, "no memory to read it");
	while (!boot_elf_complete(elf)) {
		ssize_t n = boot_src_read(src, chunk, BOOT_CHUNK);
		int err;

		if (n < 0)
			return refuse_read(elf->why, (int)n);
		if (n == 0)
			break;
		err = boot_elf_feed(elf, chunk, (size_t)n);
		if (err)
			return err;
	}
	return boot_elf_finish(elf);
}

static int load_rest(struct loader *ld)
{
	int err = load_cmdline(ld);

	if (!err)
		err = load_initrd(ld);
	if (!err)
		err = load_gdt(ld);
	if (!err)
		err = load_reset_vector(ld);
	return err;
}

static int load_elf(struct loader *ld, uint64_t size)
{
	struct boot_src src = {ld->image->kernel_fd, 0, size};
	struct boot_elf elf;
	uint32_t pvh;
	int err = boot_elf_init(&elf, ld->mem, &ld->why);

	if (err)
		return err;
	elf.clear = ld->image->used_memory;
	err = feed_file(&src, &elf);
	if (err)
		goto out;
	ld->kernel_end = elf.gpa_end;
	ld->initrd_max = UINT32_MAX;
	ld->cmdline_max = CMDLINE_ROOM - 1;
	err = load_rest(ld);
	if (err)
		goto out;
	if (boot_elf_pvh(&elf, &pvh))
		err = enter_pvh(ld, pvh);
	else if (elf.entry)
		err = enter_long64(ld, elf.entry);
	else
		err = boot_refuse(&ld->why, -ENOEXEC,
				  "has neither a PVH note nor an entry in memory");
out:
	boot_elf_fini(&elf);
	return err;
}

/* ---- bzImage ---- */

/* Reads the setup header into ld->params and checks what we rely on; *setup_len: bytes before the
 * protected-mode part. */
static int read_setup(struct loader *ld, uint64_t size, uint64_t *setup_len)
{
	struct setup_header *hdr = &ld->params.hdr;
	uint8_t sector[0x202 + 0x100] = {0};
	size_t len = BASE_MIN(size, sizeof(sector));
	int err = boot_src_pread(ld->image->kernel_fd, sector, len, 0);

	if (err)
		return refuse_read(&ld->why, err);
	len = BASE_MIN(0x202u + sector[0x201] - SETUP_HEADER_AT, sizeof(*hdr));
	memcpy(hdr, sector + SETUP_HEADER_AT, len);
	if (hdr->version < PROTOCOL_MIN || !(hdr->xloadflags & XLF_KERNEL_64))
		return boot_refuse(&ld->why, -ENOEXEC,
				   "is a kernel image without the 64-bit boot protocol");
	*setup_len = ((hdr->setup_sects ? hdr->setup_sects : 4) + 1) * UINT64_C(512);
	if (*setup_len >= size)
		return boot_refuse(&ld->why, -ENOEXEC, "is cut short");
	if (hdr->payload_offset > size - *setup_len ||
	    hdr->payload_length > size - *setup_len - hdr->payload_offset)
		return boot_refuse(&ld->why, -ENOEXEC,
				   "is cut short, its kernel ends behind the file");
	if (hdr->init_size == 0 || hdr->pref_address < BOOT_LOW_END ||
	    hdr->pref_address % VMM_PAGE_SIZE)
		return boot_refuse(&ld->why, -ENOEXEC, "its setup header is malformed");
	if (!vmm_mem_ptr(ld->mem, hdr->pref_address, hdr->init_size))
		return boot_refuse(&ld->why, -E2BIG,
				   "needs %llu MiB of memory from %#llx, which the guest has not",
				   (unsigned long long)hdr->init_size >> 20,
				   (unsigned long long)hdr->pref_address);
	ld->kernel_end = hdr->pref_address + hdr->init_size;
	ld->initrd_max = hdr->initrd_addr_max ? hdr->initrd_addr_max : 0x37ffffff;
	ld->cmdline_max = hdr->cmdline_size ? hdr->cmdline_size : 255;
	return 0;
}

/* The image unpacks itself, in place, above its own copy. */
static int load_packed(struct loader *ld, uint64_t size, uint64_t setup_len)
{
	uint64_t at = ld->params.hdr.pref_address, len = size - setup_len;
	uint8_t *to = vmm_mem_ptr(ld->mem, at, len);
	int err;

	if (!to)
		return boot_refuse(&ld->why, -E2BIG, "does not fit into the guest's memory");
	err = boot_src_pread(ld->image->kernel_fd, to, len, setup_len);
	if (err)
		return refuse_read(&ld->why, err);
	vmm_mem_dirty(ld->mem, at, len);
	ld->kernel_end = BASE_MAX(ld->kernel_end, at + len);
	err = load_rest(ld);
	return err ? err : enter_long64(ld, at + ENTRY64_OFFSET);
}

static int load_unpacked(struct loader *ld, struct boot_src *src, enum boot_packing kind)
{
	struct boot_elf elf;
	int err = boot_elf_init(&elf, ld->mem, &ld->why);

	if (err)
		return err;
	elf.clear = ld->image->used_memory;
	err = boot_unpack(kind, src, &elf);
	if (!err)
		err = boot_elf_finish(&elf);
	if (!err && !elf.entry)
		err = boot_refuse(&ld->why, -ENOEXEC, "its kernel's entry lies outside of it");
	if (!err) {
		ld->kernel_end = BASE_MAX(ld->kernel_end, elf.gpa_end);
		err = load_rest(ld);
	}
	if (!err)
		err = enter_long64(ld, elf.entry);
	boot_elf_fini(&elf);
	return err;
}

static int load_bzimage(struct loader *ld, uint64_t size)
{
	const struct setup_header *hdr = &ld->params.hdr;
	enum boot_packing kind = BOOT_PACK_UNKNOWN;
	struct boot_src src = {.fd = ld->image->kernel_fd};
	uint8_t magic[6];
	uint64_t setup_len = 0;
	int err = read_setup(ld, size, &setup_len);

	if (err)
		return err;
	populate(ld);
	src.pos = setup_len + hdr->payload_offset;
	src.end = src.pos + hdr->payload_length;
	if (!ld->image->guest_unpacks && hdr->payload_length >= sizeof(magic)) {
		err = boot_src_pread(src.fd, magic, sizeof(magic), src.pos);
		if (err)
			return refuse_read(&ld->why, err);
		kind = boot_unpack_kind(magic);
	}
	if (kind == BOOT_PACK_UNKNOWN)
		return load_packed(ld, size, setup_len);
	return load_unpacked(ld, &src, kind);
}

static int load_any(struct loader *ld)
{
	uint8_t head[0x206];
	uint64_t size;
	int err = file_size(&ld->why, ld->image->kernel_fd, &size);

	if (err)
		return err;
	if (size < sizeof(head))
		return boot_refuse(&ld->why, -ENOEXEC, "is too short for a kernel");
	err = boot_src_pread(ld->image->kernel_fd, head, sizeof(head), 0);
	if (err)
		return refuse_read(&ld->why, err);
	if (memcmp(head, ELFMAG, SELFMAG) == 0)
		return load_elf(ld, size);
	if (head[0x1fe] == 0x55 && head[0x1ff] == 0xaa && memcmp(head + 0x202, "HdrS", 4) == 0)
		return load_bzimage(ld, size);
	return boot_refuse(&ld->why, -ENOEXEC, "is neither a Linux kernel image nor an ELF file");
}

int vmm_boot_load(struct vmm_mem *mem, const struct vmm_boot_image *image,
		  struct vmm_boot_entry *out, char *why, size_t why_cap)
{
	BASE_AUTO_FREE struct loader *ld = calloc(1, sizeof(*ld));
	int err;

	if (!ld) {
		snprintf(why, why_cap, "%s: no memory to load it", image->kernel_name);
		return -ENOMEM;
	}
	ld->mem = mem;
	ld->image = image;
	ld->why = (struct boot_why){image->kernel_name, why, why_cap};
	err = load_any(ld);
	populated(ld);
	ld->entry.huge = ld->huge;
	if (!err)
		*out = ld->entry;
	return err;
}
