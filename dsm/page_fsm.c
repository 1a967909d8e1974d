/*
 * The page protocol. Sequential consistency by single writer or many readers.
 *
 * Every page has a home, whose directory entry {owner, copyset, version, busy queue} orders all
 * requests. Channels between two nodes are reliable and in order (the transport's contract);
 * nothing is assumed between different channels.
 *
 *    requester           home              owner            sharers
 *        |---GET_S-------->|                 |                 |
 *        |                 |----FWD_S------->| X -> S          |
 *        |<--------------------DATA(S)-------|                 |
 *        |---DONE--------->|                 |                 |
 *        |                 |                 |                 |
 *        |---GET_X-------->|                 |                 |
 *        |                 |----FWD_X(acks)->| -> I            |
 *        |                 |------------------INV------------->| -> I
 *        |<--------------------DATA(X,acks)--|                 |
 *        |<-----------------------------INV_ACK----------------|
 *        |---DONE--------->|     (write permission after the last INV_ACK)
 *
 * Without data: an upgrade and any request whose bytes are of the current version (DATA NONE from
 * the home), a dormant page (DATA ZERO, granted for writing at once, from the home).
 * No DONE where the grant comes from the home and no INV_ACK is awaited: whatever the home sends
 * later on that channel arrives after the grant.
 *
 *  State of a node's copy (`state`), and the function that makes the transition:
 *
 *                 grant S  complete()              grant X  complete()
 *        +---+ -----------------------> +---+ -----------------------> +---+
 *        | I |                          | S |                          | X |
 *        +---+ <----------------------- +---+ <----------------------- +---+
 *          ^     INV take(), FWD_X               FWD_S  supply()         |
 *          |     supply(), DROP                                          |
 *          +-------------------- FWD_X supply() -------------------------+
 *          +---------- dormant page, grant X complete() ---------------->+
 *
 *  Event              state, condition              does
 *  READ               I, nothing wanted             GET_S, want S                  fault()
 *  WRITE              I or S, nothing wanted        GET_X, want X                  fault()
 *  READ, WRITE        enough permission             map again, wake                fault()
 *  READ, WRITE        a request is under way        note the waiter                fault()
 *  PREFETCH           I, nothing wanted             GET_S that may be denied       prefetch()
 *  TAKE               I, nothing known of it        GET_X that may be denied       take_dormant()
 *  DATA               wants, acks missing           store the bytes, wait          on_data()
 *  DATA, INV_ACK      the last piece                state = want, map, DONE        complete()
 *  FWD_S              S                             DATA                           supply()
 *  FWD_S              X, held                       defer                          on_forward()
 *  FWD_S              X                             protect, DATA                  supply()
 *  FWD_X              held                          defer                          on_forward()
 *  FWD_X              S, X                          unmap, DATA                    supply()
 *  INV                I                             INV_ACK                        on_inv()
 *  INV                S, held                       defer                          on_inv()
 *  INV                S                             unmap, INV_ACK                 take()
 *  TIMER              hold is over                  what was deferred              on_timer()
 *
 *  Directory: GET_S is served while no write grant is pending and nobody queues, GET_X while no
 *  grant at all is pending (get_s(), get_x()); anything else queues and is served in cyclic order
 * of the nodes (serve_queue()), so that each waits for at most 15 others.
 *
 *  Invariants, local (dsm_page_check):
 *   1. state X implies owner; owner implies state S or X.
 *   2. state S or X implies has_bytes.
 *   3. nothing wanted implies no waiter, no acknowledgement awaited, no half grant.
 *   4. something deferred implies state S or X; a deferred FWD_X or INV excludes deferred FWD_S.
 *   5. touched implies owner in copyset; a pending write grant is the only one and is the owner's.
 *   6. nobody is queued twice; a queue exists only while something is pending.
 *  Global (tests/sim, tests/model):
 *   7. a node in X is the only one that is not in I.
 *   8. every copy in S or X is of the directory's version and in its copyset, unless its grant
 *      or invalidation is still under way.
 */
