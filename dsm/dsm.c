#include "dsm/dsm_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"

#define POSTS_MAX 1024

struct post {
	enum {
		POST_MESSAGE,
		POST_PREFETCH,
		POST_REHOME,
		POST_EVICT,
		POST_FORGET,
		POST_ADMIT,
		POST_KEEP,
		POST_DROP,
		POST_SHARE
	} type;
	uint8_t peer;
	uint8_t len;
	uint64_t gfn, count;
	uint8_t data[DSM_MESSAGE_MAX];
};

static void fill(struct dsm *d, const struct dsm_config *c)
{
	*d = (struct dsm){.wake_fd = -1,
			  .callbacks = c->callbacks,
			  .ctx = c->ctx,
			  .self = c->xp.self,
			  .peers = c->xp.peers,
			  .all_up = !c->xp.peers,
			  .is_last = !c->xp.peers, /* until one joins */
			  .spin_ns = (c->spin_us ? c->spin_us : 50) * BASE_NS_PER_US};
	pthread_mutex_init(&d->lock, NULL);
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->changed, &attr);
	pthread_condattr_destroy(&attr);
}

static int new_engine(struct dsm *d, const struct dsm_config *c)
{
	struct dsm_engine_config ec = {
		.page_count = c->len / DSM_PAGE_SIZE,
		.self = c->xp.self,
		.homes = c->homes,
		.home_count = c->home_count,
		.ops = &dsm_service_ops,
		.ctx = d,
		.hold_ns = (c->hold_us ? c->hold_us : 10) * 1000,
		.hold_level_max = 6,
		.prefetch_max = c->prefetch_max == UINT32_MAX ? 0
				: c->prefetch_max	      ? c->prefetch_max
							      : 256,
		.around = c->around ? c->around : 16,
		.rewrites = c->rewrites == UINT8_MAX ? 0
			    : c->rewrites	     ? c->rewrites
						     : 2,
		.seed = (uint64_t)base_clock_ns() + c->xp.self,
	};

	return dsm_engine_new(&ec, &d->engine);
}

static int new_transport(struct dsm *d, const struct dsm_config *c)
{
	struct xp_config xc = c->xp;
	struct xp *inner;

	xc.handler = &dsm_service_handler;
	xc.ctx = d;
	/* COPY takes pages out of the file, and what the network has registered with them. */
	if (dsm_uffd_install(d->uffd) == DSM_INSTALL_CONTINUE) {
		xc.region = dsm_uffd_alias(d->uffd);
		xc.region_len = c->len;
	}
	int err = xp_open(c->transport, &xc, &inner);

	if (err)
		return err;
	d->xp = inner;
	if (c->break_one_in)
		err = xp_faulty_new(inner, c->xp.self + 1u, c->break_one_in, &d->xp);
	return err;
}

int dsm_new(const struct dsm_config *c, struct dsm **out)
{
	struct dsm *d = malloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	fill(d, c);
	d->posts = calloc(POSTS_MAX, sizeof(*d->posts));
	d->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	int err = !d->posts ? -ENOMEM : d->wake_fd < 0 ? -errno : 0;

	if (!err)
		err = new_engine(d, c);
	if (!err)
		err = dsm_uffd_new(c->memory_fd, c->len, c->views, c->view_count, c->install,
				   &d->uffd);
	if (!err)
		err = new_transport(d, c);
	if (err) {
		dsm_free(d);
		return err;
	}
	*out = d;
	return 0;
}

int dsm_populate(struct dsm *d, uint64_t gfn, uint64_t count)
{
	return dsm_engine_populate(d->engine, gfn, count);
}

uint8_t *dsm_alias(struct dsm *d)
{
	return dsm_uffd_alias(d->uffd);
}

enum dsm_install dsm_install_used(const struct dsm *d)
{
	return dsm_uffd_install(d->uffd);
}

bool dsm_keeps_user(const struct dsm *d)
{
	return xp_keeps_user(d->xp);
}

int dsm_start(struct dsm *d)
{
	int err = -pthread_create(&d->thread, NULL, dsm_service_main, d);

	d->started = !err;
	return err;
}

static void wake(struct dsm *d)
{
	uint64_t one = 1;

	/* Only a full counter refuses, and that wakes as well. */
	(void)!write(d->wake_fd, &one, sizeof(one));
}

int dsm_wait_up(struct dsm *d, unsigned timeout_ms)
{
	struct timespec until = base_clock_timespec(base_clock_ns() + timeout_ms * BASE_NS_PER_MS);
	int err = 0;

	pthread_mutex_lock(&d->lock);
	while (!d->all_up && !d->error && err != ETIMEDOUT)
		err = pthread_cond_timedwait(&d->changed, &d->lock, &until);
	err = d->error ? d->error : d->all_up ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&d->lock);
	return err;
}

