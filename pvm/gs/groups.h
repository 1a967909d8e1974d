/*
 * Groups as the server keeps them: pure, no messages are sent here. Negative Pvm codes. One thread.
 */
#ifndef PVM_GS_GROUPS_H
#define PVM_GS_GROUPS_H

#include <stdbool.h>

#include "base/cleanup.h"

/* Tasks that wait at a barrier or for a freeze. */
struct gs_waiting {
	int *tids;
	int n, cap;
	int count; /* that were asked for, -1: all members */
};

struct gs_group {
	struct gs_group *next;
	char *name;
	int *tids; /* by instance, 0: free */
	int slots, cap;
	int members;
	int generation;
	bool is_static;
	bool broken; /* static, and a member has left */
	struct gs_waiting barrier, freeze;
};

struct gs_groups {
	struct gs_group *first;
	int generations; /* used so far, over all groups */
};

void gs_groups_fini(struct gs_groups *gs);
struct gs_group *gs_groups_find(struct gs_groups *gs, const char *name);

/* The instance. */
int gs_group_join(struct gs_groups *gs, const char *name, int tid);
int gs_group_inst(const struct gs_group *g, int tid);

/*
 * Enters the task. 1: all are in; the caller answers everybody in w and calls gs_waiting_clear().
 * 0: it waits. A count that differs from the others' is PvmMismatch.
 */
int gs_group_wait(struct gs_group *g, struct gs_waiting *w, int tid, int count);
/* The same question again, after a member has gone. */
bool gs_waiting_full(const struct gs_group *g, const struct gs_waiting *w);
void gs_waiting_clear(struct gs_waiting *w);

/* The task leaves; who waited there with it stops waiting. A group without members stays until
 * gs_group_reap(). */
int gs_group_leave(struct gs_groups *gs, struct gs_group *g, int tid);
void gs_group_freeze(struct gs_groups *gs, struct gs_group *g);
/* Frees the group when nobody is in it. */
void gs_group_reap(struct gs_groups *gs, struct gs_group *g);

#endif