#include "dsm/page_fsm.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

/* A page that is wanted back so soon after it was taken is contended. */
#define CONTENDED_HOLDS 16

struct ctx {
	const struct dsm_env *env;
	struct dsm_page *p;
	struct dsm_dir *d;
	const struct dsm_in *in;
	struct dsm_out *out;
};

static uint16_t bit(unsigned node)
{
	return (uint16_t)(1u << node);
}

/* Version 0 stands for "no bytes". */
static uint32_t next_version(uint32_t v)
{
	return v + 1 ? v + 1 : 1;
}

static struct dsm_act *act(struct ctx *c, enum dsm_act_type type)
{
	struct dsm_act *a = &c->out->act[c->out->count++];

	assert(c->out->count <= DSM_ACT_MAX);
	*a = (struct dsm_act){.type = (uint8_t)type};
	return a;
}

static void send(struct ctx *c, uint8_t to, struct dsm_msg msg)
{
	msg.gfn = c->in->msg.gfn;
	if (to == c->env->self) {
		assert(c->out->self_tail < DSM_ACT_MAX);
		c->out->self[c->out->self_tail++] = msg;
		return;
	}
	struct dsm_act *a = act(c, DSM_ACT_SEND);

	a->to = to;
	a->msg = msg;
}

static void map(struct ctx *c)
{
	act(c, DSM_ACT_MAP)->access = c->p->state;
}

/* ---- requester ---- */

static void request(struct ctx *c, uint8_t want, uint8_t flags)
{
	struct dsm_page *p = c->p;

	p->want = want;
	p->prefetching = flags & DSM_MSG_F_PREFETCH;
	send(c, c->env->home,
	     (struct dsm_msg){.type = want == DSM_X ? DSM_MSG_GET_X : DSM_MSG_GET_S,
			      .version = p->has_bytes ? p->version : 0,
			      .flags = flags});
}

static void fault(struct ctx *c, bool write)
{
	struct dsm_page *p = c->p;

	if (p->state == DSM_X || (p->state == DSM_S && !write)) {
		map(c);
		return;
	}
	p->wait_read |= !write;
	p->wait_write |= write;
	if (!p->want)
		request(c, write ? DSM_X : DSM_S, 0);
}

static void prefetch(struct ctx *c)
{
	if (c->p->state == DSM_I && !c->p->want)
		request(c, DSM_S, DSM_MSG_F_PREFETCH);
}

/* Of bytes that we have it is plain that somebody has touched the page. */
static void take_dormant(struct ctx *c)
{
	if (c->p->state == DSM_I && !c->p->want && !c->p->has_bytes)
		request(c, DSM_X, DSM_MSG_F_PREFETCH);
}

/*
 * Most holds are short and few are long: of two nodes that steal several pages from each other, one
 * will at some time hold all that an instruction needs, and the usual hand-over stays quick.
 */
static void hold(struct ctx *c)
{
	struct dsm_page *p = c->p;
	int64_t base = c->env->hold_ns;
	unsigned level = c->in->random ? (unsigned)__builtin_ctz(c->in->random) : 31;

	if (p->lost_ns && c->in->now_ns - p->lost_ns < CONTENDED_HOLDS * base) {
		if (p->hold_level < c->env->hold_level_max)
			p->hold_level++;
	} else {
		p->hold_level = 0;
	}
	if (level > p->hold_level)
		level = p->hold_level;
	p->hold_until_ns = c->in->now_ns + (base << level);
}

static void complete(struct ctx *c)
{
	struct dsm_page *p = c->p;
	bool waited = p->wait_read || p->wait_write, again = p->want == DSM_S && p->wait_write;

	p->state = p->want;
	p->owner |= p->want == DSM_X;
	p->want = DSM_I;
	p->data_seen = false;
	p->wait_read = false;
	p->wait_write = again;
	if (waited)
		hold(c);
	map(c);
	if (p->need_done)
		send(c, c->env->home, (struct dsm_msg){.type = DSM_MSG_DONE, .node = c->env->self});
	p->need_done = false;
	if (again)
		request(c, DSM_X, 0);
}

