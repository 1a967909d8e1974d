/*
 * Memory that tasks of one host share, for libgpvm3: the body of a message that stays where its sender has
 * it, and a number in it that is waited for together with messages. One thread, as all of libpvm3. What is
 * read there is hostile, as all that others can write.
 */
#ifndef PVM_MP_SHARED_H
#define PVM_MP_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* All zero at first; `value` is changed by mp_shared_tell() alone. */
struct mp_shared_word {
	_Atomic uint32_t value;
	_Atomic uint32_t asleep;     /* who waits in the kernel, */
	_Atomic uint32_t by_message; /* and who must be sent something to be woken */
};

struct mp_msg;

/* A send buffer with `bytes` zero bytes that others can share, not active; its mid, or a Pvm code. */
BASE_MUST_CHECK int mp_shared_new(size_t bytes);
/*
 * Sends it as pvm_send() does, but never as a copy where it can be shared; then it does not come at all
 * when the receiver cannot map our segment. 0 or a Pvm code.
 */
BASE_MUST_CHECK int mp_shared_send(int mid, int tid, int tag);
/*
 * The memory of a message, made here or received, and *keep, which holds it whatever becomes of the buffer
 * and of the task. NULL: it is a copy, or shorter than `bytes`. mp_shared_drop(NULL) is a no-op.
 */
void *mp_shared_keep(int mid, size_t bytes, struct mp_msg **keep);
void mp_shared_drop(struct mp_msg *keep);

/* Messages that have come so far. */
unsigned mp_shared_arrivals(void);
/* Until the value is another than `seen` or a message has come. 0 or PvmSysErr. */
BASE_MUST_CHECK int mp_shared_await(struct mp_shared_word *w, uint32_t seen);
/* Sets it and wakes who waits. True: some may need a message for that. */
bool mp_shared_tell(struct mp_shared_word *w, uint32_t value);

/* Of this host, as the daemon counts them; 1 when that is not known. */
unsigned mp_shared_cores(void);

#endif
