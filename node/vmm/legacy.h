/*
 * The few PC leftovers that kernels touch without being told that they exist: the keyboard
 * controller's and the chipset's reset, channel 2 of the interval timer with its gate (TSC
 * calibration of a guest without kvmclock), and the clock in the CMOS.
 */
#ifndef VMM_LEGACY_H
#define VMM_LEGACY_H

#include "node/vmm/device.h"

/* `reset` is called on a vCPU's thread and must not block. */
BASE_MUST_CHECK int vmm_legacy_new(const struct vmm_env *env, void (*reset)(void *arg), void *arg,
				   struct vmm_device **out);

#endif
