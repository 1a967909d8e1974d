#include "proto/xp.h"

#include <errno.h>
#include <string.h>

const struct xp_ops *xp_find(const char *name)
{
	static const struct xp_ops *const all[] = {&xp_tcp, &xp_verbs, &xp_inproc};

	for (size_t i = 0; i < BASE_ARRAY_LEN(all); i++)
		if (!strcmp(all[i]->name, name))
			return all[i];
	return NULL;
}

int xp_open(const struct xp_ops *ops, const struct xp_config *config, struct xp **out)
{
	if (config->self >= XP_NODE_MAX || config->peers & 1u << config->self || !config->handler)
		return -EINVAL;
	if (config->encrypt && !(ops->caps & XP_CAP_ENCRYPTS))
		return -EOPNOTSUPP;
	return ops->open(config, out);
}

int xp_send(struct xp *xp, uint8_t peer, const struct xp_out *out)
{
	return xp->ops->send(xp, peer, out);
}

void xp_flush(struct xp *xp)
{
	xp->ops->flush(xp);
}

unsigned xp_poll(struct xp *xp, int64_t now_ns)
{
	return xp->ops->poll(xp, now_ns);
}

int xp_fd(const struct xp *xp)
{
	return xp->ops->fd(xp);
}

int64_t xp_next_ns(const struct xp *xp)
{
	return xp->ops->next_ns(xp);
}

void xp_counters(const struct xp *xp, uint8_t peer, struct xp_counters *out)
{
	xp->ops->counters(xp, peer, out);
}

void xp_break_link(struct xp *xp, uint8_t peer)
{
	xp->ops->break_link(xp, peer);
}

int xp_admit(struct xp *xp, uint8_t node, const char *address, uint64_t group)
{
	return node < XP_NODE_MAX ? xp->ops->admit(xp, node, address, group) : -EINVAL;
}

void xp_drop(struct xp *xp, uint8_t peer)
{
	xp->ops->drop(xp, peer);
}

void xp_stop(struct xp *xp)
{
	xp->ops->stop(xp);
}

void xp_fini(struct xp *xp)
{
	if (xp)
		xp->ops->fini(xp);
}
