/*
 * The mailbox: classes of numbered entries. Every daemon has a copy. Calls go to the coordinator,
 * which decides, answers, and sends each change (MBOX) to all others in one order; links keep
 * order, so a copy is at most behind, never different.
 *
 * Index rule (as the original's): with PvmMboxMultiInstance the first free index from the direct
 * index on; else exactly the direct index, whose entry is replaced if the caller owns it or it
 * is overwritable.
 */
#include <errno.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"

enum {
	BUCKETS = 16384,
	BYTES_MAX = 1 << 30, /* of all entries together */
};

enum change { CHANGE_PUT = 1, CHANGE_DELETE = 2, CHANGE_OWNER = 3 };

struct entry {
	struct base_list link; /* of its class, by index */
	int32_t index, owner, flags, enc;
	size_t len;
	uint8_t body[];
};

struct class
{
	struct base_list link, order;
	struct base_list entries;
	char *name;
};

struct wait { /* a PvmMboxWaitForInfo that found nothing yet */
	struct base_list link;
	struct mpd_from from;
	int32_t index, flags;
	char name[];
};

struct mpd_mbox {
	struct base_list bucket[BUCKETS];
	struct base_list order, waits;
	size_t bytes;
};

int mpd_mbox_new(struct mpd *pd)
{
	struct mpd_mbox *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	for (int i = 0; i < BUCKETS; i++)
		base_list_init(&m->bucket[i]);
	base_list_init(&m->order);
	base_list_init(&m->waits);
	pd->mbox = m;
	return 0;
}

static void entry_free(struct mpd_mbox *m, struct entry *e)
{
	m->bytes -= e->len;
	base_list_del(&e->link);
	free(e);
}

static void class_free(struct class *c)
{
	base_list_del(&c->link);
	base_list_del(&c->order);
	free(c->name);
	free(c);
}

void mpd_mbox_free(struct mpd *pd)
{
	struct mpd_mbox *m = pd->mbox;

	if (!m)
		return;
	base_list_foreach_safe (c, &m->order, struct class, order) {
		base_list_foreach_safe (e, &c->entries, struct entry, link)
			entry_free(m, e);
		class_free(c);
	}
	base_list_foreach_safe (w, &m->waits, struct wait, link)
		free(w);
	free(m);
	pd->mbox = NULL;
}

static struct base_list *bucket_of(struct mpd_mbox *m, const char *name)
{
	uint32_t h = 2166136261u;

	for (const char *p = name; *p; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return &m->bucket[h % BUCKETS];
}

static struct class *class_find(struct mpd_mbox *m, const char *name)
{
	base_list_foreach (c, bucket_of(m, name), struct class, link)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

static struct class *class_make(struct mpd_mbox *m, const char *name)
{
	struct class *c = class_find(m, name);

	if (c)
		return c;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->name = strdup(name);
	if (!c->name) {
		free(c);
		return NULL;
	}
	base_list_init(&c->entries);
	base_list_add_tail(bucket_of(m, name), &c->link);
	base_list_add_tail(&m->order, &c->order);
	return c;
}

static struct entry *entry_find(const struct class *c, int32_t index)
{
	if (c)
		base_list_foreach (e, &c->entries, struct entry, link)
			if (e->index == index)
				return e;
	return NULL;
}

static struct entry *entry_new(const void *body, size_t len)
{
	struct entry *e = malloc(sizeof(*e) + len);

