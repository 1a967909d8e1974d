/*
 * What a bare-metal test guest has: ring 3, all ports, all memory below 4 GiB, the LAPIC's
 * registers in xAPIC form, up to 64 CPUs, and a serial line. See start.S.
 */
#ifndef TESTS_GUEST_H
#define TESTS_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_TSS_BASE 0x10000ul
#define GUEST_CPU_MAX  64
#define GUEST_RAM_FREE 0x1000000ul /* 16 MiB: nothing of ours from here on */

/* Each guest's program: cpu 0. The others run what guest_start_cpu() was given. */
void guest_main(void);

void guest_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The number after "key=" on the command line, or `fallback`. */
uint64_t guest_arg(const char *key, uint64_t fallback);
/* True once for each byte that arrives on the serial line. */
bool guest_key(void);
void guest_poweroff(void) __attribute__((noreturn));

void guest_start_cpu(unsigned cpu, void (*fn)(unsigned cpu));

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void cpu_pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* A call of ring 0: see start.S. */
enum { RING0_HALT, RING0_RDMSR, RING0_WRMSR, RING0_IF, RING0_FLUSH };

/* sti; hlt in ring 0: returns after one interrupt. */
static inline void cpu_halt(void)
{
	register uint64_t call __asm__("r11") = RING0_HALT;

	__asm__ volatile("int3" : : "r"(call) : "memory");
}

static inline void irq_flag(uint64_t flag)
{
	register uint64_t call __asm__("r11") = RING0_IF;

	__asm__ volatile("int3" : : "r"(call), "D"(flag) : "memory");
}

static inline void irq_disable(void)
{
	irq_flag(0);
}

static inline void irq_enable(void)
{
	irq_flag(0x200);
}

/* The page directories of all 4 GiB: 2 MiB an entry, shared by all CPUs. */
extern volatile uint64_t pd[2048];

/* This CPU's TLB. */
static inline void tlb_flush(void)
{
	register uint64_t call __asm__("r11") = RING0_FLUSH;

	__asm__ volatile("int3" : : "r"(call) : "rax", "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
	register uint64_t call __asm__("r11") = RING0_RDMSR;
	uint32_t lo, hi;

	__asm__ volatile("int3" : "=a"(lo), "=d"(hi) : "r"(call), "c"(msr) : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	register uint64_t call __asm__("r11") = RING0_WRMSR;

	__asm__ volatile("int3"
			 :
			 : "r"(call), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"(msr)
			 : "memory");
}

/* LAPIC registers. */
enum {
	APIC_ID = 0x20,
	APIC_EOI = 0xb0,
	APIC_SVR = 0xf0,
	APIC_ICR = 0x300,
	APIC_ICR_HIGH = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_TIMER_INIT = 0x380,
	APIC_TIMER_NOW = 0x390,
	APIC_TIMER_DIV = 0x3e0,
};

static inline uint32_t apic_read(uint32_t reg)
{
	return *(volatile uint32_t *)(0xfee00000ul + reg);
}

static inline void apic_write(uint32_t reg, uint32_t v)
{
	*(volatile uint32_t *)(0xfee00000ul + reg) = v;
}

/* Vectors 0x50 .. 0x5f count up here, acknowledged. */
#define GUEST_VECTOR 0x50
extern volatile uint64_t counts[16];

static inline void apic_ipi(unsigned cpu, uint8_t vector)
{
	apic_write(APIC_ICR_HIGH, cpu << 24);
	apic_write(APIC_ICR, 0x4000u | vector);
}

/* TSC ticks a second, as the hypervisor's clock page says. */
uint64_t guest_tsc_hz(void);

#endif
