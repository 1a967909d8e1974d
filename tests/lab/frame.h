/*
 * Frames of the exec channel between lab-client and lab-agent, over a byte stream that may lose its
 * reader and writer at any byte: a frame is a type byte and a payload, escaped as in RFC 1055, so
 * that a new session always finds the next frame's start whatever the last one left behind.
 * Not thread safe; each side has its own reader and writer.
 */
#ifndef LAB_FRAME_H
#define LAB_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAB_FRAME_PAYLOAD_MAX 8192
#define LAB_NONCE_LEN	      16
/* Every byte escaped, two ends, the type. */
#define LAB_FRAME_WIRE_MAX (2 * (LAB_FRAME_PAYLOAD_MAX + 1) + 2)

enum lab_frame_type {
	LAB_SESSION = 'S', /* nonce; the agent answers with the same one */
	LAB_RUN = 'R',	   /* u8 pty, u16 rows, u16 columns (little endian), then arguments, each
			      ended by a byte 0 */
	LAB_TCP = 'T',	   /* "address\0port\0": a connection instead of a command */
	LAB_STDIN = 'I',
	LAB_EOF = 'F',	/* standard input ended */
	LAB_SIZE = 'W', /* u16 rows, u16 columns */
	LAB_STDOUT = 'O',
	LAB_STDERR = 'E',
	LAB_EXIT = 'X', /* u8 code */
};

struct lab_reader {
	uint8_t data[LAB_FRAME_PAYLOAD_MAX + 1]; /* type, payload */
	size_t len;
	bool escaped, broken, whole;
};

/* Feeds one byte; true when data[0..len) is a whole frame, which the next bytes replace. */
bool lab_reader_push(struct lab_reader *r, uint8_t byte);

/* Bytes not yet written to the stream. Room for two frames. */
struct lab_writer {
	uint8_t data[2 * LAB_FRAME_WIRE_MAX];
	size_t len;
};

/* Whether a frame of the largest size fits. */
bool lab_writer_has_room(const struct lab_writer *w);
/* Appends a frame; len is at most LAB_FRAME_PAYLOAD_MAX and lab_writer_has_room() held. */
void lab_writer_put(struct lab_writer *w, enum lab_frame_type type, const void *payload,
		    size_t len);
/* Writes what the descriptor takes: 0 or -errno; -EAGAIN is success. */
int lab_writer_flush(struct lab_writer *w, int fd);

#endif
