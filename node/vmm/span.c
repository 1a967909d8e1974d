#include "node/vmm/span.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/span_internal.h"

enum { DEAD_MS = 2000 };

unsigned vmm_span_first_vcpu(const struct vmm_slice_config *s, unsigned slice)
{
	unsigned n = 0;

	for (unsigned i = 0; i < slice; i++)
		n += s->part[i].vcpus;
	return n;
}

uint64_t vmm_span_first_byte(const struct vmm_slice_config *s, unsigned slice)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < slice; i++)
		n += s->part[i].memory_bytes;
	return n;
}

/* ---- sending ---- */

void span_send(struct vmm_span *s, unsigned peer, const struct span_msg *m)
{
	uint8_t bytes[SPAN_WIRE_MAX];
	size_t len = span_msg_put(bytes, m);

	/* The queue holds a thousand; an interrupt must not be lost, so the sender waits. */
	while (dsm_message(s->dsm, (uint8_t)peer, bytes, len) == -EAGAIN)
		sched_yield();
}

void span_send_all(struct vmm_span *s, const struct span_msg *m)
{
	for (unsigned i = 0; i < s->slices.count; i++)
		if (i != s->self && !vmm_span_is_gone(s, i))
			span_send(s, i, m);
}

/* ---- to the main thread ---- */

static void take_news(void *arg)
{
	struct vmm_span *s = arg;

	pthread_mutex_lock(&s->lock);
	while (s->news_head != s->news_tail && !s->stopping) {
		struct span_news n = s->news[s->news_head++ % SPAN_ORDERS_MAX];

		pthread_mutex_unlock(&s->lock);
		s->config.order(s->config.arg, n.order, n.reason);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
}

void span_tell(struct vmm_span *s, enum vmm_span_order order, const char *reason)
{
	bool full;

	pthread_mutex_lock(&s->lock);
	full = s->news_tail - s->news_head == SPAN_ORDERS_MAX;
	if (!full) {
		struct span_news *n = &s->news[s->news_tail++ % SPAN_ORDERS_MAX];

		n->order = order;
		snprintf(n->reason, sizeof(n->reason), "%s", reason ? reason : "");
	}
	pthread_mutex_unlock(&s->lock);
	/* A correct lead has one order out at a time. */
	if (full)
		log_error("span: orders come faster than they can be obeyed");
	else if (base_loop_post(s->config.main_loop, take_news, s) < 0)
		log_error("span: the main loop takes no orders");
}

void span_lost(struct vmm_span *s, const char *reason)
{
	bool first;

	pthread_mutex_lock(&s->lock);
	first = !s->lost;
	s->lost = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (first)
		span_tell(s, VMM_SPAN_LOST, reason);
}

static void on_dsm_failed(void *ctx, int err, uint8_t peer, const char *why)
{
	struct vmm_span *s = ctx;
	char reason[SPAN_TEXT_MAX];

	if (peer == DSM_NODE_NONE || peer == s->self)
		snprintf(reason, sizeof(reason), "slice %u: memory: %s: %s", s->self, why,
			 strerror(-err));
	else
		snprintf(reason, sizeof(reason), "slice %u lost slice %u (%s): %s", s->self, peer,
			 s->slices.peer[peer], why);
	span_lost(s, reason);
}

static void on_dsm_lost(void *ctx, uint64_t gfn, uint64_t count, const uint8_t *bytes)
{
	vmm_shadow_lost(((struct vmm_span *)ctx)->shadow, bytes, count);
}

static void on_dsm_released(void *ctx)
{
	span_tell(ctx, VMM_SPAN_PLACES, NULL);
}

/* ---- interrupts ---- */

/* A vCPU that has just come here is still elsewhere for whoever has looked before. */
static void send_to(struct vmm_span *s, unsigned slice, const struct span_msg *m)
{
	if (slice == s->self)
		vmm_irqchip_deliver(s->config.irq, m->number, &m->irq);
	else
		span_send(s, slice, m);
}

static void irq_send(void *opaque, uint32_t apic_id, const struct vmm_irq_msg *msg)
{
	struct vmm_span *s = opaque;
	struct span_msg m = {.type = SPAN_IRQ, .number = apic_id, .irq = *msg};

	if (s->dsm)
		send_to(s, span_where(s, apic_id), &m);
}

static void irq_ids(void *opaque, uint32_t apic_id, uint64_t ids)
{
	struct vmm_span *s = opaque;
	struct span_msg m = {.type = SPAN_IDS, .number = apic_id, .ids = ids};

	/* Before the links are there all slices start from the same ids. */
	if (s->dsm)
		span_send_all(s, &m);
}

static void irq_eoi(void *opaque, uint8_t vector)
{
	struct vmm_span *s = opaque;
	struct span_msg m = {.type = SPAN_EOI, .number = vector};

	if (s->dsm)
		span_send(s, SPAN_LEAD, &m);
}

static void irq_line(void *opaque, unsigned gsi, bool level)
{
	log_error("span: a device of a slice that has none raises line %u to %d", gsi, level);
}

static const struct vmm_irq_remote lead_irq = {.send = irq_send, .ids = irq_ids};
static const struct vmm_irq_remote follower_irq = {
	.send = irq_send, .ids = irq_ids, .eoi = irq_eoi, .line = irq_line};

/* ---- making ---- */

int vmm_span_new(const struct vmm_span_config *config, struct vmm_span **out)
{
	struct vmm_span *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s)
		return -ENOMEM;
	s->config = *config;
	s->slices = *config->slices;
	s->self = (uint8_t)s->slices.self;
	s->callbacks = (struct dsm_callbacks){.failed = on_dsm_failed,
					      .message = span_receive,
					      .released = on_dsm_released,
					      .lost = on_dsm_lost,
					      .link = span_join_link};
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->sampling, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attr);
	pthread_condattr_destroy(&attr);
	span_move_init(s);
	for (unsigned i = 0; i < VMM_SLICE_MAX; i++)
		s->home[i] = (uint8_t)i;
	if (s->slices.joins || s->slices.alone)
		span_join_init(s);
	vmm_irqchip_set_remote(config->irq, span_leads(s) ? &lead_irq : &follower_irq, s);
	*out = s;
	return 0;
}

