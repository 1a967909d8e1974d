#include "pvm/mp_tev.h"

#include <string.h>
#include <sys/time.h>

#include "base/list.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_pack.h"
#include "pvm/mp_rt.h"

extern struct Pvmtevinfo pvmtevinfo[];
extern struct Pvmtracer pvmtrc, pvmctrc;

/* desc_status of pvmtevinfo[]: which of the events of a call the sink knows. */
enum { KNOWS_ENTRY = 1, KNOWS_EXIT = 2 };

enum mp_tev_state mp_tev_state;
static struct mp_msg *buffer; /* NULL: nothing in it */

static int kind_of(int event)
{
	return event & ~(TEV_EVENT_ENTRY | TEV_EVENT_EXIT);
}

bool mp_tev_enter_slowly(bool enrol)
{
	if (mp_tev_state == MP_TEV_UNKNOWN && enrol) {
		int autoerr = pvmautoerr;

		/* The call itself tells that there is no daemon. */
		pvmautoerr = 0;
		if (pvmbeatask())
			mp_tev_state = MP_TEV_UNKNOWN;
		pvmautoerr = autoerr;
	}
	if (mp_tev_state != MP_TEV_ON || !pvmtoplvl)
		return false;
	pvmtoplvl = 0;
	return true;
}

void mp_tev_leave(void)
{
	pvmtoplvl = 1;
}

/* How often and how long, instead of each single time. */
static void keep_count(int event)
{
	struct Pvmtevinfo *info = &pvmtevinfo[kind_of(event)];
	struct timeval now, took;

	info->count++;
	if (pvmtrc.trcopt != PvmTraceTime)
		return;
	gettimeofday(&now, NULL);
	if (event & TEV_EVENT_ENTRY) {
		info->mark = now;
		return;
	}
	timersub(&now, &info->mark, &took);
	timeradd(&info->total, &took, &info->total);
}

bool mp_tev_wants(int event)
{
	int kind = kind_of(event);

	if (mp_tev_state != MP_TEV_ON || !TEV_MASK_CHECK(pvmtrc.tmask, kind))
		return false;
	if (pvmtrc.trcopt != PvmTraceTime && pvmtrc.trcopt != PvmTraceCount)
		return true;
	keep_count(event);
	return false;
}

static void put_int(struct mp_msg *m, int v, int *rc)
{
	if (!*rc)
		*rc = mp_pack_value(m, MP_K_INT, &v);
}

static void put_string(struct mp_msg *m, const char *s, int *rc)
{
	if (!*rc)
		*rc = mp_pack_string(m, s ? s : "");
}

static void put_values(struct mp_msg *m, const struct mp_tev_item *it, int *rc)
{
	int n = it->data && it->count > 0 ? it->count : 0;

	switch (it->type) {
	case TEV_DATA_STRING: put_string(m, it->data, rc); break;
	case TEV_DATA_INT | TEV_DATA_ARRAY:
		put_int(m, n, rc);
		for (int i = 0; i < n; i++)
			put_int(m, ((const int *)it->data)[i], rc);
		break;
	case TEV_DATA_STRING | TEV_DATA_ARRAY:
		put_int(m, n, rc);
		for (int i = 0; i < n; i++)
			put_string(m, ((char *const *)it->data)[i], rc);
		break;
	default: put_int(m, it->value, rc);
	}
}

static void put_item(struct mp_msg *m, bool described, const struct mp_tev_item *it, int *rc)
{
	if (described) {
		put_int(m, it->did, rc);
		put_int(m, it->type, rc);
	}
	put_values(m, it, rc);
}

static bool described_before(int event)
{
	struct Pvmtevinfo *info = &pvmtevinfo[kind_of(event)];
	int bit = event & TEV_EVENT_EXIT ? KNOWS_EXIT : KNOWS_ENTRY;
	bool known = info->desc_status & bit;

	info->desc_status |= bit;
	return known;
}

static int put_event(struct mp_msg *m, int event, const struct mp_tev_item *items, size_t n)
{
	bool described = !described_before(event);
	struct timeval now;
	int rc = 0;

	gettimeofday(&now, NULL);
	put_int(m, described ? TEV_MARK_EVENT_DESC : TEV_MARK_EVENT_RECORD, &rc);
	put_int(m, event, &rc);
	if (described)
		put_string(m, pvmtevinfo[kind_of(event)].name, &rc);
	put_item(m, described, &(struct mp_tev_item)MP_TEV_INT(TS, (int)now.tv_sec), &rc);
	put_item(m, described, &(struct mp_tev_item)MP_TEV_INT(TU, (int)now.tv_usec), &rc);
	put_item(m, described, &(struct mp_tev_item)MP_TEV_INT(TID, pvmmytid), &rc);
	for (size_t i = 0; i < n; i++)
		put_item(m, described, &items[i], &rc);
	put_int(m, described ? TEV_MARK_EVENT_DESC_END : TEV_MARK_EVENT_RECORD_END, &rc);
	return rc;
}

