/*
 * A split virtqueue (VIRTIO 1.2, 2.7) as the device sees it, with indirect descriptors and event
 * index. Everything that the guest wrote is hostile: a malformed queue returns -EBADMSG, and the
 * caller reports it to the transport (virtio_queue_fail), which stops the queue.
 *
 * Threads: `lock` guards all of it once the queue is enabled. The transport takes it around calls
 * of the device; the functions here expect it held.
 */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "node/vmm/mem.h"

enum {
	VIRTIO_QUEUE_SIZE_MAX = 1024,
	VIRTIO_CHAIN_MAX = 256, /* buffers of one chain */
};

struct virtio_device;
struct vring_avail;
struct vring_used;

struct virtio_queue {
	pthread_mutex_t lock;
	struct virtio_device *dev;
	struct vmm_mem *mem;
	uint16_t index;

	/* Set by the driver before it enables the queue. */
	uint16_t size_max, size;
	uint64_t desc_gpa, avail_gpa, used_gpa;

	/* Valid while enabled. */
	bool enabled;
	bool event_idx, indirect;
	uint8_t *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_avail; /* first available entry not taken yet */
	uint16_t next_used;  /* where the next used entry goes */
	uint16_t published;  /* used->idx as the guest sees it */
	uint16_t signalled;  /* used->idx at the last interrupt decision */
	bool signalled_valid;

	bool running;	     /* the device may take chains: DRIVER_OK, not paused, not failed */
	unsigned inflight;   /* taken asynchronously and not yet put */
	pthread_cond_t idle; /* inflight became 0 */

	struct base_watch kick; /* eventfd: the driver's notification */
	struct base_loop *loop; /* whose thread serves the queue */
	uint64_t kicks, interrupts;
};

/*
 * One chain: iov[0 .. out_count) is what the device reads, then in_count buffers that it writes.
 * gpa[] runs along, for the dirty log.
 */
struct virtio_chain {
	uint16_t head;
	unsigned out_count, in_count;
	uint64_t out_bytes, in_bytes;
	struct iovec iov[VIRTIO_CHAIN_MAX];
	uint64_t gpa[VIRTIO_CHAIN_MAX];
};

static inline struct iovec *virtio_chain_in(struct virtio_chain *c)
{
	return c->iov + c->out_count;
}

/* -errno of eventfd(2). */
BASE_MUST_CHECK int virtio_queue_init(struct virtio_queue *q, struct virtio_device *dev,
				      struct vmm_mem *mem, uint16_t index, uint16_t size_max);
void virtio_queue_fini(struct virtio_queue *q);
/* Power-up state; the queue is idle. */
void virtio_queue_reset(struct virtio_queue *q);

/* Checks size and addresses and maps the rings. -EINVAL, -EFAULT. */
BASE_MUST_CHECK int virtio_queue_enable(struct virtio_queue *q, bool event_idx, bool indirect);

/*
 * Takes the next chain: 1, 0 when there is none, -EBADMSG. A chain that was taken is given back by
 * virtio_queue_put() or, the last ones only and before any later one is put, by _untake().
 */
BASE_MUST_CHECK int virtio_queue_take(struct virtio_queue *q, struct virtio_chain *c);
void virtio_queue_untake(struct virtio_queue *q, unsigned count);
/*
 * Gives a chain back; `written` bytes at its start of the device-writable part were written (marks
 * them dirty). The driver sees it after virtio_queue_publish().
 */
void virtio_queue_put(struct virtio_queue *q, const struct virtio_chain *c, uint32_t written);
/* Takes back the last `count` puts that were not published. */
void virtio_queue_unput(struct virtio_queue *q, unsigned count);
/* Marks the first `written` bytes of the device-writable part dirty, as put does. */
void virtio_chain_dirty(struct virtio_queue *q, const struct virtio_chain *c, uint64_t written);
/* Shows the driver what was put, and interrupts it unless it asked not to. */
void virtio_queue_publish(struct virtio_queue *q);

/* Chains that wait, or -EBADMSG when the ring is nonsense. */
BASE_MUST_CHECK int virtio_queue_pending(struct virtio_queue *q);
/* While off, the driver need not notify. On: true when chains came in meanwhile (look again). */
void virtio_queue_notify_off(struct virtio_queue *q);
BASE_MUST_CHECK bool virtio_queue_notify_on(struct virtio_queue *q);
/* The same for who has seen `waiting` chains and needs more of them. */
BASE_MUST_CHECK bool virtio_queue_notify_beyond(struct virtio_queue *q, uint16_t waiting);

/* Asynchronous chains: between take and put. The last end wakes who waits in drain. */
void virtio_queue_begin(struct virtio_queue *q);
void virtio_queue_end(struct virtio_queue *q);
/* Stops taking and waits until nothing is in flight. Takes the lock itself. */
void virtio_queue_drain(struct virtio_queue *q);

/* The driver's notification, by hand: has the loop's thread look at the queue. Any thread. */
void virtio_queue_kick(struct virtio_queue *q);

void virtio_queue_save(const struct virtio_queue *q, struct base_wbuf *out);
BASE_MUST_CHECK int virtio_queue_load(struct virtio_queue *q, struct base_rbuf *in);

/* Copies between a list of buffers and memory, from `offset` on; the number of bytes copied. */
size_t virtio_iov_read(const struct iovec *iov, unsigned count, size_t offset, void *to,
		       size_t len);
size_t virtio_iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *from,
			size_t len);
/* The part [offset, offset+len) of a list; out[] has room for `count`. The number of entries. */
unsigned virtio_iov_slice(const struct iovec *iov, unsigned count, size_t offset, size_t len,
			  struct iovec *out);

#endif
