/*
 * A 16550A UART. Sending takes no time; what the guest sends goes to `output` at once. Receiving
 * is bounded: vmm_serial_input() takes what fits, `input_ready` says when there is room again.
 */
#ifndef VMM_SERIAL_H
#define VMM_SERIAL_H

#include "node/vmm/device.h"

#define VMM_COM1_PORT 0x3f8
#define VMM_COM1_GSI  4

/* Both are called from vCPU threads, without a lock of ours, and must not block. */
struct vmm_serial_ops {
	void (*output)(void *arg, const uint8_t *data, size_t len);
	void (*input_ready)(void *arg);
};

/* `ops` is kept by reference. -ENOMEM, or what vmm_bus_add() says. */
BASE_MUST_CHECK int vmm_serial_new(const struct vmm_env *env, uint16_t port, unsigned gsi,
				   uint32_t instance, const struct vmm_serial_ops *ops, void *arg,
				   struct vmm_device **out);
/* Any thread. How many bytes were taken; after fewer than `len` input_ready will be called. */
size_t vmm_serial_input(struct vmm_device *dev, const uint8_t *data, size_t len);

/* Any thread. Has the guest a program that reads this port (by interrupt)? */
bool vmm_serial_listens(struct vmm_device *dev);

#endif
