/* libs: pg_vmm */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <asm/bootparam.h>
#include <cmocka.h>
#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "base/rng.h"
#include "node/vmm/boot.h"

#define MIB	    (UINT64_C(1) << 20)
#define KERNEL_GPA  (16 * MIB)
#define SEGMENT_LEN 300000u
#define BSS_LEN	    4096u

struct fixture {
	struct vmm_mem *mem;
	uint8_t elf[SEGMENT_LEN + 4096];
	size_t elf_len;
	uint8_t image[2 * SEGMENT_LEN];
	size_t image_len;
	struct vmm_boot_image boot;
	struct vmm_boot_entry entry;
	char why[256];
};

static int memfd_of(const void *data, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	return fd;
}

/* An ELF file with one segment of seeded bytes (half of them compressible) and a note. */
static void make_elf(struct fixture *f, uint32_t pvh_entry)
{
	Elf64_Ehdr eh = {.e_type = ET_EXEC,
			 .e_machine = EM_X86_64,
			 .e_entry = KERNEL_GPA + 0x40,
			 .e_phoff = sizeof(eh),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 2};
	Elf64_Phdr ph[2] = {{.p_type = PT_LOAD,
			     .p_offset = 4096,
			     .p_paddr = KERNEL_GPA,
			     .p_filesz = SEGMENT_LEN,
			     .p_memsz = SEGMENT_LEN + BSS_LEN},
			    {.p_type = PT_NOTE, .p_offset = 4096 + 256, .p_filesz = 20}};
	uint32_t note[5] = {4, 4, 18, 0, pvh_entry};
	struct base_rng rng;

	memcpy(eh.e_ident, ELFMAG, SELFMAG);
	eh.e_ident[EI_CLASS] = ELFCLASS64;
	eh.e_ident[EI_DATA] = ELFDATA2LSB;
	if (!pvh_entry)
		eh.e_phnum = 1;
	memset(f->elf, 0, sizeof(f->elf));
	memcpy(f->elf, &eh, sizeof(eh));
	memcpy(f->elf + sizeof(eh), ph, sizeof(ph));
	base_rng_seed(&rng, 1);
	for (size_t i = 0; i < SEGMENT_LEN; i++)
		f->elf[4096 + i] = i & 64 ? (uint8_t)base_rng_next(&rng) : 'x';
	memcpy(&note[3], "Xen", 4);
	memcpy(f->elf + 4096 + 256, note, sizeof(note));
	f->elf_len = 4096 + SEGMENT_LEN;
}

static size_t pack_lz4(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	uint32_t n, magic = 0x184c2102;

	memcpy(out, &magic, 4);
	n = (uint32_t)LZ4_compress_default((const char *)in, (char *)out + 8, (int)len,
					   (int)cap - 8);
	memcpy(out + 4, &n, 4);
	return 8 + n;
}

static size_t pack_xz(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	size_t n = 0;

	assert_int_equal(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, in, len, out, &n, cap),
			 LZMA_OK);
	return n;
}

static size_t pack_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	size_t n = ZSTD_compress(out, cap, in, len, 1);

	assert_false(ZSTD_isError(n));
	return n;
}

static size_t pack_gzip(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	z_stream z = {.next_in = (Bytef *)in, .avail_in = (uInt)len, .next_out = out};

	z.avail_out = (uInt)cap;
	assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY),
			 Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

typedef size_t (*pack_fn)(const uint8_t *in, size_t len, uint8_t *out, size_t cap);

static struct setup_header *image_header(struct fixture *f)
{
	return (struct setup_header *)(f->image + 0x1f1);
}

