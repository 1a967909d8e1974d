/* What the two halves of the shared-memory channels share; see mp_chan.c. */
#ifndef PVM_MP_CHAN_H
#define PVM_MP_CHAN_H

#include "base/list.h"
#include "pvm/mp_buf.h"
#include "pvm/mp_heap.h"
#include "pvm/mp_shared.h"

enum {
	MP_CHAN_LINE = 64,	   /* a record begins a cache line */
	MP_CHAN_TAIL_LATE = 16384, /* bytes taken before the sender is told */
	MP_CHAN_HANDFUL = 16,	   /* records taken at once while one is waited for */
	MP_CHAN_AHEAD = 4 * MP_CHAN_LINE,
	MP_CHAN_WHOLE_MAX = 8192,  /* bodies up to this go through the ring in one record */
	MP_CHAN_PART_MAX = 16384,  /* inline pieces of others */
	MP_CHAN_COPY_STEP = 65536, /* a body that is being copied becomes visible in such steps */
	MP_CHAN_WINDOW = 32 << 20, /* bytes by reference that a receiver has not taken in yet */
	MP_CHAN_PEER_BUCKETS = 128,
	MP_CHAN_SPIN_US = 200,	     /* default of PvmPollTime */
	MP_CHAN_SLEEP_MAX_MS = 1000, /* then the socket is looked at: the daemon may have died */
	MP_CHAN_DIRECT_MIN = 65536,  /* a first message of this size is worth a channel at once */
};

enum mp_record_kind { K_SKIP = 1, K_WHOLE, K_HEAD, K_INLINE, K_REF };

/*
 * The stamp says that the record is there, and is written last: the segment's key and the place, so
 * that neither what lay there before nor the bytes of a body look like it.
 */
struct mp_record {
	uint64_t stamp;
	uint32_t bytes; /* of the whole record, a multiple of MP_CHAN_LINE */
	uint16_t kind, spare;
	int32_t tag, ctx, enc, wid, crc;
	uint32_t len;	/* body bytes in this record */
	uint64_t total; /* K_WHOLE, K_HEAD: of the message; K_REF: of the part */
};

/* The body of K_REF. */
struct mp_ref {
	uint64_t off; /* in the sender's segment */
	uint32_t lease, spare;
};

_Static_assert(sizeof(struct mp_record) + sizeof(struct mp_ref) == MP_CHAN_LINE,
	       "so much body goes with its head in one cache line");
/* An empty ring has room for the largest record and what is skipped before it, told late or not. */
_Static_assert(MP_CHAN_TAIL_LATE + 2 * (MP_CHAN_PART_MAX + MP_CHAN_LINE) <= MP_RING_DATA, "room");

/* Another task of this host whose segment we have mapped, or know that we cannot. */
struct mp_peer {
	struct mp_peer *next; /* in its bucket */
	int tid;
	uint8_t *seg;
	unsigned refs; /* table, and bodies that are read in its segment */
	bool gone;
	/* sending */
	int slot; /* -1: none */
	bool refused;
	bool by_ref; /* also before it is known that it has our segment mapped */
	unsigned by_daemon;
	uint64_t key, head, tail_seen, sent_ref;
	/* receiving */
	int in_slot;
	uint64_t tail, tail_told;
	bool lost; /* what it writes makes no sense */
	struct mp_msg *partial;
	uint64_t partial_left;
};

/* What is waited for beside news; NULL: nothing. */
struct mp_chan_word {
	struct mp_shared_word *at;
	uint32_t seen;
};

struct mp_chan {
	bool open;
	struct mp_chan_word word;
	struct mp_peer *peers[MP_CHAN_PEER_BUCKETS];
	uint32_t slot_free[MP_SLOT_WORDS]; /* to be told to the daemon */
	bool slot_free_any;
	uint32_t stale; /* words with slots whose sender is not known yet */
	struct mp_host_page *page;
	unsigned spin_fails;
	unsigned calm, calm_last; /* waits that do not spin: left, and how many the last time */
	unsigned crowd_fails, crowd_calm; /* the same where tasks outnumber cores */
	bool together;			  /* what was waited for last came by a yield, */
	unsigned together_run;		  /* and so many times in turn; */
	unsigned together_max;		  /* after so many one goes to another core */
	bool in_poll;
	/*
	 * The ring that is looked at itself: its dirty bit stays set, so that its sender need not
	 * write more than the record. -1: none.
	 */
	int hot, warm;		  /* warm: taken last, hot when it is so again */
	_Atomic uint64_t *hot_at; /* where its next stamp will be, */
	uint64_t hot_stamp;	  /* and what it will be */
	uint64_t key;
	bool asked; /* by a quick call that has no answer yet */
	/* Messages come and nothing is sent: a stream, which is better taken in handfuls. */
	unsigned sent, sent_at_take;
};

extern struct mp_chan mp_chan;
/* Apart, because a page of it that is not touched costs nothing when a task starts and ends. */
extern struct mp_peer *mp_chan_by_slot[MP_SLOTS];

struct mp_seg_head *mp_chan_self(void);
struct mp_peer *mp_peer_find(int tid);
struct mp_peer *mp_peer_get(int tid); /* makes it; NULL: no memory */
void mp_peer_unref(struct mp_peer *p);
void mp_peer_drop(struct mp_peer *p);
/* Wakes it if it sleeps. */
void mp_peer_ring(struct mp_peer *p);
/* More runnable tasks than cores. */
bool mp_chan_crowded(void);
/* The bytes are the sender's own. */
bool mp_chan_is_foreign(const struct mp_block *b);
/* Takes the descriptor; true when its segment is mapped. */
bool mp_peer_map(struct mp_peer *p, int fd);

/* No ring is hot any more, which must be so before sleeping. True: there is news in it. */
bool mp_chan_cool(void);

static inline _Atomic uint64_t *mp_ring_stamp_at(struct mp_ring *g, uint64_t pos)
{
	return (_Atomic uint64_t *)(void *)(g->data + pos % MP_RING_DATA);
}

static inline bool mp_chan_hot_news(void)
{
	return mp_chan.hot >= 0 &&
	       atomic_load_explicit(mp_chan.hot_at, memory_order_acquire) == mp_chan.hot_stamp;
}

#endif
