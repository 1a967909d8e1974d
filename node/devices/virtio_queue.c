#include "node/devices/virtio_queue.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "node/devices/virtio.h"

/*
 * The rings are shared with vCPUs that run at the same time: each field is read once, by an atomic.
 * Order (VIRTIO 1.2, 2.7.13 and 2.7.10): avail->idx is acquired before the entries; used entries
 * are stored before used->idx is released. An index is stored sequentially consistent where the
 * next step loads what the other side stores (event indices and flags): without that store-load
 * order both sides could miss each other and sleep.
 */
#define ring_load(p)	    __atomic_load_n((p), __ATOMIC_RELAXED)
#define ring_acquire(p)	    __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define ring_load_sc(p)	    __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define ring_store(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define ring_store_sc(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)

static uint64_t avail_bytes(uint16_t size)
{
	return sizeof(struct vring_avail) + (uint64_t)size * sizeof(uint16_t) + sizeof(uint16_t);
}

static uint64_t used_bytes(uint16_t size)
{
	return sizeof(struct vring_used) + (uint64_t)size * sizeof(struct vring_used_elem) +
	       sizeof(uint16_t);
}

/* avail->ring[size] and the word after used->ring[size]: the event indices. */
static uint16_t *used_event(const struct virtio_queue *q)
{
	return &q->avail->ring[q->size];
}

static uint16_t *avail_event(const struct virtio_queue *q)
{
	return (uint16_t *)&q->used->ring[q->size];
}

int virtio_queue_init(struct virtio_queue *q, struct virtio_device *dev, struct vmm_mem *mem,
		      uint16_t index, uint16_t size_max)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		return -errno;
	memset(q, 0, sizeof(*q));
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->idle, NULL);
	q->dev = dev;
	q->mem = mem;
	q->index = index;
	q->size_max = q->size = size_max;
	q->kick.fd = fd;
	q->kick.events = EPOLLIN;
	return 0;
}

void virtio_queue_fini(struct virtio_queue *q)
{
	base_loop_remove(&q->kick);
	close(q->kick.fd);
	pthread_cond_destroy(&q->idle);
	pthread_mutex_destroy(&q->lock);
}

void virtio_queue_reset(struct virtio_queue *q)
{
	q->size = q->size_max;
	q->desc_gpa = q->avail_gpa = q->used_gpa = 0;
	q->enabled = q->event_idx = q->indirect = q->running = false;
	q->desc = NULL;
	q->avail = NULL;
	q->used = NULL;
	q->next_avail = q->next_used = q->published = q->signalled = 0;
	q->signalled_valid = false;
}

int virtio_queue_enable(struct virtio_queue *q, bool event_idx, bool indirect)
{
	uint8_t *desc;
	struct vring_avail *avail;
	struct vring_used *used;

	if (q->size == 0 || q->size > q->size_max || (q->size & (q->size - 1)))
		return -EINVAL;
	if ((q->desc_gpa & 15) || (q->avail_gpa & 1) || (q->used_gpa & 3))
		return -EINVAL;
	desc = vmm_mem_ptr(q->mem, q->desc_gpa, (uint64_t)q->size * sizeof(struct vring_desc));
	avail = vmm_mem_ptr(q->mem, q->avail_gpa, avail_bytes(q->size));
	used = vmm_mem_ptr(q->mem, q->used_gpa, used_bytes(q->size));
	if (!desc || !avail || !used)
		return -EFAULT;
	q->desc = desc;
	q->avail = avail;
	q->used = used;
	q->event_idx = event_idx;
	q->indirect = indirect;
	q->enabled = true;
	return 0;
}

int virtio_queue_pending(struct virtio_queue *q)
{
	uint16_t count = (uint16_t)(ring_acquire(&q->avail->idx) - q->next_avail);

	return count > q->size ? -EBADMSG : count;
}

