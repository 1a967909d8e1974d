/* virtio-blk end to end: real files, every engine. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/rng.h"
#include "node/devices/virtio_blk.h"
#include "tests/unit/devices/virtio_driver.h"

enum { DISK_BYTES = 4 << 20, SECTORS = DISK_BYTES / 512 };

enum engine { URING, SYNC, DIRECT, QCOW2, ENGINES };

struct disk {
	struct drv d;
	char path[64];
	uint64_t head, status; /* guest addresses, of the last request */
	struct virtio_blk_options opts;
};

static bool make_qcow2(const char *path)
{
	const char *const argv[] = {"qemu-img", "create", "-q", "-f", "qcow2", path, "4M", NULL};
	extern char **environ;
	pid_t pid;
	int st;

	return !posix_spawnp(&pid, "qemu-img", NULL, NULL, (char **)argv, environ) &&
	       waitpid(pid, &st, 0) == pid && st == 0;
}

/* False where this machine has not what the engine needs. */
static bool disk_make(struct disk *t, enum engine engine)
{
	int fd;

	memset(t, 0, sizeof(*t));
	snprintf(t->path, sizeof(t->path), "/tmp/test-blk-XXXXXX");
	fd = mkstemp(t->path);
	assert_true(fd >= 0);
	if (engine == QCOW2) {
		if (!make_qcow2(t->path))
			return false;
	} else {
		drv_must(ftruncate(fd, DISK_BYTES) ? -errno : 0, "ftruncate");
	}
	close(fd);
	t->opts = (struct virtio_blk_options){
		.path = t->path,
		.format = engine == QCOW2 ? VIRTIO_BLK_QCOW2 : VIRTIO_BLK_RAW,
		.no_uring = engine == SYNC,
		.direct = engine == DIRECT,
		.queues = 2,
		.serial = "serial-0123456789abcdef",
	};
	return true;
}

static void disk_plug(struct disk *t)
{
	drv_machine(&t->d);
	drv_must(virtio_blk_new(&t->d.env, t->d.slot, &t->opts, &t->d.dev), "blk");
	t->d.dev->ops->resume(t->d.dev);
	drv_start(&t->d, DRV_ALL_FEATURES);
}

static void disk_free(struct disk *t)
{
	drv_free(&t->d);
	unlink(t->path);
}

/* Adds a request: header, data, status. */
static void add(struct disk *t, unsigned queue, uint32_t type, uint64_t sector,
		const struct drv_buf *data, unsigned count)
{
	struct drv_buf bufs[DRV_BUFS_MAX];
	struct virtio_blk_outhdr *h;

	/* Each has its own: the device may read the one before still. */
	t->head = drv_alloc(&t->d, 16);
	t->status = drv_alloc(&t->d, 1);
	h = drv_ptr(&t->d, t->head, 16);
	*h = (struct virtio_blk_outhdr){.type = type, .sector = sector};
	bufs[0] = (struct drv_buf){t->head, 16, false};
	memcpy(bufs + 1, data, count * sizeof(*data));
	bufs[count + 1] = (struct drv_buf){t->status, 1, true};
	*(uint8_t *)drv_ptr(&t->d, t->status, 1) = 0xff;
	drv_add_indirect(&t->d, queue, bufs, count + 2);
}

static uint8_t request(struct disk *t, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
	struct drv_buf b = {gpa, len, type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID};

	add(t, 0, type, sector, &b, len ? 1 : 0);
	drv_kick(&t->d, 0);
	drv_wait(&t->d, 0, NULL);
	return *(uint8_t *)drv_ptr(&t->d, t->status, 1);
}

static uint8_t range_request(struct disk *t, uint32_t type, uint64_t sector, uint32_t sectors,
			     uint32_t flags)
{
	uint64_t gpa = drv_alloc(&t->d, 16);
	struct virtio_blk_discard_write_zeroes *r = drv_ptr(&t->d, gpa, 16);

	*r = (struct virtio_blk_discard_write_zeroes){sector, sectors, flags};
	return request(t, type, 0, gpa, 16);
}

