/* Several slices in one process, each with its own memory file and guest view, over any transport. */
#ifndef TESTS_DSM_SLICES_H
#define TESTS_DSM_SLICES_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "dsm/dsm.h"
#include "proto/xp_address.h"

#define SLICES_MAX 4

struct slice {
	struct dsm *dsm;
	int fd;
	uint8_t *mem;
	_Atomic(int) error;
	_Atomic(unsigned) messages;
	_Atomic(int64_t) failed_ns;
	_Atomic(unsigned) links; /* that `link` said are there */
	_Atomic(int) link_error; /* the last that it said */
};

struct slices {
	unsigned count;
	uint64_t pages; /* of each home; count times that in all */
	void *network;
	char address[SLICES_MAX][32];
	struct slice slice[SLICES_MAX];
	/* Of slices that are opened later; all 0: as at the start. */
	uint16_t peers;
	uint64_t group;
	const struct dsm_home *homes; /* count of them */
};

struct slices_options {
	unsigned count;
	uint64_t pages;
	const struct xp_ops *transport;
	enum dsm_install install;
	bool encrypt;
	unsigned break_one_in;
	uint32_t prefetch_max, around, spin_us, hold_us, window_ms;
	uint8_t rewrites;
};

static inline void slices_failed(void *ctx, int err, uint8_t peer, const char *why)
{
	struct slice *s = ctx;

	atomic_store(&s->failed_ns, base_clock_ns());
	atomic_store(&s->error, err);
}

static inline void slices_message(void *ctx, uint8_t peer, const void *data, size_t len)
{
	atomic_fetch_add(&((struct slice *)ctx)->messages, 1);
}

static inline void slices_link(void *ctx, uint8_t peer, int err)
{
	struct slice *s = ctx;

	if (err)
		atomic_store(&s->link_error, err);
	else
		atomic_fetch_add(&s->links, 1);
}

static inline uint64_t slices_len(const struct slices *s)
{
	return s->count * s->pages * DSM_PAGE_SIZE;
}

/* On the address of the RDMA device, if the transport needs one. */
static inline int slices_listen(const struct xp_ops *transport, char out[32], int *fd)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	char host[16] = "127.0.0.1", any[32];
	int err = transport == &xp_verbs ? xp_verbs_address(host, sizeof(host)) : 0;

	(void)snprintf(any, sizeof(any), "%s:0", host);
	if (!err)
		err = xp_address_listen(any, fd);

	if (err)
		return err;
	if (getsockname(*fd, (struct sockaddr *)&a, &len) < 0)
		return -errno;
	(void)snprintf(out, 32, "%s:%u", host, ntohs(a.sin_port));
	return 0;
}

static inline int slices_open_one(struct slices *s, const struct slices_options *o, unsigned i,
				  int listen_fd)
{
	static const struct dsm_callbacks callbacks = {
		.failed = slices_failed, .message = slices_message, .link = slices_link};
	struct slice *me = &s->slice[i];
	uint64_t len = slices_len(s);
	struct dsm_home homes[SLICES_MAX];

	me->fd = memfd_create("slice", MFD_CLOEXEC);
	if (me->fd < 0 || ftruncate(me->fd, (off_t)len) < 0)
		return -errno;
	me->mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, me->fd, 0);
	if (me->mem == MAP_FAILED)
		return -errno;
	for (unsigned n = 0; n < s->count; n++)
		homes[n] = (struct dsm_home){
			.first = n * s->pages, .count = s->pages, .node = (uint8_t)n};
	if (s->homes)
		memcpy(homes, s->homes, s->count * sizeof(homes[0]));
	struct dsm_config c = {
		.memory_fd = me->fd,
		.len = len,
		.views = &(struct dsm_view){.guest = me->mem, .len = len},
		.view_count = 1,
		.install = o->install,
		.homes = homes,
		.home_count = s->count,
		.transport = o->transport,
		.xp = {.self = (uint8_t)i,
		       .peers = s->peers ? s->peers
					 : (uint16_t)(((1u << s->count) - 1) & ~(1u << i)),
		       .room = (uint16_t)(((1u << s->count) - 1) & ~(1u << i)),
		       .listen_fd = listen_fd,
		       .group = s->group ? s->group : 1,
		       .key = {1, 2, 3},
		       .encrypt = o->encrypt,
		       .window_ms = o->window_ms,
		       .network = s->network},
		.break_one_in = o->break_one_in,
		.prefetch_max = o->prefetch_max,
		.around = o->around,
		.rewrites = o->rewrites,
		.spin_us = o->spin_us,
		.hold_us = o->hold_us,
		.callbacks = &callbacks,
		.ctx = me,
	};

	for (unsigned n = 0; n < s->count; n++)
		c.xp.address[n] = s->address[n];
	return dsm_new(&c, &me->dsm);
}

static inline int slices_start(struct slices *s)
{
	int err = 0;

	for (unsigned i = 0; i < s->count && !err; i++)
		err = dsm_start(s->slice[i].dsm);
	for (unsigned i = 0; i < s->count && !err; i++)
		err = dsm_wait_up(s->slice[i].dsm, 10000);
	return err;
}

/* Everything except slices_start(), so that the caller can populate. */
static inline int slices_open(struct slices *s, const struct slices_options *o)
{
	int fd[SLICES_MAX] = {-1, -1, -1, -1};

	*s = (struct slices){.count = o->count, .pages = o->pages};
	int err = xp_inproc_network_new(&s->network);

	for (unsigned i = 0; i < s->count && !err && o->transport != &xp_inproc; i++)
		err = slices_listen(o->transport, s->address[i], &fd[i]);
	for (unsigned i = 0; i < s->count && !err; i++)
		err = slices_open_one(s, o, i, fd[i]);
	return err;
}

static inline void slices_close(struct slices *s)
{
	for (unsigned i = 0; i < s->count; i++)
		dsm_stop(s->slice[i].dsm);
	for (unsigned i = 0; i < s->count; i++) {
		dsm_free(s->slice[i].dsm);
		munmap(s->slice[i].mem, slices_len(s));
		close(s->slice[i].fd);
	}
	xp_inproc_network_free(s->network);
}

#endif