static int refuse(char *why, int err, const char *what)
{
	snprintf(why, VMM_WHY_MAX, "%s: %s", what, strerror(-err));
	return err;
}

#define LOADED_MAX 64

/* Runs of pages that the loader has written. */
struct loaded {
	unsigned count;
	struct {
		uint64_t first, count;
	} run[LOADED_MAX];
};

/*
 * What the loader wrote is what the file holds. To be asked before a transport pins the memory, for
 * that makes the file whole. Where there are too many runs the last one takes the holes in.
 */
static int find_loaded(const struct vmm_span *s, struct loaded *out, char *why)
{
	int fd = vmm_mem_fd(s->config.mem);
	off_t end = 0, size = (off_t)vmm_mem_size(s->config.mem);

	for (out->count = 0;;) {
		off_t start = lseek(fd, end, SEEK_DATA);

		if (start < 0)
			return errno == ENXIO ? 0 : refuse(why, -errno, "guest memory");
		end = lseek(fd, start, SEEK_HOLE);
		end = end < 0 ? size : end;
		if (out->count < LOADED_MAX)
			out->run[out->count++].first = (uint64_t)start / DSM_PAGE_SIZE;
		out->run[out->count - 1].count =
			(uint64_t)end / DSM_PAGE_SIZE - out->run[out->count - 1].first;
	}
}

/* All of it must be at home here. */
static int populate(struct vmm_span *s, const struct loaded *l, char *why)
{
	int err = 0;

	for (unsigned i = 0; i < l->count && !err; i++)
		err = dsm_populate(s->dsm, l->run[i].first, l->run[i].count);
	if (!err)
		return 0;
	snprintf(why, VMM_WHY_MAX,
		 "the kernel and the initrd do not fit into the memory of the "
		 "first --part; give it more");
	return err;
}

static unsigned fill_views(const struct vmm_mem *mem, struct dsm_view *views)
{
	unsigned n = vmm_mem_region_count(mem);

	for (unsigned i = 0; i < n; i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(mem, i);

		/* What the loader touched must fault as well from now on. */
		(void)madvise(r->host, r->len, MADV_DONTNEED);
		views[i] = (struct dsm_view){r->host, r->fd_offset, r->len};
	}
	return n;
}

