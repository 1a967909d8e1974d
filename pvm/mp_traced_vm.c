/* The public calls on tasks, hosts and the mailbox; as mp_traced.c. */
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_traced.h"

/* Tasks */

TRACED(mytid, MYTID, (void), (), (), (INT(MT, rc)))
TRACED(parent, PARENT, (void), (), (), (INT(PT, rc)))
TRACED(kill, KILL, (int tid), (tid), (INT(TT, tid)), (INT(CC, rc)))
TRACED(sendsig, SENDSIG, (int tid, int sig), (tid, sig), (INT(TT, tid), INT(SN, sig)),
       (INT(CC, rc)))
TRACED(pstat, PSTAT, (int tid), (tid), (INT(TT, tid)), (INT(TST, rc)))
TRACED(notify, NOTIFY, (int what, int tag, int count, int *tids), (what, tag, count, tids),
       (INT(NE, what), INT(NMC, tag), INTS(NTL, tids, count)), (INT(CC, rc)))
TRACED(spawn, SPAWN, (char *file, char **argv, int flags, char *where, int count, int *tids),
       (file, argv, flags, where, count, tids),
       (STRING(SE, file), STRING(SW, where), INT(SF, flags), INT(SC, count)),
       (INT(CC, rc), INTS(STL, tids, rc)))

int pvm_siblings(int **tids)
{
	bool traced = mp_tev_enter(true);
	int *list = NULL, rc;

	if (traced)
		MP_TEV(TEV_SIBLINGS | TEV_EVENT_ENTRY);
	rc = mp_api_siblings(&list);
	if (rc >= 0 && tids)
		*tids = list;
	if (traced) {
		MP_TEV(TEV_SIBLINGS | TEV_EVENT_EXIT, INTS(SIB, list, rc));
		mp_tev_leave();
	}
	return rc;
}

/* There is nobody to tell the end of it. */
int pvm_exit(void)
{
	bool traced = mp_tev_enter(false);
	int rc;

	if (traced)
		MP_TEV(TEV_EXIT | TEV_EVENT_ENTRY);
	rc = mp_api_exit();
	if (traced)
		mp_tev_leave();
	return rc;
}

int pvm_tasks(int where, int *count, struct pvmtaskinfo **list)
{
	bool traced = mp_tev_enter(true);
	int n = 0, rc;

	if (traced)
		MP_TEV(TEV_TASKS | TEV_EVENT_ENTRY, INT(TW, where));
	rc = mp_api_tasks(where, &n, list);
	if (!rc && count)
		*count = n;
	if (traced) {
		MP_TEV(TEV_TASKS | TEV_EVENT_EXIT, INT(CC, rc), INT(TNT, n));
		mp_tev_leave();
	}
	return rc;
}

TRACED_LOCAL(getopt, GETOPT, (int what), (what), (INT(OPT, what)), (INT(OPV, rc)))
TRACED_LOCAL(setopt, SETOPT, (int what, int v), (what, v), (INT(OPT, what), INT(OPV, v)),
	     (INT(OPV, rc)))

int pvm_getfds(int **fds)
{
	bool traced = mp_tev_enter(true);
	int *list = NULL, rc;

	if (traced)
		MP_TEV(TEV_GETFDS | TEV_EVENT_ENTRY);
	rc = mp_api_getfds(&list);
	if (rc >= 0 && fds)
		*fds = list;
	if (traced) {
		MP_TEV(TEV_GETFDS | TEV_EVENT_EXIT, INT(CC, rc), INTS(FDS, list, rc));
		mp_tev_leave();
	}
	return rc;
}

/* Hosts */

TRACED(addhosts, ADDHOSTS, (char **names, int count, int *infos), (names, count, infos),
       (STRINGS(HNL, names, count)), (INT(CC, rc)))
TRACED(delhosts, DELHOSTS, (char **names, int count, int *infos), (names, count, infos),
       (STRINGS(HNL, names, count)), (INT(CC, rc)))
