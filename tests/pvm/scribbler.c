/*
 * scribbler SEED: one child writes records of nonsense into its ring in our segment, as a program that
 * has lost its mind would, another sends numbered messages meanwhile. Those of the good one all come, in
 * order; the bad one is done with when it ends.
 */
#include <pvm3.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "pvm/mp_chan.h"
#include "pvm/mp_heap.h"

enum { TAG_NUMBER = 1, TAG_GONE, TAG_HELLO, RECORDS = 3000, NUMBERS = 3000, PATIENCE_MS = 200 };

static uint64_t seed;

static uint32_t roll(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % n;
}

/* Where our library has mapped the segment of our parent. */
static uint8_t *parents_segment(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	uint8_t *seg = NULL;
	char line[512];
	void *at;

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "/memfd:pvm-task") && sscanf(line, "%p", &at) == 1 &&
		    ((struct mp_seg_head *)at)->tid == pvm_parent())
			seg = at;
	if (f)
		fclose(f);
	return seg;
}

static int my_slot(uint8_t *seg)
{
	for (int s = 0; s < MP_SLOTS; s++) {
		struct mp_ring *g = mp_seg_ring(seg, (uint32_t)s);
		uint64_t head = atomic_load(&g->head);

		/* The last message that we sent ends there. */
		if (head && !memcmp(g->data + (head - MP_CHAN_LINE) % MP_RING_DATA +
					    sizeof(struct mp_record),
				    "scribble", 8))
			return s;
	}
	return -1;
}

static void ring_up(struct mp_seg_head *h, uint32_t slot)
{
	atomic_fetch_or(&h->dirty[slot / 32], 1u << slot % 32);
	atomic_fetch_or(&h->summary, 1u << slot / 32);
	mp_seg_ring_bell(h);
}

static struct mp_record nonsense(size_t to_end)
{
	static const uint32_t sizes[] = {64, 64, 64, 128, 1024, 0, 7, 63, 1u << 20, UINT32_MAX};
	struct mp_record r = {.bytes = sizes[roll(10)],
			      .kind = (uint16_t)roll(8),
			      .tag = TAG_HELLO,
			      .len = roll(3) ? 16 : (uint32_t)seed,
			      .total = roll(2) ? roll(40) : seed};

	if (roll(2) && r.bytes > to_end)
		r.bytes = (uint32_t)to_end;
	return r;
}

/* False: the reader does not read on, it has had enough. */
static bool reader_follows(struct mp_ring *g, uint64_t pos)
{
	int64_t end = base_clock_ns() + PATIENCE_MS * BASE_NS_PER_MS;

	while (pos - atomic_load(&g->tail) > MP_RING_DATA / 2) {
		if (base_clock_ns() > end)
			return false;
		sched_yield();
	}
	return true;
}

static void write_nonsense(uint8_t *seg, uint32_t slot)
{
	struct mp_seg_head *h = (struct mp_seg_head *)seg;
	struct mp_ring *g = mp_seg_ring(seg, slot);
	uint64_t pos = atomic_load(&g->head);

	for (int i = 0; i < RECORDS; i++) {
		size_t at = pos % MP_RING_DATA;
		struct mp_record r = nonsense(MP_RING_DATA - at);
		struct mp_ref ref = {.off = seed >> roll(40),
				     .lease = roll(2) ? roll(4096) : (uint32_t)seed};

		/* So that it sees them one by one, too. */
		if (roll(4) == 0)
			sched_yield();
		if (!reader_follows(g, pos))
			return;
		memcpy(g->data + at + sizeof(r.stamp), &r.bytes,
		       sizeof(r) - offsetof(struct mp_record, bytes));
		memcpy(g->data + at + sizeof(r), &ref, sizeof(ref));
		atomic_store(&g->head, pos + MP_CHAN_LINE);
		atomic_store(mp_ring_stamp_at(g, pos), h->key + pos);
		ring_up(h, slot);
		pos += r.bytes > 0 && r.bytes % MP_CHAN_LINE == 0 && r.bytes <= MP_RING_DATA - at
			       ? r.bytes
			       : MP_CHAN_LINE;
	}
	/* Where it goes on makes no sense either. */
	atomic_store(&g->head, seed | 1);
}

static int bad(void)
{
	uint8_t *seg;
	int slot;

	/* The first goes by the daemon. */
	for (int i = 0; i < 3; i++) {
		char text[] = "scribble";

		pvm_initsend(PvmDataRaw);
		pvm_pkbyte(text, 8, 1);
		pvm_send(pvm_parent(), TAG_HELLO);
	}
	seg = parents_segment();
	slot = seg ? my_slot(seg) : -1;
	if (slot < 0) {
		fprintf(stderr, "no ring was found\n");
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&slot, 1, 1);
		pvm_send(pvm_parent(), TAG_NUMBER);
	} else {
		write_nonsense(seg, (uint32_t)slot);
	}
	pvm_exit();
	return 0;
}

static int good(void)
{
	for (int i = 0; i < NUMBERS; i++) {
		pvm_initsend(PvmDataDefault);
		pvm_pkint(&i, 1, 1);
		pvm_send(pvm_parent(), TAG_NUMBER);
	}
	pvm_exit();
	return 0;
}

static int master(char *number)
{
	char self[512] = "", *args[] = {number, (char *)(uintptr_t) "bad", NULL};
	int tids[2], n, gone = 0, next = 0;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 ||
	    pvm_spawn(self, args, PvmTaskDefault, NULL, 1, &tids[0]) != 1)
		return 2;
	args[1] = (char *)(uintptr_t) "good";
	if (pvm_spawn(self, args, PvmTaskDefault, NULL, 1, &tids[1]) != 1)
		return 2;
	pvm_notify(PvmTaskExit, TAG_GONE, 2, tids);
	while (gone < 2 || next < NUMBERS) {
		int mid = pvm_recv(-1, -1), bytes, tag, tid;

		if (mid < 0)
			return 3;
		pvm_bufinfo(mid, &bytes, &tag, &tid);
		gone += tag == TAG_GONE;
		if (tag != TAG_NUMBER)
			continue;
		if (tid != tids[1] || pvm_upkint(&n, 1, 1) || n != next) {
			printf("%d came from t%x instead of %d\n", n, (unsigned)tid, next);
			return 1;
		}
		next++;
	}
	printf("seed %s: %d messages beside nonsense: PASS\n", number, next);
	return 0;
}

int main(int argc, char **argv)
{
	int rc;

	if (argc < 2 || pvm_mytid() < 0)
		return 2;
	seed = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		return strcmp(argv[2], "bad") ? good() : bad();
	rc = master(argv[1]);
	pvm_exit();
	return rc;
}
