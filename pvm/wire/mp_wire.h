/*
 * Frames between a task and its daemon (Unix stream socket) and between daemons (inside the secure
 * records of pvmd/crypt.h). Every frame: a 16-byte little-endian header, then `len` bytes.
 *
 *	u16 magic  u8 version  u8 type  u32 req  u64 len
 *
 * MSG carries a piece of a message: struct mp_route, in the first piece also struct mp_msghdr, then
 * bytes of the body. Pieces of one message follow one another per pair of sender and receiver.
 * REQ/REP are calls: u16 op and arguments; i32 result and data. CTL is one-way: u16 op and data.
 * All functions are pure and may be called from any thread.
 */
#ifndef PVM_WIRE_MP_WIRE_H
#define PVM_WIRE_MP_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/cleanup.h"

enum {
	MP_WIRE_MAGIC = 0x5650,
	MP_WIRE_VERSION = 1,
	MP_FRAME_HDR = 16,
	MP_ROUTE_LEN = 12,
	MP_MSGHDR_LEN = 28,
	/* Most body bytes in one MSG frame. */
	MP_PIECE_MAX = 256 * 1024,
	/* Most bytes in one frame of any other kind: a mailbox entry or an argument list. */
	MP_FRAME_MAX = 64 * 1024 * 1024,
};

enum mp_frame_type { MP_F_MSG = 1, MP_F_REQ = 2, MP_F_REP = 3, MP_F_CTL = 4, MP_F_LAST = 4 };

struct mp_frame {
	uint8_t type;
	uint32_t req;
	uint64_t len;
};

enum { MP_PIECE_FIRST = 1, MP_PIECE_LAST = 2 };

struct mp_route {
	int32_t dst, src;
	uint32_t flags; /* MP_PIECE_* */
};

struct mp_msghdr {
	int32_t ctx, tag, enc, wid, crc;
	uint64_t total; /* bytes of the whole body */
};

void mp_frame_put(uint8_t out[MP_FRAME_HDR], const struct mp_frame *f);
/* -EPROTO: not a frame of ours, or its length is above the bound of its type. */
BASE_MUST_CHECK int mp_frame_get(const uint8_t in[MP_FRAME_HDR], struct mp_frame *f);

/* Writes frame header, route and (with MP_PIECE_FIRST) message header; returns the length. */
enum { MP_PIECE_HDR_MAX = MP_FRAME_HDR + MP_ROUTE_LEN + MP_MSGHDR_LEN };
size_t mp_piece_put(uint8_t out[MP_PIECE_HDR_MAX], const struct mp_route *r,
		    const struct mp_msghdr *h, size_t body_len);
/* Splits the payload of a MSG frame; `h` is set with MP_PIECE_FIRST only. -EPROTO. */
BASE_MUST_CHECK int mp_piece_get(const uint8_t *p, size_t len, struct mp_route *r,
				 struct mp_msghdr *h, const uint8_t **body, size_t *body_len);

/* Tids: the layout of PVM 3. */
enum {
	MP_TID_DAEMON = (int)0x80000000,
	MP_TID_GROUP = 0x40000000,
	MP_TID_HOST = 0x3ffc0000,
	MP_TID_LOCAL = 0x0003ffff,
	MP_TID_HOST_SHIFT = 18,
	MP_HOST_MAX = 4095,
};

static inline int mp_tid_host(int tid)
{
	return (tid & MP_TID_HOST) >> MP_TID_HOST_SHIFT;
}

static inline int mp_tid_of_daemon(int host)
{
	return MP_TID_DAEMON | host << MP_TID_HOST_SHIFT;
}

static inline bool mp_tid_is_daemon(int tid)
{
	return (tid & MP_TID_DAEMON) != 0 && (tid & MP_TID_GROUP) == 0;
}

static inline bool mp_tid_is_task(int tid)
{
	return tid > 0 && !(tid & MP_TID_GROUP) && (tid & MP_TID_HOST) && (tid & MP_TID_LOCAL);
}

/*
 * Where the daemon of this user (and $PVM_VMID) keeps its socket: $PVM_TMP/pvmd.<uid>[.<vmid>].d.
 * -ENAMETOOLONG.
 */
BASE_MUST_CHECK int mp_path_dir(char *out, size_t cap);
BASE_MUST_CHECK int mp_path_socket(char *out, size_t cap);
BASE_MUST_CHECK int mp_path_log(char *out, size_t cap);
const char *mp_path_tmp(void);

#endif
