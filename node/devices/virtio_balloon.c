#include "node/devices/virtio_balloon.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "base/log.h"
#include "node/devices/virtio.h"

enum {
	BALLOON_INFLATE = 0,
	BALLOON_DEFLATE = 1,
	BALLOON_QUEUES = 4, /* with statistics and reporting */
	BALLOON_QUEUE_SIZE = 128,
	BALLOON_PAGE = 1 << VIRTIO_BALLOON_PFN_SHIFT,
	BALLOON_PFNS = 256, /* read in one go; the driver sends as many */
	BALLOON_CONFIG_LEN = 8,
};

static const char *const stat_names[] = {
	[VIRTIO_BALLOON_S_SWAP_IN] = "guest_swap_in_bytes",
	[VIRTIO_BALLOON_S_SWAP_OUT] = "guest_swap_out_bytes",
	[VIRTIO_BALLOON_S_MAJFLT] = "guest_major_faults",
	[VIRTIO_BALLOON_S_MINFLT] = "guest_minor_faults",
	[VIRTIO_BALLOON_S_MEMFREE] = "guest_free_bytes",
	[VIRTIO_BALLOON_S_MEMTOT] = "guest_total_bytes",
	[VIRTIO_BALLOON_S_AVAIL] = "guest_available_bytes",
	[VIRTIO_BALLOON_S_CACHES] = "guest_cache_bytes",
};

enum { STAT_COUNT = BASE_ARRAY_LEN(stat_names) };

struct balloon {
	struct virtio_device vd;
	struct virtio_balloon_options opts;
	/* The statistics queue's lock: the driver's buffer, which we keep until we want new ones. */
	bool stats_held, refresh;
	uint16_t stats_head;
	_Atomic(uint64_t) stats[STAT_COUNT];
	_Atomic(uint64_t) inflated, deflated, reported; /* pages, pages, bytes */
	struct virtio_chain chain;
};

static struct balloon *balloon_of(struct virtio_device *vd)
{
	return base_container_of(vd, struct balloon, vd);
}

/* A driver that leaves a feature out leaves its queue out, and those after it move up. */
static int stats_queue(const struct virtio_device *vd)
{
	return virtio_has(vd, VIRTIO_BALLOON_F_STATS_VQ) ? 2 : -1;
}

static int reporting_queue(const struct virtio_device *vd)
{
	if (!virtio_has(vd, VIRTIO_BALLOON_F_REPORTING))
		return -1;
	return virtio_has(vd, VIRTIO_BALLOON_F_STATS_VQ) ? 3 : 2;
}

static int discard_hole(struct vmm_mem *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < vmm_mem_region_count(mem); i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(mem, i);

		if (gpa < r->gpa || gpa - r->gpa >= r->len)
			continue;
		return fallocate(vmm_mem_fd(mem), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 r->fd_offset + (gpa - r->gpa), len)
			       ? -errno
			       : 0;
	}
	return -EFAULT;
}

/* False where the range is not memory. */
static bool balloon_discard(struct balloon *b, uint64_t gpa, uint64_t len)
{
	struct vmm_mem *mem = b->vd.env->mem;
	int rc;

	if (!vmm_mem_ptr(mem, gpa, len))
		return false;
	rc = b->opts.discard ? b->opts.discard(b->opts.opaque, gpa, len)
			     : discard_hole(mem, gpa, len);
	if (rc)
		log_debug("virtio-balloon: discard: %s", strerror(-rc));
	/* It reads as zeroes now, which a migration must carry over. */
	vmm_mem_dirty(mem, gpa, len);
	return true;
}

/* Page numbers, runs of which go together. */
static bool inflate_pages(struct balloon *b, const uint32_t *pfns, size_t count)
{
	for (size_t i = 0; i < count;) {
		uint64_t first = le32toh(pfns[i]);
		size_t n = 1;

		while (i + n < count && le32toh(pfns[i + n]) == first + n)
			n++;
		if (!balloon_discard(b, first * BALLOON_PAGE, n * BALLOON_PAGE))
			return false;
		i += n;
	}
	atomic_fetch_add(&b->inflated, count);
	return true;
}

static bool balloon_inflate(struct virtio_device *vd, struct virtio_queue *q,
			    struct virtio_chain *c)
{
	uint32_t pfns[BALLOON_PFNS];