/* A bzImage: four setup sectors, some code, the payload. `pack` NULL: not compressed at all. */
static void make_bzimage(struct fixture *f, pack_fn pack)
{
	struct setup_header *hdr = image_header(f);
	size_t setup = 5 * 512, payload = setup + 700;
	uint32_t total = (uint32_t)f->elf_len;
	size_t n;

	memset(f->image, 0, sizeof(f->image));
	hdr->setup_sects = 4;
	hdr->boot_flag = 0xaa55;
	memcpy(&hdr->header, "HdrS", 4);
	hdr->version = 0x20f;
	f->image[0x201] = 0x6a;
	hdr->xloadflags = XLF_KERNEL_64;
	hdr->pref_address = KERNEL_GPA;
	hdr->init_size = 8 * MIB;
	hdr->initrd_addr_max = 0x7fffffff;
	hdr->cmdline_size = 2047;
	if (pack) {
		n = pack(f->elf, f->elf_len, f->image + payload, sizeof(f->image) - payload - 4);
	} else {
		n = f->elf_len;
		memcpy(f->image + payload, f->elf, n);
	}
	memcpy(f->image + payload + n, &total, 4);
	hdr->payload_offset = (uint32_t)(payload - setup);
	hdr->payload_length = (uint32_t)n + (pack == pack_gzip ? 0 : 4);
	f->image_len = payload + n + 4;
}

