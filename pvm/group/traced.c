/* The public calls of libgpvm3, each between two trace events; see pvm/mp_tev.h. */
#include <stdlib.h>

#include "pvm/group/group.h"
#include "pvm/mp_traced.h"

#define GROUP_CALL(name, KIND, params, args, in, out)                                              \
	TRACED_AS(pvm_##name, gs_do_##name, KIND, true, params, args, in, out)

GROUP_CALL(joingroup, JOINGROUP, (char *group), (group), (STRING(GN, group)), (INT(CC, rc)))
GROUP_CALL(lvgroup, LVGROUP, (char *group), (group), (STRING(GN, group)), (INT(CC, rc)))
GROUP_CALL(getinst, GETINST, (char *group, int tid), (group, tid),
	   (STRING(GN, group), INT(GT, tid)), (INT(GI, rc)))
GROUP_CALL(gettid, GETTID, (char *group, int inst), (group, inst),
	   (STRING(GN, group), INT(GI, inst)), (INT(GT, rc)))
GROUP_CALL(gsize, GSIZE, (char *group), (group), (STRING(GN, group)), (INT(GS, rc)))
GROUP_CALL(barrier, BARRIER, (char *group, int count), (group, count),
	   (STRING(GN, group), INT(GBC, count)), (INT(CC, rc)))
GROUP_CALL(reduce, REDUCE,
	   (gs_reduce_fn fn, void *data, int count, int type, int tag, char *group, int root),
	   (fn, data, count, type, tag, group, root), (STRING(GN, group), INT(MC, tag)),
	   (INT(CC, rc)))
GROUP_CALL(gather, GATHER,
	   (void *result, void *data, int count, int type, int tag, char *group, int root),
	   (result, data, count, type, tag, group, root), (STRING(GN, group), INT(MC, tag)),
	   (INT(CC, rc)))
GROUP_CALL(scatter, SCATTER,
	   (void *result, void *data, int count, int type, int tag, char *group, int root),
	   (result, data, count, type, tag, group, root), (STRING(GN, group), INT(MC, tag)),
	   (INT(CC, rc)))

int pvm_bcast(char *group, int tag)
{
	bool traced = mp_tev_enter(true);
	int *tids = NULL, n = 0, rc;

	if (traced)
		MP_TEV(TEV_BCAST | TEV_EVENT_ENTRY, STRING(GN, group), INT(MC, tag));
	rc = gs_do_bcast(group, tag, &tids, &n);
	if (traced) {
		MP_TEV(TEV_BCAST | TEV_EVENT_EXIT, INT(CC, rc), INTS(MDL, tids, n));
		mp_tev_leave();
	}
	free(tids);
	return rc;
}

/* No event of its own; what it calls is not the program's either. */
int pvm_freezegroup(char *group, int size)
{
	bool traced = mp_tev_enter(true);
	int rc = gs_do_freezegroup(group, size);

	if (traced)
		mp_tev_leave();
	return rc;
}
