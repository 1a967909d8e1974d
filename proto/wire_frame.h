/*
 * The frame header of the data plane: 16 bytes, little-endian, frozen for ever.
 *
 *   0  u16 magic "PG"     2  u8 version     3  u8 type
 *   4  u16 flags          6  u16 length of what follows the header, bytes
 *   8  u64 sequence number of the frame on its link, from 1; 0 for frames that are not replayed
 *
 * Type 0 is invalid. Types below 0xe0 are the user's, the others the transport's own. A reader
 * refuses what it does not know; the version of a link is agreed in its hello.
 */
#ifndef PROTO_WIRE_FRAME_H
#define PROTO_WIRE_FRAME_H

#include <stdint.h>

#include "base/cleanup.h"

#define WIRE_MAGIC	 0x4750 /* "PG" */
#define WIRE_VERSION_MIN 1
#define WIRE_VERSION_MAX 1
#define WIRE_HEADER_LEN	 16
#define WIRE_PAGE_LEN	 4096
#define WIRE_BODY_MAX	 256 /* bytes besides the page */
#define WIRE_TAG_LEN	 16  /* of an encrypted frame */
#define WIRE_LENGTH_MAX	 (WIRE_BODY_MAX + WIRE_PAGE_LEN + WIRE_TAG_LEN)

enum wire_type {
	WIRE_TYPE_HELLO = 0xe0,
	WIRE_TYPE_PROOF = 0xe1,
	WIRE_TYPE_ACK = 0xe2,	/* sequence number received so far, in the body */
	WIRE_TYPE_PING = 0xe3,	/* answered by nothing: arriving is all */
	WIRE_TYPE_BYE = 0xe4,	/* the sender stops on purpose */
	WIRE_TYPE_END = 0xe5,	/* RDMA: the sender's end of the connection */
	WIRE_TYPE_READY = 0xe6, /* RDMA: it can receive */
};

enum wire_flag {
	WIRE_F_PAGE = 1,      /* the last 4096 bytes (before a tag) are a page */
	WIRE_F_ENCRYPTED = 2, /* all after the header is encrypted, a tag ends it */
	WIRE_F_PLACED = 4,    /* RDMA: the page was written in place, no bytes follow */
	WIRE_F_ALL = 7,
};

struct wire_header {
	uint8_t version, type;
	uint16_t flags, length;
	uint64_t seq;
};

void wire_header_put(uint8_t out[WIRE_HEADER_LEN], const struct wire_header *h);
/* -EPROTO: not a header of ours, a version or flag that nobody agreed to, type 0, or too long. */
BASE_MUST_CHECK int wire_header_get(const uint8_t in[WIRE_HEADER_LEN], struct wire_header *out);

#endif
