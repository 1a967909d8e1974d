/*
 * Trace masks, and the variables of the tracing that libpvm3 exports and old libraries look at.
 * pvmtrc and pvmctrc are true; events are packed by mp_tevput.c alone, so the others stay as they begin.
 */
#include "pvm/include/pvmtev.h"

#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_tev.h"

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

void *pvm_alloc(unsigned size, const char *tag);
void *pvm_realloc(void *p, unsigned size);
void pvm_free(void *p);
int pvm_fd_add(int fd, int sets);
int pvm_fd_delete(int fd, int sets);
int pvm_tc_noop(int mid);
int pvm_tc_settmask(int mid);
int pvm_tc_settrace(int mid);
int pvm_tc_settrcbuf(int mid);
int pvm_tc_settrcopt(int mid);
int pvm_tc_siblings(int mid);

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
	mp_tev_changed();
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

int mp_api_reg_tracer(int tctx, int ttag, int octx, int otag, char *tmask, int tbuf, int topt)
{
	int where[5] = {0, tctx, ttag, octx, otag}, how[2] = {tbuf, topt};
	char class[] = PVMTRACERCLASS;
	int rc = pvmbeatask(), old, mid;

	if (!rc && !tmask)
		rc = PvmBadParam;
	if (rc)
		return lpvmerr("pvm_reg_tracer", rc);
	mid = mp_api_mkbuf(PvmDataDefault);
	if (mid < 0)
		return mid;
	old = mp_api_setsbuf(mid);
	where[0] = pvmmytid;
	rc = mp_api_pkint(where, 5, 1);
	if (!rc)
		rc = mp_api_pkstr(tmask);
	if (!rc)
		rc = mp_api_pkint(how, 2, 1);
	mp_api_setsbuf(old);
	if (!rc)
		rc = mp_api_putinfo(class, mid, PvmMboxMultiInstance);
	mp_api_freebuf(mid);
	return rc < 0 ? rc : PvmOk;
}

/* Memory as the original hands it out to programs that ask it for some. */
void *pvm_alloc(unsigned size, const char *tag)
{
	return malloc(size ? size : 1);
}

void *pvm_realloc(void *p, unsigned size)
{
	return realloc(p, size ? size : 1);
}

void pvm_free(void *p)
{
	free(p);
}

/* What the original does with descriptors and control messages inside happens elsewhere here. */
int pvm_fd_add(int fd, int sets)
{
	return PvmOk;
}

int pvm_fd_delete(int fd, int sets)
{
	return PvmOk;
}

int pvm_tc_noop(int mid)
{
	return PvmOk;
}

int pvm_tc_settmask(int mid)
{
	return PvmOk;
}

int pvm_tc_settrace(int mid)
{
	return PvmOk;
}

int pvm_tc_settrcbuf(int mid)
{
	return PvmOk;
}

int pvm_tc_settrcopt(int mid)
{
	return PvmOk;
}

int pvm_tc_siblings(int mid)
{
	return PvmOk;
}
