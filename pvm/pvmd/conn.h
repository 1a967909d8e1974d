/*
 * A framed connection of the daemon: a Unix socket to a task or a secured TCP link to a daemon.
 * Belongs to the thread of the loop. What is sent is queued without bound here; the routes bound it
 * (mpd_route). A connection that its callback closes is freed at the next turn of the loop.
 */
#ifndef PVM_PVMD_CONN_H
#define PVM_PVMD_CONN_H

#include "base/list.h"
#include "base/loop.h"
#include "pvm/pvmd/crypt.h"
#include "pvm/wire/mp_wire.h"

enum { MPD_CONN_FDS = 4 };

struct mpd_conn;

struct mpd_conn_ops {
	/* A whole frame; `payload` is valid during the call only. */
	void (*frame)(struct mpd_conn *c, const struct mp_frame *f, const uint8_t *payload);
	/* Once, for any end but mpd_conn_close(): err 0 is the peer's close, else -errno. */
	void (*closed)(struct mpd_conn *c, int err);
	/* out_bytes fell below MPD_CONN_LOW after having been above MPD_CONN_HIGH. May be NULL. */
	void (*drained)(struct mpd_conn *c);
	/* Bytes left the queue later than they were queued: a peer that sleeps must look. May be
	 * NULL. */
	void (*wrote)(struct mpd_conn *c);
	/* The handshake of a secured connection is done. May be NULL. */
	void (*secured)(struct mpd_conn *c);
};

enum { MPD_CONN_HIGH = 4 << 20, MPD_CONN_LOW = 1 << 20 };

struct mpd_conn {
	struct base_watch watch;
	const struct mpd_conn_ops *ops;
	void *owner;
	struct base_loop *loop;
	struct base_list out; /* struct mpd_chunk */
	size_t out_bytes;
	uint8_t *in;
	size_t in_len, in_cap;
	uint8_t *raw; /* secured: what is not decrypted yet */
	size_t raw_len;
	struct mpd_crypt *crypt;
	int fds[MPD_CONN_FDS]; /* received and not taken yet */
	int nfds;
	bool secure, hello_done, high, paused, dead, writing;
	bool broken; /* writing failed; what the peer sent before is still read */
	int64_t last_in_ns;
};

/* Takes the descriptor (closed on failure too). key: NULL for a plain connection. */
BASE_MUST_CHECK int mpd_conn_new(struct mpd_conn **out, struct base_loop *loop, int fd,
				 const struct mpd_conn_ops *ops, void *owner, const uint8_t *key,
				 bool initiator);
void mpd_conn_close(struct mpd_conn *c);

/*
 * Queues one frame: header bytes (from mp_frame_put or mp_piece_put) and body. `fd` >= 0 is sent
 * along (duplicated; Unix sockets only). A dead connection swallows it. Out of memory ends the
 * connection: a frame must never be lost in silence.
 */
void mpd_conn_send(struct mpd_conn *c, const void *hdr, size_t hdr_len, const void *body,
		   size_t len, int fd);
void mpd_conn_frame(struct mpd_conn *c, enum mp_frame_type type, uint32_t req,
		    const struct base_wbuf *b, int fd);
/* Stop and go on reading: back pressure. */
void mpd_conn_pause(struct mpd_conn *c, bool pause);
/* Takes the oldest descriptor that came along, or -1. */
int mpd_conn_take_fd(struct mpd_conn *c);
/* Reads once more without waiting; false when there was nothing or it died. */
bool mpd_conn_read_rest(struct mpd_conn *c);
/* Writes what is queued, blocking at most timeout_ms; for the last words before an exit. */
void mpd_conn_flush(struct mpd_conn *c, int timeout_ms);

#endif
