/*
 * Live migration of a guest between two processes: pre-copy rounds over a dirty log, then the
 * hand-over of fsm.h. The engine knows memory as pages and the rest of the machine as one opaque
 * block; the node implements the operations below.
 *
 * A migration uses 1 control connection and 1 to MIG_CHANNELS_MAX data connections (connected stream
 * sockets, made by the caller). Both sides know the 32-byte key of this migration (made by the agents,
 * carried over their control channel): a connection that cannot prove it is refused before anything
 * else is read. With `encrypt`, all is sealed by AES-256-GCM under keys derived from it; without,
 * checksums guard against accidents, not against an attacker on the path.
 */
#ifndef MIG_MIGRATE_H
#define MIG_MIGRATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "migrate/fsm.h"

enum {
	MIG_PAGE_SIZE = 4096,
	MIG_CHANNELS_MAX = 16,
	MIG_REGIONS_MAX = 12,
	MIG_KEY_LEN = 32,
	MIG_ID_LEN = 16,
	MIG_TEXT_MAX = 256,
	MIG_STATE_MAX = 64 << 20, /* bytes of the opaque block */
	MIG_PAGES_MAX = 1 << 30,  /* 4 TiB */
	MIG_HOT_MAX = 256,
};

/*
 * Guest memory: regions, numbered through by page index (0 .. page_count-1). A region without `host` is
 * a disk that moves along: its pages are blocks, which the operations read and write. Pre-copy only.
 */
struct mig_region {
	uint8_t *host;
	uint64_t page_count;
};

struct mig_memory {
	struct mig_region regions[MIG_REGIONS_MAX];
	unsigned region_count;
};

/*
 * The guest at the source. Called on the thread of mig_source_run(). Bitmaps have one bit per page
 * index. Each returns 0 or -errno.
 */
struct mig_source_ops {
	/* Starts the log; pages written from now on are reported by dirty_fetch. */
	int (*dirty_start)(void *guest);
	/* ORs in the pages written since the last call and clears the log. */
	int (*dirty_fetch)(void *guest, uint64_t *bitmap);
	/* As dirty_fetch, for the last time: the guest is paused, and nobody reads the log again,
	 * so it need not be cleared. NULL: dirty_fetch is called. */
	int (*dirty_last)(void *guest, uint64_t *bitmap);
	/* A block of a disk. Any thread, while the guest runs. */
	int (*block_read)(void *guest, uint64_t index, void *page);
	/* The guest goes on here, or may; not called when it has moved. */
	void (*dirty_stop)(void *guest);
	/* ORs in every page that may hold something else than zeros. */
	int (*touched)(void *guest, uint64_t *bitmap);
	int (*pause)(void *guest);
	int (*resume)(void *guest);
	/* Appends the machine's state; the guest is paused. */
	int (*save)(void *guest, struct base_wbuf *out);
	/* After save: pages that the guest will touch first; how many, at most max (MIG_HOT_MAX).
	 * May be NULL. */
	unsigned (*hot)(void *guest, uint64_t *index, unsigned max);
	/* Slows the vCPUs down: percent of time that they may not run, 0 to 99. */
	void (*throttle)(void *guest, unsigned percent);
	/* Writes the decision where the agent finds it; survives this process. */
	int (*journal)(void *guest, const char *entry);
};

struct mig_dest_ops {
	/* Checks what the source says of its machine, before the first page. On refusal `why` (of
	 * MIG_TEXT_MAX) says what differs. */
	int (*check)(void *guest, const void *config, size_t len, char *why);
	/* Loads the machine's state into a guest that does not run. */
	int (*load)(void *guest, const void *state, size_t len);
	int (*run)(void *guest);
	int (*journal)(void *guest, const char *entry);
	/* Consecutive blocks of a disk get their bytes (NULL: zeros). Several threads, each block by
	 * one. What was never written reads as zeros. */
	int (*blocks_write)(void *guest, uint64_t index, unsigned count, const void *pages);

	/*
	 * For post-copy; without can_fill, or when it says no, the source is told so. Pages are
	 * filled by several threads, each page by one.
	 */
	bool (*can_fill)(void *guest);
	/* These pages are nothing any more; the guest does not run yet. */
	int (*discard)(void *guest, uint64_t index, uint64_t count);
	/* From now on, whoever touches a page that is nothing waits, and *fault_fd is readable. */
	int (*fill_start)(void *guest, int *fault_fd);
	/* Pages that are waited for: how many, at most max, without blocking; -errno. */
	int (*faults)(void *guest, uint64_t *index, unsigned max);
	/* Gives a page its bytes (NULL: zeros), and wakes. A page that is there stays as it is. */
	int (*fill)(void *guest, uint64_t index, const void *page);
	/* All is here, or the guest will never run: nobody waits any more. */
	void (*fill_stop)(void *guest);
	/* The link is lost while it runs: stops it, without waiting for who waits for a page. run()
	 * lets it go on. */
	int (*pause)(void *guest);
};

