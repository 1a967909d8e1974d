/*
 * One connection of a migration: frames with a checksum and a running number, optionally sealed.
 *
 * Frame: 16-byte header {u32 magic, u8 version, u8 type, u16 flags, u32 meta_len, u32 data_len}, meta,
 * u64 XXH3-64 of header and meta seeded with the frame's number, data. Data is checked by hashes that
 * the meta holds. A sealed frame is {u32 length, AES-256-GCM of all that}, nonce = frame number.
 * Little-endian. Blocking; one thread sends, one receives.
 */
#ifndef MIG_CHAN_H
#define MIG_CHAN_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "migrate/migrate.h"

enum mig_frame_type {
	MIG_FRAME_PAGES = 1, /* meta: mig_page_entry each; data: the pages that have bytes */
	MIG_FRAME_FLUSH,     /* meta: u64 count of page frames sent so far on this channel */
	MIG_FRAME_CONFIG,
	MIG_FRAME_CONFIG_OK, /* meta: u64 of MIG_CAN_*; none from older ones */
	/* meta: u64 digest, u64 hash of the state, u64 number of flushes before it, for post-copy u64
	 * 1; data: the state */
	MIG_FRAME_PREPARE,
	MIG_FRAME_READY,
	MIG_FRAME_RESEND, /* meta: u64 page indices whose bytes did not match their hash */
	MIG_FRAME_COMMIT,
	MIG_FRAME_RUNNING,
	MIG_FRAME_ABORT, /* meta: text */
	MIG_FRAME_ALIVE,
	/* Post-copy. meta: u64 number of flushes before it, u64 first word; data: a bitmap by page of
	 * what will come later. After a new link from the destination: what it lacks. */
	MIG_FRAME_MISSING,
	MIG_FRAME_MISSING_END,
	MIG_FRAME_MISSING_OK,
	MIG_FRAME_REQUEST, /* meta: u64 page indices; the pages come on the control connection */
	MIG_FRAME_COMPLETE,
	/* With MIG_CAN_SYNC. meta: u64 number of flushes before it. The answer comes once those pages are
	 * in place, and before it an ALIVE now and then. */
	MIG_FRAME_SYNC,
	MIG_FRAME_SYNCED,
	MIG_FRAME_TYPES,
};

enum {
	MIG_CAN_POSTCOPY = 1,
	MIG_CAN_CHUNK = 2, /* frames of MIG_CHUNK_PAGES */
	MIG_CAN_SYNC = 4,
};

enum {
	/* Fewer and larger frames: each wakes the receiver several times. Above 1 MiB the bytes leave
	 * the cache before they are hashed. */
	MIG_CHUNK_PAGES = 256,
	MIG_CHUNK_PAGES_OLD = 64,  /* what every destination takes */
	MIG_CHUNK_PAGES_PUSH = 16, /* in post-copy a page waits for the rest of its frame */
	MIG_META_MAX = 64 << 10,
	MIG_WIRE_VERSION = 1,
};

struct mig_head {
	uint8_t type;
	uint16_t flags;
	uint32_t meta_len, data_len;
};

struct mig_chan {
	int fd;
	bool encrypt;
	uint64_t tx_number, rx_number;
	atomic_uint_fast64_t bytes; /* sent */
	uint8_t *meta;		    /* of the frame received last */
	struct mig_seal *seal;	    /* ciphers and buffers when encrypted */
};

/* c: zeroed. index: 0 control. The descriptor stays the caller's; shutdown(2) on it ends what is under way. Proves the key to each other, derives session keys. -EACCES: wrong key. */
BASE_MUST_CHECK int mig_chan_open(struct mig_chan *c, int fd, const struct mig_params *p,
				  unsigned index, bool source);
void mig_chan_close(struct mig_chan *c);

/*
 * What is under way in the socket's buffers of a direction is what a page that is wanted now waits for,
 * if it is among it: little of it from here on. Speed over a long way suffers.
 */
void mig_chan_keep_short(int fd, bool sender);

/* data may be NULL. -EPIPE, -ETIMEDOUT, -ECONNRESET... */
BASE_MUST_CHECK int mig_chan_send(struct mig_chan *c, uint8_t type, const void *meta,
				  uint32_t meta_len, const struct iovec *data, int iov_count);
/* Receives header and meta (valid until the next call). -EBADMSG for nonsense. */
BASE_MUST_CHECK int mig_chan_recv(struct mig_chan *c, struct mig_head *head);
/* Then exactly head->data_len bytes into iov (which is modified). */
BASE_MUST_CHECK int mig_chan_recv_data(struct mig_chan *c, struct iovec *iov, int iov_count);

#endif