static void denied(struct ctx *c)
{
	struct dsm_page *p = c->p;

	p->want = DSM_I;
	if (p->wait_write || p->wait_read)
		request(c, p->wait_write ? DSM_X : DSM_S, 0);
}

/* A grant is for what was asked, or more (a dormant page); its bytes are there or not needed. */
static bool data_fits(const struct dsm_page *p, const struct dsm_msg *m)
{
	if (!p->want || p->data_seen || m->kind == 0 || m->kind >= DSM_DATA_END ||
	    m->acks >= DSM_NODE_MAX)
		return false;
	if (m->kind == DSM_DATA_DENIED)
		return p->prefetching;
	if (m->access != p->want && !(m->access == DSM_X && p->want == DSM_S))
		return false;
	if (m->access == DSM_S && m->acks)
		return false;
	if (m->kind == DSM_DATA_NONE)
		return p->has_bytes;
	return p->state == DSM_I;
}

static int on_data(struct ctx *c, uint8_t from, const struct dsm_msg *m)
{
	struct dsm_page *p = c->p;

	if (!data_fits(p, m))
		return -EPROTO;
	if (m->kind == DSM_DATA_DENIED) {
		denied(c);
		return 0;
	}
	if (m->kind != DSM_DATA_NONE)
		act(c, m->kind == DSM_DATA_PAGE ? DSM_ACT_STORE : DSM_ACT_ZERO);
	p->has_bytes = true;
	p->version = m->version;
	p->want = m->access;
	p->data_seen = true;
	p->need_done = from != c->env->home || m->acks;
	p->acks = (int8_t)(p->acks + m->acks);
	if (!p->acks)
		complete(c);
	return 0;
}

static int on_inv_ack(struct ctx *c)
{
	struct dsm_page *p = c->p;

	if (p->want != DSM_X || p->acks <= -DSM_NODE_MAX || (p->data_seen && p->acks <= 0))
		return -EPROTO;
	p->acks--;
	if (p->data_seen && !p->acks)
		complete(c);
	return 0;
}

/* ---- owner and sharer ---- */

static void lose(struct ctx *c)
{
	act(c, DSM_ACT_UNMAP);
	c->p->state = DSM_I;
	c->p->owner = false;
	c->p->lost_ns = c->in->now_ns;
}

static void take(struct ctx *c, uint8_t requester)
{
	if (c->p->state != DSM_I)
		lose(c);
	c->p->has_bytes = false;
	send(c, requester, (struct dsm_msg){.type = DSM_MSG_INV_ACK});
}

/* Revokes before it sends: the bytes are read only when no thread here can change them. */
static void supply(struct ctx *c, uint8_t type, uint8_t requester, uint8_t acks)
{
	struct dsm_page *p = c->p;
	struct dsm_msg m = {.type = DSM_MSG_DATA, .kind = DSM_DATA_PAGE, .version = p->version};

	if (type == DSM_MSG_FWD_X) {
		lose(c);
		p->has_bytes = false;
		m.access = DSM_X;
		m.acks = acks;
		m.version = next_version(p->version);
	} else {
		if (p->state == DSM_X) {
			act(c, DSM_ACT_PROTECT);
			p->state = DSM_S;
			p->lost_ns = c->in->now_ns;
		}
		m.access = DSM_S;
	}
	send(c, requester, m);
	if (c->env->self == c->env->home && !acks)
		send(c, c->env->home, (struct dsm_msg){.type = DSM_MSG_DONE, .node = requester});
}

static bool held(const struct ctx *c)
{
	return c->in->now_ns < c->p->hold_until_ns;
}