enum mig_mode {
	MIG_MODE_PRECOPY,
	MIG_MODE_POSTCOPY, /* switch at once */
	MIG_MODE_AUTO,	   /* pre-copy; after postcopy_rounds, switch with what is left */
};

struct mig_params {
	uint8_t id[MIG_ID_LEN];
	uint8_t key[MIG_KEY_LEN];
	bool encrypt;
	unsigned channels; /* data connections */
	unsigned max_downtime_ms;
	uint64_t bandwidth; /* bytes/s, 0: no limit */
	unsigned stall_ms;  /* no byte for so long: the link is lost */
	unsigned max_rounds;
	bool auto_converge;
	enum mig_mode mode;
	unsigned postcopy_rounds;
};

/* 50 ms of downtime, 4 channels, no limit, 30 s stall, 30 rounds, pre-copy, AUTO after 3 rounds. */
void mig_params_default(struct mig_params *p);

struct mig_progress {
	enum mig_src_state state;
	unsigned round;
	uint64_t pages_total, pages_left; /* of this round */
	uint64_t bytes_sent, pages_sent, pages_zero, pages_unchanged, pages_resent;
	uint64_t rate;	     /* bytes/s of the last round */
	uint64_t dirty_rate; /* bytes/s of memory written during the last round */
	unsigned throttle;   /* percent */
	int64_t start_ns, total_ns, downtime_ns; /* downtime as the source sees it */
	char error[MIG_TEXT_MAX];
};

struct mig_source;
struct mig_dest;

/*
 * fds[0] is the control connection, fds[1..channels] the data connections; they become the engine's.
 * config: what mig_dest_ops.check gets. All pointers must live until mig_source_free().
 */
BASE_MUST_CHECK int mig_source_new(const struct mig_params *params, const struct mig_memory *memory,
				   const struct mig_source_ops *ops, void *guest,
				   const void *config, size_t config_len, const int *fds,
				   struct mig_source **out);
/*
 * Migrates; blocks until it is over. 0: the guest is the destination's. -EINPROGRESS: in doubt, the
 * guest is paused (fsm.h, I4); use mig_source_verdict(). Any other: the guest runs here as before;
 * mig_source_progress() says why. Post-copy: -ENOLINK, cut off (fsm.h, I6), use mig_source_relink() or
 * mig_source_verdict().
 */
BASE_MUST_CHECK int mig_source_run(struct mig_source *s);
/* Any thread: gives up as soon as may be; without effect once COMMIT is sent. */
void mig_source_cancel(struct mig_source *s);
/* Any thread: breaks the connections; in doubt or cut off it is as it was. */
void mig_source_cut(struct mig_source *s);
void mig_source_progress(struct mig_source *s, struct mig_progress *out);
/*
 * In doubt or cut off: applies a verdict or MIG_EV_FORCE; 0 done, -ECANCELED resumed, -EINPROGRESS still
 * in doubt, -ENOLINK cut off, -ESTALE: lost.
 */
BASE_MUST_CHECK int mig_source_verdict(struct mig_source *s, enum mig_event verdict);
/* Cut off only: goes on over new connections, which become the engine's; returns as run() does. */
BASE_MUST_CHECK int mig_source_relink(struct mig_source *s, const int *fds);
void mig_source_free(struct mig_source *s);

/* The memory must be all zeros, best never touched: zero pages cost nothing then. */
BASE_MUST_CHECK int mig_dest_new(const struct mig_params *params, const struct mig_memory *memory,
				 const struct mig_dest_ops *ops, void *guest, const int *fds,
				 struct mig_dest **out);
/*
 * Receives; blocks. 0: committed, the guest runs here. -EINPROGRESS: held (fsm.h, I5). Any other:
 * aborted, the copy is to be destroyed; mig_dest_error() says why. Post-copy: 0 when all pages are
 * here; -ENOLINK: paused until mig_dest_relink() (fsm.h, I7).
 */
BASE_MUST_CHECK int mig_dest_run(struct mig_dest *d);
/* Any thread; without effect once the guest is this side's. */
void mig_dest_cancel(struct mig_dest *d);
BASE_MUST_CHECK int mig_dest_verdict(struct mig_dest *d, enum mig_event verdict);
BASE_MUST_CHECK int mig_dest_relink(struct mig_dest *d, const int *fds);
/* Pages that post-copy still waits for; any thread. */
uint64_t mig_dest_missing(const struct mig_dest *d);
const char *mig_dest_error(const struct mig_dest *d);
void mig_dest_free(struct mig_dest *d);

/* Sets up one connection as a side of a migration must: no delay, time-outs. */
BASE_MUST_CHECK int mig_socket_prepare(int fd, unsigned stall_ms);

#endif
