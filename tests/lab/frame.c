#include "tests/lab/frame.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { END = 0xc0, ESC = 0xdb, ESC_END = 0xdc, ESC_ESC = 0xdd };

static bool reader_end(struct lab_reader *r)
{
	bool good = r->len > 0 && !r->whole && !r->broken && !r->escaped;

	if (!good)
		r->len = 0;
	r->whole = good;
	r->broken = r->escaped = false;
	return good;
}

static void reader_store(struct lab_reader *r, uint8_t byte)
{
	if (r->whole) {
		r->whole = false;
		r->len = 0;
	}
	if (r->len == sizeof(r->data))
		r->broken = true;
	else
		r->data[r->len++] = byte;
}

bool lab_reader_push(struct lab_reader *r, uint8_t byte)
{
	if (byte == END)
		return reader_end(r);
	if (byte == ESC) {
		r->escaped = true;
		return false;
	}
	if (r->escaped) {
		r->escaped = false;
		byte = byte == ESC_END ? END : ESC;
	}
	reader_store(r, byte);
	return false;
}

bool lab_writer_has_room(const struct lab_writer *w)
{
	return sizeof(w->data) - w->len >= LAB_FRAME_WIRE_MAX;
}

static void writer_byte(struct lab_writer *w, uint8_t byte)
{
	if (byte == END || byte == ESC) {
		w->data[w->len++] = ESC;
		byte = byte == END ? ESC_END : ESC_ESC;
	}
	w->data[w->len++] = byte;
}

void lab_writer_put(struct lab_writer *w, enum lab_frame_type type, const void *payload, size_t len)
{
	const uint8_t *p = payload;

	assert(len <= LAB_FRAME_PAYLOAD_MAX && lab_writer_has_room(w));
	w->data[w->len++] = END;
	writer_byte(w, (uint8_t)type);
	for (size_t i = 0; i < len; i++)
		writer_byte(w, p[i]);
	w->data[w->len++] = END;
}

int lab_writer_flush(struct lab_writer *w, int fd)
{
	ssize_t n;

	if (w->len == 0)
		return 0;
	n = write(fd, w->data, w->len);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	w->len -= (size_t)n;
	memmove(w->data, w->data + n, w->len);
	return 0;
}
