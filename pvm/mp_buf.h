/*
 * Messages of libpvm3: a head and a body made of byte segments, and the table that gives each
 * message of a program its number (mid), with the active send and receive buffers.
 *
 * One thread, as all of libpvm3. Errors are the negative Pvm codes of pvm3.h (0 is PvmOk), outputs
 * are untouched on failure. Nothing here does I/O or needs a daemon.
 *
 * How the runtime uses it:
 *   send:     struct mp_msg *m = mp_mid_get(mp_sbuf_mid()); then walk the body with
 *             mp_msg_iov() into writev(2) or a ring, without copying; the segments live as long as
 *             a reference (mp_msg_ref) is held, those left in place by the user (PvmDataInPlace)
 *             only until pvm_send returns: mp_msg_own() copies them where a send must outlast it.
 *   receive:  mp_msg_from_bytes() adopts what arrived, m->head is filled in, and
 *             mp_rbuf_deliver(m) makes it the active receive buffer and returns its mid.
 */
#ifndef PVM_MP_BUF_H
#define PVM_MP_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"

/* How the body is encoded, as pvm_getminfo() shows it. Any other value is the data signature of a
 * machine whose raw data it is; mp_enc_native() is ours. */
#define MP_ENC_XDR     0x10000000
#define MP_ENC_INPLACE 0x20000000
#define MP_ENC_TRACE   0x40000000
#define MP_ENC_NATIVE  0x00408c41
/* the same sizes with the bytes of every number reversed */
#define MP_ENC_SWAPPED 0x00514e51
int mp_enc_native(void);

/* Bytes that several messages may share. free_fn is called with the block when the last one goes;
 * it frees the data as well as the block. */
struct mp_block {
	unsigned refs;
	uint8_t *data;
	size_t cap;
	void (*free_fn)(struct mp_block *b);
	void *owner; /* free_fn's own */
};

/* Memory from mp_block_alloc() (pvm/mp_task.h), so that big bodies lie in shared memory. */
struct mp_block *mp_block_new(size_t cap);
/* Wraps `data` from malloc(3); on failure the data stays the caller's. */
struct mp_block *mp_block_adopt(void *data, size_t cap);
void mp_block_ref(struct mp_block *b);
void mp_block_unref(struct mp_block *b);

struct mp_seg {
	uint8_t *data;
	size_t len;
	struct mp_block *block; /* NULL: the user's memory, left in place */
};

struct mp_head {
	int enc;
	int tag;
	int ctx;
	int src; /* tid, 0 when not known */
	int dst;
	int wid;
	int crc;
};

/* What the body is for. Packing into one that was being read starts it anew: MP_MODE_READ_SENT is
 * such a message when it was made the send buffer, whole until the next item is packed. */
enum mp_mode { MP_MODE_PACK, MP_MODE_READ, MP_MODE_READ_SENT };

struct mp_msg {
	struct mp_head head;
	unsigned refs;
	int mid; /* 0: not in the table */
	enum mp_mode mode;
	struct mp_seg *segs; /* `few`, or from malloc(3) */
	unsigned seg_count, seg_cap;
	struct mp_seg few[2];
	size_t len; /* of the body */
	/* where the next unpack reads */
	unsigned read_seg;
	size_t read_off; /* in that segment */
	size_t read_left;
};

/* An empty message with one reference, ready for packing; NULL without memory. */
struct mp_msg *mp_msg_new(int enc);
void mp_msg_ref(struct mp_msg *m);
void mp_msg_unref(struct mp_msg *m);

/*
 * A received message: takes over the caller's reference of `block` (NULL when len is 0) and shows
 * the bytes [off, off+len) of it. PvmNoMem leaves the block with the caller.
 */
BASE_MUST_CHECK int mp_msg_from_block(int enc, struct mp_block *block, size_t off, size_t len,
				      struct mp_msg **out);
/* The same for `data` from malloc(3), which it takes over. */
BASE_MUST_CHECK int mp_msg_from_bytes(int enc, void *data, size_t len, struct mp_msg **out);

