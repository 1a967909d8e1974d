/*
 * The console device: one port, with size, size changes and emergency write. It has no descriptor
 * of its own; the machine connects it to whatever shows the console. All of this interface is called
 * on, and calls back on, the thread of env->loop.
 */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include "node/vmm/device.h"

struct virtio_console_options {
	/*
	 * The guest wrote `len` bytes; returns how many were taken. Less than `len`: the rest is
	 * offered again after virtio_console_output_ready(). May be called from a vCPU's thread for
	 * an emergency write (one byte; not taken is lost).
	 */
	size_t (*output)(void *opaque, const void *data, size_t len);
	/* The guest has room for input again, after virtio_console_input() took less than all. */
	void (*input_ready)(void *opaque);
	void *opaque;
	uint16_t cols, rows; /* 0: not known */
};

struct virtio_console;

BASE_MUST_CHECK int virtio_console_new(struct vmm_env *env, struct vmm_virtio_slot slot,
				       const struct virtio_console_options *opts,
				       struct vmm_device **out);
/* The device as a console; only for what virtio_console_new() made. */
struct virtio_console *virtio_console_of(struct vmm_device *dev);

/* Types `len` bytes; returns how many the guest has room for now. */
/* Any thread. Has the guest's driver set the device up? */
bool virtio_console_listens(struct virtio_console *c);
size_t virtio_console_input(struct virtio_console *c, const void *data, size_t len);
void virtio_console_output_ready(struct virtio_console *c);
/* Any thread. */
void virtio_console_resize(struct virtio_console *c, uint16_t cols, uint16_t rows);

#endif
