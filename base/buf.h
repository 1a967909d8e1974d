/*
 * Bounded little-endian writer and reader, for wire messages, device state and files. Both keep the
 * first error and turn every later call into a no-op, so a caller checks once at the end. A reader
 * never reads past its end: after an error every value that it returns is 0.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* Grows on demand up to `max` bytes; then error is -E2BIG (-ENOMEM when memory ran out). */
struct base_wbuf {
	uint8_t *data;
	size_t len, cap, max;
	int error;
};

void base_wbuf_init(struct base_wbuf *b, size_t max);
void base_wbuf_fini(struct base_wbuf *b);
void base_wbuf_bytes(struct base_wbuf *b, const void *p, size_t len);
/* Appends `len` zero bytes and returns where they are (valid until the next call), or NULL. */
void *base_wbuf_reserve(struct base_wbuf *b, size_t len);
void base_wbuf_u8(struct base_wbuf *b, uint8_t v);
void base_wbuf_u16(struct base_wbuf *b, uint16_t v);
void base_wbuf_u32(struct base_wbuf *b, uint32_t v);
void base_wbuf_u64(struct base_wbuf *b, uint64_t v);
/* u32 length, then the bytes. */
void base_wbuf_blob(struct base_wbuf *b, const void *p, uint32_t len);
void base_wbuf_str(struct base_wbuf *b, const char *s);

/* A view; the bytes belong to the caller. Running past the end: error is -EBADMSG. */
struct base_rbuf {
	const uint8_t *data;
	size_t len, pos;
	int error;
};

void base_rbuf_init(struct base_rbuf *b, const void *data, size_t len);
size_t base_rbuf_left(const struct base_rbuf *b);
/* A pointer into the view, or NULL on error; len 0 gives a valid pointer. */
const void *base_rbuf_take(struct base_rbuf *b, size_t len);
void base_rbuf_bytes(struct base_rbuf *b, void *out, size_t len);
uint8_t base_rbuf_u8(struct base_rbuf *b);
uint16_t base_rbuf_u16(struct base_rbuf *b);
uint32_t base_rbuf_u32(struct base_rbuf *b);
uint64_t base_rbuf_u64(struct base_rbuf *b);
/* u32 length and bytes as a pointer into the view; longer than `max` is -EBADMSG. */
const void *base_rbuf_blob(struct base_rbuf *b, size_t max, size_t *len);
/* A blob copied into out[cap] and terminated; a byte 0 inside it is -EBADMSG. */
void base_rbuf_str(struct base_rbuf *b, char *out, size_t cap);
/* 0 when all was read without error; -EBADMSG where bytes are left over. */
BASE_MUST_CHECK int base_rbuf_end(const struct base_rbuf *b);

#endif
