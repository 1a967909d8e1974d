#include "node/devices/virtio_mmio.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <string.h>

enum {
	MMIO_MAGIC = 0x74726976, /* "virt" */
	MMIO_VERSION_MODERN = 2,
	MMIO_VENDOR = 0x4e415050, /* "PPAN" */
	STATUS_OF_DRIVER = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			   VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
			   VIRTIO_CONFIG_S_FAILED,
};

static struct virtio_queue *selected(struct virtio_device *vd)
{
	return vd->queue_sel < vd->queue_count ? &vd->queues[vd->queue_sel] : NULL;
}

static uint32_t features_word(uint64_t features, uint32_t sel)
{
	return sel < 2 ? (uint32_t)(features >> (32 * sel)) : 0;
}

static uint32_t reg_read(struct virtio_device *vd, uint64_t reg)
{
	struct virtio_queue *q = selected(vd);

	switch (reg) {
	case VIRTIO_MMIO_MAGIC_VALUE: return MMIO_MAGIC;
	case VIRTIO_MMIO_VERSION: return MMIO_VERSION_MODERN;
	case VIRTIO_MMIO_DEVICE_ID: return vd->ops->id;
	case VIRTIO_MMIO_VENDOR_ID: return MMIO_VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES: return features_word(vd->features, vd->features_sel);
	case VIRTIO_MMIO_QUEUE_NUM_MAX: return q ? q->size_max : 0;
	case VIRTIO_MMIO_QUEUE_READY: return q && q->enabled;
	case VIRTIO_MMIO_STATUS: return atomic_load(&vd->status);
	/* Shared memory regions: none, said by a length of all ones. */
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH: return UINT32_MAX;
	default: return 0;
	}
}

static void write_status(struct virtio_device *vd, uint32_t value)
{
	uint32_t old = atomic_load(&vd->status), added = value & STATUS_OF_DRIVER & ~old;

	if (value == 0) {
		virtio_device_clear(vd);
		return;
	}
	/* A set of features that the device does not take: the bit stays clear (3.1.1). */
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    ((vd->agreed & ~vd->features) || !virtio_has(vd, VIRTIO_F_VERSION_1)))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	if ((added & VIRTIO_CONFIG_S_DRIVER_OK) && !((old | added) & VIRTIO_CONFIG_S_FEATURES_OK)) {
		virtio_device_fail(vd, "driver started without agreeing on features");
		return;
	}
	atomic_fetch_or(&vd->status, added);
	if (added & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_device_activate(vd);
}

