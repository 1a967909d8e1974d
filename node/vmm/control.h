/*
 * Serves the control socket of a VM (proto/vmmctl.h) and its console socket. Main thread. Saving
 * runs on a thread of its own, so that the socket answers meanwhile.
 */
#ifndef VMM_CONTROL_H
#define VMM_CONTROL_H

#include "node/vmm/vm.h"

struct vmm_control;

/* Makes control.sock and console.sock in `run_dir`. -errno with one line in why[VMM_WHY_MAX]. */
BASE_MUST_CHECK int vmm_control_new(struct base_loop *loop, struct vmm_vm *vm, const char *run_dir,
				    char *why, struct vmm_control **out);
/* Waits for a save under way. */
void vmm_control_free(struct vmm_control *c);
/* Tells all clients. */
void vmm_control_changed(struct vmm_control *c, enum vmm_state state, const char *reason);

/* What vCPUs and memory are where has changed. */
void vmm_control_places(struct vmm_control *c);

#endif
