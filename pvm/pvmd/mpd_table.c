#include <errno.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/log.h"
#include "pvm/pvmd/mpd.h"

struct mpd_host *mpd_host_get(const struct mpd *pd, int id)
{
	struct mpd_host *h = id > 0 && id <= MP_HOST_MAX ? pd->hosts[id] : NULL;

	return h && h->member ? h : NULL;
}

/* "h1" finds "h1.example.org" as well. */
struct mpd_host *mpd_host_find(const struct mpd *pd, const char *name)
{
	if (!strcmp(name, "."))
		return pd->hosts[pd->self];
	for (int i = 1; i <= pd->host_last; i++) {
		struct mpd_host *h = mpd_host_get(pd, i);
		size_t n = strlen(name);

		if (h && (!strcasecmp(h->name, name) ||
			  (!strncasecmp(h->name, name, n) && h->name[n] == '.')))
			return h;
	}
	return NULL;
}

struct mpd_host *mpd_host_new(struct mpd *pd, int id, const char *name)
{
	struct mpd_host *h;

	if (id < 1 || id > MP_HOST_MAX || pd->hosts[id])
		return NULL;
	h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->pd = pd;
	h->id = id;
	snprintf(h->name, sizeof(h->name), "%s", name);
	base_list_init(&h->blocked);
	base_wbuf_init(&h->early, (size_t)1 << 30);
	h->since_ns = base_clock_ns();
	pd->hosts[id] = h;
	pd->host_last = BASE_MAX(pd->host_last, id);
	pd->next_host = BASE_MAX(pd->next_host, id + 1);
	return h;
}

int mpd_host_count(const struct mpd *pd)
{
	int n = 0;

	for (int i = 1; i <= pd->host_last; i++)
		n += mpd_host_get(pd, i) != NULL;
	return n;
}

int mpd_coordinator(const struct mpd *pd)
{
	for (int i = 1; i <= pd->host_last; i++) {
		const struct mpd_host *h = mpd_host_get(pd, i);

		if (h && !h->suspect)
			return i;
	}
	return pd->self;
}

static void host_free(void *arg)
{
	struct mpd_host *h = arg;

	base_wbuf_fini(&h->early);
	free(h);
}

/* Here only; telling the others is the coordinator's. */
static void host_remove(struct mpd *pd, struct mpd_host *h, const char *why)
{
	int id = h->id;
	bool member = h->member;

	if (member)
		mpd_log(pd, "host %s (t%x) is out: %s", h->name, (unsigned)mp_tid_of_daemon(id),
			why);
	h->member = false;
	pd->hosts[id] = NULL;
	while (pd->host_last > 0 && !pd->hosts[pd->host_last])
		pd->host_last--;
	if (h->link) {
		mpd_conn_flush(h->link, 50);
		mpd_conn_close(h->link);
		h->link = NULL;
	}
	mpd_route_unblock(pd, &h->blocked);
	mpd_route_choke_host_gone(pd, id);
	mpd_call_host_gone(pd, id);
	mpd_direct_host_gone(pd, id);
	if (member) {
		mpd_notify_host_gone(pd, id);
		mpd_mbox_host_gone(pd, id);
	}
	if (base_loop_post(pd->loop, host_free, h))
		log_warn("a host entry was not freed");
}

void mpd_host_delete(struct mpd *pd, struct mpd_host *h, const char *why)
{
	host_remove(pd, h, why);
}

void mpd_host_lost(struct mpd *pd, struct mpd_host *h, const char *why)
{
	int32_t id = h->id;
	struct mpd_host *c;

	if (h->link) {
		mpd_conn_close(h->link);
		h->link = NULL;
	}
	h->joined = false;
	if (!h->member || pd->halting) {
		host_remove(pd, h, why);
		return;
	}
	h->suspect = true;
	h->since_ns = base_clock_ns();
	if (mpd_coordinator(pd) == pd->self) {
		host_remove(pd, h, why);
		mpd_table_publish(pd, NULL, NULL);
		return;
	}
	c = mpd_host_get(pd, mpd_coordinator(pd));
	log_info("host %s: %s; told host %s", h->name, why, c ? c->name : "?");
	if (c)
		mpd_link_ctl(pd, c, MP_C_SUSPECT, &id, sizeof(id));
}

void mpd_table_put(struct mpd *pd, struct base_wbuf *b)
{
	base_wbuf_u64(b, pd->table_version);
	base_wbuf_u32(b, (uint32_t)pd->next_host);
	base_wbuf_u32(b, (uint32_t)mpd_host_count(pd));
	for (int i = 1; i <= pd->host_last; i++) {
		const struct mpd_host *h = mpd_host_get(pd, i);

		if (!h)
			continue;
		base_wbuf_u32(b, (uint32_t)i);
		mpd_host_put(h, b);
	}
	for (int r = 1; r < (int)BASE_ARRAY_LEN(pd->role_tid); r++)
		base_wbuf_u32(b, r == MP_ROLE_RM ? (uint32_t)pd->role_tid[r] : 0);
}

void mpd_host_put(const struct mpd_host *h, struct base_wbuf *b)
{
	base_wbuf_str(b, h->name);
	base_wbuf_str(b, h->arch);
	base_wbuf_str(b, h->ip);
	base_wbuf_u16(b, h->port);
	base_wbuf_u32(b, (uint32_t)h->speed);
	base_wbuf_u32(b, (uint32_t)h->dsig);
	base_wbuf_u32(b, h->cores);
}

