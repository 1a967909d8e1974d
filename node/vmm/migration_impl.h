/*
 * A migration's parts, among themselves: the session with the agent (migration.c), what the engine
 * asks of this machine as a source (migration_source.c) and as a destination (migration_dest.c), and
 * what both sides must have alike (migration_config.c).
 *
 * The engine runs on a thread of its own and asks one thing of the main thread at a time, by
 * migration_ask(); what is named main_...() runs there.
 */
#ifndef VMM_MIGRATION_IMPL_H
#define VMM_MIGRATION_IMPL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "migrate/migrate.h"
#include "node/devices/blk_copy.h"
#include "node/vmm/migration.h"
#include "node/vmm/vm_internal.h"
#include "proto/migctl.h"

struct migration_disk {
	struct blk_copy *copy;
	uint64_t first, count; /* the engine's pages */
};

struct vmm_migration {
	struct vmm_vm *vm;
	struct base_loop *loop;
	enum vmm_migration_way way;
	int journal_fd;
	struct base_watch session;
	struct base_timer report_timer;
	bool active, doubt, cut;
	bool ran;	       /* the guest, at this destination */
	enum migctl_end ended; /* how; 0: not yet */

	struct mig_params params;
	struct mig_memory memory;
	struct mig_source *source;
	struct mig_dest *dest;
	struct base_wbuf config;
	pthread_t thread;
	bool thread_started;
	int result;
	char why[MIG_TEXT_MAX];
	int new_fds[1 + MIG_CHANNELS_MAX];

	/* What the engine's thread asks of the main thread, one at a time. */
	int (*ask)(struct vmm_migration *m);
	int answer;
	sem_t answered;
	struct base_wbuf *state_out;
	const void *state_in;
	size_t state_len;
	uint64_t paused_wall_ns;
	uint64_t hot[MIG_HOT_MAX]; /* pages, as of the last save */
	unsigned hot_count;

	/* Disks that move along; migration_disk.c. */
	struct migration_disk disks[VMM_DISK_MAX];
	unsigned disk_count;
	bool naming; /* main thread: the agent was asked for the names */
	int named_result;
	sem_t named;

	pthread_t throttler;
	bool throttling;
	atomic_uint throttle_percent;
};

extern const struct mig_source_ops migration_source_ops;
extern const struct mig_dest_ops migration_dest_ops;

/* Engine's thread: runs fn on the main thread and waits for its result. */
BASE_MUST_CHECK int migration_ask(struct vmm_migration *m, int (*fn)(struct vmm_migration *m));
/* Survives this process: the next agent reads it. */
BASE_MUST_CHECK int migration_journal(struct vmm_migration *m, const char *entry);
/* Main thread: tells the agent how it goes, now. */
void migration_report(struct vmm_migration *m);
/* Of this host's clock, which both sides are taken to share. */
uint64_t migration_wall_ns(void);

/* ---- migration_disk.c ---- */

/* After m->memory has the guest's regions: adds the disks. -EOPNOTSUPP: one cannot be copied. */
BASE_MUST_CHECK int migration_disks_add(struct vmm_migration *m);
BASE_MUST_CHECK int migration_disks_track(struct vmm_migration *m);
void migration_disks_untrack(struct vmm_migration *m);
void migration_disks_fetch(struct vmm_migration *m, uint64_t *bitmap);
BASE_MUST_CHECK int migration_disks_used(struct vmm_migration *m, uint64_t *bitmap);
/* Of mig_source_ops and mig_dest_ops. */
BASE_MUST_CHECK int migration_disks_read(void *guest, uint64_t index, void *page);
BASE_MUST_CHECK int migration_disks_write(void *guest, uint64_t index, unsigned count,
					  const void *pages);
/* Engine's thread: the copies are durable, and the agent has given them their names. */
BASE_MUST_CHECK int migration_disks_settle(struct vmm_migration *m);
/* Main thread: the agent's answer, or that there will be none. */
void migration_disks_named(struct vmm_migration *m, int result);

/* ---- migration_config.c ---- */

/* What the machine is, for a destination to compare; out->error where it does not fit. */
void migration_config_write(struct vmm_vm *vm, struct base_wbuf *out);
/* 0, -EPROTO, or -EINVAL, -ENOTSUP with one line in why (MIG_TEXT_MAX). */
BASE_MUST_CHECK int migration_config_check(struct vmm_vm *vm, const void *config, size_t len,
					   char *why);

#endif
