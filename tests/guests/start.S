/*
 * Entry of the bare-metal test guests: by PVH (32-bit, paging off) on vCPU 0 and by SIPI on the
 * others; both go to ring 3 in as few instructions as can be, because on some hosts guest kernel
 * mode is emulated one by one. Ring 3 may use all ports (by IOPL 3, and by the I/O bitmap where
 * IOPL is not heeded) and reaches every page below 4 GiB, the LAPIC's registers included. What is left for ring 0 is an IDT:
 *   int3          a call of ring 0 (not every KVM can deliver "int n"); r11 says which:
 *     0 sti; hlt: halt until the next interrupt   1 rdmsr   2 wrmsr   3 IF of edi
 *     4 cr3 anew: forgets what has been translated
 *   0x50 .. 0x5f  devices and IPIs: counts[vector - 0x50]++, EOI
 */
#define CS64   0x10
#define DS     0x18
#define UDS    0x2b
#define UCS    0x33
#define TSS0   0x40
#define CPUS   64
#define TSS_BASE 0x10000	/* guest.h: GUEST_TSS_BASE */

	.section .note.pvh, "a", @note
	.long 4, 4, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long pvh_entry

	.section .text.start, "ax"
	.code32
	.globl pvh_entry
pvh_entry:
	movl %ebx, start_info
	lgdt gdtr
	movb $0xff, %al		/* a PC's PIC, left open by its BIOS: masked */
	outb %al, $0x21
	outb %al, $0xa1
	xorl %edi, %edi
	/* fall through: edi is the index of this CPU */

enter_long:
	movl $0x620, %eax	/* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	movl $0x100, %eax	/* LME */
	xorl %edx, %edx
	wrmsr
	movl $0x80010003, %eax	/* PG WP MP PE */
	movl %eax, %cr0
	ljmp $CS64, $long_mode

	.code64
long_mode:
	movl $DS, %eax
	movl %eax, %ss
	lidt idtr
	/* TSS: descriptor TSS0 + 16 * cpu */
	movl %edi, %eax
	shll $4, %eax
	addl $TSS0, %eax
	ltr %ax
	/* stack of this CPU: 32 KiB each; ring 0's is its first 4 KiB */
	movl %edi, %eax
	shll $15, %eax
	leaq stacks + 32768(%rax), %rsp
	movl $UDS, %eax
	movl %eax, %ds
	movl %eax, %es
	movq %rsp, %rcx
	pushq $UDS
	pushq %rcx
	pushq $0x3202		/* IOPL 3, IF */
	pushq $UCS
	leaq user_entry(%rip), %rax
	pushq %rax
	iretq

user_entry:			/* ring 3, edi = CPU */
	xorl %ebp, %ebp
	call guest_start
1:	jmp 1b

/* ---- application processors: copied to 0x8000 ---- */
	.code16
	.globl ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl gdtr_low - ap_trampoline + 0x8000
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $0x20, $ap_protected
	.balign 4
gdtr_low:
	.word gdt_end - gdt - 1
	.long gdt
ap_trampoline_end:

	.code32
ap_protected:
	movl $DS, %eax
	movl %eax, %ds
	/* Its number: the LAPIC id. */
	movl 0xfee00020, %edi
	shrl $24, %edi
	jmp enter_long

/* ---- ring 0 handlers ---- */
	.code64
gate_call:
	jmp *gate_calls(,%r11,8)
gate_halt:
	sti
	hlt
	iretq
gate_rdmsr:
	rdmsr
	iretq
gate_wrmsr:
	wrmsr
	iretq
gate_if:			/* edi: 0x200 or 0, into the saved flags */
	andl $~0x200, 16(%rsp)
	orl %edi, 16(%rsp)
	iretq
gate_flush:
	movq %cr3, %rax
	movq %rax, %cr3
	iretq

/* Faults: the vector is on the stack; the code and RIP go to ring 3's reporter. */
gate_fault:
	popq %rax		/* vector */
	movq %rax, fault_vector
	popq %rdx		/* error code, or RIP where there is none */
	movq %rdx, fault_code
	popq %rdx		/* RIP, or CS */
	movq %rdx, fault_rip
	leaq fault_report(%rip), %rax
	movl $UDS, %ecx
	leaq stacks + 4096*3(%rip), %rdx
	pushq %rcx
	pushq %rdx
	pushq $0x3002
	pushq $UCS
	pushq %rax
	iretq

	.macro irq_gate n
irq_\n:	pushq %rax
	lock incq counts + 8 * \n
	movl $0xfee000b0, %eax	/* EOI */
	movl $0, (%rax)
	popq %rax
	iretq
	.endm
	.altmacro
	.set i, 0
	.rept 16
	irq_gate %i
	.set i, i + 1
	.endr

	.macro fault_gate n
fault_\n: pushq $\n
	jmp gate_fault
	.endm
	.set i, 0
	.rept 32
	fault_gate %i
	.set i, i + 1
	.endr

	.globl gate_table
	.section .rodata
	.balign 8
gate_calls:
	.quad gate_halt, gate_rdmsr, gate_wrmsr, gate_if, gate_flush
gate_table:			/* {vector, address}, ended by address 0 */
	.quad 3, gate_call
	.macro gate_entry v p n
	.quad \v, \p\n
	.endm
	.set i, 0
	.rept 16
	gate_entry %(0x50+i) irq_ %i
	.set i, i + 1
	.endr
	.set i, 0
	.rept 32
	.if i != 3
	gate_entry %i fault_ %i
	.endif
	.set i, i + 1
	.endr
	.quad 0, 0

/* ---- tables ---- */
	.data
	.balign 16
gdt:	.quad 0, 0
	.quad 0x00af9b000000ffff	/* 0x10 code, 64 bit, ring 0 */
	.quad 0x00cf93000000ffff	/* 0x18 data, ring 0 */
	.quad 0x00cf9b000000ffff	/* 0x20 code, 32 bit */
	.quad 0x00cff3000000ffff	/* 0x28 data, ring 3 */
	.quad 0x00affb000000ffff	/* 0x30 code, 64 bit, ring 3 */
	.quad 0
	.set i, 0		/* 0x40: the TSS of each CPU, at fixed places, up to the end of
				 * the I/O bitmap that they share */
	.rept CPUS
	.quad 0x0000890000000000 + (0x4000 - 128 * i) + ((TSS_BASE + 128 * i) << 16), 0
	.set i, i + 1
	.endr
gdt_end:
gdtr:	.word gdt_end - gdt - 1
	.long gdt
	.long 0
	.balign 8
idtr:	.word 256 * 16 - 1
	.quad idt

	.globl start_info, counts, fault_vector, fault_code, fault_rip
	.balign 64
start_info: .quad 0
fault_vector: .quad 0
fault_code: .quad 0
fault_rip: .quad 0
	.balign 64
counts:	.fill 16, 8, 0

	.globl pd
	.balign 4096
pml4:	.quad pdpt + 7
	.fill 511, 8, 0
pdpt:	.quad pd + 7, pd + 4096 + 7, pd + 8192 + 7, pd + 12288 + 7
	.fill 508, 8, 0
pd:	.set i, 0
	.rept 2048
	.quad (i << 21) + 0xe7	/* 2 MiB, dirty, accessed, user, writable */
	.set i, i + 1
	.endr

	.bss
	.globl idt, stacks
	.balign 4096
idt:	.skip 4096
	.balign 4096
stacks:	.skip 32768 * CPUS
	.section .note.GNU-stack, "", @progbits
