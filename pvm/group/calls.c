/* Membership, barrier and broadcast. These report nothing, as in the original. */
#include <stdio.h>
#include <stdlib.h>

#include "pvm/group/group.h"

int pvm_gsdump(void);
int pvm_grphostinfo(void);
int pvm_grpvhostinfo(void);

int gs_do_joingroup(char *group)
{
	int rc = gs_name_check(group);

	if (rc)
		return rc;
	if (gs_members_static(group))
		return PvmNotInGroup;
	return gs_ask(GS_JOIN, group, 0, NULL, NULL);
}

int gs_do_lvgroup(char *group)
{
	struct gs_members *m;
	int rc = gs_name_check(group), me = pvm_mytid();

	if (rc)
		return rc;
	m = gs_members_static(group);
	if (m && gs_members_inst(m, me) >= 0)
		gs_barrier_leave(m, gs_members_inst(m, me));
	gs_members_forget(group);
	return gs_ask(GS_LEAVE, group, 0, NULL, NULL);
}

int gs_do_getinst(char *group, int tid)
{
	const struct gs_members *m;
	int rc = gs_name_check(group);

	if (rc)
		return rc;
	m = gs_members_static(group);
	return m ? gs_members_inst(m, tid) : gs_ask(GS_INST, group, tid, NULL, NULL);
}

int gs_do_gettid(char *group, int inst)
{
	const struct gs_members *m;
	int rc = gs_name_check(group);

	if (rc)
		return rc;
	m = gs_members_static(group);
	if (!m)
		return gs_ask(GS_TID, group, inst, NULL, NULL);
	return inst >= 0 && inst < m->slots && m->tids[inst] > 0 ? m->tids[inst] : PvmNoInst;
}

int gs_do_gsize(char *group)
{
	const struct gs_members *m;
	int rc = gs_name_check(group);

	if (rc)
		return rc;
	m = gs_members_static(group);
	return m ? gs_members_count(m) : gs_ask(GS_SIZE, group, 0, NULL, NULL);
}

int gs_do_freezegroup(char *group, int size)
{
	struct gs_members *m;
	int rc = gs_name_check(group), me;

	if (rc)
		return rc;
	if (gs_members_static(group))
		return PvmDupGroup;
	rc = gs_members_ask(GS_FREEZE, group, size);
	m = rc < 0 ? NULL : gs_members_static(group);
	me = m ? gs_members_inst(m, pvm_mytid()) : -1;
	/* Only where every member is in this call, or the others would be waited for. */
	if (me >= 0 && rc == m->slots && (size == -1 || size == rc))
		gs_barrier_setup(m, me);
	return rc;
}

/* Of all members of a static group among themselves, else by the server. */
int gs_do_barrier(char *group, int count)
{
	struct gs_members *m;
	int rc = gs_name_check(group), me;

	if (rc)
		return rc;
	m = gs_members_static(group);
	if (m && m->shared && (count == -1 || count == m->slots) && m->tids[m->me] == pvm_mytid())
		return gs_barrier_static(m, m->me);
	me = m ? gs_members_inst(m, pvm_mytid()) : -1;
	if (me >= 0 && gs_members_count(m) == m->slots && (count == -1 || count == m->slots))
		return gs_barrier_static(m, me);
	return gs_ask(GS_BARRIER, group, count, NULL, NULL);
}

int gs_do_bcast(char *group, int msgtag, int **tids, int *count)
{
	const struct gs_members *m;
	int rc = gs_name_check(group), me = pvm_mytid(), n = 0, *to;

	if (!rc)
		rc = gs_members_get(group, &m);
	if (rc)
		return rc;
	to = calloc((size_t)m->slots + 1, sizeof(*to));
	if (!to)
		return PvmNoMem;
	for (int i = 0; i < m->slots; i++)
		if (m->tids[i] > 0 && m->tids[i] != me)
			to[n++] = m->tids[i];
	*tids = to;
	*count = n;
	return n ? pvm_mcast(to, n, msgtag) : PvmNoInst;
}

static int print_lines(void *arg)
{
	int n = 0, rc = pvm_upkint(&n, 1, 1);
	char line[GS_NAME_MAX + 256];

	for (; !rc && n > 0; n--) {
		rc = pvm_upkstr(line);
		if (!rc)
			printf("%s\n", line);
	}
	return rc;
}

/* What the server knows, on standard output. */
int pvm_gsdump(void)
{
	return gs_ask(GS_DUMP, "", 0, print_lines, NULL);
}

/* Which hosts a group is on: never documented, and no packaged program calls them. */
int pvm_grphostinfo(void)
{
	return PvmNotImpl;
}

int pvm_grpvhostinfo(void)
{
	return PvmNotImpl;
}
