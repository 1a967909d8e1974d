#include "node/devices/virtio_blk.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "node/devices/blk_engine.h"
#include "node/devices/virtio.h"
#include "node/devices/virtio_worker.h"

enum {
	BLK_QUEUE_SIZE = 256,
	BLK_SEG_MAX = VIRTIO_CHAIN_MAX - 2, /* header and status take one each */
	BLK_CONFIG_LEN = 60,		    /* up to write_zeroes_may_unmap and padding */
	BLK_RANGE_SECTORS_MAX = 1 << 22,    /* 2 GiB of discard or zeroes in a request */
	SECTOR = 512,
	PHYSICAL_BLOCK = 4096,
};

struct blk_request {
	struct blk_io io;
	struct blk_queue *queue;
	struct blk_request *next; /* while free: last freed first, so that few are ever touched */
	struct virtio_chain chain;
	struct iovec data[VIRTIO_CHAIN_MAX];
};

struct blk_queue {
	struct virtio_queue *vq;
	struct blk *blk;
	struct blk_engine *engine;
	struct virtio_worker worker;
	struct virtio_chain scratch;
	struct blk_request *requests, *free; /* megabytes, mapped: a page costs when it is used */
	size_t requests_bytes;
	unsigned fresh; /* requests[fresh ..] were never used: their memory is untouched */
	bool starved;	/* chains were left in the ring for want of a request */
	uint64_t reads, writes, flushes, read_bytes, write_bytes, errors;
};

struct blk {
	struct virtio_device vd;
	struct blk_image *image;
	struct blk_copy copy;
	uint8_t serial[VIRTIO_BLK_SERIAL_MAX];
	unsigned queue_count;
	struct blk_queue queues[VIRTIO_BLK_QUEUES_MAX];
};

static struct blk *blk_of(struct virtio_device *vd)
{
	return base_container_of(vd, struct blk, vd);
}

/* Writes the status into the last byte of the chain and gives it back. */
static void request_finish(struct blk_request *r, uint8_t status)
{
	struct virtio_chain *c = &r->chain;
	struct blk_queue *bq = r->queue;

	/* Also after an error: part of it may be written. */
	if (r->io.op == BLK_WRITE || r->io.op == BLK_DISCARD || r->io.op == BLK_ZERO)
		blk_copy_mark(&bq->blk->copy, r->io.offset, r->io.len);
	bq->errors += status != VIRTIO_BLK_S_OK;
	virtio_iov_write(virtio_chain_in(c), c->in_count, c->in_bytes - 1, &status, 1);
	/* The status is last, so all before it counts as written: the dirty log must have it. */
	virtio_queue_put(bq->vq, c, BASE_MIN(c->in_bytes, UINT32_MAX));
	r->next = bq->free;
	bq->free = r;
	virtio_queue_end(bq->vq);
}

static void blk_done(struct blk_io *io, int error)
{
	struct blk_request *r = base_container_of(io, struct blk_request, io);

	request_finish(r, !error		 ? VIRTIO_BLK_S_OK
			  : error == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
						 : VIRTIO_BLK_S_IOERR);
}

static void blk_batch(void *owner)
{
	struct blk_queue *bq = owner;

	virtio_queue_publish(bq->vq);
	if (bq->starved && bq->free) {
		bq->starved = false;
		virtio_queue_kick(bq->vq);
	}
}

static bool range_fits(const struct blk *b, uint64_t sector, uint64_t len)
{
	uint64_t sectors = b->image->size_bytes / SECTOR;

	return len % b->image->block_size == 0 && sector % (b->image->block_size / SECTOR) == 0 &&
	       sector <= sectors && len / SECTOR <= sectors - sector;
}

/* The io of a read or write, or a status. */
static int parse_transfer(struct blk *b, struct blk_request *r, uint64_t sector, bool write)
{
	struct virtio_chain *c = &r->chain;
	size_t head = sizeof(struct virtio_blk_outhdr);
	uint64_t len = write ? c->out_bytes - head : c->in_bytes - 1;

	if (!range_fits(b, sector, len) || (write && b->image->read_only))
		return VIRTIO_BLK_S_IOERR;
	r->io.op = write ? BLK_WRITE : BLK_READ;
	r->io.offset = sector * SECTOR;
	r->io.len = len;
	r->io.iov = r->data;
	/* A driver that knows no flush expects that a completed write is safe. */
	r->io.sync = write && !virtio_has(&b->vd, VIRTIO_BLK_F_FLUSH);
	if (write)
		r->io.iov_count = virtio_iov_slice(c->iov, c->out_count, head, len, r->data);
	else
		r->io.iov_count =
			virtio_iov_slice(virtio_chain_in(c), c->in_count, 0, len, r->data);
	return -1;
}