static void fill_homes(const struct vmm_span *s, struct dsm_home *homes)
{
	const struct vmm_slice_config *c = &s->slices;

	for (unsigned i = 0; i < c->count; i++)
		homes[i] = (struct dsm_home){vmm_span_first_byte(c, i) / DSM_PAGE_SIZE,
					     c->part[i].memory_bytes / DSM_PAGE_SIZE, s->home[i]};
}

static const char *open_error(int err)
{
	switch (err) {
	case -EPERM:
		return "userfaultfd for KVM's own accesses needs root or a readable "
		       "/dev/userfaultfd";
	case -EOPNOTSUPP:
		return "the kernel lacks userfaultfd write protection of shared memory (Linux "
		       "5.19), or the transport cannot encrypt";
	case -ENODEV: return "--transport verbs: no RDMA device";
	default: return "the slices' links";
	}
}

/* While we may still: the DSM's thread will ask for it when the process has changed its user. */
static void allow_nice(void)
{
	const struct rlimit any = {40, 40};

	if (setrlimit(RLIMIT_NICE, &any) < 0)
		log_debug("span: no nice values below 0: %s", strerror(errno));
}

int vmm_span_open(struct vmm_span *s, char *why)
{
	const struct vmm_slice_config *c = &s->slices;
	uint16_t others = (uint16_t)(((1u << c->count) - 1) & ~(1u << s->self));
	struct dsm_view views[DSM_VIEW_MAX];
	struct dsm_home homes[VMM_SLICE_MAX];
	struct dsm_config d = {
		.memory_fd = vmm_mem_fd(s->config.mem),
		.len = vmm_mem_size(s->config.mem),
		.views = views,
		.view_count = fill_views(s->config.mem, views),
		.homes = homes,
		.home_count = c->count,
		.transport = xp_find(c->transport),
		.xp = {.self = s->self,
		       .peers = (uint16_t)(others & ~atomic_load(&s->gone)),
		       .room = others,
		       .listen_fd = c->listen_fd,
		       .group = c->group,
		       .encrypt = c->encrypt,
		       .window_ms = VMM_SPAN_WINDOW_MS,
		       .dead_ms = DEAD_MS},
		.callbacks = &s->callbacks,
		.ctx = s,
	};
	struct loaded loaded = {0};
	int err;

	if (!d.transport)
		return refuse(why, -ENOSYS, "this build has no such --transport");
	if (span_leads(s)) {
		err = find_loaded(s, &loaded, why);
		if (err)
			return err;
	}
	allow_nice();
	fill_homes(s, homes);
	memcpy(d.xp.key, c->key, sizeof(d.xp.key));
	memcpy(d.xp.address, c->peer, sizeof(c->peer));
	err = dsm_new(&d, &s->dsm);
	if (err)
		return refuse(why, err, open_error(err));
	return populate(s, &loaded, why);
}

bool vmm_span_keeps_user(const struct vmm_span *s)
{
	return dsm_keeps_user(s->dsm);
}

/* ---- finding each other ---- */

static void say_hello(struct vmm_span *s)
{
	struct span_msg m = {
		.type = SPAN_HELLO,
		.hello = {.version = SPAN_VERSION,
			  .slice = s->self,
			  .vcpus = vmm_span_first_vcpu(&s->slices, s->slices.count),
			  .memory_bytes = vmm_mem_size(s->config.mem),
			  .tsc_hz = s->config.clock->tsc_hz},
	};

	/* First: the lead may answer the hello with GO before this thread runs again. */
	span_tell(s, VMM_SPAN_LINKED, NULL);
	span_send(s, SPAN_LEAD, &m);
}

/* Waits where nobody else would be kept waiting. The lead is linked when all have said hello. */
static void *linker_main(void *arg)
{
	struct vmm_span *s = arg;
	int err = dsm_wait_up(s->dsm, VMM_SPAN_LINK_MS);

	if (err) {
		span_lost(s, "not all slices have found each other");
	} else if (!span_leads(s)) {
		say_hello(s);
		span_clock_keep(s);
	} else if (s->slices.alone) {
		span_tell(s, VMM_SPAN_LINKED, NULL);
	}
	return NULL;
}

int vmm_span_start(struct vmm_span *s)
{
	int err = vmm_shadow_new(s->config.vcpus, &s->shadow);

	if (!err)
		err = dsm_start(s->dsm);
	if (!err && span_leads(s))
		err = span_io_start(s);
	if (!err)
		err = -pthread_create(&s->linker, NULL, linker_main, s);
	s->linker_started = !err;
	return err;
}

