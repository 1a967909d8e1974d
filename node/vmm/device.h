/*
 * What every device is to the machine: a name, an instance and the operations below; and what the
 * machine is to a device (struct vmm_env). Concrete devices embed struct vmm_device and export a
 * constructor; see serial.h, ../devices/virtio_blk.h.
 */
#ifndef VMM_DEVICE_H
#define VMM_DEVICE_H

#include "base/buf.h"
#include "base/list.h"
#include "base/loop.h"
#include "node/vmm/bus.h"
#include "node/vmm/irq.h"
#include "node/vmm/mem.h"

struct vmm_device;

/*
 * reset:  guest-visible power-up state. vCPUs are stopped.
 * pause:  finish or park everything in flight; after it returns no thread of the device touches
 *         guest memory or raises interrupts. vCPUs are stopped before.
 * resume: the opposite; also called once after construction and after load.
 * save:   appends the state to `out`; the device is paused. Never a raw struct.
 * load:   takes what save wrote, of `version` or an older one; the bytes are hostile. -EBADMSG,
 *         -EPROTO; on failure the device is good for fini only.
 * fini:   frees all; the device is paused.
 */
struct vmm_device_ops {
	const char *name;
	uint32_t version;
	void (*reset)(struct vmm_device *dev);
	void (*pause)(struct vmm_device *dev);
	void (*resume)(struct vmm_device *dev);
	void (*save)(struct vmm_device *dev, struct base_wbuf *out);
	int (*load)(struct vmm_device *dev, struct base_rbuf *in, uint32_t version);
	void (*fini)(struct vmm_device *dev);
	/* Optional: name/value counters for `vm stats`. Any thread. */
	void (*stats)(struct vmm_device *dev,
		      void (*put)(void *arg, const char *name, uint64_t value), void *arg);
};

struct vmm_device {
	const struct vmm_device_ops *ops;
	uint32_t instance; /* unique among devices of the same name */
	struct base_list link;
};

/* The machine as a device sees it. All pointers outlive the device. */
struct vmm_env {
	struct vmm_mem *mem;
	struct vmm_bus *pio, *mmio;
	struct vmm_irqchip *irq;
	struct base_loop *loop; /* the device event loop, a thread of its own */
	/*
	 * Has KVM signal `fd` on a 4-byte write to an MMIO address instead of leaving KVM_RUN:
	 * any value, or only `*match`. -ENOSYS where it cannot be had: the bus handler is called
	 * then, and must do the same work. May be NULL (tests).
	 */
	int (*ioeventfd)(struct vmm_env *env, uint64_t addr, const uint32_t *match, int fd,
			 bool add);
};

/* A virtio-mmio transport's place; the DSDT lists them. */
struct vmm_virtio_slot {
	uint64_t base; /* VMM_VIRTIO_LEN bytes */
	uint32_t gsi;  /* edge-triggered, active high */
};

#define VMM_VIRTIO_BASE	     UINT64_C(0xd0000000)
#define VMM_VIRTIO_LEN	     UINT64_C(0x1000)
#define VMM_VIRTIO_GSI_FIRST 16
#define VMM_VIRTIO_MAX	     32

static inline struct vmm_virtio_slot vmm_virtio_slot_at(unsigned index)
{
	return (struct vmm_virtio_slot){VMM_VIRTIO_BASE + index * VMM_VIRTIO_LEN,
					VMM_VIRTIO_GSI_FIRST + index};
}

#endif