static void timer(struct ctx *c)
{
	act(c, DSM_ACT_TIMER)->until_ns = c->p->hold_until_ns;
}

static int on_forward(struct ctx *c, const struct dsm_msg *m)
{
	struct dsm_page *p = c->p;

	if (!p->owner || p->defer_type || m->node >= DSM_NODE_MAX || m->node == c->env->self ||
	    p->defer_s & bit(m->node) || (m->type == DSM_MSG_FWD_X && p->defer_s) ||
	    m->acks >= DSM_NODE_MAX)
		return -EPROTO;
	if (!held(c) || (m->type == DSM_MSG_FWD_S && p->state == DSM_S)) {
		supply(c, m->type, m->node, m->acks);
		return 0;
	}
	if (m->type == DSM_MSG_FWD_S) {
		p->defer_s |= bit(m->node);
	} else {
		p->defer_type = DSM_MSG_FWD_X;
		p->defer_node = m->node;
		p->defer_acks = m->acks;
	}
	timer(c);
	return 0;
}

static int on_inv(struct ctx *c, const struct dsm_msg *m)
{
	struct dsm_page *p = c->p;

	if (p->state == DSM_X || p->defer_type || p->defer_s || m->node >= DSM_NODE_MAX ||
	    m->node == c->env->self)
		return -EPROTO;
	if (p->state == DSM_I || !held(c)) {
		take(c, m->node);
		return 0;
	}
	p->defer_type = DSM_MSG_INV;
	p->defer_node = m->node;
	timer(c);
	return 0;
}

static void on_timer(struct ctx *c)
{
	struct dsm_page *p = c->p;
	uint8_t type = p->defer_type;

	if (!type && !p->defer_s)
		return;
	if (held(c)) {
		timer(c);
		return;
	}
	p->defer_type = 0;
	if (type == DSM_MSG_INV)
		take(c, p->defer_node);
	else if (type == DSM_MSG_FWD_X)
		supply(c, type, p->defer_node, p->defer_acks);
	for (uint8_t n = 0; n < DSM_NODE_MAX; n++)
		if (p->defer_s & bit(n))
			supply(c, DSM_MSG_FWD_S, n, 0);
	p->defer_s = 0;
}

static void drop(struct ctx *c)
{
	struct dsm_page *p = c->p;

	if (p->state != DSM_S || p->owner || p->want || p->defer_type)
		return;
	act(c, DSM_ACT_UNMAP);
	p->state = DSM_I;
}

/* ---- directory ---- */

static void grant(struct ctx *c, uint8_t r, uint8_t access, uint8_t kind, uint8_t acks)
{
	send(c, r,
	     (struct dsm_msg){.type = DSM_MSG_DATA,
			      .access = access,
			      .kind = kind,
			      .acks = acks,
			      .version = c->d->version});
}

static void wake_dormant(struct ctx *c, uint8_t r)
{
	struct dsm_dir *d = c->d;

	d->touched = true;
	d->version = 1;
	d->owner = r;
	d->copyset = bit(r);
	grant(c, r, DSM_X, DSM_DATA_ZERO, 0);
}

static void get_s(struct ctx *c, uint8_t r, bool have)
{
	struct dsm_dir *d = c->d;

	if (!d->touched) {
		wake_dormant(c, r);
	} else if (d->copyset & bit(r) && have) {
		grant(c, r, DSM_S, DSM_DATA_NONE, 0);
	} else {
		d->copyset |= bit(r);
		d->pending |= bit(r);
		send(c, d->owner, (struct dsm_msg){.type = DSM_MSG_FWD_S, .node = r});
	}
}

/* The home's own copy needs no message when it can go at once. */
static uint16_t take_own(struct ctx *c, uint16_t others)
{
	struct dsm_page *p = c->p;

	if (!(others & bit(c->env->self)) || (p->state != DSM_I && held(c)))
		return others;
	if (p->state != DSM_I)
		lose(c);
	p->has_bytes = false;
	return others & (uint16_t)~bit(c->env->self);
}

