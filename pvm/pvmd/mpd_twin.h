/*
 * A task that makes others like itself before its main(), see wire/mp_twin.h: the daemon's side. Belongs
 * to the thread of the loop.
 */
#ifndef PVMD_MPD_TWIN_H
#define PVMD_MPD_TWIN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

struct base_loop;
struct mpd_twin;

struct mpd_twin_ops {
	/* The copy that was asked for by `seq`: its pid, or -errno. False: the twin was freed in it. */
	bool (*made)(void *owner, uint32_t seq, int32_t pid);
	/* It makes no more. What was asked for and not made will not be, or not be told of; the twin
	 * may be freed in it. */
	void (*gone)(void *owner);
};

/* `path` must stay: what the task must have been executed by. */
BASE_MUST_CHECK int mpd_twin_new(struct mpd_twin **out, struct base_loop *loop, const char *path,
				 const struct mpd_twin_ops *ops, void *owner);
/* The task goes on to its main(). NULL is fine. */
void mpd_twin_free(struct mpd_twin *t);

/* What the task needs: the descriptor, and NAME=VALUE for its environment. */
int mpd_twin_task_fd(const struct mpd_twin *t);
char *mpd_twin_env(struct mpd_twin *t);
/* It has been started (or not: pid 0). */
void mpd_twin_started(struct mpd_twin *t, pid_t pid);

/* It has offered itself and is not gone. */
bool mpd_twin_serves(const struct mpd_twin *t);
/* As many copies are asked for at a time as there may be. */
bool mpd_twin_full(const struct mpd_twin *t);
/* The descriptor stays the caller's. -errno: it makes no more, and gone() is not called. */
BASE_MUST_CHECK int mpd_twin_ask(struct mpd_twin *t, uint32_t seq, uint32_t cookie, int out_fd);
/* Takes in what it has said; false: it was freed in that. */
bool mpd_twin_look(struct mpd_twin *t);

#endif
