/*
 * Spawn. The daemon of the caller chooses hosts and gives each its share (EXEC); each starts its
 * processes and answers with tids or errors; the caller gets them in the order of the places.
 *
 *	SPAWN  the fields of `struct request`, in order
 *	EXEC   the same with the count of this host and `where` reduced to the directory
 */
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_spawn.h"

enum { SPAWN_MAX = 65536 };

void mpd_spawn_req_free(struct mpd_spawn_req *r)
{
	for (uint32_t i = 0; r->args && i < r->arg_count; i++)
		free(r->args[i]);
	for (uint32_t i = 0; r->env && i < r->env_count; i++)
		free(r->env[i]);
	free(r->args);
	free(r->env);
	free(r);
}

static int take_strings(struct base_rbuf *b, char ***out, uint32_t *count)
{
	uint32_t n = base_rbuf_u32(b);

	if (b->error || n > base_rbuf_left(b) / 4)
		return PvmBadParam;
	*out = calloc((size_t)n + 1, sizeof(**out));
	if (!*out)
		return PvmNoMem;
	for (uint32_t i = 0; i < n; i++) {
		size_t len = 0;
		const char *p = base_rbuf_blob(b, MP_FRAME_MAX, &len);

		if (!p || memchr(p, 0, len))
			return PvmBadParam;
		(*out)[i] = strndup(p, len);
		if (!(*out)[i])
			return PvmNoMem;
		*count = i + 1;
	}
	return 0;
}

static void take_sink(struct base_rbuf *b, struct mpd_sink *s)
{
	s->tid = (int32_t)base_rbuf_u32(b);
	s->ctx = (int32_t)base_rbuf_u32(b);
	s->tag = (int32_t)base_rbuf_u32(b);
}

