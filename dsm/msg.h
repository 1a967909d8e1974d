/*
 * DSM messages as bodies of data-plane frames (the frame's type is the message's type):
 *
 *   0  u64 page number    8  u32 version    12  u8 node    13  u8 acks    14  u8 kind
 *   15 u8 access in bits 0-3, flags in bits 4-7
 */
#ifndef DSM_MSG_H
#define DSM_MSG_H

#include "dsm/page_fsm.h"

#define DSM_MSG_LEN 16

/* Frame types that are not messages of the page protocol. */
enum dsm_frame_type {
	DSM_FRAME_USER = 0x40, /* dsm_message() */
	DSM_FRAME_FAIL = 0x41, /* the sender gives up; body: u8 errno, 3 x 0, u8 node concerned */
	DSM_FRAME_DIR = 0x42,  /* directory entries that move: dsm_dir_put() */
	DSM_FRAME_DIR_END = 0x43, /* no more of them */
};

void dsm_msg_put(uint8_t out[DSM_MSG_LEN], const struct dsm_msg *m);
/* -EPROTO: wrong length or type. The values are checked by the page state machine. */
BASE_MUST_CHECK int dsm_msg_get(uint8_t type, const void *body, unsigned len, struct dsm_msg *out);

#define DSM_DIR_LEN 24

/* u64 gfn, u64 count, u32 version, u16 copyset, u8 owner, u8 0. get: -EPROTO on
 * a wrong length. */
void dsm_dir_put(uint8_t out[DSM_DIR_LEN], uint64_t gfn, uint64_t count, const struct dsm_dir *dir);
BASE_MUST_CHECK int dsm_dir_get(const void *body, unsigned len, uint64_t *gfn, uint64_t *count,
				struct dsm_dir *out);

#endif
