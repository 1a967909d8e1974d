/*
 * Power management of a hardware-reduced ACPI machine, one block of ports: sleep control and
 * status, reset, and the event register of the power button (the DSDT in acpi.c reads it).
 */
#ifndef VMM_PM_H
#define VMM_PM_H

#include "node/vmm/device.h"

enum {
	VMM_PM_PORT = 0x600,
	VMM_PM_SLEEP_CONTROL = VMM_PM_PORT,    /* 1 byte */
	VMM_PM_SLEEP_STATUS = VMM_PM_PORT + 1, /* 1 byte */
	VMM_PM_RESET = VMM_PM_PORT + 2,	       /* 1 byte */
	VMM_PM_EVENTS = VMM_PM_PORT + 4,       /* 4 bytes, a read clears */
	VMM_PM_PORT_LEN = 8,

	VMM_PM_GSI = 9, /* edge-triggered */
	VMM_PM_RESET_VALUE = 1,
	VMM_PM_SLEEP_TYPE_S5 = 5,
	VMM_PM_EVENT_BUTTON = 1,
};

/* On a vCPU's thread; must not block. The vCPU may run on for a moment. */
struct vmm_pm_ops {
	void (*poweroff)(void *arg);
	void (*reset)(void *arg);
};

/* `ops` is kept by reference. */
BASE_MUST_CHECK int vmm_pm_new(const struct vmm_env *env, const struct vmm_pm_ops *ops, void *arg,
			       struct vmm_device **out);
/* Presses the power button. Any thread. */
void vmm_pm_press_button(struct vmm_device *dev);

#endif