	if (!e)
		return NULL;
	*e = (struct entry){.len = len};
	base_list_init(&e->link);
	if (len)
		memcpy(e->body, body, len);
	return e;
}

static void entry_insert(struct mpd_mbox *m, struct class *c, struct entry *e)
{
	struct base_list *at = &c->entries;

	while (at->prev != &c->entries &&
	       base_list_entry(at->prev, struct entry, link)->index > e->index)
		at = at->prev;
	base_list_insert(&e->link, at->prev, at);
	m->bytes += e->len;
}

static void entry_delete(struct mpd_mbox *m, struct class *c, struct entry *e)
{
	entry_free(m, e);
	if (base_list_empty(&c->entries))
		class_free(c);
}

/* Changes on the way to the copies. */

static void change_put(struct base_wbuf *b, const struct class *c, const struct entry *e)
{
	base_wbuf_u8(b, CHANGE_PUT);
	base_wbuf_str(b, c->name);
	base_wbuf_u32(b, (uint32_t)e->index);
	base_wbuf_u32(b, (uint32_t)e->owner);
	base_wbuf_u32(b, (uint32_t)e->flags);
	base_wbuf_u32(b, (uint32_t)e->enc);
	base_wbuf_blob(b, e->body, (uint32_t)e->len);
}

static void tell_put(struct mpd *pd, const struct class *c, const struct entry *e)
{
	struct base_wbuf b;

	if (mpd_host_count(pd) < 2)
		return;
	base_wbuf_init(&b, MP_FRAME_MAX);
	change_put(&b, c, e);
	if (!b.error)
		mpd_link_all(pd, MP_C_MBOX, b.data, b.len);
	base_wbuf_fini(&b);
}

static void tell_delete(struct mpd *pd, const char *name, int32_t index)
{
	struct base_wbuf b;

	if (mpd_host_count(pd) < 2)
		return;
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u8(&b, CHANGE_DELETE);
	base_wbuf_str(&b, name);
	base_wbuf_u32(&b, (uint32_t)index);
	mpd_link_all(pd, MP_C_MBOX, b.data, b.len);
	base_wbuf_fini(&b);
}

void mpd_mbox_apply(struct mpd *pd, struct base_rbuf *b)
{
	struct mpd_mbox *m = pd->mbox;
	uint8_t kind = base_rbuf_u8(b);
	char name[MPD_PATH_MAX];
	int32_t index, owner, flags, enc;
	size_t len = 0;
	const void *body;
	struct class *c;
	struct entry *e;

	base_rbuf_str(b, name, sizeof(name));
	index = (int32_t)base_rbuf_u32(b);
	if (b->error)
		return;
	c = class_find(m, name);
	e = entry_find(c, index);
	if (e)
		entry_free(m, e);
	if (kind != CHANGE_PUT) {
		if (c && base_list_empty(&c->entries))
			class_free(c);
		return;
	}
	owner = (int32_t)base_rbuf_u32(b);
	flags = (int32_t)base_rbuf_u32(b);
	enc = (int32_t)base_rbuf_u32(b);
	body = base_rbuf_blob(b, MP_FRAME_MAX, &len);
	c = body ? class_make(m, name) : NULL;
	e = c ? entry_new(body, len) : NULL;
	if (!e) {
		mpd_log(pd, "mailbox entry %s is lost here: no memory or bad data", name);
		return;
	}
	e->index = index;
	e->owner = owner;
	e->flags = flags;
	e->enc = enc;
	entry_insert(m, c, e);
}

bool mpd_mbox_first(const struct mpd *pd, const char *name, struct base_rbuf *body)
{
	struct class *c = class_find(pd->mbox, name);
	struct entry *e;

	if (!c || base_list_empty(&c->entries))
		return false;
	e = base_list_entry(c->entries.next, struct entry, link);
	if (e->enc != MPD_ENC_XDR)
		return false;
	base_rbuf_init(body, e->body, e->len);
	return true;
}

void mpd_mbox_dump(struct mpd *pd, struct mpd_host *to)
{
	base_list_foreach (c, &pd->mbox->order, struct class, order)
		base_list_foreach (e, &c->entries, struct entry, link) {
			struct base_wbuf b;

			base_wbuf_init(&b, MP_FRAME_MAX);
			change_put(&b, c, e);
			if (!b.error)
				mpd_link_ctl(pd, to, MP_C_MBOX, b.data, b.len);
			base_wbuf_fini(&b);
		}
}

/* True: the call is somebody else's to answer. */
static bool pass_on(struct mpd *pd, const struct mpd_from *from, uint16_t op, struct base_rbuf *b)
{
	int c = mpd_coordinator(pd);

	/* A peer that asks us takes us for the coordinator: then we answer, lest it goes in
	 * circles. */
	if (c == pd->self || from->host)
		return false;
	mpd_call_forward(pd, from, c, op, b);
	return true;
}

/* As with the original, what is left of a task that has ended is nobody's to change. */
static bool may_change(const struct entry *e, int32_t tid)
{
	return e->owner == tid || (e->flags & PvmMboxOverWritable);
}

static int get_entry(struct mpd *pd, const struct mpd_from *from, const char *name, int32_t index,
		     int32_t flags, struct base_wbuf *out)
{
	struct class *c = class_find(pd->mbox, name);
	struct entry *hit = NULL;

	if (!c)
		return PvmNotFound;
	base_list_foreach (e, &c->entries, struct entry, link)
		if (e->index == index || ((flags & PvmMboxFirstAvail) && e->index >= index)) {
			hit = e;
			break;
		}
	if (!hit)
		return PvmNotFound;
	if ((flags & PvmMboxReadAndDelete) && !may_change(hit, from->tid))
		return PvmDenied;
	base_wbuf_u32(out, (uint32_t)hit->enc);
	base_wbuf_u32(out, (uint32_t)hit->owner);
	base_wbuf_blob(out, hit->body, (uint32_t)hit->len);
	index = hit->index;
	if (flags & PvmMboxReadAndDelete) {
		tell_delete(pd, name, index);
		entry_delete(pd->mbox, c, hit);
	}
	return index;
}

static bool get_answer(struct mpd *pd, const struct mpd_from *from, const char *name, int32_t index,
		       int32_t flags, bool waiting)
{
	struct base_wbuf out;
	int rc;

	base_wbuf_init(&out, MP_FRAME_MAX);
	rc = get_entry(pd, from, name, index, flags, &out);
	if (rc != PvmNotFound || !waiting)
		mpd_call_reply(pd, from, rc, &out, -1);
	base_wbuf_fini(&out);
	return rc != PvmNotFound;
}

static void serve_waits(struct mpd *pd, const char *name)
{
	base_list_foreach_safe (w, &pd->mbox->waits, struct wait, link)
		if (!strcmp(w->name, name) &&
		    get_answer(pd, &w->from, name, w->index, w->flags, true)) {
			base_list_del(&w->link);
			free(w);
		}
}

static int put_index(const struct class *c, int32_t index, int32_t flags, int32_t tid)
{
	const struct entry *at;

	if (flags & PvmMboxMultiInstance) {
		base_list_foreach (e, &c->entries, struct entry, link) {
			if (e->index != index)
				continue;
			if (index == INT32_MAX)
				return PvmOutOfRes;
			index++;
		}
		return index;
	}
	at = entry_find(c, index);
	return at && !may_change(at, tid) ? PvmDenied : index;
}

static int put_entry(struct mpd *pd, int32_t tid, const char *name, int32_t index, int32_t flags,
		     int32_t enc, const void *body, size_t len)
{
	struct mpd_mbox *m = pd->mbox;
	struct class *c = class_make(m, name);
	struct entry *e, *old;

	if (!c)
		return PvmNoMem;
	index = put_index(c, index, flags, tid);
	e = index >= 0 && m->bytes + len <= BYTES_MAX ? entry_new(body, len) : NULL;
	if (!e) {
		if (base_list_empty(&c->entries))
			class_free(c);
		return index < 0 ? index : PvmNoMem;
	}
	old = entry_find(c, index);
	if (old)
		entry_free(m, old);
	e->index = index;
	e->owner = tid;
	e->flags = flags;
	e->enc = enc;
	entry_insert(m, c, e);
	tell_put(pd, c, e);
	return index;
}

void mpd_op_mbox_put(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	char name[MPD_PATH_MAX];
	int32_t index, flags, enc;
	const void *body;
	size_t len = 0;
	int rc = PvmBadParam;

	if (pass_on(pd, from, MP_OP_MBOX_PUT, b))
		return;
	base_rbuf_str(b, name, sizeof(name));
	index = (int32_t)base_rbuf_u32(b);
	flags = (int32_t)base_rbuf_u32(b);
	enc = (int32_t)base_rbuf_u32(b);
	body = base_rbuf_blob(b, MP_FRAME_MAX, &len);
	if (body && *name && index >= 0)
		rc = put_entry(pd, from->tid, name, index, flags, enc, body, len);
	mpd_call_reply(pd, from, rc, NULL, -1);
	if (rc >= 0)
		serve_waits(pd, name);
}

void mpd_op_mbox_get(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	char name[MPD_PATH_MAX];
	struct base_rbuf whole = *b;
	int32_t index, flags;
	struct wait *w;

	base_rbuf_str(&whole, name, sizeof(name));
	if (!whole.error && !strcmp(name, MP_LOAD_CLASS)) {
		mpd_load_reply(pd, from, (int32_t)base_rbuf_u32(&whole));
		return;
	}
	if (pass_on(pd, from, MP_OP_MBOX_GET, b))
		return;
	base_rbuf_str(b, name, sizeof(name));
	index = (int32_t)base_rbuf_u32(b);
	flags = (int32_t)base_rbuf_u32(b);
	if (b->error) {
		mpd_call_reply(pd, from, PvmBadParam, NULL, -1);
		return;
	}
	if (get_answer(pd, from, name, index, flags, flags & PvmMboxWaitForInfo) ||
	    !(flags & PvmMboxWaitForInfo))
		return;
	w = calloc(1, sizeof(*w) + strlen(name) + 1);
	if (!w) {
		mpd_call_reply(pd, from, PvmNoMem, NULL, -1);
		return;
	}
	w->from = *from;
	w->index = index;
	w->flags = flags;
	memcpy(w->name, name, strlen(name) + 1);
	base_list_add_tail(&pd->mbox->waits, &w->link);
}

void mpd_op_mbox_del(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	char name[MPD_PATH_MAX];
	struct class *c;
	struct entry *e;
	int32_t index;
	int rc;

	if (pass_on(pd, from, MP_OP_MBOX_DEL, b))
		return;
	base_rbuf_str(b, name, sizeof(name));
	index = (int32_t)base_rbuf_u32(b);
	c = b->error ? NULL : class_find(pd->mbox, name);
	e = entry_find(c, index);
	rc = !e ? PvmNotFound : !may_change(e, from->tid) ? PvmDenied : index;
	if (rc >= 0) {
		tell_delete(pd, name, index);
		entry_delete(pd->mbox, c, e);
	}
	mpd_call_reply(pd, from, rc, NULL, -1);
}

void mpd_op_mbox_info(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_wbuf rows, out;
	char pattern[MPD_PATH_MAX];
	uint32_t n = 0;
	bool all;

	if (pass_on(pd, from, MP_OP_MBOX_INFO, b))
		return;
	base_rbuf_str(b, pattern, sizeof(pattern));
	all = !*pattern || !strcmp(pattern, "*");
	base_wbuf_init(&rows, MP_FRAME_MAX - 64);
	base_list_foreach (c, &pd->mbox->order, struct class, order) {
		uint32_t entries = 0;

		if (!all && strcmp(c->name, pattern))
			continue;
		n++;
		base_list_foreach (e, &c->entries, struct entry, link)
			entries++;
		base_wbuf_str(&rows, c->name);
		base_wbuf_u32(&rows, entries);
		base_list_foreach (e, &c->entries, struct entry, link) {
			base_wbuf_u32(&rows, (uint32_t)e->index);
			base_wbuf_u32(&rows, (uint32_t)e->owner);
			base_wbuf_u32(&rows, (uint32_t)e->flags);
		}
	}
	base_wbuf_init(&out, MP_FRAME_MAX);
	base_wbuf_u32(&out, n);
	base_wbuf_bytes(&out, rows.data, rows.len);
	if (rows.error)
		out.error = rows.error;
	mpd_call_reply(pd, from, 0, &out, -1);
	base_wbuf_fini(&rows);
	base_wbuf_fini(&out);
}

struct reset {
	struct base_rbuf keep;
	char class[MPD_PATH_MAX]; /* "": all, those of tasks that live as well */
	int32_t index;		  /* -1: all */
};

static void reset_take(struct base_rbuf *b, struct reset *r)
{
	uint32_t n = base_rbuf_u32(b);
	const void *p = base_rbuf_take(b, (size_t)n * 4);

	base_rbuf_init(&r->keep, p, p ? (size_t)n * 4 : 0);
	*r->class = 0;
	r->index = -1;
	if (!base_rbuf_left(b))
		return;
	base_rbuf_str(b, r->class, sizeof(r->class));
	r->index = (int32_t)base_rbuf_u32(b);
	if (!*r->class)
		b->error = -EBADMSG;
}

static bool stays(const struct reset *r, const struct class *c, const struct entry *e)
{
	struct base_rbuf b = r->keep;

	if (*r->class)
		return e->owner || (strcmp(r->class, "*") && strcmp(r->class, c->name)) ||
		       (r->index >= 0 && r->index != e->index);
	while (e->owner && base_rbuf_left(&b) >= 4)
		if ((int32_t)base_rbuf_u32(&b) == e->owner)
			return true;
	return false;
}

void mpd_op_mbox_reset(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct reset r;

	if (pass_on(pd, from, MP_OP_MBOX_RESET, b))
		return;
	reset_take(b, &r);
	if (b->error) {
		mpd_call_reply(pd, from, PvmBadMsg, NULL, -1);
		return;
	}
	base_list_foreach_safe (c, &pd->mbox->order, struct class, order) {
		base_list_foreach_safe (e, &c->entries, struct entry, link) {
			if (stays(&r, c, e))
				continue;
			tell_delete(pd, c->name, e->index);
			entry_free(pd->mbox, e);
		}
		if (base_list_empty(&c->entries))
			class_free(c);
	}
	mpd_call_reply(pd, from, 0, NULL, -1);
}

/* Ends what `gone` says is over: entries go, persistent ones lose their owner. */
static void sweep(struct mpd *pd, int32_t tid, int host)
{
	struct mpd_mbox *m = pd->mbox;

	mpd_role_gone(pd, tid, host);
	base_list_foreach_safe (c, &m->order, struct class, order) {
		base_list_foreach_safe (e, &c->entries, struct entry, link) {
			if (e->owner == 0 ||
			    (tid ? e->owner != tid : mp_tid_host(e->owner) != host))
				continue;
			if (e->flags & PvmMboxPersistent)
				e->owner = 0;
			else
				entry_free(m, e);
		}
		if (base_list_empty(&c->entries))
			class_free(c);
	}
	base_list_foreach_safe (w, &m->waits, struct wait, link)
		if (tid ? w->from.tid == tid : w->from.host == host) {
			base_list_del(&w->link);
			free(w);
		}
}

/*
 * The coordinator passes it on: then no copy sees the end of an owner before a put of that owner
 * that the coordinator has decided on.
 */
void mpd_mbox_task_gone(struct mpd *pd, int32_t tid)
{
	struct mpd_host *c = mpd_host_get(pd, mpd_coordinator(pd));

	if (c && c->id != pd->self)
		mpd_link_ctl(pd, c, MP_C_TASK_GONE, &tid, sizeof(tid));
	else if (c)
		mpd_mbox_task_told(pd, tid, pd->self);
}

/* By the host of the task, and then others are told; or by the coordinator, and that is the end of it. */
void mpd_mbox_task_told(struct mpd *pd, int32_t tid, int by)
{
	if (!pd->mbox)
		return;
	if (by == mp_tid_host(tid) && mpd_coordinator(pd) == pd->self)
		mpd_link_all(pd, MP_C_TASK_GONE, &tid, sizeof(tid));
	sweep(pd, tid, 0);
}

void mpd_mbox_host_gone(struct mpd *pd, int host)
{
	if (pd->mbox)
		sweep(pd, 0, host);
}