/* One buffer of a chain. Readable ones come before writable ones. */
static int chain_add(const struct virtio_queue *q, struct virtio_chain *c, uint64_t gpa,
		     uint32_t len, bool in)
{
	unsigned n = c->out_count + c->in_count;
	void *p;

	if (!in && c->in_count)
		return -EBADMSG;
	if (len == 0)
		return 0;
	p = vmm_mem_ptr(q->mem, gpa, len);
	if (!p || n == VIRTIO_CHAIN_MAX)
		return -EBADMSG;
	c->iov[n] = (struct iovec){p, len};
	c->gpa[n] = gpa;
	if (in) {
		c->in_count++;
		c->in_bytes += len;
	} else {
		c->out_count++;
		c->out_bytes += len;
	}
	return 0;
}

/* An indirect table may lie at any address. The barrier keeps the compiler from reading it twice.
 */
static struct vring_desc desc_read(const uint8_t *table, uint32_t index)
{
	struct vring_desc d;

	memcpy(&d, table + (size_t)index * sizeof(d), sizeof(d));
	__asm__ volatile("" ::: "memory");
	return d;
}

/* Walks one table of `size` descriptors from `at`; it holds at most `size` links, so loops end. */
static int chain_walk(const struct virtio_queue *q, const uint8_t *table, uint32_t size,
		      uint16_t at, bool inner, struct virtio_chain *c)
{
	for (uint32_t steps = 0; steps < size; steps++) {
		struct vring_desc d;
		int rc;

		if (at >= size)
			return -EBADMSG;
		d = desc_read(table, at);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			const uint8_t *t;

			/* One level, and nothing after it (2.7.5.3.1). */
			if (inner || !q->indirect || (d.flags & VRING_DESC_F_NEXT))
				return -EBADMSG;
			if (d.len == 0 || d.len % sizeof(d) ||
			    d.len / sizeof(d) > VIRTIO_QUEUE_SIZE_MAX)
				return -EBADMSG;
			t = vmm_mem_ptr(q->mem, d.addr, d.len);
			return t ? chain_walk(q, t, d.len / sizeof(d), 0, true, c) : -EBADMSG;
		}
		rc = chain_add(q, c, d.addr, d.len, d.flags & VRING_DESC_F_WRITE);
		if (rc)
			return rc;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		at = d.next;
	}
	return -EBADMSG;
}

int virtio_queue_take(struct virtio_queue *q, struct virtio_chain *c)
{
	int pending = virtio_queue_pending(q), rc;

	if (pending <= 0)
		return pending;
	c->head = ring_load(&q->avail->ring[q->next_avail & (q->size - 1)]);
	c->out_count = c->in_count = 0;
	c->out_bytes = c->in_bytes = 0;
	rc = chain_walk(q, q->desc, q->size, c->head, false, c);
	if (rc)
		return rc;
	q->next_avail++;
	return 1;
}

void virtio_queue_untake(struct virtio_queue *q, unsigned count)
{
	q->next_avail -= count;
}

void virtio_chain_dirty(struct virtio_queue *q, const struct virtio_chain *c, uint64_t written)
{
	for (unsigned i = 0; i < c->in_count && written; i++) {
		unsigned at = c->out_count + i;
		uint64_t n = BASE_MIN(written, c->iov[at].iov_len);

		vmm_mem_dirty(q->mem, c->gpa[at], n);
		written -= n;
	}
}

void virtio_queue_put(struct virtio_queue *q, const struct virtio_chain *c, uint32_t written)
{
	struct vring_used_elem *e = &q->used->ring[q->next_used & (q->size - 1)];

	virtio_chain_dirty(q, c, written);
	ring_store(&e->id, c->head);
	ring_store(&e->len, written);
	q->next_used++;
}

void virtio_queue_unput(struct virtio_queue *q, unsigned count)
{
	q->next_used -= count;
}