static void invalidate(struct ctx *c, uint16_t nodes, uint8_t r)
{
	for (uint8_t n = 0; n < DSM_NODE_MAX; n++)
		if (nodes & bit(n))
			send(c, n, (struct dsm_msg){.type = DSM_MSG_INV, .node = r});
}

static void get_x(struct ctx *c, uint8_t r, bool have)
{
	struct dsm_dir *d = c->d;

	if (!d->touched) {
		wake_dormant(c, r);
		return;
	}
	bool upgrade = d->copyset & bit(r) && have;
	uint8_t owner = d->owner;
	uint16_t others = d->copyset & (uint16_t)~bit(r);

	if (!upgrade)
		others &= (uint16_t)~bit(owner);
	others = take_own(c, others);
	uint8_t acks = (uint8_t)__builtin_popcount(others);

	invalidate(c, others, r);
	d->version = next_version(d->version);
	d->owner = r;
	d->copyset = bit(r);
	if (upgrade) {
		grant(c, r, DSM_X, DSM_DATA_NONE, acks);
	} else {
		send(c, owner, (struct dsm_msg){.type = DSM_MSG_FWD_X, .node = r, .acks = acks});
	}
	if (!upgrade || acks) {
		d->pending = bit(r);
		d->pending_x = true;
	}
}

static bool can_start(const struct dsm_dir *d, bool write)
{
	return write ? !d->pending : !d->pending_x;
}

static void serve_queue(struct ctx *c)
{
	struct dsm_dir *d = c->d;
	uint16_t queued;

	while ((queued = d->want_s | d->want_x)) {
		uint8_t n = d->last;

		do
			n = (uint8_t)((n + 1) % DSM_NODE_MAX);
		while (!(queued & bit(n)));
		bool write = d->want_x & bit(n), have = d->have & bit(n);

		if (!can_start(d, write))
			return;
		d->want_s &= (uint16_t)~bit(n);
		d->want_x &= (uint16_t)~bit(n);
		d->have &= (uint16_t)~bit(n);
		d->last = n;
		if (write)
			get_x(c, n, have);
		else
			get_s(c, n, have);
	}
}

/*
 * Reading ahead must not take a page that its user has not touched, nor queue behind others. Taking
 * is for nothing else than pages that nobody has touched.
 */
static bool prefetch_hurts(const struct dsm_dir *d, bool write)
{
	return d->touched == write || d->pending_x || d->want_s || d->want_x;
}

static int on_get(struct ctx *c, uint8_t r, const struct dsm_msg *m)
{
	struct dsm_dir *d = c->d;
	bool write = m->type == DSM_MSG_GET_X, have = m->version != 0;
	uint16_t b = bit(r);

	if (!d || (d->want_s | d->want_x | d->pending) & b)
		return -EPROTO;
	if (d->copyset & b) {
		if ((have && m->version != d->version) || (!have && d->owner == r))
			return -EPROTO;
	}
	if (m->flags & DSM_MSG_F_PREFETCH && prefetch_hurts(d, write)) {
		grant(c, r, DSM_S, DSM_DATA_DENIED, 0);
		return 0;
	}
	*(write ? &d->want_x : &d->want_s) |= b;
	if (have)
		d->have |= b;
	serve_queue(c);
	return 0;
}

static int on_done(struct ctx *c, uint8_t from, const struct dsm_msg *m)
{
	struct dsm_dir *d = c->d;

	if (!d || m->node >= DSM_NODE_MAX || !(d->pending & bit(m->node)) ||
	    (from != m->node && from != c->env->self))
		return -EPROTO;
	d->pending &= (uint16_t)~bit(m->node);
	d->pending_x = false;
	serve_queue(c);
	return 0;
}

