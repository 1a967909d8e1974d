/* Who is in a group, as last told by the server. */
#include <stdlib.h>
#include <string.h>

#include "pvm/group/group.h"

enum { SLOTS_MAX = 1 << 20 };

static struct gs_members *known;

static struct gs_members *find(const char *group)
{
	for (struct gs_members *m = known; m; m = m->next)
		if (!strcmp(m->name, group))
			return m;
	return NULL;
}

static struct gs_members *find_or_make(const char *group)
{
	struct gs_members *m = find(group);

	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->name = strdup(group);
	if (!m->name) {
		free(m);
		return NULL;
	}
	m->generation = -1;
	m->next = known;
	known = m;
	return m;
}

void gs_members_forget(const char *group)
{
	for (struct gs_members **at = &known; *at; at = &(*at)->next) {
		struct gs_members *m = *at;

		if (strcmp(m->name, group))
			continue;
		*at = m->next;
		free(m->name);
		free(m->tids);
		free(m->gone);
		mp_shared_drop(m->shared_keep);
		free(m);
		return;
	}
}

/* The reply's list, into the struct gs_members `arg`. */
static int unpack_members(void *arg)
{
	struct gs_members *m = arg;
	int head[3], *tids;
	int rc = pvm_upkint(head, 3, 1);

	if (rc || head[0] == m->generation)
		return rc;
	if (head[2] < 0 || head[2] > SLOTS_MAX)
		return PvmBadMsg;
	tids = calloc((size_t)head[2] + 1, sizeof(*tids));
	if (!tids)
		return PvmNoMem;
	rc = pvm_upkint(tids, head[2], 1);
	if (rc) {
		free(tids);
		return rc;
	}
	free(m->tids);
	m->tids = tids;
	m->generation = head[0];
	m->is_static = head[1];
	m->slots = head[2];
	return PvmOk;
}

int gs_members_ask(enum gs_op op, const char *group, int arg)
{
	struct gs_members *m = find_or_make(group);
	int rc;

	if (!m)
		return PvmNoMem;
	rc = gs_ask(op, group, op == GS_MEMBERS ? m->generation : arg, unpack_members, m);
	if (rc < 0 && op == GS_MEMBERS)
		gs_members_forget(group);
	return rc;
}

struct gs_members *gs_members_static(const char *group)
{
	struct gs_members *m = find(group);

	return m && m->is_static ? m : NULL;
}

int gs_members_get(const char *group, const struct gs_members **out)
{
	struct gs_members *m = gs_members_static(group);

	if (!m) {
		int rc = gs_members_ask(GS_MEMBERS, group, 0);

		if (rc < 0)
			return rc;
		m = find(group);
		if (!m)
			return PvmNoGroup;
	}
	*out = m;
	return PvmOk;
}

int gs_members_inst(const struct gs_members *m, int tid)
{
	for (int i = 0; i < m->slots; i++)
		if (m->tids[i] == tid)
			return i;
	return PvmNotInGroup;
}

int gs_members_count(const struct gs_members *m)
{
	int n = 0;

	for (int i = 0; i < m->slots; i++)
		n += m->tids[i] > 0;
	return n;
}