	if (c->out_bytes % sizeof(pfns[0]) || c->out_bytes > sizeof(pfns)) {
		virtio_device_fail(vd, "page list of a bad length");
		return false;
	}
	virtio_iov_read(c->iov, c->out_count, 0, pfns, c->out_bytes);
	if (!inflate_pages(balloon_of(vd), pfns, c->out_bytes / sizeof(pfns[0]))) {
		virtio_device_fail(vd, "page that is not memory");
		return false;
	}
	virtio_queue_put(q, c, 0);
	return true;
}

/* Pages come back by being touched. */
static bool balloon_deflate(struct virtio_device *vd, struct virtio_queue *q,
			    struct virtio_chain *c)
{
	atomic_fetch_add(&balloon_of(vd)->deflated, c->out_bytes / sizeof(uint32_t));
	virtio_queue_put(q, c, 0);
	return true;
}

/* Free pages are reported as the device-writable buffers of a chain. */
static bool balloon_report(struct virtio_device *vd, struct virtio_queue *q, struct virtio_chain *c)
{
	struct balloon *b = balloon_of(vd);

	for (unsigned i = c->out_count; i < c->out_count + c->in_count; i++) {
		uint64_t first = (c->gpa[i] + BALLOON_PAGE - 1) & ~(uint64_t)(BALLOON_PAGE - 1);
		uint64_t end = (c->gpa[i] + c->iov[i].iov_len) & ~(uint64_t)(BALLOON_PAGE - 1);

		if (first < end && balloon_discard(b, first, end - first))
			atomic_fetch_add(&b->reported, end - first);
	}
	virtio_queue_put(q, c, 0);
	return true;
}

/* Takes the numbers and keeps the buffer; giving it back asks for the next. */
static bool balloon_statistics(struct virtio_device *vd, struct virtio_queue *q,
			       struct virtio_chain *c)
{
	struct balloon *b = balloon_of(vd);
	struct virtio_balloon_stat s;

	if (b->stats_held) {
		virtio_device_fail(vd, "more than one buffer of statistics");
		return false;
	}
	for (size_t at = 0; at + sizeof(s) <= c->out_bytes && at < STAT_COUNT * 4 * sizeof(s);
	     at += sizeof(s)) {
		virtio_iov_read(c->iov, c->out_count, at, &s, sizeof(s));
		if (le16toh(s.tag) < STAT_COUNT)
			atomic_store(&b->stats[le16toh(s.tag)], le64toh(s.val));
	}
	b->stats_held = true;
	b->stats_head = c->head;
	return true;
}

static void statistics_kick(struct balloon *b, struct virtio_queue *q)
{
	virtio_queue_serve(q, &b->chain, balloon_statistics);
	if (!b->refresh || !b->stats_held)
		return;
	b->refresh = b->stats_held = false;
	b->chain = (struct virtio_chain){.head = b->stats_head};
	virtio_queue_put(q, &b->chain, 0);
	virtio_queue_publish(q);
}

static void balloon_kick(struct virtio_device *vd, struct virtio_queue *q)
{
	struct balloon *b = balloon_of(vd);

	if (q->index == BALLOON_INFLATE)
		virtio_queue_serve(q, &b->chain, balloon_inflate);
	else if (q->index == BALLOON_DEFLATE)
		virtio_queue_serve(q, &b->chain, balloon_deflate);
	else if (q->index == stats_queue(vd))
		statistics_kick(b, q);
	else if (q->index == reporting_queue(vd))
		virtio_queue_serve(q, &b->chain, balloon_report);
}

/* Only `actual` is the driver's to write. */
static void balloon_config_write(struct virtio_device *vd, unsigned offset, unsigned len,
				 const uint8_t *data)
{
	unsigned at = offsetof(struct virtio_balloon_config, actual);

	if (offset < at || offset + len > at + 4)
		return;
	pthread_mutex_lock(&vd->config_lock);
	memcpy(vd->config + offset, data, len);
	pthread_mutex_unlock(&vd->config_lock);
}

static uint32_t config_word(struct virtio_device *vd, unsigned at)
{
	uint32_t v;

	pthread_mutex_lock(&vd->config_lock);
	memcpy(&v, vd->config + at, sizeof(v));
	pthread_mutex_unlock(&vd->config_lock);
	return le32toh(v);
}