void dsm_stop(struct dsm *d)
{
	if (!d->started)
		return;
	atomic_store(&d->stopping, true);
	wake(d);
	pthread_join(d->thread, NULL);
	d->started = false;
}

void dsm_free(struct dsm *d)
{
	if (!d)
		return;
	dsm_stop(d);
	xp_fini(d->xp);
	dsm_uffd_free(d->uffd);
	dsm_engine_free(d->engine);
	if (d->wake_fd >= 0)
		close(d->wake_fd);
	free(d->posts);
	free((void *)d->lost_bits);
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* ---- the mailbox ---- */

static struct post *post_slot(struct dsm *d)
{
	if (d->post_tail - d->post_head == POSTS_MAX)
		return NULL;
	return &d->posts[d->post_tail++ % POSTS_MAX];
}

static int post(struct dsm *d, const struct post *p)
{
	int err = 0;

	pthread_mutex_lock(&d->lock);
	struct post *slot = d->error || !d->started ? NULL : post_slot(d);

	if (slot)
		*slot = *p;
	else
		err = d->error || !d->started ? -ENOTCONN : -EAGAIN;
	pthread_mutex_unlock(&d->lock);
	if (err)
		return err;
	/* After this the service thread either sees the post or, asleep, is woken. */
	if (!atomic_exchange(&d->posted, true) && atomic_load(&d->asleep))
		wake(d);
	return 0;
}

int dsm_message(struct dsm *d, uint8_t peer, const void *data, size_t len)
{
	struct post p = {.type = POST_MESSAGE, .peer = peer, .len = (uint8_t)len};

	if (len > DSM_MESSAGE_MAX)
		return -EMSGSIZE;
	if (peer >= DSM_NODE_MAX || !(d->peers & 1u << peer))
		return -EINVAL;
	memcpy(p.data, data, len);
	return post(d, &p);
}

void dsm_prefetch_hint(struct dsm *d, uint64_t gfn, uint64_t count)
{
	if (post(d, &(struct post){.type = POST_PREFETCH, .gfn = gfn, .count = count}))
		log_debug("prefetch hint dropped");
}

/* What changes who is there; false: it is none of these. */
static bool handle_peer_post(struct dsm *d, const struct post *p)
{
	switch (p->type) {
	case POST_FORGET: d->leaving |= (uint16_t)(d->peers & 1u << p->peer); break;
	case POST_ADMIT: dsm_admit_begin(d, p->peer, (const char *)p->data, p->gfn); break;
	case POST_KEEP: dsm_keep_begin(d, p->peer); break;
	case POST_DROP: dsm_drop_begin(d, p->peer); break;
	default: return false;
	}
	return true;
}

static int handle_post(struct dsm *d, const struct post *p, int64_t now_ns)
{
	if (handle_peer_post(d, p))
		return 0;
	if (p->type == POST_EVICT) {
		dsm_evict_begin(d, (uint16_t)p->gfn, p->count);
		return 0;
	}
	if (p->type == POST_SHARE)
		return dsm_share_begin(d);
	if (p->type == POST_MESSAGE && !(d->peers & 1u << p->peer))
		return 0; /* it has left meanwhile */
	if (p->type == POST_MESSAGE)
		return xp_send(d->xp, p->peer,
			       &(struct xp_out){.type = DSM_FRAME_USER,
						.body = p->data,
						.body_len = p->len});
	if (p->type == POST_REHOME)
		return dsm_rehome_begin(d);
	int err = dsm_engine_prefetch(d->engine, p->gfn, p->count, now_ns);

	return err == -EINVAL ? 0 : err; /* a hint may be wrong */
}

int dsm_posts_handle(struct dsm *d, int64_t now_ns)
{
	int err = 0;

	if (!atomic_exchange(&d->posted, false))
		return 0;
	pthread_mutex_lock(&d->lock);
	while (d->post_head != d->post_tail && !err) {
		struct post p = d->posts[d->post_head++ % POSTS_MAX];

		pthread_mutex_unlock(&d->lock);
		err = handle_post(d, &p, now_ns);
		pthread_mutex_lock(&d->lock);
	}
	pthread_mutex_unlock(&d->lock);
	return err;
}

/* ---- looking ---- */

void dsm_stats_get(struct dsm *d, struct dsm_stats *out, struct xp_counters per_peer[DSM_NODE_MAX])
{
	*out = *dsm_engine_stats(d->engine);
	for (uint8_t n = 0; per_peer && n < DSM_NODE_MAX; n++) {
		per_peer[n] = (struct xp_counters){0};
		if (d->peers & 1u << n)
			xp_counters(d->xp, n, &per_peer[n]);
	}
}

void dsm_owners(struct dsm *d, uint64_t gfn, uint64_t count, uint8_t *owner)
{
	for (uint64_t i = 0; i < count; i++) {
		bool here = dsm_engine_home(d->engine, gfn + i) == d->self;
		const struct dsm_dir *dir = here ? dsm_engine_dir(d->engine, gfn + i) : NULL;

		owner[i] = dir && dir->touched ? dir->owner : DSM_NODE_NONE;
	}
}

bool dsm_has(struct dsm *d, uint64_t gfn)
{
	const struct dsm_page *p = dsm_engine_page(d->engine, gfn);

	return dsm_is_released(d) || (p->state != DSM_I && p->has_bytes);
}

int dsm_quiesce(struct dsm *d, unsigned timeout_ms)
{
	struct timespec until = base_clock_timespec(base_clock_ns() + timeout_ms * BASE_NS_PER_MS);
	int err = 0;

	pthread_mutex_lock(&d->lock);
	atomic_store(&d->want_quiet, true);
	d->quiet = false;
	wake(d);
	while (!d->quiet && !d->error && err != ETIMEDOUT)
		err = pthread_cond_timedwait(&d->changed, &d->lock, &until);
	atomic_store(&d->want_quiet, false);
	err = d->error ? d->error : d->quiet ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&d->lock);
	return err;
}

