/*
 * The task runtime of libpvm3: what a program is to its daemon. A task is single-threaded, as in
 * the original; nothing here may be called from two threads at once.
 */
#ifndef PVM_MP_TASK_H
#define PVM_MP_TASK_H

#include <stddef.h>

/*
 * Memory for message bodies. Blocks of at least MP_SHM_MIN bytes lie in the task's shared segment
 * (once it has one), so that they are sent to tasks of this host by reference. Any size is valid;
 * NULL when memory ran out. mp_block_free(NULL) is a no-op.
 */
enum { MP_SHM_MIN = 8192 };
void *mp_block_alloc(size_t size);
void mp_block_free(void *block);

#endif
