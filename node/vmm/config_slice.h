/* The options of a slice, for config.c. Each: 0, or -EINVAL with one line in why[VMM_WHY_MAX]. */
#ifndef VMM_CONFIG_SLICE_H
#define VMM_CONFIG_SLICE_H

#include "node/vmm/config.h"

void vmm_slice_init(struct vmm_config *c);
BASE_MUST_CHECK int vmm_slice_set_self(struct vmm_config *c, const char *text, char *why);
BASE_MUST_CHECK int vmm_slice_add_part(struct vmm_config *c, const char *text, char *why);
BASE_MUST_CHECK int vmm_slice_add_peer(struct vmm_config *c, const char *text, char *why);
BASE_MUST_CHECK int vmm_slice_set_listen_fd(struct vmm_config *c, const char *text, char *why);
BASE_MUST_CHECK int vmm_slice_set_group(struct vmm_config *c, const char *text, char *why);
/* Reads the key from a descriptor (is_fd) or a file. */
BASE_MUST_CHECK int vmm_slice_set_key(struct vmm_config *c, const char *text, bool is_fd,
				      char *why);
BASE_MUST_CHECK int vmm_slice_set_joins(struct vmm_config *c, const char *text, char *why);
int vmm_slice_set_transport(struct vmm_config *c, const char *text, char *why);
/* Whether all of it fits together; fills vcpus and memory_bytes from the parts. */
BASE_MUST_CHECK int vmm_slice_check(struct vmm_config *c, char *why);

#endif
