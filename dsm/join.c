/*
 * A slice joins: the service thread's side of dsm_admit(), dsm_keep(), dsm_drop() and dsm_share().
 *
 * From dsm_admit() until dsm_keep() or dsm_drop() a peer is in `admitted`. It counts as one of `peers`
 * when its link is up, and is `leaving` at once: until dsm_keep() its end is no failure.
 */
#include <errno.h>

#include "base/log.h"
#include "dsm/dsm_impl.h"

static uint16_t bit(uint8_t peer)
{
	return (uint16_t)(1u << peer);
}

static void tell(struct dsm *d, uint8_t peer, int err)
{
	if (d->callbacks && d->callbacks->link)
		d->callbacks->link(d->ctx, peer, err);
}

/* It is no peer any more, and may be the last that was. */
void dsm_peer_gone(struct dsm *d, uint8_t peer)
{
	d->peers &= (uint16_t)~bit(peer);
	d->up &= (uint16_t)~bit(peer);
	d->leaving &= (uint16_t)~bit(peer);
	d->admitted &= (uint16_t)~bit(peer);
	d->is_last = !d->peers && !d->admitted && !d->released;
}

void dsm_admit_begin(struct dsm *d, uint8_t peer, const char *address, uint64_t group)
{
	int err;

	/* Of one that was told to leave, the goodbye may still be on its way. */
	if (d->peers & d->leaving & bit(peer)) {
		xp_drop(d->xp, peer);
		dsm_peer_gone(d, peer);
	}
	/* Ordinary memory is nobody's to ask for. */
	err = d->released ? -EINVAL : xp_admit(d->xp, peer, address[0] ? address : NULL, group);
	if (err) {
		tell(d, peer, err);
		return;
	}
	d->admitted |= bit(peer);
	d->is_last = false;
}

void dsm_admitted_up(struct dsm *d, uint8_t peer)
{
	d->leaving |= bit(peer);
	d->peers |= bit(peer);
	d->up |= bit(peer);
	tell(d, peer, 0);
}

void dsm_admitted_down(struct dsm *d, uint8_t peer, int err)
{
	dsm_peer_gone(d, peer);
	tell(d, peer, err ? err : -ECONNRESET);
}

void dsm_keep_begin(struct dsm *d, uint8_t peer)
{
	/* Who keeps it needs it: that its end has been told already does not help him. */
	if (!(d->peers & d->admitted & bit(peer))) {
		dsm_fail(d, -ECONNRESET, peer, "a peer that was to join is gone");
		return;
	}
	d->admitted &= (uint16_t)~bit(peer);
	d->leaving &= (uint16_t)~bit(peer);
}

void dsm_drop_begin(struct dsm *d, uint8_t peer)
{
	if ((d->peers | d->admitted) & bit(peer))
		xp_drop(d->xp, peer);
	dsm_peer_gone(d, peer);
}

/* ---- memory is shared again ---- */

static int share(struct dsm *d)
{
	uint64_t first = 0, count = 0, next = 0;
	int err = dsm_engine_reset(d->engine);

	if (!err)
		err = dsm_uffd_share(d->uffd);
	while (!err) {
		err = dsm_uffd_data(d->uffd, next, &first, &count);
		next = first + count;
		if (!err)
			err = dsm_engine_populate(d->engine, first, count);
	}
	return err == -ENXIO ? dsm_engine_flush(d->engine) : err;
}

int dsm_share_begin(struct dsm *d)
{
	int err = d->released ? share(d) : 0;

	if (err)
		return err;
	d->is_last = false;
	atomic_store(&d->released, false);
	pthread_mutex_lock(&d->lock);
	d->share_done = true;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	return 0;
}
