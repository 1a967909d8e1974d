/* What mpd_spawn.c and mpd_exec.c share: a request for tasks, and how it is carried out here. */
#ifndef PVMD_MPD_SPAWN_H
#define PVMD_MPD_SPAWN_H

#include "pvm/pvmd/mpd.h"

/* Views into the call, except the arrays. */
struct mpd_spawn_req {
	char file[MPD_PATH_MAX], where[MPD_PATH_MAX];
	int32_t flags, count;
	char **args, **env; /* NULL-terminated; the strings are one block each */
	uint32_t arg_count, env_count;
	struct mpd_sink out;
	struct mpd_trace trace;
	char mask[512];
	struct base_rbuf
		tail; /* args to mask as they came, for the other hosts; gone after the call */
};

/* results[]: tids or errors, r->count of them. */
typedef void mpd_exec_done_fn(struct mpd *pd, void *arg, const int32_t *results, int32_t n);

int mpd_spawn_req_take(struct base_rbuf *b, struct mpd_spawn_req **out);
void mpd_spawn_req_free(struct mpd_spawn_req *r);

/*
 * Starts r->count tasks here, one between two turns of the loop each, so that those that have started are
 * served and may end while others start. Takes `r`. `done` is called once, perhaps at once; not at all
 * when the daemon ends before.
 */
void mpd_exec_start(struct mpd *pd, int32_t ptid, struct mpd_spawn_req *r, mpd_exec_done_fn *done,
		    void *arg);

#endif