TRACED(archcode, ARCHCODE, (char *arch), (arch), (STRING(AN, arch)), (INT(AC, rc)))
TRACED(mstat, MSTAT, (char *host), (host), (STRING(HN, host)), (INT(HS, rc)))
TRACED(halt, HALT, (void), (), (), (INT(CC, rc)))
TRACED_LOCAL(start_pvmd, START_PVMD, (int argc, char **argv, int block), (argc, argv, block),
	     (INT(BF, block), STRINGS(AST, argv, argc)), (INT(CC, rc)))

int pvm_config(int *nhost, int *narch, struct pvmhostinfo **hosts)
{
	bool traced = mp_tev_enter(true);
	int n = 0, arches = 0, rc;

	if (traced)
		MP_TEV(TEV_CONFIG | TEV_EVENT_ENTRY);
	rc = mp_api_config(&n, &arches, hosts);
	if (!rc && nhost)
		*nhost = n;
	if (!rc && narch)
		*narch = arches;
	if (traced) {
		MP_TEV(TEV_CONFIG | TEV_EVENT_EXIT, INT(NH, n), INT(NA, arches), INT(CC, rc));
		mp_tev_leave();
	}
	return rc;
}

int pvm_tickle(int narg, int *args, int *nres, int *res)
{
	bool traced = mp_tev_enter(true);
	int n = 0, rc;

	if (traced)
		MP_TEV(TEV_TICKLE | TEV_EVENT_ENTRY, INTS(TA, args, narg));
	rc = mp_api_tickle(narg, args, &n, res);
	if (nres && (!rc || n))
		*nres = n;
	if (traced) {
		MP_TEV(TEV_TICKLE | TEV_EVENT_EXIT, INT(CC, rc), INTS(TR, res, n));
		mp_tev_leave();
	}
	return rc;
}

TRACED(reg_rm, REG_RM, (struct pvmhostinfo * *hosts), (hosts), (), (INT(CC, rc)))
TRACED(reg_hoster, REG_HOSTER, (void), (), (), (INT(CC, rc)))
TRACED(reg_tasker, REG_TASKER, (void), (), (), (INT(CC, rc)))
TRACED(reg_tracer, REG_TRACER,
       (int tctx, int ttag, int octx, int otag, char *mask, int buffer, int options),
       (tctx, ttag, octx, otag, mask, buffer, options),
       (INT(TRC, tctx), INT(TRT, ttag), INT(TRX, octx), INT(TRO, otag), STRING(TRM, mask),
	INT(TRB, buffer), INT(TRL, options)),
       (INT(CC, rc)))

/* Mailbox */

/* Bytes of an entry; -1: there is none. */
static int entry_len(int mid)
{
	int len = -1;

	if (mid > 0)
		mp_api_bufinfo(mid, &len, NULL, NULL);
	return len;
}

TRACED(putinfo, PUTINFO, (char *name, int mid, int flags), (name, mid, flags),
       (STRING(CN, name), INT(CI, -1), INT(CF, flags), INT(CD, mid)), (INT(CC, rc)))
TRACED(recvinfo, GETINFO, (char *name, int index, int flags), (name, index, flags),
       (STRING(CN, name), INT(CI, index), INT(CF, flags)),
       (INT(CC, rc > 0 ? 0 : rc), INT(CR, entry_len(rc))))
TRACED(delinfo, DELINFO, (char *name, int index, int flags), (name, index, flags),
       (STRING(CN, name), INT(CI, index), INT(CF, flags)), (INT(CC, rc)))
TRACED(getmboxinfo, GETMBOXINFO, (char *pattern, int *count, struct pvmmboxinfo **info),
       (pattern, count, info), (STRING(CN, pattern)), (INT(CC, rc)))
TRACED(insert, INSERT, (char *name, int index, int value), (name, index, value),
       (STRING(CN, name), INT(CI, index), INT(CD, value)), (INT(CC, rc)))
TRACED(lookup, LOOKUP, (char *name, int index, int *value), (name, index, value),
       (STRING(CN, name), INT(CI, index)), (INT(CC, rc)))
TRACED(delete, DELETE, (char *name, int index), (name, index), (STRING(CN, name), INT(CI, index)),
       (INT(CC, rc)))