static void send_off(struct mp_msg *m)
{
	/* A tracer that is gone misses it, and no more. */
	if (mp_rt.fd >= 0 && mp_rt_send_in(pvmtrc.trcctx, pvmtrc.trctid, m, pvmtrc.trctag))
		mp_tev_state = mp_rt.fd >= 0 ? mp_tev_state : MP_TEV_UNKNOWN;
	mp_msg_unref(m);
}

static void buffer_send(void)
{
	struct mp_msg *m = buffer;
	int rc = 0;

	buffer = NULL;
	if (!m)
		return;
	put_int(m, TEV_MARK_EVENT_BUFFER_END, &rc);
	if (rc)
		mp_msg_unref(m);
	else
		send_off(m);
}

void mp_tev_put(int event, const struct mp_tev_item *items, size_t n)
{
	struct mp_msg *m = buffer ? buffer : mp_msg_new(MP_ENC_XDR);
	int rc = 0, top = pvmtoplvl;

	if (!m)
		return;
	if (!buffer && pvmtrc.trcbuf > 0)
		put_int(m, TEV_MARK_EVENT_BUFFER, &rc);
	rc = rc ? rc : put_event(m, event, items, n);
	if (rc) {
		buffer = NULL;
		mp_msg_unref(m);
		return;
	}
	pvmtoplvl = 0;
	if (pvmtrc.trcbuf <= 0) {
		send_off(m);
	} else {
		buffer = m;
		if (m->len >= (size_t)pvmtrc.trcbuf)
			buffer_send();
	}
	pvmtoplvl = top;
}

/* Of PvmTraceTime and PvmTraceCount: one event about all. */
static void put_totals(void)
{
	const char *names[TEV_MAX + 1];
	int seconds[TEV_MAX + 1], micros[TEV_MAX + 1], counts[TEV_MAX + 1], n = 0;
	bool time = pvmtrc.trcopt == PvmTraceTime;

	for (int i = 0; i <= TEV_MAX; i++) {
		if (!pvmtevinfo[i].count)
			continue;
		names[n] = pvmtevinfo[i].name;
		seconds[n] = (int)pvmtevinfo[i].total.tv_sec;
		micros[n] = (int)pvmtevinfo[i].total.tv_usec;
		counts[n++] = pvmtevinfo[i].count;
	}
	if (time) {
		struct mp_tev_item items[] = {MP_TEV_INT(VCT, n), MP_TEV_STRINGS(VID, names, n),
					      MP_TEV_INTS(TGS, seconds, n),
					      MP_TEV_INTS(TGU, micros, n),
					      MP_TEV_INTS(PRF, counts, n)};

		mp_tev_put(TEV_TIMING, items, BASE_ARRAY_LEN(items));
	} else {
		struct mp_tev_item items[] = {MP_TEV_INT(VCT, n), MP_TEV_STRINGS(VID, names, n),
					      MP_TEV_INTS(PRF, counts, n)};

		mp_tev_put(TEV_PROFILING, items, BASE_ARRAY_LEN(items));
	}
}

void mp_tev_finish(void)
{
	if (mp_tev_state != MP_TEV_ON)
		return;
	if (pvmtrc.trcopt == PvmTraceTime || pvmtrc.trcopt == PvmTraceCount)
		put_totals();
	buffer_send();
}

/* What programs and old libraries look at. */
static void show(struct Pvmtracer *t, const struct mp_trace_to *to)
{
	t->trctid = to->tid;
	t->trcctx = to->ctx;
	t->trctag = to->code;
	t->trcbuf = to->buffer;
	t->trcopt = to->options;
}

void mp_tev_changed(void)
{
	bool other = pvmtrc.trctid != mp_rt.my_trace.tid || pvmtrc.trcctx != mp_rt.my_trace.ctx ||
		     pvmtrc.trctag != mp_rt.my_trace.code;

	if (other)
		for (int i = 0; i <= TEV_MAX; i++)
			pvmtevinfo[i].desc_status = 0;
	show(&pvmtrc, &mp_rt.my_trace);
	show(&pvmctrc, &mp_rt.trace);
	if (!pvmtrc.tmask[0])
		TEV_MASK_INIT(pvmtrc.tmask);
	if (!pvmctrc.tmask[0])
		TEV_MASK_INIT(pvmctrc.tmask);
	/* Events about events to oneself would never end. */
	mp_tev_state = mp_rt.fd >= 0 && pvmtrc.trctid > 0 && pvmtrc.trctid != pvmmytid ? MP_TEV_ON
										       : MP_TEV_OFF;
}

void mp_tev_reset(void)
{
	mp_msg_unref(buffer);
	buffer = NULL;
	for (int i = 0; i <= TEV_MAX; i++) {
		pvmtevinfo[i].desc_status = 0;
		pvmtevinfo[i].count = 0;
		timerclear(&pvmtevinfo[i].total);
	}
	mp_tev_state = MP_TEV_UNKNOWN;
}