int mpd_spawn_req_take(struct base_rbuf *b, struct mpd_spawn_req **out)
{
	struct mpd_spawn_req *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return PvmNoMem;
	base_rbuf_str(b, r->file, sizeof(r->file));
	base_rbuf_str(b, r->where, sizeof(r->where));
	r->flags = (int32_t)base_rbuf_u32(b);
	r->count = (int32_t)base_rbuf_u32(b);
	r->tail = *b;
	rc = take_strings(b, &r->args, &r->arg_count);
	if (!rc)
		rc = take_strings(b, &r->env, &r->env_count);
	if (!rc) {
		take_sink(b, &r->out);
		take_sink(b, &r->trace.to);
		r->trace.buffer = (int32_t)base_rbuf_u32(b);
		r->trace.options = (int32_t)base_rbuf_u32(b);
		base_rbuf_str(b, r->mask, sizeof(r->mask));
		if (b->error || r->count < 1 || r->count > SPAWN_MAX || !*r->file)
			rc = PvmBadParam;
	}
	if (rc) {
		mpd_spawn_req_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

static void put_results(struct base_wbuf *b, const int32_t *v, int32_t n)
{
	base_wbuf_u32(b, (uint32_t)n);
	for (int32_t i = 0; i < n; i++)
		base_wbuf_u32(b, (uint32_t)v[i]);
}

/* A resource manager passes on the environment, not these. */
static void trace_from_env(struct mpd_spawn_req *r)
{
	for (uint32_t i = 0; i < r->env_count; i++) {
		const char *s = r->env[i];

		if (!strncmp(s, "PVMTMASK=", 9))
			snprintf(r->mask, sizeof(r->mask), "%s", s + 9);
		else if (!strncmp(s, "PVMTRCBUF=", 10))
			r->trace.buffer = (int32_t)strtol(s + 10, NULL, 10);
		else if (!strncmp(s, "PVMTRCOPT=", 10))
			r->trace.options = (int32_t)strtol(s + 10, NULL, 10);
	}
}

static void exec_done(struct mpd *pd, void *arg, const int32_t *results, int32_t n)
{
	struct mpd_from *from = arg;
	struct base_wbuf out;

	base_wbuf_init(&out, MP_FRAME_MAX);
	put_results(&out, results, n);
	mpd_call_reply(pd, from, results ? 0 : PvmNoMem, results ? &out : NULL, -1);
	base_wbuf_fini(&out);
	free(from);
}

void mpd_op_exec(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct mpd_from *copy = malloc(sizeof(*copy));
	struct mpd_spawn_req *r;
	int rc = copy ? mpd_spawn_req_take(b, &r) : PvmNoMem;

	if (rc) {
		free(copy);
		mpd_call_reply(pd, from, rc, NULL, -1);
		return;
	}
	if (!*r->mask)
		trace_from_env(r);
	*copy = *from;
	mpd_exec_start(pd, from->tid, r, exec_done, copy);
}

/* The caller's side */

struct spawn {
	struct mpd_from from;
	int left;
	int32_t count;
	int32_t *results;
	uint16_t *place; /* host of each */
};

struct share {
	struct spawn *s;
	int host;
};

static void spawn_siblings(struct mpd *pd, const struct spawn *s)
{
	struct base_wbuf b;
	uint32_t n = 0;

	base_wbuf_init(&b, MP_FRAME_MAX);
	for (int32_t i = 0; i < s->count; i++)
		n += s->results[i] > 0;
	base_wbuf_u32(&b, n);
	for (int32_t i = 0; i < s->count; i++)
		if (s->results[i] > 0)
			base_wbuf_u32(&b, (uint32_t)s->results[i]);
	for (int32_t i = 0; i < s->count && !b.error; i++)
		if (s->results[i] > 0)
			mpd_route_ctl(pd, s->results[i], MP_C_SIBLINGS, b.data, b.len);
	base_wbuf_fini(&b);
}

static void spawn_done(struct mpd *pd, struct spawn *s)
{
	struct base_wbuf b;

	if (--s->left > 0)
		return;
	spawn_siblings(pd, s);
	base_wbuf_init(&b, MP_FRAME_MAX);
	put_results(&b, s->results, s->count);
	mpd_call_reply(pd, &s->from, 0, &b, -1);
	base_wbuf_fini(&b);
	free(s->results);
	free(s->place);
	free(s);
}

static void share_done(struct mpd *pd, void *arg, int rc, struct base_rbuf *body)
{
	struct share *sh = arg;
	struct spawn *s = sh->s;

	if (rc >= 0)
		base_rbuf_u32(body);
	for (int32_t i = 0; i < s->count; i++)
		if (s->place[i] == sh->host) {
			int32_t v = rc < 0 ? rc : (int32_t)base_rbuf_u32(body);

			s->results[i] = body->error && rc >= 0 ? PvmDSysErr : v;
		}
	free(sh);
	spawn_done(pd, s);
}

/* Splits "host:dir"; the directory stays in r->where. */
static void split_where(struct mpd_spawn_req *r, char *place, size_t cap)
{
	char *colon = strchr(r->where, ':');
	size_t n = colon ? (size_t)(colon - r->where) : strlen(r->where);

	snprintf(place, cap, "%.*s", (int)n, r->where);
	memmove(r->where, colon ? colon + 1 : r->where + n,
		strlen(r->where + n + (colon != NULL)) + 1);
}

static int choose_hosts(struct mpd *pd, const struct mpd_spawn_req *r, const char *place, bool *ok)
{
	const struct mpd_host *one = r->flags & PvmTaskHost ? mpd_host_find(pd, place) : NULL;
	int n = 0;

	if ((r->flags & PvmTaskHost) && !one && !(r->flags & PvmHostCompl))
		return PvmNoHost;
	for (int i = 1; i <= pd->host_last; i++) {
		const struct mpd_host *h = mpd_host_get(pd, i);

		if (!h)
			continue;
		ok[i] = true;
		if (r->flags & PvmTaskHost)
			ok[i] = h == one;
		else if (r->flags & PvmTaskArch)
			ok[i] = !strcmp(h->arch, place);
		if (r->flags & PvmHostCompl)
			ok[i] = !ok[i];
		n += ok[i];
	}
	return n ? 0 : PvmNoHost;
}

static void spawn_share(struct mpd *pd, struct spawn *s, const struct mpd_spawn_req *r, int host,
			int32_t n)
{
	struct share *sh = calloc(1, sizeof(*sh));
	struct base_wbuf b;

	if (!sh)
		return;
	sh->s = s;
	sh->host = host;
	s->left++;
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_str(&b, r->file);
	base_wbuf_str(&b, r->where);
	base_wbuf_u32(&b, (uint32_t)r->flags);
	base_wbuf_u32(&b, (uint32_t)n);
	base_wbuf_bytes(&b, r->tail.data + r->tail.pos, base_rbuf_left(&r->tail));
	mpd_call_host(pd, host, MP_OP_EXEC, s->from.tid, b.data, b.len, share_done, sh);
	base_wbuf_fini(&b);
}

static void here_done(struct mpd *pd, void *arg, const int32_t *results, int32_t n)
{
	struct spawn *s = arg;

	for (int32_t i = 0, k = 0; i < s->count; i++)
		if (s->place[i] == pd->self)
			s->results[i] = k < n ? results[k++] : PvmNoMem;
	spawn_done(pd, s);
}

/* As with the original the tasks of a host stand together: neighbours in the list are near each other. */
static void group_places(struct spawn *s)
{
	int32_t done = 0;

	for (int32_t i = 0; i < s->count; i = done) {
		uint16_t host = s->place[i];

		for (int32_t k = i; k < s->count; k++)
			if (s->place[k] == host) {
				s->place[k] = s->place[done];
				s->place[done++] = host;
			}
	}
}

static int spawn_new(struct mpd *pd, const struct mpd_from *from, const struct mpd_spawn_req *r,
		     const bool *ok, struct spawn **out)
{
	struct spawn *s = calloc(1, sizeof(*s));

	if (!s)
		return PvmNoMem;
	s->from = *from;
	s->count = r->count;
	s->left = 1;
	s->results = calloc((size_t)r->count, sizeof(*s->results));
	s->place = calloc((size_t)r->count, sizeof(*s->place));
	if (!s->results || !s->place) {
		free(s->results);
		free(s->place);
		free(s);
		return PvmNoMem;
	}
	for (int32_t i = 0; i < r->count; i++) {
		s->place[i] = (uint16_t)mpd_load_place(pd, ok);
		s->results[i] = PvmHostFail;
	}
	group_places(s);
	*out = s;
	return 0;
}

static int32_t share_of(const struct spawn *s, int host)
{
	int32_t n = 0;

	for (int32_t i = 0; i < s->count; i++)
		n += s->place[i] == host;
	return n;
}

void mpd_op_spawn(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	BASE_AUTO_FREE bool *ok = calloc(MP_HOST_MAX + 1, sizeof(*ok));
	char place[MPD_PATH_MAX];
	struct mpd_spawn_req *r;
	struct spawn *s;
	int rc = ok ? mpd_spawn_req_take(b, &r) : PvmNoMem;

	if (rc) {
		mpd_call_reply(pd, from, rc, NULL, -1);
		return;
	}
	split_where(r, place, sizeof(place));
	rc = choose_hosts(pd, r, place, ok);
	if (!rc)
		rc = spawn_new(pd, from, r, ok, &s);
	if (rc) {
		mpd_call_reply(pd, from, rc, NULL, -1);
		mpd_spawn_req_free(r);
		return;
	}
	for (int h = 1; h <= pd->host_last; h++) {
		int32_t n = share_of(s, h);

		if (n && h != pd->self)
			spawn_share(pd, s, r, h, n);
	}
	r->count = share_of(s, pd->self);
	if (r->count) {
		s->left++;
		mpd_exec_start(pd, from->tid, r, here_done, s);
	} else {
		mpd_spawn_req_free(r);
	}
	spawn_done(pd, s);
}