static void balloon_reset(struct virtio_device *vd)
{
	struct balloon *b = balloon_of(vd);

	b->stats_held = b->refresh = false;
	/* A new kernel holds nothing in its balloon. */
	pthread_mutex_lock(&vd->config_lock);
	memset(vd->config + offsetof(struct virtio_balloon_config, actual), 0, 4);
	pthread_mutex_unlock(&vd->config_lock);
}

static void balloon_save(struct virtio_device *vd, struct base_wbuf *out)
{
	struct balloon *b = balloon_of(vd);

	base_wbuf_bytes(out, vd->config, BALLOON_CONFIG_LEN);
	base_wbuf_u8(out, b->stats_held);
	base_wbuf_u16(out, b->stats_head);
}

static int balloon_load(struct virtio_device *vd, struct base_rbuf *in, uint32_t version)
{
	struct balloon *b = balloon_of(vd);
	uint8_t held;

	base_rbuf_bytes(in, vd->config, BALLOON_CONFIG_LEN);
	held = base_rbuf_u8(in);
	b->stats_head = base_rbuf_u16(in);
	if (in->error)
		return in->error;
	if (held > 1 || (held && b->stats_head >= BALLOON_QUEUE_SIZE))
		return -EPROTO;
	b->stats_held = held;
	return 0;
}

static void balloon_stats(struct virtio_device *vd,
			  void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
	struct balloon *b = balloon_of(vd);

	put(arg, "target_bytes",
	    (uint64_t)config_word(vd, offsetof(struct virtio_balloon_config, num_pages)) *
		    BALLOON_PAGE);
	put(arg, "actual_bytes", virtio_balloon_actual(&vd->dev));
	put(arg, "inflated_pages", atomic_load(&b->inflated));
	put(arg, "deflated_pages", atomic_load(&b->deflated));
	put(arg, "reported_bytes", atomic_load(&b->reported));
	for (unsigned i = 0; i < STAT_COUNT; i++)
		put(arg, stat_names[i], atomic_load(&b->stats[i]));
}

static void balloon_fini(struct virtio_device *vd)
{
	virtio_device_fini(vd);
	free(balloon_of(vd));
}

static const struct virtio_ops balloon_ops = {
	.device = VIRTIO_DEVICE_OPS("virtio-balloon", 1),
	.id = VIRTIO_ID_BALLOON,
	.kick = balloon_kick,
	.reset = balloon_reset,
	.config_write = balloon_config_write,
	.save = balloon_save,
	.load = balloon_load,
	.stats = balloon_stats,
	.fini = balloon_fini,
};

int virtio_balloon_new(struct vmm_env *env, struct vmm_virtio_slot slot,
		       const struct virtio_balloon_options *opts, struct vmm_device **out)
{
	const uint16_t queue_max[BALLOON_QUEUES] = {BALLOON_QUEUE_SIZE, BALLOON_QUEUE_SIZE,
						    BALLOON_QUEUE_SIZE, BALLOON_QUEUE_SIZE};
	struct balloon *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return -ENOMEM;
	b->opts = *opts;
	rc = virtio_device_init(&b->vd, &balloon_ops, env, slot, queue_max, BALLOON_QUEUES);
	if (rc) {
		free(b);
		return rc;
	}
	b->vd.config_len = BALLOON_CONFIG_LEN;
	b->vd.features |= VIRTIO_BIT(VIRTIO_BALLOON_F_STATS_VQ) |
			  VIRTIO_BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
			  VIRTIO_BIT(VIRTIO_BALLOON_F_REPORTING);
	*out = &b->vd.dev;
	return 0;
}

void virtio_balloon_set_target(struct vmm_device *dev, uint64_t bytes)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);
	uint64_t limit = vmm_mem_size(vd->env->mem);
	uint32_t pages = htole32(BASE_MIN(bytes, limit) / BALLOON_PAGE);

	virtio_config_set(vd, offsetof(struct virtio_balloon_config, num_pages), &pages,
			  sizeof(pages));
}

uint64_t virtio_balloon_actual(struct vmm_device *dev)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);

	return (uint64_t)config_word(vd, offsetof(struct virtio_balloon_config, actual)) *
	       BALLOON_PAGE;
}

void virtio_balloon_refresh(struct vmm_device *dev)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);
	struct virtio_queue *q = &vd->queues[2];

	pthread_mutex_lock(&q->lock);
	balloon_of(vd)->refresh = true;
	pthread_mutex_unlock(&q->lock);
	virtio_queue_kick(q);
}
