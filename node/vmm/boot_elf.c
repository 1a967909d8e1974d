#include <elf.h>
#include <errno.h>
#include <string.h>

#include "node/vmm/boot_internal.h"

enum { NOTE_MAX = 65536, NOTE_PHYS32_ENTRY = 18 };

int boot_elf_init(struct boot_elf *elf, struct vmm_mem *mem, const struct boot_why *why)
{
	*elf = (struct boot_elf){.mem = mem, .why = why, .head_need = sizeof(Elf64_Ehdr)};
	elf->head = malloc(BOOT_HEAD_MAX);
	elf->note = malloc(NOTE_MAX);
	if (elf->head && elf->note)
		return 0;
	boot_elf_fini(elf);
	return boot_refuse(why, -ENOMEM, "no memory to read it");
}

void boot_elf_fini(struct boot_elf *elf)
{
	free(elf->head);
	free(elf->note);
	elf->head = elf->note = NULL;
}

static int elf_add_load(struct boot_elf *elf, const Elf64_Phdr *ph)
{
	struct boot_segment *seg = &elf->loads[elf->load_count];

	if (ph->p_memsz == 0)
		return 0;
	if (ph->p_filesz > ph->p_memsz || ph->p_offset > UINT64_MAX - ph->p_filesz)
		return boot_refuse(elf->why, -ENOEXEC,
				   "a segment is longer in the file than in memory");
	if (ph->p_paddr < BOOT_LOW_END)
		return boot_refuse(elf->why, -ENOEXEC, "a segment loads at %#llx, below 1 MiB",
				   (unsigned long long)ph->p_paddr);
	if (!vmm_mem_ptr(elf->mem, ph->p_paddr, ph->p_memsz))
		return boot_refuse(elf->why, -E2BIG,
				   "needs memory at %#llx, %llu KiB, which the guest has not",
				   (unsigned long long)ph->p_paddr,
				   (unsigned long long)ph->p_memsz / 1024);
	if (elf->clear)
		memset((uint8_t *)vmm_mem_ptr(elf->mem, ph->p_paddr, ph->p_memsz) + ph->p_filesz, 0,
		       ph->p_memsz - ph->p_filesz);
	*seg = (struct boot_segment){ph->p_offset, ph->p_paddr, ph->p_filesz};
	elf->load_count++;
	elf->gpa_end = BASE_MAX(elf->gpa_end, ph->p_paddr + ph->p_memsz);
	elf->file_end = BASE_MAX(elf->file_end, ph->p_offset + ph->p_filesz);
	return 0;
}

/* Only the first note segment is looked at; a wrong one just names no PVH entry. */
static void elf_add_note(struct boot_elf *elf, const Elf64_Phdr *ph)
{
	if (elf->note_len || ph->p_filesz > NOTE_MAX || ph->p_offset > UINT64_MAX - ph->p_filesz)
		return;
	elf->note_file = ph->p_offset;
	elf->note_len = ph->p_filesz;
	memset(elf->note, 0, elf->note_len);
	elf->file_end = BASE_MAX(elf->file_end, ph->p_offset + ph->p_filesz);
}

static int elf_check_header(struct boot_elf *elf, const Elf64_Ehdr *eh)
{
	if (memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0)
		return boot_refuse(elf->why, -ENOEXEC, "holds no ELF file");
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != EM_X86_64)
		return boot_refuse(elf->why, -ENOEXEC, "is an ELF file, but not for x86-64");
	if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
		return boot_refuse(elf->why, -ENOEXEC, "is an ELF file, but no program");
	if (eh->e_phentsize != sizeof(Elf64_Phdr) || eh->e_phnum == 0 ||
	    eh->e_phnum > BOOT_PHDR_MAX ||
	    eh->e_phoff > BOOT_HEAD_MAX - eh->e_phnum * sizeof(Elf64_Phdr))
		return boot_refuse(elf->why, -ENOEXEC, "its ELF program headers are malformed");
	return 0;
}