/* Writing to the end of the body. */
BASE_MUST_CHECK int mp_msg_append(struct mp_msg *m, const void *data, size_t len);
/* `len` contiguous bytes at the end, for the caller to fill before the next call; NULL: no memory
 */
void *mp_msg_reserve(struct mp_msg *m, size_t len);
/* The user's memory, by reference. */
BASE_MUST_CHECK int mp_msg_append_place(struct mp_msg *m, const void *data, size_t len);
/* Bytes [off, off+len) of a block, whose reference it takes over; PvmNoMem leaves it. */
BASE_MUST_CHECK int mp_msg_append_block(struct mp_msg *m, struct mp_block *block, size_t off,
					size_t len);
/* The body of `from`, by reference to its blocks (what it has in place is copied). */
BASE_MUST_CHECK int mp_msg_append_msg(struct mp_msg *m, const struct mp_msg *from);
void mp_msg_clear(struct mp_msg *m);

/* Ready to go out: the encoding that the receiver will see. In place becomes native. */
int mp_msg_wire_enc(const struct mp_msg *m);
/* Copies what is left in place, so that the message outlives the user's memory. */
BASE_MUST_CHECK int mp_msg_own(struct mp_msg *m);

/*
 * The body from byte `off` on as up to `max` vectors of at most `limit` bytes together; returns
 * their number, 0 at the end. Never copies.
 */
int mp_msg_iov(const struct mp_msg *m, size_t off, size_t limit, struct iovec *iov, int max);
/* Copies the body's bytes [off, off+len) out; the caller has checked them against m->len. */
void mp_msg_copy_out(const struct mp_msg *m, size_t off, void *dst, size_t len);

/* Reading. rewind starts at the first byte again. */
void mp_msg_rewind(struct mp_msg *m);
/* PvmNoData when fewer than len bytes are left (then nothing is consumed). */
BASE_MUST_CHECK int mp_msg_read(struct mp_msg *m, void *dst, size_t len);
/* `len` bytes in one piece without a copy, or NULL when they are not contiguous or not there. */
const void *mp_msg_peek(const struct mp_msg *m, size_t len);
void mp_msg_skip(struct mp_msg *m, size_t len);

/* The table. Numbers start at 1; the one freed last is used next. */

/* Gives the message a number and takes over the caller's reference; PvmNoMem leaves it. */
BASE_MUST_CHECK int mp_mid_add(struct mp_msg *m);
/* NULL: no such message. The reference stays the table's. */
struct mp_msg *mp_mid_get(int mid);
/* Drops the number and its reference, and the message from being active. */
void mp_mid_free(int mid);
/* Unnumbers a message and hands its reference to the caller (who keeps it in a queue). */
struct mp_msg *mp_mid_take(int mid);

/* The active buffers; 0 is none. The pointers are NULL when there is none. */
struct mp_msg *mp_sbuf(void);
struct mp_msg *mp_rbuf(void);
int mp_sbuf_mid(void);
int mp_rbuf_mid(void);
/* Without freeing the one before. mid 0 or one of the table. */
void mp_sbuf_set(int mid);
void mp_rbuf_set(int mid);
/*
 * What a receive does: frees the active receive buffer, gives `m` a number (taking over the
 * caller's reference), rewinds it and makes it active. Returns its mid or PvmNoMem.
 */
BASE_MUST_CHECK int mp_rbuf_deliver(struct mp_msg *m);

/* Frees every message: pvm_exit and tests. */
void mp_mid_reset(void);

/* PvmData* of the API to an encoding; PvmBadParam. */
int mp_enc_from_api(int encoding);

/* XDR of arrays (pvm/mp_xdr.c), vectorised; dst and src do not overlap. Used by pack, unpack and
 * bulk transfers.
 */
void mp_xdr_swap32(void *dst, const void *src, size_t count);
void mp_xdr_swap64(void *dst, const void *src, size_t count);

#endif
