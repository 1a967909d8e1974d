#include "pvm/gs/groups.h"

#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"

struct gs_group *gs_groups_find(struct gs_groups *gs, const char *name)
{
	for (struct gs_group *g = gs->first; g; g = g->next)
		if (!strcmp(g->name, name))
			return g;
	return NULL;
}

static void group_free(struct gs_group *g)
{
	free(g->barrier.tids);
	free(g->freeze.tids);
	free(g->tids);
	free(g->name);
	free(g);
}

void gs_groups_fini(struct gs_groups *gs)
{
	while (gs->first) {
		struct gs_group *g = gs->first;

		gs->first = g->next;
		group_free(g);
	}
}

static struct gs_group *group_new(struct gs_groups *gs, const char *name)
{
	struct gs_group *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->name = strdup(name);
	if (!g->name) {
		free(g);
		return NULL;
	}
	g->next = gs->first;
	gs->first = g;
	return g;
}

/* Room for one more in an array that doubles. */
static int room(int **array, int used, int *cap)
{
	int want = *cap ? *cap * 2 : 8;
	int *grown;

	if (used < *cap)
		return PvmOk;
	grown = reallocarray(*array, want, sizeof(int));
	if (!grown)
		return PvmNoMem;
	*array = grown;
	*cap = want;
	return PvmOk;
}

int gs_group_inst(const struct gs_group *g, int tid)
{
	for (int i = 0; i < g->slots; i++)
		if (g->tids[i] == tid)
			return i;
	return PvmNotInGroup;
}

int gs_group_join(struct gs_groups *gs, const char *name, int tid)
{
	struct gs_group *g = gs_groups_find(gs, name);
	int at = 0;

	if (!g)
		g = group_new(gs, name);
	if (!g)
		return PvmNoMem;
	if (g->is_static)
		return PvmNotInGroup;
	if (gs_group_inst(g, tid) >= 0)
		return PvmDupGroup;
	while (at < g->slots && g->tids[at])
		at++;
	if (at == g->slots) {
		if (room(&g->tids, g->slots, &g->cap)) {
			gs_group_reap(gs, g);
			return PvmNoMem;
		}
		g->slots++;
	}
	g->tids[at] = tid;
	g->members++;
	g->generation = ++gs->generations;
	return at;
}

bool gs_waiting_full(const struct gs_group *g, const struct gs_waiting *w)
{
	return w->n > 0 && w->n >= (w->count == -1 ? g->members : w->count);
}

int gs_group_wait(struct gs_group *g, struct gs_waiting *w, int tid, int count)
{
	if (gs_group_inst(g, tid) < 0)
		return PvmNotInGroup;
	if (count < 1 && count != -1)
		return PvmMismatch;
	if (w->n && w->count != count)
		return PvmMismatch;
	for (int i = 0; i < w->n; i++)
		if (w->tids[i] == tid)
			return PvmAlready;
	if (room(&w->tids, w->n, &w->cap))
		return PvmNoMem;
	w->tids[w->n++] = tid;
	w->count = count;
	return gs_waiting_full(g, w);
}

void gs_waiting_clear(struct gs_waiting *w)
{
	w->n = 0;
}

static void waiting_drop(struct gs_waiting *w, int tid)
{
	for (int i = 0; i < w->n; i++)
		if (w->tids[i] == tid)
			w->tids[i--] = w->tids[--w->n];
}

int gs_group_leave(struct gs_groups *gs, struct gs_group *g, int tid)
{
	int at = gs_group_inst(g, tid);

	if (at < 0)
		return at;
	waiting_drop(&g->barrier, tid);
	waiting_drop(&g->freeze, tid);
	g->tids[at] = 0;
	g->members--;
	while (g->slots && !g->tids[g->slots - 1])
		g->slots--;
	g->broken = g->is_static;
	g->generation = ++gs->generations;
	return PvmOk;
}

void gs_group_freeze(struct gs_groups *gs, struct gs_group *g)
{
	g->is_static = true;
	g->generation = ++gs->generations;
}

void gs_group_reap(struct gs_groups *gs, struct gs_group *g)
{
	struct gs_group **at = &gs->first;

	if (g->members)
		return;
	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	group_free(g);
}
