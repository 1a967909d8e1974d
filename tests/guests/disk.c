/*
 * Drives the first virtio-blk by itself, from ring 3, without interrupts: blocks=N of 4 KiB are written
 * over and over, rate=MB/s; what a pass wrote is read back and compared by the next. Every seventh block
 * is left as it is: zeros. A byte on the serial line ends it: all is read back a last time.
 */
#include "guest.h"

#define BLOCK	 4096ul
#define BATCH	 8ul
#define SECTORS	 (BLOCK / 512)
#define QUEUE	 16u
#define MMIO	 0xd0000000ul
#define MMIO_LEN 0x1000ul
#define SLOTS	 32u

enum {
	REG_MAGIC = 0x00,
	REG_DEVICE = 0x08,
	REG_DRIVER_FEATURES = 0x20,
	REG_DRIVER_FEATURES_SEL = 0x24,
	REG_QUEUE_SEL = 0x30,
	REG_QUEUE_NUM = 0x38,
	REG_QUEUE_READY = 0x44,
	REG_QUEUE_NOTIFY = 0x50,
	REG_STATUS = 0x70,
	REG_QUEUE_DESC = 0x80,
	REG_QUEUE_AVAIL = 0x90,
	REG_QUEUE_USED = 0xa0,
};

enum { BLK_IN, BLK_OUT, BLK_FLUSH = 4, FEATURE_FLUSH = 1 << 9 };

static struct {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
} desc[QUEUE] __attribute__((aligned(4096)));
static struct {
	uint16_t flags, idx, ring[QUEUE];
} avail __attribute__((aligned(4096)));
static struct {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[QUEUE];
} used __attribute__((aligned(4096)));
static struct {
	uint32_t type, reserved;
	uint64_t sector;
} head;
static volatile uint8_t status;
static uint64_t data[BATCH * BLOCK / 8] __attribute__((aligned(4096)));
static uint64_t base;

static uint32_t get(uint32_t reg)
{
	return *(volatile uint32_t *)(base + reg);
}

static void put(uint32_t reg, uint32_t v)
{
	*(volatile uint32_t *)(base + reg) = v;
}

static void put_address(uint32_t reg, const void *p)
{
	put(reg, (uint32_t)(uintptr_t)p);
	put(reg + 4, 0);
}

static bool find(void)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		base = MMIO + i * MMIO_LEN;
		if (get(REG_MAGIC) == 0x74726976 && get(REG_DEVICE) == 2)
			return true;
	}
	return false;
}

static void set_up(void)
{
	put(REG_STATUS, 0);
	put(REG_STATUS, 1);
	put(REG_STATUS, 3);
	put(REG_DRIVER_FEATURES_SEL, 0);
	put(REG_DRIVER_FEATURES, FEATURE_FLUSH);
	put(REG_DRIVER_FEATURES_SEL, 1);
	put(REG_DRIVER_FEATURES, 1); /* VERSION_1 */
	put(REG_STATUS, 11);
	put(REG_QUEUE_SEL, 0);
	put(REG_QUEUE_NUM, QUEUE);
	put_address(REG_QUEUE_DESC, desc);
	put_address(REG_QUEUE_AVAIL, &avail);
	put_address(REG_QUEUE_USED, &used);
	put(REG_QUEUE_READY, 1);
	put(REG_STATUS, 15);
	avail.flags = 1; /* no interrupts */
}

static bool request(uint32_t type, uint64_t block)
{
	bool moves = type != BLK_FLUSH;
	uint16_t before = *(volatile uint16_t *)&used.idx;

	head.type = type;
	head.sector = block * SECTORS;
	status = 255;
	desc[0].addr = (uintptr_t)&head;
	desc[0].len = sizeof(head);
	desc[0].flags = 1;
	desc[0].next = moves ? 1 : 2;
	desc[1].addr = (uintptr_t)data;
	desc[1].len = sizeof(data);
	desc[1].flags = (uint16_t)(1 | (type == BLK_IN ? 2 : 0));
	desc[1].next = 2;
	desc[2].addr = (uintptr_t)&status;
	desc[2].len = 1;
	desc[2].flags = 2;
	avail.ring[avail.idx % QUEUE] = 0;
	__atomic_store_n(&avail.idx, (uint16_t)(avail.idx + 1), __ATOMIC_SEQ_CST);
	put(REG_QUEUE_NOTIFY, 0);
	while (__atomic_load_n(&used.idx, __ATOMIC_ACQUIRE) == before)
		cpu_pause();
	if (status)
		guest_printf("disk: FAIL request %u of block %lu: status %u\n", type, block,
			     status);
	return !status;
}

static uint64_t word(uint64_t block, uint64_t pass, uint64_t i)
{
	if (!pass || block % 7 == 6)
		return 0;
	return (block << 32 | pass) * 0x9e3779b97f4a7c15ul + i;
}

static bool check(uint64_t block, uint64_t pass)
{
	if (!request(BLK_IN, block))
		return false;
	for (uint64_t i = 0; i < BATCH * BLOCK / 8; i++) {
		uint64_t at = block + i / (BLOCK / 8), want = word(at, pass, i % (BLOCK / 8));

		if (data[i] == want)
			continue;
		guest_printf("disk: FAIL block %lu word %lu of pass %lu: %lx instead of %lx\n", at,
			     i % (BLOCK / 8), pass, data[i], want);
		return false;
	}
	return true;
}

static bool fill(uint64_t block, uint64_t pass)
{
	for (uint64_t i = 0; i < BATCH * BLOCK / 8; i++)
		data[i] = word(block + i / (BLOCK / 8), pass, i % (BLOCK / 8));
	return request(BLK_OUT, block);
}

static bool check_all(uint64_t blocks, uint64_t upto, uint64_t pass)
{
	for (uint64_t b = 0; b < blocks; b += BATCH)
		if (!check(b, b < upto ? pass : pass - 1))
			return false;
	return true;
}

void guest_main(void)
{
	uint64_t blocks = guest_arg("blocks", 1024) / BATCH * BATCH, pass = 1, at = 0, n = 0;
	uint64_t rate = guest_arg("rate", 20), mhz = guest_tsc_hz() / 1000000, start = rdtsc();

	if (!find()) {
		guest_printf("disk: FAIL no disk\n");
		return;
	}
	set_up();
	while (!guest_key()) {
		if (n * BATCH * BLOCK > (rdtsc() - start) / mhz * rate)
			continue;
		if (!check(at, pass - 1) || !fill(at, pass))
			return;
		n++;
		at += BATCH;
		if (at < blocks)
			continue;
		if (!request(BLK_FLUSH, 0))
			return;
		guest_printf("disk: pass %lu\n", pass);
		at = 0;
		pass++;
	}
	if (check_all(blocks, at, pass))
		guest_printf("disk: PASS after %lu passes\n", pass);
}