static void write_agreed(struct virtio_device *vd, uint32_t value)
{
	unsigned shift = 32 * vd->agreed_sel;

	if (vd->agreed_sel > 1 || (atomic_load(&vd->status) & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	vd->agreed &= ~((uint64_t)UINT32_MAX << shift);
	vd->agreed |= (uint64_t)value << shift;
}

static void write_ready(struct virtio_device *vd, struct virtio_queue *q, uint32_t value)
{
	if (!value) {
		virtio_device_disable_queue(vd, q);
		return;
	}
	if (q->enabled || !(atomic_load(&vd->status) & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	if (virtio_device_enable_queue(vd, q))
		virtio_device_fail(vd, "virtqueue outside of memory, misaligned or of a bad size");
}

static void set_half(uint64_t *gpa, uint32_t value, bool high)
{
	*gpa = high ? (*gpa & UINT32_MAX) | (uint64_t)value << 32
		    : (*gpa & ~(uint64_t)UINT32_MAX) | value;
}

static void queue_write(struct virtio_device *vd, struct virtio_queue *q, uint64_t reg,
			uint32_t value)
{
	if (reg == VIRTIO_MMIO_QUEUE_READY) {
		write_ready(vd, q, value);
		return;
	}
	/* The rings of an enabled queue lie still. */
	if (q->enabled)
		return;
	switch (reg) {
	/* Out of range is found when the queue is enabled. */
	case VIRTIO_MMIO_QUEUE_NUM: q->size = BASE_MIN(value, UINT16_MAX); break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW: set_half(&q->desc_gpa, value, false); break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH: set_half(&q->desc_gpa, value, true); break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW: set_half(&q->avail_gpa, value, false); break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH: set_half(&q->avail_gpa, value, true); break;
	case VIRTIO_MMIO_QUEUE_USED_LOW: set_half(&q->used_gpa, value, false); break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH: set_half(&q->used_gpa, value, true); break;
	}
}

static void reg_write(struct virtio_device *vd, uint64_t reg, uint32_t value)
{
	struct virtio_queue *q;

	switch (reg) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL: vd->features_sel = value; break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL: vd->agreed_sel = value; break;
	case VIRTIO_MMIO_DRIVER_FEATURES: write_agreed(vd, value); break;
	case VIRTIO_MMIO_QUEUE_SEL: vd->queue_sel = value; break;
	case VIRTIO_MMIO_STATUS: write_status(vd, value); break;
	default:
		q = selected(vd);
		if (q)
			queue_write(vd, q, reg, value);
	}
}

static void config_read(struct virtio_device *vd, uint64_t offset, unsigned len, uint8_t *data)
{
	/* Beyond the fields of the device it reads as zero. */
	memset(data, 0, len);
	if (offset >= vd->config_len)
		return;
	pthread_mutex_lock(&vd->config_lock);
	memcpy(data, vd->config + offset, BASE_MIN(len, vd->config_len - offset));
	pthread_mutex_unlock(&vd->config_lock);
}

static void mmio_read(void *opaque, uint64_t offset, unsigned len, uint8_t *data)
{
	struct virtio_device *vd = opaque;
	uint32_t value;

	if (offset >= VIRTIO_MMIO_CONFIG) {
		config_read(vd, offset - VIRTIO_MMIO_CONFIG, len, data);
		return;
	}
	memset(data, 0, len);
	if (len != 4)
		return;
	/* The one register of the interrupt path needs no lock. */
	if (offset == VIRTIO_MMIO_INTERRUPT_STATUS) {
		value = atomic_load(&vd->isr);
	} else if (offset == VIRTIO_MMIO_CONFIG_GENERATION) {
		pthread_mutex_lock(&vd->config_lock);
		value = vd->generation;
		pthread_mutex_unlock(&vd->config_lock);
	} else {
		pthread_mutex_lock(&vd->lock);
		value = reg_read(vd, offset);
		pthread_mutex_unlock(&vd->lock);
	}
	value = htole32(value);
	memcpy(data, &value, sizeof(value));
}

static void mmio_write(void *opaque, uint64_t offset, unsigned len, const uint8_t *data)
{
	struct virtio_device *vd = opaque;
	uint32_t value = 0;

	memcpy(&value, data, BASE_MIN(len, 4u));
	value = le32toh(value);
	if (offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
		if (value < vd->queue_count)
			virtio_queue_kick(&vd->queues[value]);
		return;
	}
	if (offset == VIRTIO_MMIO_INTERRUPT_ACK) {
		atomic_fetch_and(&vd->isr, ~value);
		return;
	}
	pthread_mutex_lock(&vd->lock);
	if (offset < VIRTIO_MMIO_CONFIG) {
		if (len == 4)
			reg_write(vd, offset, value);
	} else if (vd->ops->config_write && offset - VIRTIO_MMIO_CONFIG < vd->config_len &&
		   len <= vd->config_len - (offset - VIRTIO_MMIO_CONFIG)) {
		vd->ops->config_write(vd, offset - VIRTIO_MMIO_CONFIG, len, data);
	}
	pthread_mutex_unlock(&vd->lock);
}

static const struct vmm_bus_ops mmio_ops = {mmio_read, mmio_write};

/* Where KVM can do it, a notification does not leave the kernel. Else mmio_write() does the same.
 */
static void set_ioeventfds(struct virtio_device *vd, bool add)
{
	struct vmm_env *env = vd->env;

	if (!env->ioeventfd)
		return;
	for (uint32_t i = 0; i < vd->queue_count; i++) {
		int rc = env->ioeventfd(env, vd->slot.base + VIRTIO_MMIO_QUEUE_NOTIFY, &i,
					vd->queues[i].kick.fd, add);

		if (rc)
			return;
	}
}

int virtio_mmio_add(struct virtio_device *vd)
{
	int rc = vmm_bus_add(vd->env->mmio, vd->slot.base, VMM_VIRTIO_LEN, &mmio_ops, vd);

	if (!rc)
		set_ioeventfds(vd, true);
	return rc;
}

void virtio_mmio_remove(struct virtio_device *vd)
{
	set_ioeventfds(vd, false);
	vmm_bus_remove(vd->env->mmio, vd->slot.base);
}
