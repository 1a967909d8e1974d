/*
 * The guest of the migration benchmark: fill=N MiB of memory from 16 MiB on gets contents that no
 * two pages share; then rate=MB/s (0: none) of it is written over and over, page by page, all=1: as
 * fast as it goes. A dot goes out on the serial line every beat=US microseconds, so that whoever
 * watches sees when the guest stands still. Each pass checks what the one before left.
 */
#include "guest.h"

#define PAGE 4096ul

static uint64_t *page_at(uint64_t i)
{
	return (uint64_t *)(GUEST_RAM_FREE + i * PAGE);
}

static void fill_page(uint64_t *p, uint64_t seed)
{
	uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15ul;

	for (unsigned i = 0; i < PAGE / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = x;
	}
	p[0] = 0;
}

static bool write_page(uint64_t i, uint64_t pass)
{
	uint64_t *p = page_at(i);

	if (p[0] != pass || (pass && p[511] != (pass ^ i))) {
		guest_printf("\nwriter: FAIL page %lu pass %lu has %lu\n", i, pass, p[0]);
		return false;
	}
	p[0] = pass + 1;
	p[511] = (pass + 1) ^ i;
	return true;
}

void guest_main(void)
{
	uint64_t pages = guest_arg("fill", 0) * 256, rate = guest_arg("rate", 0);
	uint64_t all = guest_arg("all", 0), hz = guest_tsc_hz();
	uint64_t beat = guest_arg("beat", 200) * (hz / 1000000), next, start, i = 0, pass = 0,
		 n = 0;

	for (uint64_t p = 0; p < pages; p++)
		fill_page(page_at(p), p);
	guest_printf("writer: ready\n");
	start = next = rdtsc();
	for (;;) {
		uint64_t now = rdtsc();

		if (now >= next) {
			outb(0x3f8, '.');
			next = now + beat;
		}
		if (!pages || (!all && n * PAGE >= (now - start) / (hz / 1000000) * rate))
			continue;
		if (!write_page(i, pass))
			return;
		n++;
		if (++i == pages) {
			i = 0;
			pass++;
		}
	}
}
