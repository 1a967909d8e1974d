/*
 * Moving page homes: every slice sends each other one the directory entries that are the other's
 * from now on, then an end; a slice is done when it has sent its own and has the ends of all peers.
 */
#include <errno.h>

#include "dsm/dsm_impl.h"

static void finish(struct dsm *d, int err)
{
	pthread_mutex_lock(&d->lock);
	d->rehome_done = true;
	d->rehome_error = err;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
}

static void finish_if_complete(struct dsm *d)
{
	if (!d->dir_sent || d->dir_ends != d->peers)
		return;
	d->dir_sent = false;
	d->dir_ends = 0;
	finish(d, 0);
}

static int send_entries(void *ctx, uint8_t to, uint64_t gfn, uint64_t count,
			const struct dsm_dir *dir)
{
	struct dsm *d = ctx;
	uint8_t body[DSM_DIR_LEN];

	if (!(d->peers & 1u << to))
		return -EINVAL;
	dsm_dir_put(body, gfn, count, dir);
	return xp_send(
		d->xp, to,
		&(struct xp_out){.type = DSM_FRAME_DIR, .body = body, .body_len = sizeof(body)});
}

int dsm_rehome_begin(struct dsm *d)
{
	struct dsm_home homes[DSM_HOME_MAX];
	unsigned count = 0;

	pthread_mutex_lock(&d->lock);
	for (; d->new_homes && count < d->new_home_count && count < DSM_HOME_MAX; count++)
		homes[count] = d->new_homes[count];
	bool given_up = !d->new_homes, fits = count == d->new_home_count;

	pthread_mutex_unlock(&d->lock);
	d->rehome_waits = false;
	if (given_up)
		return 0;
	int err = fits ? dsm_engine_rehome(d->engine, homes, count, send_entries) : -EINVAL;

	/* The last DONE of a peer may still be on its way. */
	d->rehome_waits = err == -EBUSY;
	if (d->rehome_waits)
		return 0;
	if (err == -EINVAL) {
		finish(d, err);
		return 0;
	}
	for (uint8_t n = 0; n < DSM_NODE_MAX && !err; n++)
		if (d->peers & 1u << n)
			err = xp_send(d->xp, n,
				      &(struct xp_out){.type = DSM_FRAME_DIR_END, .body = ""});
	d->dir_sent = true;
	finish_if_complete(d);
	return err;
}

int dsm_rehome_frame(struct dsm *d, uint8_t peer, const struct xp_frame *f)
{
	struct dsm_dir entry;
	uint64_t gfn, count;

	if (d->dir_ends & 1u << peer)
		return -EPROTO; /* it has said that there is no more */
	if (f->type == DSM_FRAME_DIR) {
		int err = dsm_dir_get(f->body, f->body_len, &gfn, &count, &entry);

		return err ? err : dsm_engine_dir_put(d->engine, gfn, count, &entry);
	}
	d->dir_ends |= (uint16_t)(1u << peer);
	finish_if_complete(d);
	return 0;
}
