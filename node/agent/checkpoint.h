/*
 * Checkpoints: a file of the node with a head {magic, u32 version, u32 length, BLAKE2b-256 of the
 * text, the VM's specification in YAML} of VMM_SNAP_CHECKPOINT_BYTES, then the saved machine that the VM's
 * process writes (node/vmm/snapshot.h). Little-endian. It is written beside FILE under another name, made
 * durable, then renamed.
 */
#ifndef NODE_AGENT_CHECKPOINT_H
#define NODE_AGENT_CHECKPOINT_H

#include "node/agent/vm.h"

/* Writes the head of a checkpoint at the start of fd, and leaves the position behind it. -errno. */
BASE_MUST_CHECK int agent_checkpoint_head_write(int fd, const struct vmspec *spec);
/* The specification of a checkpoint; for free(3). -errno with one line in `why`. */
BASE_MUST_CHECK int agent_checkpoint_head_read(int fd, const char *path, struct vmspec **out,
					       char why[AGENT_WHY_MAX]);

#endif