static void fill(struct disk *t, uint64_t gpa, uint32_t len, uint64_t seed)
{
	uint64_t *p = drv_ptr(&t->d, gpa, len);
	struct base_rng rng;

	base_rng_seed(&rng, seed);
	for (uint32_t i = 0; i < len / 8; i++)
		p[i] = base_rng_next(&rng);
}

static void writes_and_reads(struct disk *t)
{
	uint64_t a = drv_alloc(&t->d, 65536 + 4096), b = drv_alloc(&t->d, 65536 + 4096);

	a = (a + 4095) & ~4095ull;
	b = (b + 4095) & ~4095ull;
	fill(t, a, 65536, 1);
	assert_int_equal(request(t, VIRTIO_BLK_T_OUT, 100, a, 65536), VIRTIO_BLK_S_OK);
	assert_int_equal(request(t, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(t, VIRTIO_BLK_T_IN, 100, b, 65536), VIRTIO_BLK_S_OK);
	assert_memory_equal(drv_ptr(&t->d, a, 65536), drv_ptr(&t->d, b, 65536), 65536);
	/* The last sectors, and not one more. */
	assert_int_equal(request(t, VIRTIO_BLK_T_OUT, SECTORS - 8, a, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(request(t, VIRTIO_BLK_T_OUT, SECTORS - 7, a, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(t, VIRTIO_BLK_T_IN, UINT64_MAX, b, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(t, VIRTIO_BLK_T_IN, 0, b, 100), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(t, 77, 0, b, 512), VIRTIO_BLK_S_UNSUPP);
}

static void scattered(struct disk *t)
{
	struct drv_buf w[32], r[32];
	uint64_t base = (drv_alloc(&t->d, 1 << 20) + 4095) & ~4095ull;

	for (unsigned i = 0; i < 32; i++) {
		w[i] = (struct drv_buf){base + i * 8192, 4096, false};
		r[i] = (struct drv_buf){base + i * 8192 + 4096, 4096, true};
		fill(t, w[i].gpa, 4096, i);
	}
	add(t, 0, VIRTIO_BLK_T_OUT, 1000, w, 32);
	drv_kick(&t->d, 0);
	drv_wait(&t->d, 0, NULL);
	add(t, 0, VIRTIO_BLK_T_IN, 1000, r, 32);
	drv_kick(&t->d, 0);
	drv_wait(&t->d, 0, NULL);
	assert_int_equal(*(uint8_t *)drv_ptr(&t->d, t->status, 1), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 32; i++)
		assert_memory_equal(drv_ptr(&t->d, w[i].gpa, 4096), drv_ptr(&t->d, r[i].gpa, 4096),
				    4096);
}

static void discards_and_zeroes(struct disk *t)
{
	uint64_t a = (drv_alloc(&t->d, 16384) + 4095) & ~4095ull;
	const uint8_t *p = drv_ptr(&t->d, a, 8192);

	for (uint32_t flags = 0; flags < 2; flags++) {
		fill(t, a, 8192, 3);
		assert_int_equal(request(t, VIRTIO_BLK_T_OUT, 2048, a, 8192), VIRTIO_BLK_S_OK);
		assert_int_equal(range_request(t, VIRTIO_BLK_T_WRITE_ZEROES, 2048, 8, flags),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(request(t, VIRTIO_BLK_T_IN, 2048, a, 8192), VIRTIO_BLK_S_OK);
		for (unsigned i = 0; i < 4096; i++)
			assert_int_equal(p[i], 0);
		/* The neighbour still stands. */
		assert_int_not_equal(*(const uint64_t *)(p + 4096), 0);
	}
	assert_int_equal(range_request(t, VIRTIO_BLK_T_DISCARD, 2048, 16, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(t, VIRTIO_BLK_T_DISCARD, 2048, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(t, VIRTIO_BLK_T_DISCARD, SECTORS, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(t, VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX, 0),
			 VIRTIO_BLK_S_IOERR);
}

static void every_engine(void **state)
{
	for (enum engine e = 0; e < ENGINES; e++) {
		struct disk t;
		char id[21] = {0};
		uint64_t gpa;

		if (!disk_make(&t, e)) {
			print_message("no qemu-img: qcow2 was not tested\n");
			continue;
		}
		disk_plug(&t);
		gpa = drv_alloc(&t.d, 20);
		assert_int_equal(request(&t, VIRTIO_BLK_T_GET_ID, 0, gpa, 20), VIRTIO_BLK_S_OK);
		memcpy(id, drv_ptr(&t.d, gpa, 20), 20);
		assert_string_equal(id, "serial-0123456789abc");
		writes_and_reads(&t);
		scattered(&t);
		discards_and_zeroes(&t);
		assert_false(drv_broken(&t.d));
		disk_free(&t);
	}
}

static void discard_gives_the_space_back(void **state)
{
	struct disk t;
	struct stat before, after;
	uint64_t a;

	assert_true(disk_make(&t, URING));
	disk_plug(&t);
	a = drv_alloc(&t.d, 1 << 20);
	fill(&t, a, 1 << 20, 7);
	assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, 0, a, 1 << 20), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&t, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(stat(t.path, &before), 0);
	assert_int_equal(range_request(&t, VIRTIO_BLK_T_DISCARD, 0, 2048, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(stat(t.path, &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
	disk_free(&t);
}

static void read_only_refuses_writes(void **state)
{
	const enum engine engines[] = {URING, QCOW2};

	for (unsigned i = 0; i < 2; i++) {
		struct disk t;
		uint64_t a;

		if (!disk_make(&t, engines[i]))
			continue;
		t.opts.read_only = true;
		disk_plug(&t);
		assert_true(drv_has(&t.d, VIRTIO_BLK_F_RO));
		assert_false(drv_has(&t.d, VIRTIO_BLK_F_DISCARD));
		a = drv_alloc(&t.d, 512);
		assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, 0, a, 512), VIRTIO_BLK_S_IOERR);
		assert_int_equal(request(&t, VIRTIO_BLK_T_IN, 0, a, 512), VIRTIO_BLK_S_OK);
		assert_int_equal(range_request(&t, VIRTIO_BLK_T_DISCARD, 0, 8, 0),
				 VIRTIO_BLK_S_UNSUPP);
		disk_free(&t);
	}
}

static void config_space_describes_the_disk(void **state)
{
	struct disk t;
	struct virtio_blk_config c = {0};

	assert_true(disk_make(&t, URING));
	disk_plug(&t);
	drv_config(&t.d, 0, &c, 60);
	assert_int_equal(c.capacity, SECTORS);
	assert_int_equal(c.blk_size, 512);
	assert_int_equal(c.seg_max, 254);
	assert_int_equal(c.num_queues, 2);
	assert_int_equal(c.physical_block_exp, 3);
	disk_free(&t);
}

static void requests_without_room_need_reset(void **state)
{
	struct disk t;
	struct drv_buf short_head = {0, 15, false}, no_status = {0, 16, false};

	assert_true(disk_make(&t, URING));
	disk_plug(&t);
	short_head.gpa = no_status.gpa = drv_alloc(&t.d, 16);
	drv_add(&t.d, 0, &no_status, 1);
	drv_kick(&t.d, 0);
	drv_until(&t.d, drv_broken(&t.d));
	drv_start(&t.d, DRV_ALL_FEATURES);
	drv_add(&t.d, 1, &short_head, 1);
	drv_kick(&t.d, 1);
	drv_until(&t.d, drv_broken(&t.d));
	disk_free(&t);
}

/* Many requests on both queues; pausing in the midst loses none and repeats none. */
static void pause_drains_what_is_under_way(void **state)
{
	for (enum engine e = 0; e < ENGINES; e++) {
		struct disk t;
		struct drv_buf b[2];
		struct base_wbuf out;
		struct base_rbuf in;
		unsigned done, queues;

		if (!disk_make(&t, e))
			continue;
		disk_plug(&t);
		for (unsigned i = 0; i < 2; i++)
			b[i] = (struct drv_buf){(drv_alloc(&t.d, 65536) + 4095) & ~4095ull, 32768,
						true};
		drv_write(&t.d, VIRTIO_MMIO_QUEUE_SEL, 1);
		queues = drv_read(&t.d, VIRTIO_MMIO_QUEUE_NUM_MAX) ? 2 : 1;
		for (unsigned i = 0; i < 40; i++)
			add(&t, i % queues, VIRTIO_BLK_T_IN, i * 64, &b[i % queues], 1);
		drv_kick(&t.d, 0);
		if (queues > 1)
			drv_kick(&t.d, 1);
		t.d.dev->ops->pause(t.d.dev);
		done = drv_used_idx(&t.d.q[0]) + (queues > 1 ? drv_used_idx(&t.d.q[1]) : 0);
		assert_true(done <= 40);
		/* The next process: same image, same memory. */
		base_wbuf_init(&out, 1 << 20);
		t.d.dev->ops->save(t.d.dev, &out);
		drv_must(out.error, "save");
		t.d.dev->ops->fini(t.d.dev);
		drv_must(virtio_blk_new(&t.d.env, t.d.slot, &t.opts, &t.d.dev), "blk");
		base_rbuf_init(&in, out.data, out.len);
		drv_must(t.d.dev->ops->load(t.d.dev, &in, 1), "load");
		drv_must(base_rbuf_end(&in), "load");
		base_wbuf_fini(&out);
		t.d.dev->ops->resume(t.d.dev);
		for (unsigned i = 0; i < 40; i++)
			drv_wait(&t.d, i % queues, NULL);
		drv_step(&t.d);
		assert_int_equal(drv_used_idx(&t.d.q[0]) +
					 drv_used_idx(&t.d.q[1 % queues]) * (queues - 1),
				 40);
		disk_free(&t);
	}
}

static void another_disk_is_no_place_to_resume(void **state)
{
	struct disk t, other;

	assert_true(disk_make(&t, URING));
	disk_plug(&t);
	assert_true(disk_make(&other, URING));
	drv_must(truncate(other.path, DISK_BYTES / 2) ? -errno : 0, "truncate");
	disk_plug(&other);
	t.d.dev->ops->pause(t.d.dev);
	other.d.dev->ops->pause(other.d.dev);
	assert_int_equal(drv_move(t.d.dev, other.d.dev), -EPROTO);
	disk_free(&other);
	disk_free(&t);
}

static void bad_images_are_refused(void **state)
{
	struct drv d;
	struct virtio_blk_options o = {.path = "/tmp/no such file", .format = VIRTIO_BLK_RAW};

	drv_machine(&d);
	assert_int_equal(virtio_blk_new(&d.env, d.slot, &o, &d.dev), -ENOENT);
	o.format = VIRTIO_BLK_QCOW2;
	assert_int_equal(virtio_blk_new(&d.env, d.slot, &o, &d.dev), -ENOENT);
	o.path = "/proc/self/status"; /* empty, and no qcow2 */
	o.read_only = true;
	assert_int_equal(virtio_blk_new(&d.env, d.slot, &o, &d.dev), -ENOEXEC);
	o.format = VIRTIO_BLK_RAW;
	assert_int_equal(virtio_blk_new(&d.env, d.slot, &o, &d.dev), -EINVAL);
	drv_free(&d);
}

enum { COPY_BLOCKS = DISK_BYTES / BLK_COPY_BLOCK, COPY_FIRST = 100 };

static bool copy_bit(const uint64_t *bitmap, unsigned block)
{
	return bitmap[(COPY_FIRST + block) / 64] >> ((COPY_FIRST + block) % 64) & 1;
}

static unsigned copy_count(const uint64_t *bitmap)
{
	unsigned n = 0;

	for (unsigned i = 0; i < COPY_BLOCKS; i++)
		n += copy_bit(bitmap, i);
	return n;
}

static void copying_sees_every_write(void **state)
{
	uint64_t bitmap[(COPY_FIRST + COPY_BLOCKS + 63) / 64] = {0}, gpa;
	static uint8_t block[BLK_COPY_BLOCK], zeros[BLK_COPY_BLOCK];
	struct blk_copy *copy;
	struct disk t;

	assert_true(disk_make(&t, URING));
	disk_plug(&t);
	copy = virtio_blk_copy(t.d.dev);
	assert_non_null(copy);
	assert_int_equal(blk_copy_blocks(copy), COPY_BLOCKS);
	gpa = drv_alloc(&t.d, 65536);
	fill(&t, gpa, 65536, 3);
	assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, 0, gpa, 512), VIRTIO_BLK_S_OK);
	drv_must(blk_copy_start(copy), "start");
	blk_copy_fetch(copy, bitmap, COPY_FIRST);
	assert_int_equal(copy_count(bitmap), 0);
	/* 4 KiB over the edge of two blocks; the last block; a run beyond a word of the bitmap. */
	assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, 8 * 20 + 7, gpa, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, SECTORS - 1, gpa, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(&t, VIRTIO_BLK_T_WRITE_ZEROES, 8 * 60, 8 * 200, 0),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(request(&t, VIRTIO_BLK_T_IN, 8 * 500, gpa, 65536), VIRTIO_BLK_S_OK);
	blk_copy_fetch(copy, bitmap, COPY_FIRST);
	assert_true(copy_bit(bitmap, 20) && copy_bit(bitmap, 21));
	assert_true(copy_bit(bitmap, COPY_BLOCKS - 1));
	for (unsigned i = 60; i < 260; i++)
		assert_true(copy_bit(bitmap, i));
	assert_int_equal(copy_count(bitmap), 203);
	memset(bitmap, 0, sizeof(bitmap));
	blk_copy_fetch(copy, bitmap, COPY_FIRST);
	assert_int_equal(copy_count(bitmap), 0);
	blk_copy_stop(copy);
	assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, 0, gpa, 512), VIRTIO_BLK_S_OK);
	blk_copy_fetch(copy, bitmap, COPY_FIRST);
	assert_int_equal(copy_count(bitmap), 0);
	/* What may be something else than zeros. */
	drv_must(blk_copy_used(copy, bitmap, COPY_FIRST), "used");
	assert_true(copy_bit(bitmap, 0) && copy_bit(bitmap, 20) &&
		    copy_bit(bitmap, COPY_BLOCKS - 1));
	/* Bytes. */
	memset(block, 0x5a, sizeof(block));
	drv_must(blk_copy_write(copy, 700, 1, block), "write");
	assert_int_equal(request(&t, VIRTIO_BLK_T_IN, 8 * 700, gpa, 4096), VIRTIO_BLK_S_OK);
	assert_memory_equal(drv_ptr(&t.d, gpa, 4096), block, 4096);
	drv_must(blk_copy_write(copy, 700, 1, NULL), "zeros");
	drv_must(blk_copy_read(copy, 700, block), "read");
	assert_memory_equal(block, zeros, sizeof(zeros));
	drv_must(blk_copy_sync(copy), "sync");
	assert_int_equal(blk_copy_read(copy, COPY_BLOCKS, block), -EINVAL);
	assert_int_equal(blk_copy_write(copy, COPY_BLOCKS - 1, 2, block), -EINVAL);
	assert_int_equal(truncate(t.path, DISK_BYTES / 2), 0);
	assert_int_equal(blk_copy_read(copy, COPY_BLOCKS - 1, block), -EIO);
	disk_free(&t);
}

/* The same beside a qemu-nbd, which has another connection for it. */
static void copying_of_qcow2(void **state)
{
	uint64_t bitmap[(COPY_FIRST + COPY_BLOCKS + 63) / 64] = {0}, gpa;
	static uint8_t block[2 * BLK_COPY_BLOCK], zeros[BLK_COPY_BLOCK];
	struct blk_copy *copy;
	struct disk t;

	if (!disk_make(&t, QCOW2)) {
		print_message("no qemu-img: qcow2 was not tested\n");
		return;
	}
	disk_plug(&t);
	copy = virtio_blk_copy(t.d.dev);
	assert_non_null(copy);
	assert_int_equal(blk_copy_blocks(copy), COPY_BLOCKS);
	drv_must(blk_copy_used(copy, bitmap, COPY_FIRST), "used");
	assert_int_equal(copy_count(bitmap), 0);
	gpa = drv_alloc(&t.d, 65536);
	fill(&t, gpa, 65536, 3);
	assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, 8 * 300, gpa, 4096), VIRTIO_BLK_S_OK);
	drv_must(blk_copy_used(copy, bitmap, COPY_FIRST), "used");
	assert_true(copy_bit(bitmap, 300) && copy_count(bitmap) <= 16);
	/* What was read ahead is forgotten when it is asked which blocks were written. */
	drv_must(blk_copy_start(copy), "start");
	drv_must(blk_copy_read(copy, 299, block), "read");
	assert_memory_equal(block, zeros, sizeof(zeros));
	drv_must(blk_copy_read(copy, 300, block), "read");
	assert_memory_equal(block, drv_ptr(&t.d, gpa, 4096), 4096);
	assert_int_equal(request(&t, VIRTIO_BLK_T_OUT, 8 * 300, gpa + 4096, 4096), VIRTIO_BLK_S_OK);
	memset(bitmap, 0, sizeof(bitmap));
	blk_copy_fetch(copy, bitmap, COPY_FIRST);
	assert_true(copy_bit(bitmap, 300) && copy_count(bitmap) == 1);
	drv_must(blk_copy_read(copy, 300, block), "read");
	assert_memory_equal(block, drv_ptr(&t.d, gpa + 4096, 4096), 4096);
	memset(block, 0x5a, sizeof(block));
	drv_must(blk_copy_write(copy, COPY_BLOCKS - 2, 2, block), "write");
	drv_must(blk_copy_write(copy, COPY_BLOCKS - 1, 1, NULL), "zeros");
	drv_must(blk_copy_sync(copy), "sync");
	assert_int_equal(request(&t, VIRTIO_BLK_T_IN, SECTORS - 16, gpa, 8192), VIRTIO_BLK_S_OK);
	assert_memory_equal(drv_ptr(&t.d, gpa, 4096), block, 4096);
	assert_memory_equal(drv_ptr(&t.d, gpa + 4096, 4096), zeros, 4096);
	assert_int_equal(blk_copy_read(copy, COPY_BLOCKS, block), -EINVAL);
	disk_free(&t);
}

/* One has the image at a time; each sees what the other one has written. */
static void qcow2_that_changes_hands(void **state)
{
	struct disk a, b;
	uint64_t gpa[2];

	if (!disk_make(&a, QCOW2) || !disk_make(&b, QCOW2)) {
		print_message("no qemu-img: qcow2 was not tested\n");
		return;
	}
	disk_plug(&a);
	b.opts.path = a.path;
	b.opts.later = true;
	disk_plug(&b);
	gpa[0] = drv_alloc(&a.d, 8192);
	gpa[1] = drv_alloc(&b.d, 8192);
	fill(&a, gpa[0], 8192, 7);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 8, gpa[1], 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(virtio_blk_acquire(b.d.dev), -ENOEXEC);
	drv_must(virtio_blk_acquire(a.d.dev), "acquire what it has");
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(request(&a, VIRTIO_BLK_T_OUT, 8 + i, gpa[0], 4096),
				 VIRTIO_BLK_S_OK);
		drv_must(virtio_blk_release(a.d.dev), "release");
		drv_must(virtio_blk_release(a.d.dev), "release again");
		assert_int_equal(request(&a, VIRTIO_BLK_T_IN, 8, gpa[0], 4096), VIRTIO_BLK_S_IOERR);
		drv_must(virtio_blk_acquire(b.d.dev), "acquire");
		assert_int_equal(virtio_blk_acquire(a.d.dev), -ENOEXEC);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 8 + i, gpa[1], 4096),
				 VIRTIO_BLK_S_OK);
		assert_memory_equal(drv_ptr(&b.d, gpa[1], 4096), drv_ptr(&a.d, gpa[0], 4096), 4096);
		memset(drv_ptr(&b.d, gpa[1], 4096), 0x30 + (int)i, 4096);
		assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 64, gpa[1], 4096), VIRTIO_BLK_S_OK);
		drv_must(virtio_blk_release(b.d.dev), "release");
		drv_must(virtio_blk_acquire(a.d.dev), "acquire");
		assert_int_equal(request(&a, VIRTIO_BLK_T_IN, 64, gpa[0] + 4096, 4096),
				 VIRTIO_BLK_S_OK);
		assert_memory_equal(drv_ptr(&b.d, gpa[1], 4096), drv_ptr(&a.d, gpa[0] + 4096, 4096),
				    4096);
	}
	disk_free(&b);
	disk_free(&a);
}