void vmm_span_leave(struct vmm_span *s)
{
	dsm_stop(s->dsm);
}

void vmm_span_free(struct vmm_span *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stopping = s->lost = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (s->linker_started)
		pthread_join(s->linker, NULL);
	span_io_stop(s);
	vmm_irqchip_set_remote(s->config.irq, NULL, NULL);
	dsm_free(s->dsm);
	vmm_shadow_free(s->shadow);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->sampling);
	pthread_mutex_destroy(&s->lock);
	if (s->task_timer.fire)
		base_loop_timer_cancel(&s->task_timer);
	free(s->state);
	span_save_free(s);
	explicit_bzero(&s->slices, sizeof(s->slices));
	free(s);
}

/* ---- orders ---- */

/* Until `*bits` has every follower: 0; -ECANCELED: links are lost, or *end is set; -ETIMEDOUT. */
static int wait_followers(struct vmm_span *s, const uint16_t *bits, const bool *end)
{
	uint16_t all = (uint16_t)(((1u << s->slices.count) - 1) & ~1u & ~atomic_load(&s->gone));
	struct timespec until =
		base_clock_timespec(base_clock_ns() + VMM_SPAN_HALT_MS * BASE_NS_PER_MS);
	int err = 0;

	pthread_mutex_lock(&s->lock);
	while (*bits != all && !s->lost && !*end && !err)
		err = -pthread_cond_timedwait(&s->changed, &s->lock, &until);
	if (s->lost || (*bits != all && *end))
		err = -ECANCELED;
	else if (*bits == all)
		err = 0;
	pthread_mutex_unlock(&s->lock);
	return err;
}

int vmm_span_go(struct vmm_span *s)
{
	struct span_msg m = {.type = SPAN_GO,
			     .go = {.base = s->config.clock->base,
				    .tsc_hz = s->config.clock->tsc_hz}};

	pthread_mutex_lock(&s->lock);
	s->going = 0;
	m.number = ++s->go_number;
	pthread_mutex_unlock(&s->lock);
	span_send_all(s, &m);
	return wait_followers(s, &s->going, &s->end_wished);
}

int vmm_span_halt(struct vmm_span *s)
{
	struct span_msg m = {.type = SPAN_HALT};

	pthread_mutex_lock(&s->lock);
	s->halted = 0;
	m.number = ++s->halt_number;
	pthread_mutex_unlock(&s->lock);
	span_send_all(s, &m);
	/* Also where one has asked for the end: that is what it takes. */
	return wait_followers(s, &s->halted, &s->lost);
}

void vmm_span_halted(struct vmm_span *s)
{
	struct span_msg m = {.type = SPAN_HALTED};

	pthread_mutex_lock(&s->lock);
	s->clock_runs = false;
	s->clock_number++;
	m.number = s->halt_number;
	pthread_mutex_unlock(&s->lock);
	span_send(s, SPAN_LEAD, &m);
}

void vmm_span_going(struct vmm_span *s)
{
	struct span_msg m = {.type = SPAN_GOING};

	pthread_mutex_lock(&s->lock);
	m.number = s->go_number;
	pthread_mutex_unlock(&s->lock);
	span_send(s, SPAN_LEAD, &m);
}

void vmm_span_reset(struct vmm_span *s, const struct vmm_entry *entry)
{
	struct span_msg m = {.type = SPAN_RESET, .entry = *entry};

	span_send_all(s, &m);
}

struct vmm_entry vmm_span_entry(struct vmm_span *s)
{
	struct vmm_entry e;

	pthread_mutex_lock(&s->lock);
	e = s->reset_entry;
	pthread_mutex_unlock(&s->lock);
	return e;
}

void vmm_span_end(struct vmm_span *s, bool failed, const char *reason)
{
	struct span_msg m = {.type = SPAN_END, .end = {.failed = failed}};

	snprintf(m.end.text, sizeof(m.end.text), "%s", reason);
	if (span_leads(s))
		span_send_all(s, &m);
	else
		span_send(s, SPAN_LEAD, &m);
}

void vmm_span_wish_reset(struct vmm_span *s)
{
	struct span_msg m = {.type = SPAN_WISH};

	span_send(s, SPAN_LEAD, &m);
}