int dsm_rehome(struct dsm *d, const struct dsm_home *homes, unsigned count, unsigned timeout_ms)
{
	struct timespec until = base_clock_timespec(base_clock_ns() + timeout_ms * BASE_NS_PER_MS);

	pthread_mutex_lock(&d->lock);
	d->new_homes = homes;
	d->new_home_count = count;
	d->rehome_done = false;
	d->rehome_error = 0;
	pthread_mutex_unlock(&d->lock);
	int err = post(d, &(struct post){.type = POST_REHOME}), wait = 0;

	if (err)
		return err;
	pthread_mutex_lock(&d->lock);
	while (!d->rehome_done && !d->error && wait != ETIMEDOUT)
		wait = pthread_cond_timedwait(&d->changed, &d->lock, &until);
	err = d->error ? d->error : d->rehome_done ? d->rehome_error : -ETIMEDOUT;
	d->new_homes = NULL;
	pthread_mutex_unlock(&d->lock);
	return err;
}

int dsm_evict(struct dsm *d, uint16_t nodes, uint64_t pages_per_s)
{
	int err;

	if (!nodes || nodes & 1u << d->self)
		return -EINVAL;
	if (atomic_exchange(&d->evicting, true))
		return -EBUSY;
	atomic_store(&d->evict_total, 0);
	atomic_store(&d->evict_asked, 0);
	err = post(d, &(struct post){.type = POST_EVICT, .gfn = nodes, .count = pages_per_s});
	if (err)
		atomic_store(&d->evicting, false);
	return err;
}

bool dsm_evict_progress(struct dsm *d, uint64_t *asked, uint64_t *total)
{
	*asked = atomic_load(&d->evict_asked);
	*total = atomic_load(&d->evict_total);
	return atomic_load(&d->evicting);
}

int dsm_forget(struct dsm *d, uint8_t peer)
{
	if (peer >= DSM_NODE_MAX || !(d->peers & 1u << peer))
		return -EINVAL;
	return post(d, &(struct post){.type = POST_FORGET, .peer = peer});
}

int dsm_admit(struct dsm *d, uint8_t peer, const char *address, uint64_t group)
{
	struct post p = {.type = POST_ADMIT, .peer = peer, .gfn = group};

	if (peer >= DSM_NODE_MAX || peer == d->self)
		return -EINVAL;
	if (strlen(address) >= sizeof(p.data))
		return -ENAMETOOLONG;
	memcpy(p.data, address, strlen(address) + 1);
	return post(d, &p);
}

int dsm_keep(struct dsm *d, uint8_t peer)
{
	if (peer >= DSM_NODE_MAX || !(d->peers & 1u << peer))
		return -EINVAL;
	return post(d, &(struct post){.type = POST_KEEP, .peer = peer});
}

int dsm_drop(struct dsm *d, uint8_t peer)
{
	if (peer >= DSM_NODE_MAX || peer == d->self)
		return -EINVAL;
	return post(d, &(struct post){.type = POST_DROP, .peer = peer});
}

int dsm_share(struct dsm *d, unsigned timeout_ms)
{
	struct timespec until = base_clock_timespec(base_clock_ns() + timeout_ms * BASE_NS_PER_MS);
	int err, wait = 0;

	pthread_mutex_lock(&d->lock);
	d->share_done = false;
	pthread_mutex_unlock(&d->lock);
	err = post(d, &(struct post){.type = POST_SHARE});
	if (err)
		return err;
	pthread_mutex_lock(&d->lock);
	while (!d->share_done && !d->error && wait != ETIMEDOUT)
		wait = pthread_cond_timedwait(&d->changed, &d->lock, &until);
	err = d->error ? d->error : d->share_done ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&d->lock);
	return err;
}

bool dsm_is_released(const struct dsm *d)
{
	return atomic_load(&d->released);
}
