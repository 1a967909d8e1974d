/*
 * Dirties memory at a set rate: mib=N (of memory from 16 MiB on), rate=MiB/s (0: no limit),
 * seconds=S, passes=P (0: for ever). Each page of a pass gets the number of the pass, and each pass checks
 * what the one before left: a page that lost or reordered a write is found. keys=1: a key ends it, after
 * another pass.
 */
#include "guest.h"

#define PAGE 4096ul

static uint64_t *page_at(uint64_t i)
{
	return (uint64_t *)(GUEST_RAM_FREE + i * PAGE);
}

void guest_main(void)
{
	uint64_t pages = guest_arg("mib", 32) * 256, rate = guest_arg("rate", 0);
	uint64_t seconds = guest_arg("seconds", 0), passes = guest_arg("passes", 0),
		 hz = guest_tsc_hz();
	uint64_t start = rdtsc(), next = start + hz, pass = 0, written = 0;
	bool keys = guest_arg("keys", 0);

	guest_printf("dirty: %lu pages, %lu MiB/s\n", pages, rate);
	for (;;) {
		for (uint64_t i = 0; i < pages; i++) {
			uint64_t *p = page_at(i);

			if (p[0] != pass || p[511] != (pass ? pass ^ i : 0)) {
				guest_printf("dirty: FAIL page %lu pass %lu has %lu\n", i, pass,
					     p[0]);
				return;
			}
			p[0] = pass + 1;
			p[511] = (pass + 1) ^ i;
			written++;
			while (rate && written * hz / (rate * 256) > rdtsc() - start)
				cpu_pause();
			if (rdtsc() >= next) {
				next += hz;
				guest_printf("dirty: pass %lu, %lu MiB written\n", pass,
					     written / 256);
				if (seconds && rdtsc() - start >= seconds * hz)
					goto done;
			}
		}
		if (++pass == passes)
			break;
		if (keys && guest_key()) {
			keys = false;
			passes = pass + 1;
		}
	}
done:
	guest_printf("dirty: rate %lu MiB/s\n", written / 256 * hz / (rdtsc() - start));
	guest_printf("dirty: PASS\n");
}
