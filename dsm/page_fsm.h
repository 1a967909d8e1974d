/*
 * The state machine of one page on one node: requester, owner or sharer, and on the page's home the
 * directory entry. Pure: no I/O, no clock, no lock, no allocation. The engine, the simulator and
 * the unit tests run this same file; page_fsm.c explains the protocol and its invariants.
 */
#ifndef DSM_PAGE_FSM_H
#define DSM_PAGE_FSM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

#define DSM_NODE_MAX  16
#define DSM_NODE_NONE 0xff
#define DSM_PAGE_SIZE 4096u

/* Number of a 4 KiB page in the order of the guest's memory file (holes are not counted). */
typedef struct {
	uint64_t v;
} dsm_gfn;

enum dsm_state { DSM_I, DSM_S, DSM_X };

/* Values are the frame types on the wire: never renumber. */
enum dsm_msg_type {
	DSM_MSG_GET_S = 1, /* requester -> home: read permission wanted */
	DSM_MSG_GET_X,	   /* requester -> home: write permission wanted */
	DSM_MSG_FWD_S,	   /* home -> owner: supply `node`, keep a read-only copy */
	DSM_MSG_FWD_X,	   /* home -> owner: supply `node`, give the page up */
	DSM_MSG_INV,	   /* home -> sharer: give the copy up, tell `node` */
	DSM_MSG_INV_ACK,   /* sharer -> requester */
	DSM_MSG_DATA,	   /* owner or home -> requester: the grant, with or without the bytes */
	DSM_MSG_DONE,	   /* requester -> home: granted and in force */
	DSM_MSG_END
};

enum dsm_data_kind {
	DSM_DATA_NONE = 1, /* the requester has the bytes already */
	DSM_DATA_PAGE,	   /* 4096 bytes follow */
	DSM_DATA_ZERO,	   /* the page is all zero */
	DSM_DATA_DENIED,   /* a prefetch that would hurt others; nothing granted */
	DSM_DATA_END
};

#define DSM_MSG_F_PREFETCH 1

struct dsm_msg {
	dsm_gfn gfn;
	uint32_t version; /* GET: of the bytes that the requester has, 0 none; else of the page */
	uint8_t type;
	uint8_t node;	/* FWD, INV, DONE: the requester */
	uint8_t acks;	/* FWD_X, DATA: INV_ACKs that the requester must await */
	uint8_t kind;	/* DATA */
	uint8_t access; /* DATA: DSM_S or DSM_X */
	uint8_t flags;
};

/* What this node has of the page. All zero is the initial state. */
struct dsm_page {
	int64_t hold_until_ns; /* the copy is not given up before */
	int64_t lost_ns;       /* when it was last taken away */
	uint32_t version;      /* of the bytes in memory, valid when has_bytes */
	uint16_t defer_s;      /* FWD_S that wait for the end of the hold time, by requester */
	int8_t acks;	       /* awaited less received; acknowledgements may come first */
	uint8_t state;	       /* enum dsm_state */
	uint8_t want;	       /* state asked for; DSM_I: no request under way */
	uint8_t defer_type;    /* DSM_MSG_INV or DSM_MSG_FWD_X that waits likewise, or 0 */
	uint8_t defer_node, defer_acks;
	uint8_t hold_level;
	bool owner : 1;
	bool has_bytes : 1;   /* memory holds the bytes of `version` */
	bool wait_read : 1;   /* a thread waits for the page */
	bool wait_write : 1;  /* a thread waits to write it */
	bool data_seen : 1;   /* the grant came; acknowledgements may be missing */
	bool need_done : 1;   /* the home awaits our DONE */
	bool prefetching : 1; /* the request under way is a prefetch */
};

/* The home's record of the page. All zero is a page that nobody has touched ("dormant"). */
struct dsm_dir {
	uint32_t version;
	uint16_t copyset;	       /* nodes that may have a valid copy, the owner included */
	uint16_t pending;	       /* grants not yet in force, by requester */
	uint16_t want_s, want_x, have; /* the busy queue, by requester */
	uint8_t owner;
	uint8_t last; /* whose turn it was; the queue is served in cyclic order from there */
	bool touched : 1;
	bool pending_x : 1; /* the pending grant is for writing */
};

enum dsm_in_type {
	DSM_IN_MSG = 1,
	DSM_IN_READ,	 /* a local thread waits to read */
	DSM_IN_WRITE,	 /* a local thread waits to write */
	DSM_IN_PREFETCH, /* fetch for reading, nobody waits */
	DSM_IN_TAKE,	 /* get it for writing if nobody has touched it yet; nobody waits */
	DSM_IN_DROP,	 /* give a read-only copy up silently; the bytes stay */
	DSM_IN_TIMER,	 /* a DSM_ACT_TIMER expired */
	DSM_IN_POPULATE, /* home only, before anybody asked: the bytes are in memory here */
};

struct dsm_in {
	uint8_t type;
	uint8_t from; /* DSM_IN_MSG: sender; trusted to be the peer of the connection */
	struct dsm_msg msg;
	int64_t now_ns;
	uint32_t random; /* spreads hold times */
};

enum dsm_act_type {
	DSM_ACT_SEND = 1, /* msg to `to`; kind DSM_DATA_PAGE takes the bytes of the page along */
	DSM_ACT_MAP,	  /* give the guest the page with `access`, wake its waiters */
	DSM_ACT_PROTECT,  /* the guest may only read from now on */
	DSM_ACT_UNMAP,	  /* the guest may not access it from now on */
	DSM_ACT_STORE,	  /* the bytes that came with the message are the page */
	DSM_ACT_ZERO,	  /* the page is all zero */
	DSM_ACT_TIMER,	  /* DSM_IN_TIMER at until_ns */
};

struct dsm_act {
	uint8_t type;
	uint8_t to;
	uint8_t access;
	struct dsm_msg msg;
	int64_t until_ns;
};

/* 16 grants from the queue, 15 invalidations and what one page does itself stay far below. */
#define DSM_ACT_MAX 64

/* Actions in the order in which they must take effect. */
struct dsm_out {
	unsigned count;
	struct dsm_act act[DSM_ACT_MAX];
	/* messages of the node to itself; used inside a step only */
	unsigned self_head, self_tail;
	struct dsm_msg self[DSM_ACT_MAX];
};

struct dsm_env {
	uint8_t self, home;
	uint32_t hold_ns;	/* minimum hold time of a page that a thread waited for */
	uint8_t hold_level_max; /* back-off doubles it at most so often */
};

/*
 * One step. `dir` is non-NULL exactly on the home. On return 0, out->act[0..count) must be executed
 * in order. -EPROTO: the message cannot come from a correct peer, `out` is void and the guest must
 * stop.
 */
BASE_MUST_CHECK int dsm_page_step(const struct dsm_env *env, struct dsm_page *page,
				  struct dsm_dir *dir, const struct dsm_in *in,
				  struct dsm_out *out);

/* Why the local invariants do not hold, or NULL. */
const char *dsm_page_check(const struct dsm_env *env, const struct dsm_page *page,
			   const struct dsm_dir *dir);

#endif
