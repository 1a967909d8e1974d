/* The run-time of the bare-metal test guests. Runs in ring 3. */
#include "guest.h"

#define COM1 0x3f8
/* The sleep control register: type 5 (S5), enable. */
#define SLEEP_CONTROL 0x600

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp;
};

extern uint64_t start_info, fault_vector, fault_code, fault_rip;
extern const uint64_t gate_table[][2];
extern uint64_t idt[256][2];
extern uint8_t stacks[GUEST_CPU_MAX][32768];
extern uint8_t ap_trampoline[], ap_trampoline_end[];

void guest_start(unsigned cpu);
void fault_report(void) __attribute__((noreturn));

/* gcc emits calls of these. */
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int c, size_t n);

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	void *ret = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return ret;
}

void *memset(void *to, int c, size_t n)
{
	void *ret = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return ret;
}

/* ---- printing ---- */

static volatile uint32_t print_lock;

static void put(char c)
{
	outb(COM1, (uint8_t)c);
}

static void put_number(uint64_t v, unsigned base, int width, char pad)
{
	char buf[24];
	int n = 0;

	do {
		buf[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (width-- > n)
		put(pad);
	while (n > 0)
		put(buf[--n]);
}

static void put_signed(int64_t v)
{
	if (v < 0)
		put('-');
	put_number(v < 0 ? (uint64_t)-v : (uint64_t)v, 10, 0, ' ');
}

static void put_string(const char *s)
{
	while (*s)
		put(*s++);
}

/* %s %c %d %u %x with l, 0 and a width. */
static const char *put_conversion(const char *p, va_list *ap)
{
	char pad = ' ';
	int width = 0;
	bool wide = false;

	if (*p == '0')
		pad = *p++;
	while (*p >= '0' && *p <= '9')
		width = width * 10 + (*p++ - '0');
	while (*p == 'l') {
		wide = true;
		p++;
	}
	switch (*p) {
	case 's': put_string(va_arg(*ap, const char *)); break;
	case 'c': put((char)va_arg(*ap, int)); break;
	case 'd': put_signed(wide ? va_arg(*ap, int64_t) : va_arg(*ap, int)); break;
	case 'u':
		put_number(wide ? va_arg(*ap, uint64_t) : va_arg(*ap, unsigned), 10, width, pad);
		break;
	case 'x':
		put_number(wide ? va_arg(*ap, uint64_t) : va_arg(*ap, unsigned), 16, width, pad);
		break;
	default: put(*p); break;
	}
	return p + 1;
}

void guest_printf(const char *fmt, ...)
{
	va_list ap;

	while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE))
		cpu_pause();
	va_start(ap, fmt);
	while (*fmt) {
		if (*fmt == '%')
			fmt = put_conversion(fmt + 1, &ap);
		else
			put(*fmt++);
	}
	va_end(ap);
	__atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}

void fault_report(void)
{
	print_lock = 0;
	guest_printf("GUEST FAULT vector %lu code 0x%lx at 0x%lx\n", fault_vector, fault_code,
		     fault_rip);
	guest_poweroff();
}

/* ---- command line, clock, power ---- */

uint64_t guest_arg(const char *key, uint64_t fallback)
{
	const struct hvm_start_info *si = (const void *)start_info;
	const char *p = (const char *)si->cmdline;

	while (p && *p) {
		const char *k = key;
		uint64_t v = 0;

		while (*k && *p == *k) {
			p++;
			k++;
		}
		if (!*k && *p == '=') {
			for (p++; *p >= '0' && *p <= '9'; p++)
				v = v * 10 + (uint64_t)(*p - '0');
			return v;
		}
		while (*p && *p != ' ')
			p++;
		while (*p == ' ')
			p++;
	}
	return fallback;
}

uint64_t guest_tsc_hz(void)
{
	static struct {
		uint32_t version, pad0;
		uint64_t tsc, ns;
		uint32_t mul;
		int8_t shift;
		uint8_t flags, pad[2];
	} page __attribute__((aligned(64)));
	uint64_t hz;

	wrmsr(0x4b564d01, (uintptr_t)&page | 1);
	if (!page.mul) /* no such clock: not under KVM */
		return guest_arg("hz", 2000000000);
	hz = (UINT64_C(1000000000) << 32) / page.mul;
	return page.shift < 0 ? hz << -page.shift : hz >> page.shift;
}

bool guest_key(void)
{
	if (!(inb(COM1 + 5) & 1))
		return false;
	inb(COM1);
	return true;
}

void guest_poweroff(void)
{
	outb(SLEEP_CONTROL, 5 << 2 | 1 << 5);
	for (;;)
		cpu_pause();
}

/* ---- CPUs ---- */

static void (*volatile cpu_fn[GUEST_CPU_MAX])(unsigned cpu);

static void set_up_tables(void)
{
	for (unsigned i = 0; gate_table[i][1]; i++) {
		uint64_t vector = gate_table[i][0], addr = gate_table[i][1];
		uint64_t dpl = vector == 3 ? 3 : 0;

		idt[vector][0] = (addr & 0xffff) | 0x10ull << 16 | (0x8eull | dpl << 5) << 40 |
				 (addr >> 16 & 0xffff) << 48;
		idt[vector][1] = addr >> 32;
	}
	for (unsigned cpu = 0; cpu < GUEST_CPU_MAX; cpu++) {
		uint64_t rsp0 = (uintptr_t)stacks[cpu] + 4096;

		memcpy((void *)(GUEST_TSS_BASE + 128 * cpu + 4), &rsp0, 8);
		/* An I/O bitmap that allows all, behind the last of them. */
		*(volatile uint16_t *)(GUEST_TSS_BASE + 128 * cpu + 102) =
			(uint16_t)(0x2000 - 128 * cpu);
	}
	memcpy((void *)0x8000, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
}

void guest_start(unsigned cpu)
{
	if (cpu == 0)
		set_up_tables();
	apic_write(APIC_SVR, 0x1ff);
	if (cpu == 0) {
		guest_main();
		guest_poweroff();
	}
	cpu_fn[cpu](cpu);
	irq_disable();
	for (;;)
		cpu_halt();
}

void guest_start_cpu(unsigned cpu, void (*fn)(unsigned cpu))
{
	cpu_fn[cpu] = fn;
	apic_write(APIC_ICR_HIGH, cpu << 24);
	apic_write(APIC_ICR, 0x4500); /* INIT */
	apic_write(APIC_ICR_HIGH, cpu << 24);
	apic_write(APIC_ICR, 0x4608); /* SIPI, 0x8000 */
}
