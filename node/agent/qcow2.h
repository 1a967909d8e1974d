/* The head of a qcow2 image: what an agent needs of one that moves along. */
#ifndef NODE_AGENT_QCOW2_H
#define NODE_AGENT_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

/* The size of the disk in it, and whether some of its bytes are in another file. -EINVAL: it is no qcow2. */
BASE_MUST_CHECK int agent_qcow2_read(int fd, uint64_t *size_bytes, bool *backed);
/* Makes an empty file an image of a disk of zeros. -EFBIG, -errno. */
BASE_MUST_CHECK int agent_qcow2_make(int fd, uint64_t size_bytes);

#endif