static int load(struct fixture *f, const void *data, size_t len)
{
	int err;

	if (f->mem)
		vmm_mem_free(f->mem);
	assert_int_equal(vmm_mem_new(64 * MIB, &f->mem), 0);
	f->boot.kernel_fd = memfd_of(data, len);
	f->boot.kernel_name = "vmlinuz";
	f->boot.initrd_name = "initrd.img";
	memset(f->why, 0, sizeof(f->why));
	err = vmm_boot_load(f->mem, &f->boot, &f->entry, f->why, sizeof(f->why));
	close(f->boot.kernel_fd);
	return err;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->boot.initrd_fd = -1;
	f->boot.cmdline = "console=ttyS0";
	make_elf(f, 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vmm_mem_free(f->mem);
	free(f);
	return 0;
}

static void check_loaded(struct fixture *f)
{
	assert_memory_equal(vmm_mem_ptr(f->mem, KERNEL_GPA, SEGMENT_LEN), f->elf + 4096,
			    SEGMENT_LEN);
}

static void unpacks_each_compression(void **state)
{
	static const pack_fn packs[] = {pack_lz4, pack_xz, pack_zstd, pack_gzip};
	struct fixture *f = *state;

	for (size_t i = 0; i < BASE_ARRAY_LEN(packs); i++) {
		make_bzimage(f, packs[i]);
		assert_int_equal(load(f, f->image, f->image_len), 0);
		assert_int_equal(f->entry.mode, VMM_BOOT_LONG64);
		assert_int_equal(f->entry.rip, KERNEL_GPA + 0x40);
		assert_int_equal(f->entry.rsi, VMM_BOOT_PARAMS);
		check_loaded(f);
	}
}

static void damage_is_refused(void **state)
{
	static const pack_fn packs[] = {pack_lz4, pack_xz, pack_zstd, pack_gzip};
	struct fixture *f = *state;

	for (size_t i = 0; i < BASE_ARRAY_LEN(packs); i++) {
		make_bzimage(f, packs[i]);
		/* Cut: the header still promises the whole payload. */
		assert_int_equal(load(f, f->image, f->image_len - 1000), -ENOEXEC);
		/* The payload itself is cut. */
		image_header(f)->payload_length -= 1000;
		assert_int_equal(load(f, f->image, f->image_len), -ENOEXEC);
		assert_string_equal(f->why, "vmlinuz: its compressed kernel is damaged");
	}
}

static void unknown_packing_boots_in_the_guest(void **state)
{
	struct fixture *f = *state;
	size_t body = 5 * 512;

	make_bzimage(f, NULL);
	assert_int_equal(load(f, f->image, f->image_len), 0);
	assert_int_equal(f->entry.rip, KERNEL_GPA + 0x200);
	assert_memory_equal(vmm_mem_ptr(f->mem, KERNEL_GPA, f->image_len - body), f->image + body,
			    f->image_len - body);
	make_bzimage(f, pack_xz);
	f->boot.guest_unpacks = true;
	assert_int_equal(load(f, f->image, f->image_len), 0);
	assert_int_equal(f->entry.rip, KERNEL_GPA + 0x200);
}

static void boot_params_say_all(void **state)
{
	struct fixture *f = *state;
	static const char initrd[] = "not really an archive";
	const struct boot_params *bp;

	make_bzimage(f, pack_lz4);
	f->boot.initrd_fd = memfd_of(initrd, sizeof(initrd));
	f->boot.rsdp = 0xe0000;
	assert_int_equal(load(f, f->image, f->image_len), 0);
	close(f->boot.initrd_fd);
	bp = vmm_mem_ptr(f->mem, f->entry.rsi, sizeof(*bp));
	assert_int_equal(bp->hdr.version, 0x20f);
	assert_int_equal(bp->acpi_rsdp_addr, 0xe0000);
	assert_string_equal(vmm_mem_ptr(f->mem, bp->hdr.cmd_line_ptr, 100), "console=ttyS0");
	assert_int_equal(bp->hdr.ramdisk_size, sizeof(initrd));
	assert_int_equal(bp->hdr.ramdisk_image, 64 * MIB - VMM_PAGE_SIZE);
	assert_memory_equal(vmm_mem_ptr(f->mem, bp->hdr.ramdisk_image, 100), initrd,
			    sizeof(initrd));
	assert_int_equal(bp->e820_entries, 4);
	assert_int_equal(bp->e820_table[3].addr, MIB);
	assert_int_equal(bp->e820_table[3].size, 63 * MIB);
	assert_int_equal(bp->e820_table[3].type, 1);
}

static void page_table_maps_one_to_one(void **state)
{
	struct fixture *f = *state;
	const uint64_t *table;

	make_bzimage(f, pack_lz4);
	assert_int_equal(load(f, f->image, f->image_len), 0);
	for (uint64_t gpa = 0; gpa < UINT64_C(4) << 30; gpa += 97 * MIB) {
		table = vmm_mem_ptr(f->mem, f->entry.cr3, 4096);
		table = vmm_mem_ptr(f->mem, table[gpa >> 39] & ~UINT64_C(0xfff), 4096);
		table = vmm_mem_ptr(f->mem, table[gpa >> 30 & 511] & ~UINT64_C(0xfff), 4096);
		assert_int_equal(table[gpa >> 21 & 511], (gpa & ~(2 * MIB - 1)) | 0x83);
	}
}

static void elf_enters_by_its_note(void **state)
{
	struct fixture *f = *state;
	const uint32_t *info;

	make_elf(f, KERNEL_GPA + 0x100);
	assert_int_equal(load(f, f->elf, f->elf_len), 0);
	assert_int_equal(f->entry.mode, VMM_BOOT_PVH32);
	assert_int_equal(f->entry.rip, KERNEL_GPA + 0x100);
	info = vmm_mem_ptr(f->mem, f->entry.rbx, 56);
	assert_int_equal(info[0], 0x336ec578);
	assert_int_equal(info[1], 1);
	assert_int_equal(info[3], 0);
	assert_int_equal(info[12], 4);
	assert_string_equal(vmm_mem_ptr(f->mem, info[6], 100), "console=ttyS0");
	check_loaded(f);

	make_elf(f, 0);
	assert_int_equal(load(f, f->elf, f->elf_len), 0);
	assert_int_equal(f->entry.mode, VMM_BOOT_LONG64);
	assert_int_equal(f->entry.rip, KERNEL_GPA + 0x40);
}

static void hostile_elf_is_refused(void **state)
{
	struct fixture *f = *state;
	Elf64_Ehdr *eh = (Elf64_Ehdr *)f->elf;
	Elf64_Phdr *ph = (Elf64_Phdr *)(f->elf + sizeof(*eh));

	assert_int_equal(load(f, f->elf, f->elf_len - 1), -ENOEXEC);
	ph->p_paddr = 0x1000;
	assert_int_equal(load(f, f->elf, f->elf_len), -ENOEXEC);
	ph->p_paddr = 64 * MIB - 4096;
	assert_int_equal(load(f, f->elf, f->elf_len), -E2BIG);
	ph->p_paddr = UINT64_MAX - 100;
	assert_int_equal(load(f, f->elf, f->elf_len), -E2BIG);
	ph->p_paddr = KERNEL_GPA;
	ph->p_offset = UINT64_MAX - 100;
	assert_int_equal(load(f, f->elf, f->elf_len), -ENOEXEC);
	ph->p_offset = 4096;
	eh->e_phoff = UINT64_MAX - 7;
	assert_int_equal(load(f, f->elf, f->elf_len), -ENOEXEC);
	eh->e_phoff = sizeof(*eh);
	eh->e_entry = 0x1234;
	assert_int_equal(load(f, f->elf, f->elf_len), -ENOEXEC);
	assert_string_equal(f->why, "vmlinuz: has neither a PVH note nor an entry in memory");
	eh->e_machine = EM_AARCH64;
	assert_int_equal(load(f, f->elf, f->elf_len), -ENOEXEC);
	assert_string_equal(f->why, "vmlinuz: is an ELF file, but not for x86-64");
}

static void refusals_name_the_file_and_why(void **state)
{
	struct fixture *f = *state;
	static uint8_t zeros[4096];
	static char longline[3000];

	assert_int_equal(load(f, zeros, 100), -ENOEXEC);
	assert_string_equal(f->why, "vmlinuz: is too short for a kernel");
	assert_int_equal(load(f, zeros, sizeof(zeros)), -ENOEXEC);
	assert_string_equal(f->why, "vmlinuz: is neither a Linux kernel image nor an ELF file");
	make_bzimage(f, pack_lz4);
	image_header(f)->version = 0x206;
	assert_int_equal(load(f, f->image, f->image_len), -ENOEXEC);
	make_bzimage(f, pack_lz4);
	image_header(f)->init_size = 0x10000000;
	assert_int_equal(load(f, f->image, f->image_len), -E2BIG);
	make_bzimage(f, pack_lz4);
	memset(longline, 'a', sizeof(longline) - 1);
	f->boot.cmdline = longline;
	assert_int_equal(load(f, f->image, f->image_len), -EINVAL);
	assert_string_equal(f->why, "vmlinuz: takes a command line of 2047 bytes at most, this one "
				    "has 2999");
}

static void initrd_must_fit_beside_the_kernel(void **state)
{
	struct fixture *f = *state;
	uint8_t byte = 1;

	make_bzimage(f, pack_lz4);
	f->boot.initrd_fd = memfd_of(&byte, 1);
	assert_int_equal(ftruncate(f->boot.initrd_fd, 40 * MIB), 0);
	assert_int_equal(load(f, f->image, f->image_len), 0);
	assert_int_equal(ftruncate(f->boot.initrd_fd, 40 * MIB + 1), 0);
	assert_int_equal(load(f, f->image, f->image_len), -E2BIG);
	assert_string_equal(f->why, "initrd.img: 40960 KiB do not fit into the guest's memory "
				    "beside the kernel");
	close(f->boot.initrd_fd);
	f->boot.initrd_fd = -1;
}

/* Linux reboots by a jump there in real mode. */
static void reset_vector_resets(void **state)
{
	static const uint8_t code[] = {0xba, 0x02, 0x06, 0xb0, 0x01, 0xee};
	struct fixture *f = *state;

	assert_int_equal(load(f, f->elf, f->elf_len), 0);
	assert_memory_equal(vmm_mem_ptr(f->mem, 0xffff0, sizeof(code)), code, sizeof(code));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(unpacks_each_compression),
		TEST(damage_is_refused),
		TEST(unknown_packing_boots_in_the_guest),
		TEST(boot_params_say_all),
		TEST(page_table_maps_one_to_one),
		TEST(elf_enters_by_its_note),
		TEST(hostile_elf_is_refused),
		TEST(refusals_name_the_file_and_why),
		TEST(initrd_must_fit_beside_the_kernel),
		TEST(reset_vector_resets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
