/*
 * Packing and unpacking by type, below the calls of pvm3.h: they report nothing and take the
 * message as an argument. Negative Pvm codes.
 */
#ifndef PVM_MP_PACK_H
#define PVM_MP_PACK_H

#include "pvm/mp_buf.h"

/* The order is that of struct mp_type's table; the PVM_* numbers of pvm3.h come first. */
enum mp_kind {
	MP_K_BYTE,
	MP_K_SHORT,
	MP_K_USHORT,
	MP_K_INT,
	MP_K_UINT,
	MP_K_LONG,
	MP_K_ULONG,
	MP_K_FLOAT,
	MP_K_CPLX,
	MP_K_DOUBLE,
	MP_K_DCPLX,
	MP_K_COUNT,
};

/* Bytes of one item in memory. */
size_t mp_kind_size(enum mp_kind kind);

/* `count` items from `data` on, every `stride`-th. In place: only stride 1, else PvmNotImpl. */
BASE_MUST_CHECK int mp_pack(struct mp_msg *m, enum mp_kind kind, const void *data, int count,
			    int stride);
/* Like mp_pack for a value that will be gone when the message is sent. */
BASE_MUST_CHECK int mp_pack_value(struct mp_msg *m, enum mp_kind kind, const void *value);
/* Length with the final 0, then the bytes. */
BASE_MUST_CHECK int mp_pack_string(struct mp_msg *m, const char *s);
/* PvmNoData after having delivered what there was; PvmBadMsg where the data is of a machine that
 * is not understood. */
BASE_MUST_CHECK int mp_unpack(struct mp_msg *m, enum mp_kind kind, void *data, int count,
			      int stride);
/* The length of a string that comes next (its final 0 included), as it stands in the message. */
BASE_MUST_CHECK int mp_unpack_string_len(struct mp_msg *m, int *len);
BASE_MUST_CHECK int mp_unpack_string(struct mp_msg *m, char *s);

/* Raw bytes without a length, padded in XDR: the body of a message inside a message. */
BASE_MUST_CHECK int mp_pack_bytes(struct mp_msg *m, const void *data, size_t len);
BASE_MUST_CHECK int mp_unpack_bytes(struct mp_msg *m, void *data, size_t len);

/* The head of a user's trace event, which PvmDataTrace puts before the data. */
BASE_MUST_CHECK int mp_trace_begin(struct mp_msg *m);
/* The mark that ends it. */
BASE_MUST_CHECK int mp_trace_end(struct mp_msg *m);

#endif