static void populate(struct ctx *c)
{
	struct dsm_dir *d = c->d;
	struct dsm_page *p = c->p;

	if (!d || d->touched)
		return;
	*d = (struct dsm_dir){
		.version = 1, .touched = true, .owner = c->env->self, .copyset = bit(c->env->self)};
	p->version = 1;
	p->state = DSM_X;
	p->owner = p->has_bytes = true;
}

/* ---- */

static int on_msg(struct ctx *c, uint8_t from, const struct dsm_msg *m)
{
	switch (m->type) {
	case DSM_MSG_GET_S:
	case DSM_MSG_GET_X: return on_get(c, from, m);
	case DSM_MSG_FWD_S:
	case DSM_MSG_FWD_X: return from == c->env->home ? on_forward(c, m) : -EPROTO;
	case DSM_MSG_INV: return from == c->env->home ? on_inv(c, m) : -EPROTO;
	case DSM_MSG_INV_ACK: return on_inv_ack(c);
	case DSM_MSG_DATA: return on_data(c, from, m);
	case DSM_MSG_DONE: return on_done(c, from, m);
	default: return -EPROTO;
	}
}

static int on_input(struct ctx *c)
{
	switch (c->in->type) {
	case DSM_IN_MSG: return on_msg(c, c->in->from, &c->in->msg);
	case DSM_IN_READ: fault(c, false); return 0;
	case DSM_IN_WRITE: fault(c, true); return 0;
	case DSM_IN_PREFETCH: prefetch(c); return 0;
	case DSM_IN_TAKE: take_dormant(c); return 0;
	case DSM_IN_DROP: drop(c); return 0;
	case DSM_IN_TIMER: on_timer(c); return 0;
	case DSM_IN_POPULATE: populate(c); return 0;
	default: assert(!"input type"); return -EINVAL;
	}
}

int dsm_page_step(const struct dsm_env *env, struct dsm_page *page, struct dsm_dir *dir,
		  const struct dsm_in *in, struct dsm_out *out)
{
	struct ctx c = {.env = env, .p = page, .d = dir, .in = in, .out = out};

	out->count = out->self_head = out->self_tail = 0;
	int err = on_input(&c);

	if (err)
		return err;
	while (out->self_head < out->self_tail) {
		struct dsm_msg m = out->self[out->self_head++];

		/*
		 * What a node says to itself fits unless an earlier message of a peer was a lie
		 * that only shows now; then the link of the sender in hand is as good as any.
		 */
		err = on_msg(&c, env->self, &m);
		if (err)
			return err;
	}
	return 0;
}

static const char *check_dir(const struct dsm_dir *d)
{
	if (!d->touched)
		return d->copyset || d->pending ? "a dormant page has holders" : NULL;
	if (!(d->copyset & bit(d->owner)))
		return "the owner is not in the copyset";
	if (d->pending_x && (d->pending != bit(d->owner) || d->copyset != d->pending))
		return "a pending write grant is not the only one";
	if (d->want_s & d->want_x)
		return "a node is queued twice";
	if ((d->want_s | d->want_x) && !d->pending)
		return "a queue and nothing pending";
	return NULL;
}

const char *dsm_page_check(const struct dsm_env *env, const struct dsm_page *p,
			   const struct dsm_dir *dir)
{
	if (p->state == DSM_X && !p->owner)
		return "X without being the owner";
	if (p->owner && p->state == DSM_I)
		return "owner without a copy";
	if (p->state != DSM_I && !p->has_bytes)
		return "a copy without bytes";
	if (!p->want && (p->wait_read || p->wait_write || p->acks || p->data_seen))
		return "waiting for nothing";
	if ((p->defer_type || p->defer_s) && p->state == DSM_I)
		return "deferred without a copy";
	if (p->defer_type && p->defer_s)
		return "two kinds deferred";
	if (!dir != (env->self != env->home))
		return "directory in the wrong place";
	return dir ? check_dir(dir) : NULL;
}