static int parse_range(struct blk *b, struct blk_request *r, bool discard)
{
	struct virtio_chain *c = &r->chain;
	struct virtio_blk_discard_write_zeroes range;
	uint32_t flags, sectors;
	uint64_t sector;

	/* max_discard_seg and max_write_zeroes_seg are 1. */
	if (c->out_bytes != sizeof(struct virtio_blk_outhdr) + sizeof(range))
		return VIRTIO_BLK_S_IOERR;
	virtio_iov_read(c->iov, c->out_count, sizeof(struct virtio_blk_outhdr), &range,
			sizeof(range));
	flags = le32toh(range.flags);
	sector = le64toh(range.sector);
	sectors = le32toh(range.num_sectors);
	if (flags & ~(discard ? 0u : (uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	if (b->image->read_only || sectors > BLK_RANGE_SECTORS_MAX ||
	    !range_fits(b, sector, (uint64_t)sectors * SECTOR))
		return VIRTIO_BLK_S_IOERR;
	if (sectors == 0)
		return VIRTIO_BLK_S_OK;
	r->io.op = discard ? BLK_DISCARD : BLK_ZERO;
	r->io.offset = sector * SECTOR;
	r->io.len = (uint64_t)sectors * SECTOR;
	r->io.unmap = flags;
	return -1;
}

static int answer_id(struct blk *b, struct blk_request *r)
{
	struct virtio_chain *c = &r->chain;

	virtio_iov_write(virtio_chain_in(c), c->in_count, 0, b->serial,
			 BASE_MIN(sizeof(b->serial), c->in_bytes - 1));
	return VIRTIO_BLK_S_OK;
}

/* Fills r->io and returns -1, or the status of a request that needs none. */
static int request_parse(struct blk *b, struct blk_request *r)
{
	struct virtio_blk_outhdr head;
	uint64_t sector;

	virtio_iov_read(r->chain.iov, r->chain.out_count, 0, &head, sizeof(head));
	sector = le64toh(head.sector);
	r->io = (struct blk_io){0};
	switch (le32toh(head.type)) {
	case VIRTIO_BLK_T_IN: return parse_transfer(b, r, sector, false);
	case VIRTIO_BLK_T_OUT: return parse_transfer(b, r, sector, true);
	case VIRTIO_BLK_T_FLUSH:
		if (b->image->read_only)
			return VIRTIO_BLK_S_OK;
		r->io.op = BLK_FLUSH;
		return -1;
	case VIRTIO_BLK_T_DISCARD:
		return virtio_has(&b->vd, VIRTIO_BLK_F_DISCARD) ? parse_range(b, r, true)
								: VIRTIO_BLK_S_UNSUPP;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return virtio_has(&b->vd, VIRTIO_BLK_F_WRITE_ZEROES) ? parse_range(b, r, false)
								     : VIRTIO_BLK_S_UNSUPP;
	case VIRTIO_BLK_T_GET_ID: return answer_id(b, r);
	default: return VIRTIO_BLK_S_UNSUPP;
	}
}

static void request_count(struct blk_queue *bq, const struct blk_io *io)
{
	switch (io->op) {
	case BLK_READ:
		bq->reads++;
		bq->read_bytes += io->len;
		break;
	case BLK_WRITE:
		bq->writes++;
		bq->write_bytes += io->len;
		break;
	case BLK_FLUSH: bq->flushes++; break;
	case BLK_DISCARD:
	case BLK_ZERO: break;
	}
}

static void chain_copy(struct virtio_chain *to, const struct virtio_chain *from)
{
	unsigned n = from->out_count + from->in_count;

	to->head = from->head;
	to->out_count = from->out_count;
	to->in_count = from->in_count;
	to->out_bytes = from->out_bytes;
	to->in_bytes = from->in_bytes;
	memcpy(to->iov, from->iov, n * sizeof(*to->iov));
	memcpy(to->gpa, from->gpa, n * sizeof(*to->gpa));
}

static struct blk_request *request_take(struct blk_queue *bq)
{
	struct blk_request *r = bq->free;

	if (r) {
		bq->free = r->next;
	} else if (bq->fresh < bq->vq->size_max) {
		r = &bq->requests[bq->fresh++];
		r->queue = bq;
	}
	return r;
}

static bool blk_handle(struct virtio_device *vd, struct virtio_queue *q, struct virtio_chain *c)
{
	struct blk *b = blk_of(vd);
	struct blk_queue *bq = &b->queues[q->index];
	struct blk_request *r;
	int status;

	if (c->out_bytes < sizeof(struct virtio_blk_outhdr) || c->in_bytes < 1) {
		virtio_device_fail(vd, "request without header or status");
		return false;
	}
	r = request_take(bq);
	if (!r) {
		bq->starved = true;
		return false;
	}
	chain_copy(&r->chain, c);
	virtio_queue_begin(q);
	status = request_parse(b, r);
	if (status >= 0) {
		request_finish(r, status);
		return true;
	}
	request_count(bq, &r->io);
	/* Nothing to transfer is done already. */
	if (r->io.len == 0 && r->io.op != BLK_FLUSH)
		request_finish(r, VIRTIO_BLK_S_OK);
	else
		bq->engine->ops->submit(bq->engine, &r->io);
	return true;
}

static void blk_kick(struct virtio_device *vd, struct virtio_queue *q)
{
	struct blk_queue *bq = &blk_of(vd)->queues[q->index];

	virtio_queue_serve(q, &bq->scratch, blk_handle);
	bq->engine->ops->flush(bq->engine);
}

static void blk_stats(struct virtio_device *vd,
		      void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
	struct blk *b = blk_of(vd);
	struct blk_queue sum = {0};

	for (unsigned i = 0; i < b->queue_count; i++) {
		struct blk_queue *bq = &b->queues[i];

		pthread_mutex_lock(&bq->vq->lock);
		sum.reads += bq->reads;
		sum.writes += bq->writes;
		sum.flushes += bq->flushes;
		sum.read_bytes += bq->read_bytes;
		sum.write_bytes += bq->write_bytes;
		sum.errors += bq->errors;
		pthread_mutex_unlock(&bq->vq->lock);
	}
	put(arg, "reads", sum.reads);
	put(arg, "writes", sum.writes);
	put(arg, "flushes", sum.flushes);
	put(arg, "read_bytes", sum.read_bytes);
	put(arg, "write_bytes", sum.write_bytes);
	put(arg, "errors", sum.errors);
}

static void blk_save(struct virtio_device *vd, struct base_wbuf *out)
{
	struct blk *b = blk_of(vd);

	base_wbuf_u64(out, b->image->size_bytes);
	base_wbuf_u32(out, b->image->block_size);
	base_wbuf_bytes(out, b->serial, sizeof(b->serial));
}

static int blk_load(struct virtio_device *vd, struct base_rbuf *in, uint32_t version)
{
	struct blk *b = blk_of(vd);
	uint64_t size = base_rbuf_u64(in);
	uint32_t block = base_rbuf_u32(in);

	base_rbuf_bytes(in, b->serial, sizeof(b->serial));
	if (in->error)
		return in->error;
	if (size != b->image->size_bytes || block != b->image->block_size) {
		log_error("virtio-blk %u: the saved disk has %" PRIu64
			  " bytes in blocks of %" PRIu32 ", this one %" PRIu64
			  " in blocks of %" PRIu32,
			  vd->dev.instance, size, block, b->image->size_bytes,
			  b->image->block_size);
		return -EPROTO;
	}
	return 0;
}

static void queue_free(struct blk_queue *bq)
{
	virtio_worker_stop(&bq->worker);
	if (bq->engine)
		bq->engine->ops->free(bq->engine);
	if (bq->vq)
		base_loop_remove(&bq->vq->kick);
	if (bq->worker.loop)
		virtio_worker_fini(&bq->worker);
	if (bq->requests)
		munmap(bq->requests, bq->requests_bytes);
}

static void blk_fini(struct virtio_device *vd)
{
	struct blk *b = blk_of(vd);

	for (unsigned i = 0; i < b->queue_count; i++)
		queue_free(&b->queues[i]);
	virtio_device_fini(vd);
	blk_copy_fini(&b->copy);
	b->image->ops->free(b->image);
	free(b);
}

static int blk_start(struct virtio_device *vd)
{
	struct blk *b = blk_of(vd);
	int rc = 0;

	for (unsigned i = 0; i < b->queue_count && !rc; i++) {
		char name[32];

		snprintf(name, sizeof(name), "blk%u-%u", vd->dev.instance, i);
		rc = virtio_worker_start(&b->queues[i].worker, name);
	}
	return rc;
}

struct blk_copy *virtio_blk_copy(struct vmm_device *dev)
{
	struct blk *b = blk_of(base_container_of(dev, struct virtio_device, dev));

	return b->image->read_only || !b->copy.ops ? NULL : &b->copy;
}

static struct blk_image *image_of(struct vmm_device *dev)
{
	return blk_of(base_container_of(dev, struct virtio_device, dev))->image;
}

void virtio_blk_release_soon(struct vmm_device *dev)
{
	image_of(dev)->ops->release_soon(image_of(dev));
}

int virtio_blk_release(struct vmm_device *dev)
{
	return image_of(dev)->ops->release(image_of(dev));
}

int virtio_blk_acquire(struct vmm_device *dev)
{
	return image_of(dev)->ops->acquire(image_of(dev));
}

static const struct virtio_ops blk_ops = {
	.device = VIRTIO_DEVICE_OPS("virtio-blk", 1),
	.id = VIRTIO_ID_BLOCK,
	.kick = blk_kick,
	.start = blk_start,
	.save = blk_save,
	.load = blk_load,
	.stats = blk_stats,
	.fini = blk_fini,
};

static int queue_new(struct blk *b, struct blk_queue *bq, struct virtio_queue *vq)
{
	size_t bytes = vq->size_max * sizeof(*bq->requests);
	void *requests =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	if (requests == MAP_FAILED)
		return -ENOMEM;
	bq->requests = requests;
	bq->requests_bytes = bytes;
	bq->blk = b;
	rc = virtio_worker_init(&bq->worker);
	if (rc)
		return rc;
	bq->vq = vq;
	rc = virtio_queue_serve_on(vq, bq->worker.loop);
	if (rc)
		return rc;
	rc = b->image->ops->engine(b->image, bq->worker.loop, vq->size_max, &bq->engine);
	if (rc)
		return rc;
	bq->engine->lock = &vq->lock;
	bq->engine->done = blk_done;
	bq->engine->batch = blk_batch;
	bq->engine->owner = bq;
	return 0;
}

static void blk_describe(struct blk *b)
{
	struct virtio_device *vd = &b->vd;
	struct virtio_blk_config c = {0};

	c.capacity = htole64(b->image->size_bytes / SECTOR);
	c.seg_max = htole32(BLK_SEG_MAX);
	c.blk_size = htole32(b->image->block_size);
	while (b->image->block_size << c.physical_block_exp < PHYSICAL_BLOCK)
		c.physical_block_exp++;
	c.num_queues = htole16(b->queue_count);
	c.max_discard_sectors = c.max_write_zeroes_sectors = htole32(BLK_RANGE_SECTORS_MAX);
	c.max_discard_seg = c.max_write_zeroes_seg = htole32(1);
	c.discard_sector_alignment = htole32(PHYSICAL_BLOCK / SECTOR);
	c.write_zeroes_may_unmap = 1;
	static_assert(sizeof(c) >= BLK_CONFIG_LEN && sizeof(vd->config) >= BLK_CONFIG_LEN,
		      "config space");
	memcpy(vd->config, &c, BLK_CONFIG_LEN);
	vd->config_len = BLK_CONFIG_LEN;
	vd->features |= VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_BIT(VIRTIO_BLK_F_BLK_SIZE) |
			VIRTIO_BIT(VIRTIO_BLK_F_TOPOLOGY) | VIRTIO_BIT(VIRTIO_BLK_F_FLUSH);
	if (b->queue_count > 1)
		vd->features |= VIRTIO_BIT(VIRTIO_BLK_F_MQ);
	if (b->image->read_only)
		vd->features |= VIRTIO_BIT(VIRTIO_BLK_F_RO);
	else if (b->image->can_discard)
		vd->features |=
			VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) | VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

static int blk_open(const struct virtio_blk_options *opts, struct blk_image **image)
{
	switch (opts->format) {
	case VIRTIO_BLK_RAW:
		return blk_raw_open(opts->path, opts->read_only, opts->later, opts->direct,
				    opts->no_uring, image);
	case VIRTIO_BLK_QCOW2:
		return blk_nbd_open_qcow2(opts->path, opts->read_only, opts->later, image);
	}
	return -EINVAL;
}

int virtio_blk_new(struct vmm_env *env, struct vmm_virtio_slot slot,
		   const struct virtio_blk_options *opts, struct vmm_device **out)
{
	uint16_t queue_max[VIRTIO_BLK_QUEUES_MAX];
	unsigned queues = BASE_MAX(opts->queues, 1u);
	const struct blk_copy_ops *copy;
	void *copy_image = NULL;
	struct blk *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return -ENOMEM;
	rc = blk_open(opts, &b->image);
	if (rc)
		goto err_free;
	copy = b->image->ops->copy(b->image, &copy_image);
	blk_copy_init(&b->copy, copy, copy_image, b->image->size_bytes);
	queues = BASE_MIN(BASE_MIN(queues, b->image->queues_max), (unsigned)VIRTIO_BLK_QUEUES_MAX);
	for (unsigned i = 0; i < queues; i++)
		queue_max[i] = BLK_QUEUE_SIZE;
	rc = virtio_device_init(&b->vd, &blk_ops, env, slot, queue_max, queues);
	if (rc)
		goto err_image;
	b->queue_count = queues;
	if (opts->serial)
		memcpy(b->serial, opts->serial, strnlen(opts->serial, sizeof(b->serial)));
	blk_describe(b);
	for (unsigned i = 0; i < queues && !rc; i++)
		rc = queue_new(b, &b->queues[i], &b->vd.queues[i]);
	if (rc) {
		blk_fini(&b->vd);
		return rc;
	}
	*out = &b->vd.dev;
	return 0;
err_image:
	b->image->ops->free(b->image);
err_free:
	free(b);
	return rc;
}