void mpd_host_take(struct mpd_host *h, struct base_rbuf *b)
{
	base_rbuf_str(b, h->name, sizeof(h->name));
	base_rbuf_str(b, h->arch, sizeof(h->arch));
	base_rbuf_str(b, h->ip, sizeof(h->ip));
	h->port = base_rbuf_u16(b);
	h->speed = (int32_t)base_rbuf_u32(b);
	h->dsig = (int32_t)base_rbuf_u32(b);
	h->cores = base_rbuf_u32(b);
}

struct taken {
	bool in[MP_HOST_MAX + 1];
	int32_t added[MP_HOST_MAX];
	uint32_t added_count;
};

static int table_take_host(struct mpd *pd, struct base_rbuf *b, struct taken *t)
{
	uint32_t id = base_rbuf_u32(b);
	struct mpd_host v = {0}, *h;

	mpd_host_take(&v, b);
	if (b->error || id < 1 || id > MP_HOST_MAX || t->in[id])
		return -EPROTO;
	t->in[id] = true;
	h = pd->hosts[id];
	if (!h)
		h = mpd_host_new(pd, (int)id, v.name);
	if (!h)
		return -ENOMEM;
	if (h->member)
		return 0;
	memcpy(h->name, v.name, sizeof(h->name));
	memcpy(h->arch, v.arch, sizeof(h->arch));
	memcpy(h->ip, v.ip, sizeof(h->ip));
	h->port = v.port;
	h->speed = v.speed;
	h->dsig = v.dsig;
	h->cores = v.cores;
	h->member = true;
	h->since_ns = base_clock_ns();
	if ((int)id != pd->self)
		t->added[t->added_count++] = (int32_t)id << MP_TID_HOST_SHIFT;
	if ((int)id < pd->self && !h->link)
		mpd_link_connect(pd, h);
	return 0;
}

int mpd_table_take(struct mpd *pd, struct base_rbuf *b)
{
	uint64_t version = base_rbuf_u64(b);
	uint32_t next = base_rbuf_u32(b), n = base_rbuf_u32(b);
	BASE_AUTO_FREE struct taken *t = calloc(1, sizeof(*t));
	bool first = pd->table_version == 0;

	if (!t)
		return -ENOMEM;
	if (version <= pd->table_version && !first)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		int rc = table_take_host(pd, b, t);

		if (rc)
			return rc;
	}
	for (int r = 1; r < (int)BASE_ARRAY_LEN(pd->role_tid); r++) {
		int32_t tid = (int32_t)base_rbuf_u32(b);

		if (r == MP_ROLE_RM)
			pd->role_tid[r] = tid;
	}
	pd->table_version = version;
	pd->next_host = BASE_MAX(pd->next_host, (int)BASE_MIN(next, (uint32_t)MP_HOST_MAX));
	if (!t->in[pd->self]) {
		mpd_log(pd, "this host was deleted from the virtual machine");
		mpd_stop(pd, 0);
		return 0;
	}
	for (int i = pd->host_last; i >= 1; i--) {
		struct mpd_host *h = mpd_host_get(pd, i);

		if (h && !t->in[i])
			host_remove(pd, h, "deleted");
	}
	if (t->added_count && !first)
		mpd_notify_host_added(pd, t->added, t->added_count);
	return 0;
}

void mpd_op_hosts(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int rc = mpd_table_take(pd, b);

	if (rc)
		mpd_log(pd, "bad host table from host %d: %s", from->host, strerror(-rc));
	mpd_call_reply(pd, from, rc ? PvmDSysErr : 0, NULL, -1);
}

struct publish {
	int left;
	void (*done)(struct mpd *pd, void *arg);
	void *arg;
};

static void publish_one(struct mpd *pd, void *arg, int rc, struct base_rbuf *body)
{
	struct publish *p = arg;

	(void)rc;
	(void)body;
	if (--p->left > 0)
		return;
	if (p->done)
		p->done(pd, p->arg);
	free(p);
}

void mpd_table_publish(struct mpd *pd, void (*done)(struct mpd *pd, void *arg), void *arg)
{
	struct publish *p = calloc(1, sizeof(*p));
	struct base_rbuf none;
	struct base_wbuf b;

	if (!p) {
		mpd_log(pd, "no memory to publish the host table");
		if (done)
			done(pd, arg);
		return;
	}
	p->done = done;
	p->arg = arg;
	p->left = 1;
	pd->table_version++;
	base_wbuf_init(&b, MP_FRAME_MAX);
	mpd_table_put(pd, &b);
	for (int i = 1; i <= pd->host_last; i++)
		if (i != pd->self && mpd_host_get(pd, i)) {
			p->left++;
			mpd_call_host(pd, i, MP_OP_HOSTS, 0, b.data, b.len, publish_one, p);
		}
	base_wbuf_fini(&b);
	base_rbuf_init(&none, NULL, 0);
	publish_one(pd, p, 0, &none);
}

void mpd_op_config(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_wbuf out;

	(void)b;
	base_wbuf_init(&out, MP_FRAME_MAX);
	base_wbuf_u32(&out, (uint32_t)mpd_host_count(pd));
	for (int i = 1; i <= pd->host_last; i++) {
		const struct mpd_host *h = mpd_host_get(pd, i);

		if (!h)
			continue;
		base_wbuf_u32(&out, (uint32_t)i << MP_TID_HOST_SHIFT);
		base_wbuf_str(&out, h->name);
		base_wbuf_str(&out, h->arch);
		base_wbuf_u32(&out, (uint32_t)h->speed);
		base_wbuf_u32(&out, (uint32_t)h->dsig);
	}
	mpd_call_reply(pd, from, 0, &out, -1);
	base_wbuf_fini(&out);
}