static int elf_parse(struct boot_elf *elf, const Elf64_Ehdr *eh)
{
	bool entry_inside = false;

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		int err;

		memcpy(&ph, elf->head + eh->e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_NOTE)
			elf_add_note(elf, &ph);
		if (ph.p_type != PT_LOAD)
			continue;
		err = elf_add_load(elf, &ph);
		if (err)
			return err;
		if (eh->e_entry >= ph.p_paddr && eh->e_entry - ph.p_paddr < ph.p_memsz)
			entry_inside = true;
	}
	if (!elf->load_count)
		return boot_refuse(elf->why, -ENOEXEC, "has no segment to load");
	/* 0: no 64-bit entry, a PVH note must name one. */
	elf->entry = entry_inside ? eh->e_entry : 0;
	elf->parsed = true;
	return 0;
}

/* Copies what [at, at+len) of the file and the wanted ranges have in common. */
static void elf_place(struct boot_elf *elf, const uint8_t *data, uint64_t at, size_t len)
{
	for (unsigned i = 0; i <= elf->load_count; i++) {
		bool note = i == elf->load_count;
		uint64_t file = note ? elf->note_file : elf->loads[i].file;
		uint64_t size = note ? elf->note_len : elf->loads[i].len;
		uint64_t from = BASE_MAX(file, at), to = BASE_MIN(file + size, at + len);
		uint8_t *p;

		if (from >= to)
			continue;
		p = note ? elf->note : vmm_mem_ptr(elf->mem, elf->loads[i].gpa, size);
		memcpy(p + (from - file), data + (from - at), to - from);
	}
}

/* Gathers the headers; once they are there, parses them and places what was gathered. */
static int elf_gather(struct boot_elf *elf, const uint8_t **data, size_t *len)
{
	Elf64_Ehdr eh;

	while (!elf->parsed && *len > 0) {
		size_t n = BASE_MIN(elf->head_need - elf->head_len, *len);
		int err;

		memcpy(elf->head + elf->head_len, *data, n);
		elf->head_len += n;
		*data += n;
		*len -= n;
		if (elf->head_len < elf->head_need)
			return 0;
		memcpy(&eh, elf->head, sizeof(eh));
		err = elf_check_header(elf, &eh);
		if (err)
			return err;
		elf->head_need = BASE_MAX(sizeof(eh), eh.e_phoff + eh.e_phnum * sizeof(Elf64_Phdr));
		if (elf->head_len < elf->head_need)
			continue;
		err = elf_parse(elf, &eh);
		if (err)
			return err;
		elf_place(elf, elf->head, 0, elf->head_len);
		elf->pos = elf->head_len;
	}
	return 0;
}

int boot_elf_feed(struct boot_elf *elf, const uint8_t *data, size_t len)
{
	int err = elf_gather(elf, &data, &len);

	if (err || len == 0)
		return err;
	elf_place(elf, data, elf->pos, len);
	elf->pos += len;
	return 0;
}

int boot_elf_finish(const struct boot_elf *elf)
{
	if (!boot_elf_complete(elf))
		return boot_refuse(elf->why, -ENOEXEC, "the ELF file is cut short");
	for (unsigned i = 0; i < elf->load_count; i++)
		vmm_mem_dirty(elf->mem, elf->loads[i].gpa, elf->loads[i].len);
	return 0;
}

static size_t note_padded(uint32_t len)
{
	return ((size_t)len + 3) & ~(size_t)3;
}

bool boot_elf_pvh(const struct boot_elf *elf, uint32_t *entry)
{
	size_t at = 0;
	Elf64_Nhdr nh;

	while (elf->note_len - at >= sizeof(nh)) {
		size_t name, desc;

		memcpy(&nh, elf->note + at, sizeof(nh));
		name = at + sizeof(nh);
		desc = name + note_padded(nh.n_namesz);
		if (desc > elf->note_len || nh.n_descsz > elf->note_len - desc)
			return false;
		if (nh.n_type == NOTE_PHYS32_ENTRY && nh.n_namesz == 4 && nh.n_descsz >= 4 &&
		    memcmp(elf->note + name, "Xen", 4) == 0) {
			memcpy(entry, elf->note + desc, 4);
			return vmm_mem_ptr(elf->mem, *entry, 1) != NULL;
		}
		at = desc + note_padded(nh.n_descsz);
		if (at > elf->note_len)
			return false;
	}
	return false;
}
