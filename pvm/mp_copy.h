/*
 * Copies of message bodies. On several processors memcpy(3) turns copies of a few kilobytes and more
 * into "rep movsb", which is many times slower than a loop when both ends lie alike in their pages
 * and another core uses one of them: just what shared memory does. Any thread; no overlap.
 */
#ifndef PVM_MP_COPY_H
#define PVM_MP_COPY_H

#include <stddef.h>

void mp_copy(void *dst, const void *src, size_t len);
/*
 * For a reader on another core; all of it is visible when this returns. Where the cores share no
 * cache (in a virtual machine that may change at any time) it goes past this core's caches, which is
 * found out by what it takes. One thread.
 */
void mp_copy_shared(void *dst, const void *src, size_t len);

#endif