/* A size that is no whole number of blocks; the rest of the last one is not there. */
static void copying_of_a_short_last_block(void **state)
{
	char path[] = "/tmp/test-blk-XXXXXX";
	uint8_t block[BLK_COPY_BLOCK];
	uint64_t bitmap[1] = {0};
	struct blk_copy c;
	struct stat st;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(ftruncate(fd, 4096 + 512), 0);
	blk_copy_init(&c, &blk_copy_file_ops, &fd, 4096 + 512);
	assert_int_equal(blk_copy_blocks(&c), 2);
	drv_must(blk_copy_start(&c), "start");
	memset(block, 1, sizeof(block));
	drv_must(blk_copy_write(&c, 1, 1, block), "write");
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 4096 + 512);
	drv_must(blk_copy_read(&c, 1, block), "read");
	assert_int_equal(block[511], 1);
	assert_int_equal(block[512], 0);
	blk_copy_mark(&c, 4096, 512);
	blk_copy_fetch(&c, bitmap, 3);
	assert_int_equal(bitmap[0], 1 << 4);
	blk_copy_fini(&c);
	close(fd);
}

static void copying_is_for_disks_that_are_written(void **state)
{
	struct disk t;

	assert_true(disk_make(&t, SYNC));
	t.opts.read_only = true;
	disk_plug(&t);
	assert_null(virtio_blk_copy(t.d.dev));
	disk_free(&t);
	if (!disk_make(&t, QCOW2))
		return;
	t.opts.read_only = true;
	disk_plug(&t);
	assert_null(virtio_blk_copy(t.d.dev));
	disk_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_engine),
		cmocka_unit_test(discard_gives_the_space_back),
		cmocka_unit_test(read_only_refuses_writes),
		cmocka_unit_test(config_space_describes_the_disk),
		cmocka_unit_test(requests_without_room_need_reset),
		cmocka_unit_test(pause_drains_what_is_under_way),
		cmocka_unit_test(another_disk_is_no_place_to_resume),
		cmocka_unit_test(bad_images_are_refused),
		cmocka_unit_test(copying_sees_every_write),
		cmocka_unit_test(copying_of_qcow2),
		cmocka_unit_test(qcow2_that_changes_hands),
		cmocka_unit_test(copying_of_a_short_last_block),
		cmocka_unit_test(copying_is_for_disks_that_are_written),
	};

	base_log_set_level(BASE_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
