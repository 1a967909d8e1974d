/* Decorator: passes everything through and now and then breaks a connection. */
#include <errno.h>

#include "base/rng.h"
#include "proto/xp.h"

struct faulty {
	struct xp xp;
	struct xp *inner;
	struct base_rng rng;
	unsigned one_in;
};

static struct faulty *of(const struct xp *xp)
{
	return (struct faulty *)xp;
}

static int faulty_open(const struct xp_config *config, struct xp **out)
{
	return -EOPNOTSUPP; /* see xp_faulty_new() */
}

static int faulty_send(struct xp *xp, uint8_t peer, const struct xp_out *o)
{
	return xp_send(of(xp)->inner, peer, o);
}

static void faulty_flush(struct xp *xp)
{
	xp_flush(of(xp)->inner);
}

static unsigned faulty_poll(struct xp *xp, int64_t now_ns)
{
	struct faulty *f = of(xp);

	if (base_rng_below(&f->rng, f->one_in) == 0)
		xp_break_link(f->inner, (uint8_t)base_rng_below(&f->rng, XP_NODE_MAX));
	return xp_poll(f->inner, now_ns);
}

static int faulty_fd(const struct xp *xp)
{
	return xp_fd(of(xp)->inner);
}

static int64_t faulty_next_ns(const struct xp *xp)
{
	return xp_next_ns(of(xp)->inner);
}

static void faulty_counters(const struct xp *xp, uint8_t peer, struct xp_counters *out)
{
	xp_counters(of(xp)->inner, peer, out);
}

static void faulty_break(struct xp *xp, uint8_t peer)
{
	xp_break_link(of(xp)->inner, peer);
}

static int faulty_admit(struct xp *xp, uint8_t node, const char *address, uint64_t group)
{
	return xp_admit(of(xp)->inner, node, address, group);
}

static void faulty_drop(struct xp *xp, uint8_t peer)
{
	xp_drop(of(xp)->inner, peer);
}

static void faulty_stop(struct xp *xp)
{
	xp_stop(of(xp)->inner);
}

static void faulty_fini(struct xp *xp)
{
	xp_fini(of(xp)->inner);
	free(xp);
}

static const struct xp_ops faulty_ops = {
	.name = "faulty",
	.open = faulty_open,
	.send = faulty_send,
	.flush = faulty_flush,
	.poll = faulty_poll,
	.fd = faulty_fd,
	.next_ns = faulty_next_ns,
	.counters = faulty_counters,
	.break_link = faulty_break,
	.admit = faulty_admit,
	.drop = faulty_drop,
	.stop = faulty_stop,
	.fini = faulty_fini,
};

int xp_faulty_new(struct xp *inner, uint64_t seed, unsigned one_in, struct xp **out)
{
	struct faulty *f = malloc(sizeof(*f));

	if (!f)
		return -ENOMEM;
	*f = (struct faulty){.xp = {&faulty_ops}, .inner = inner, .one_in = one_in ? one_in : 1};
	base_rng_seed(&f->rng, seed);
	*out = &f->xp;
	return 0;
}
