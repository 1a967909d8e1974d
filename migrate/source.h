/* The inside of the source: shared by source.c (rounds, hand-over) and sender.c (data channels). */
#ifndef MIG_SOURCE_H
#define MIG_SOURCE_H

#include <pthread.h>

#include "migrate/chan.h"
#include "migrate/pages.h"

enum { META_ENTRIES = MIG_META_MAX / sizeof(struct mig_page_entry) };

struct worker {
	struct mig_source *s;
	struct mig_chan chan;
	pthread_t thread;
	unsigned index;
	uint64_t frames;
	uint64_t digest; /* over this channel's pages */
	/* The chunk being built. */
	struct mig_page_entry entries[META_ENTRIES];
	struct iovec iov[MIG_CHUNK_PAGES];
	unsigned entry_count, data_count;
	uint64_t pages_sent, pages_zero, pages_unchanged; /* of this round */
};

struct mig_source {
	struct mig_params p;
	struct mig_memory memory;
	const struct mig_source_ops *ops;
	void *guest;
	const void *config;
	size_t config_len;
	int fds[1 + MIG_CHANNELS_MAX];
	uint64_t page_count;
	size_t words;

	struct mig_src_fsm fsm; /* run()'s thread */
	struct mig_chan control;
	struct worker *workers;
	unsigned started;
	bool logging;
	uint64_t *sent_hash; /* by page; each belongs to the worker of its channel */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;
	const uint64_t *work; /* bitmap of the round under way */
	unsigned work_number; /* counts up: a new round */
	unsigned busy;
	bool force; /* send pages even when their hash is the one sent last */
	bool quit, cancelled;
	int error; /* the first that a worker met */
	struct mig_progress progress;
	int64_t budget_start_ns;
	uint64_t budget_bytes;
};

/* One thread for each data channel; each waits for work_number to change. -EAGAIN. */
BASE_MUST_CHECK int mig_source_start_workers(struct mig_source *s);
/* lost: breaks their connections first, so that none stays in a send. */
void mig_source_stop_workers(struct mig_source *s, bool lost);

#endif
