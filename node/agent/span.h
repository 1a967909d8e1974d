/*
 * A guest that spans nodes: slice k of it is the VM of this name on the node of part k, a process
 * of its own. The agent of part 0, the lead, starts it:
 *
 *   lead                                    each other node
 *     SLICE_PREPARE(spec, k, group) -------> checks, keeps the room, binds a port
 *                                   <------- port, warnings; or why not
 *     all are ready: starts its own slice
 *     SLICE_START(group, key, peers) ------> starts its slice
 *                                   <------- when it has found the others; or why not
 *     any of them says no: SLICE_STOP(group, why) to all, and its own ends
 *
 * A slice that joins a guest that runs is prepared and started the same way; see join.c.
 *
 * Later whoever sees its slice fail tells the others by SLICE_STOP, so that all end at once and say
 * why. Where a host is gone as a whole, the slices' own links notice (node/vmm/span.h).
 */
#ifndef NODE_AGENT_SPAN_H
#define NODE_AGENT_SPAN_H

#include "node/agent/vm.h"

enum {
	SPAN_PREPARE_MS = 10000,  /* for the other nodes' checks */
	SPAN_PREPARED_MS = 30000, /* until START must have come */
	SPAN_OVER_MS = 2000,	  /* until STOP is answered though the slice has not ended */
	SPAN_END_MS = 5000,	  /* the lead has ended well: until a slice must have too */
};

/* ---- span.c: the lead ---- */

/* VM_RUN of a checked spec whose part 0 is this node. Ends the call; takes over req. */
void agent_span_run(struct agent *a, struct chan_call *call, struct control_request *req);
/*
 * The lead's slice alone, as if the others had left; they may join later. Makes its port, its group and its
 * key; `slice` is what it is then launched with.
 */
BASE_MUST_CHECK int agent_span_alone(struct agent_vm *vm, struct control_slice *slice);
/* Before its own slice is started: gives up, tells all, answers, and frees the VM. */
void agent_span_abort(struct agent_vm *vm, enum control_code code, const char *why);
/*
 * Asks the node of a part, and calls done() once unless the link cannot take it (-errno): of `slice`, but
 * for the index, which is the part's.
 */
BASE_MUST_CHECK int agent_span_ask(struct agent_vm *vm, unsigned index, enum control_op op,
				   const struct control_slice *slice, int timeout_ms,
				   const struct chan_out_ops *ops, void *arg);
/* Has a node end its slice `index` of a VM that may have ended here; it does not answer. */
void agent_span_stop(struct agent *a, const char *node, const char *vm, unsigned index,
		     const struct control_slice *slice);

/* ---- join.c: the lead has a slice join the guest that runs ---- */

struct agent_join_request {
	unsigned slice; /* that has left */
	const char *node;
	const struct agent_places *places; /* as they are */
	bool overcommit;
};

/* Calls done() once, with why it has not joined or "", unless it returns -errno. */
BASE_MUST_CHECK int agent_join(struct agent_vm *vm, const struct agent_join_request *req,
			       void (*done)(void *arg, const char *why), void *arg);

/* ---- spread.c ---- */

/* VM_SPREAD and VM_CONSOLIDATE, at the lead. End the call. */
void agent_spread(struct agent_vm *vm, struct chan_call *call, const struct control_request *req);

/* ---- places.c ---- */

/* Asks the VM's process where its vCPUs and memory are; that answer. */
void agent_places_ask(struct agent_vm *vm);
void agent_places_take(struct agent_places *p, const struct vmmctl_reply *r);
/* The vCPUs that a slice has. */
unsigned agent_places_vcpus(const struct agent_vm *vm, const struct agent_places *p,
			    unsigned slice);

/* ---- slice.c: every node ---- */

void agent_slice_prepare(struct agent *a, struct chan_call *call, struct control_request *req);
/* These two do not take over req. */
void agent_slice_start(struct agent *a, struct chan_call *call, const struct control_request *req);
void agent_slice_stop(struct agent *a, struct chan_call *call, const struct control_request *req);
/* A port for vm's slice; what the others connect to. */
BASE_MUST_CHECK int agent_slice_listen(struct agent_vm *vm, uint16_t *port);
/* "10.0.0.1:7500" or "[fd00::1]:7500" */
void agent_slice_address(const struct cluster_node *n, uint16_t port, char out[CONTROL_PEER_MAX]);
/* Starts the process of vm's slice. */
BASE_MUST_CHECK int agent_slice_launch(struct agent_vm *vm, const struct control_slice *start);
/* A descriptor from which the process reads its key, for close(2). */
BASE_MUST_CHECK int agent_slice_key(const struct agent_vm *vm, int *out);
/* After the agent's restart: which part, which group. -EINVAL: none of ours. */
BASE_MUST_CHECK int agent_slice_found(struct agent_vm *vm);
/* Kept or being asked for, and without a process. */
bool agent_slice_unstarted(const struct agent_vm *vm);
/* Gives up an unstarted one; it is freed. */
void agent_slice_cancel(struct agent_vm *vm);
/* vm has ended: tells the other nodes what they should know. */
void agent_slice_over(struct agent_vm *vm, bool failed);
/* Before vm is freed. */
void agent_slice_close(struct agent_vm *vm);

#endif