/* Has the driver asked for an interrupt when used->idx goes from `old` to `now`? */
static bool queue_wants_interrupt(const struct virtio_queue *q, uint16_t old, uint16_t now,
				  bool old_valid)
{
	if (q->event_idx)
		return !old_valid || vring_need_event(ring_load_sc(used_event(q)), now, old);
	return !(ring_load_sc(&q->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

void virtio_queue_publish(struct virtio_queue *q)
{
	uint16_t old = q->signalled;
	bool old_valid = q->signalled_valid;

	if (q->next_used == q->published)
		return;
	ring_store_sc(&q->used->idx, q->next_used);
	q->published = q->next_used;
	vmm_mem_dirty(q->mem, q->used_gpa, used_bytes(q->size));
	q->signalled = q->next_used;
	q->signalled_valid = true;
	if (queue_wants_interrupt(q, old, q->next_used, old_valid)) {
		q->interrupts++;
		virtio_interrupt_queue(q->dev);
	}
}

void virtio_queue_notify_off(struct virtio_queue *q)
{
	/* With event index a stale avail_event is as good: the driver passes it once, then not. */
	if (q->event_idx)
		return;
	ring_store(&q->used->flags, VRING_USED_F_NO_NOTIFY);
	vmm_mem_dirty(q->mem, q->used_gpa, sizeof(*q->used));
}

bool virtio_queue_notify_on(struct virtio_queue *q)
{
	return virtio_queue_notify_beyond(q, 0);
}

bool virtio_queue_notify_beyond(struct virtio_queue *q, uint16_t waiting)
{
	const uint16_t seen = q->next_avail + waiting;

	if (q->event_idx) {
		ring_store_sc(avail_event(q), seen);
		vmm_mem_dirty(q->mem, q->used_gpa + used_bytes(q->size) - 2, 2);
	} else {
		ring_store_sc(&q->used->flags, 0);
		vmm_mem_dirty(q->mem, q->used_gpa, sizeof(*q->used));
	}
	return ring_load_sc(&q->avail->idx) != seen;
}

void virtio_queue_begin(struct virtio_queue *q)
{
	q->inflight++;
}

void virtio_queue_end(struct virtio_queue *q)
{
	if (--q->inflight == 0)
		pthread_cond_broadcast(&q->idle);
}

void virtio_queue_drain(struct virtio_queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->running = false;
	while (q->inflight)
		pthread_cond_wait(&q->idle, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

void virtio_queue_kick(struct virtio_queue *q)
{
	uint64_t one = 1;

	/* EAGAIN means that the counter is full: the thread wakes anyway. */
	if (write(q->kick.fd, &one, sizeof(one)) < 0)
		return;
}

void virtio_queue_save(const struct virtio_queue *q, struct base_wbuf *out)
{
	base_wbuf_u16(out, q->size);
	base_wbuf_u8(out, q->enabled);
	base_wbuf_u64(out, q->desc_gpa);
	base_wbuf_u64(out, q->avail_gpa);
	base_wbuf_u64(out, q->used_gpa);
	base_wbuf_u16(out, q->next_avail);
	base_wbuf_u16(out, q->next_used);
	base_wbuf_u16(out, q->signalled);
	base_wbuf_u8(out, q->signalled_valid);
}

int virtio_queue_load(struct virtio_queue *q, struct base_rbuf *in)
{
	uint8_t enabled, valid;

	q->size = base_rbuf_u16(in);
	enabled = base_rbuf_u8(in);
	q->desc_gpa = base_rbuf_u64(in);
	q->avail_gpa = base_rbuf_u64(in);
	q->used_gpa = base_rbuf_u64(in);
	q->next_avail = base_rbuf_u16(in);
	q->next_used = q->published = base_rbuf_u16(in);
	q->signalled = base_rbuf_u16(in);
	valid = base_rbuf_u8(in);
	q->signalled_valid = valid;
	if (in->error)
		return in->error;
	/*
	 * The transport maps an enabled queue again, with the features that were agreed on, and
	 * checks its size and places then. Those of a disabled one may be anything.
	 */
	q->enabled = enabled;
	return enabled > 1 || valid > 1 ? -EPROTO : 0;
}
