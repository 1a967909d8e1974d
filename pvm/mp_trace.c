/*
 * Trace masks, and the variables of the tracing that libpvm3 exports and old libraries look at. The
 * library itself reports no events, so those stay as they begin.
 */
#include "pvm/include/pvmtev.h"

#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"

extern struct Pvmtracer pvmtrc, pvmctrc;
extern int pvmtrcsavekind, pvmtrctmp, pvmtrcdesc, pvmtrcsbf, pvmtrcsbfsave;
extern void *pvmtrcmp, *pvmtrccodef, *pvmrxlist, *waitlist, *pvmsbuf, *pvmrbuf, *pvmmidh,
	*pvmmboxclasses, *pvm_inprecv;
extern struct timeval pvmtrcztv;
extern int pvmmidhsiz;

struct Pvmtracer pvmtrc, pvmctrc;
int pvmtrcsavekind, pvmtrctmp, pvmtrcdesc, pvmtrcsbf, pvmtrcsbfsave;
void *pvmtrcmp, *pvmtrccodef, *pvmrxlist, *waitlist, *pvmsbuf, *pvmrbuf, *pvmmidh, *pvmmboxclasses,
	*pvm_inprecv;
struct timeval pvmtrcztv;
int pvmmidhsiz;

int tev_begin(int kind, int entry);
int tev_fin(void);
int tev_init(void);
int tev_flush(int all);
int tev_do_trace(int kind, int entry);
int pvmmatchstring(char *s, char *pattern);
void i_dump(int full);

/* 0: this call is not traced. */
int tev_begin(int kind, int entry)
{
	return 0;
}

int tev_fin(void)
{
	return 0;
}

int tev_init(void)
{
	return 0;
}

int tev_flush(int all)
{
	return 0;
}

int tev_do_trace(int kind, int entry)
{
	return 0;
}

static struct Pvmtracer *tracer_of(int who)
{
	if (who == PvmTaskSelf)
		return &pvmtrc;
	return who == PvmTaskChild ? &pvmctrc : NULL;
}

static void mask_begin(struct Pvmtracer *t)
{
	if (!t->tmask[0])
		TEV_MASK_INIT(t->tmask);
}

int pvm_gettmask(int who, Pvmtmask mask)
{
	struct Pvmtracer *t = tracer_of(who);

	if (!t || !mask)
		return lpvmerr("pvm_gettmask", PvmBadParam);
	mask_begin(t);
	memcpy(mask, t->tmask, sizeof(t->tmask));
	return PvmOk;
}

/* A mask that is too short leaves the rest clear. */
int pvm_settmask(int who, Pvmtmask mask)
{
	struct Pvmtracer *t = tracer_of(who);
	size_t len;

	if (!t || !mask)
		return lpvmerr("pvm_settmask", PvmBadParam);
	len = strnlen(mask, TEV_MASK_LENGTH - 1);
	TEV_MASK_INIT(t->tmask);
	memcpy(t->tmask, mask, len);
	return PvmOk;
}

/* Shell patterns with * only, as the mailbox takes them. */
int pvmmatchstring(char *s, char *pattern)
{
	if (!*pattern)
		return !*s;
	if (*pattern == '*')
		return pvmmatchstring(s, pattern + 1) || (*s && pvmmatchstring(s + 1, pattern));
	return *s == *pattern && pvmmatchstring(s + 1, pattern + 1);
}

void i_dump(int full)
{
}
