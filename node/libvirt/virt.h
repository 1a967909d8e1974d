/*
 * The host's libvirt domains: a list that is kept up to date, and requests to them. libvirt's calls
 * block, some for minutes, so none is made on the caller's loop: a thread of its own keeps the
 * connection, follows libvirt's events and the progress of migrations; each request has a thread.
 * What they find comes back through base_loop_post().
 *
 * Without libvirt's library or daemon everything works, with no domains; node_virt_status() says
 * why. The connection is tried again every few seconds.
 *
 * All functions belong to the loop's thread; one object a process (libvirt's event loop is global).
 */
#ifndef NODE_LIBVIRT_VIRT_H
#define NODE_LIBVIRT_VIRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"

enum {
	NODE_VIRT_NAME_MAX = 128,
	NODE_VIRT_UUID_MAX = 37,
	NODE_VIRT_TEXT_MAX = 400,
	NODE_VIRT_MAX_DOMAINS = 1024,
	NODE_VIRT_MAX_JOBS = 32,
	NODE_VIRT_MAX_STATS = 512,
	NODE_VIRT_CPU_XML_MAX = 32768,
};

struct node_virt;

struct node_virt_domain {
	char name[NODE_VIRT_NAME_MAX], uuid[NODE_VIRT_UUID_MAX];
	const char *state; /* running, paused, off, migrating (at the other side) ..; a constant */
	bool active, persistent;
	uint64_t vcpus, memory_bytes, cpu_time_ns;
};

struct node_virt_status {
	bool connected;
	char uri[NODE_VIRT_TEXT_MAX];
	char why[NODE_VIRT_TEXT_MAX]; /* not connected: the reason */
	char software[96];	      /* "libvirt 9.0.0, QEMU 7.2.22" */
	char cpu_model[64], arch[32]; /* of the host, as libvirt names it */
	uint64_t cpus, memory_bytes;  /* of the host */
	uint64_t domains, active;     /* defined or running; running or paused */
	uint64_t vcpus, guest_bytes;  /* of the active ones */
};

struct node_virt_config {
	struct base_loop *loop;
	const char *uri;     /* such as qemu:///system */
	const char *library; /* NULL: libvirt.so.0 */
	/* Something has happened to a domain, or (name "") to the connection. May be NULL. */
	void (*event)(void *ctx, const char *name, const char *text);
	void *ctx;
};

enum node_virt_op {
	NODE_VIRT_START = 1,
	NODE_VIRT_STOP, /* the power button; done when it is off, -ETIMEDOUT after timeout_ms */
	NODE_VIRT_KILL,
	NODE_VIRT_PAUSE,
	NODE_VIRT_RESUME,
	NODE_VIRT_RESET,
	NODE_VIRT_STATS,
	NODE_VIRT_MIGRATE,
	NODE_VIRT_CANCEL, /* the domain's migration */
};

struct node_virt_request {
	enum node_virt_op op;
	char uuid[NODE_VIRT_UUID_MAX];
	uint64_t timeout_ms;
	/* MIGRATE: the other libvirtd as this host's libvirtd reaches it, and where data goes. */
	char to_uri[NODE_VIRT_TEXT_MAX], data_uri[NODE_VIRT_TEXT_MAX];
	uint64_t bandwidth;	  /* bytes/s; 0: no limit */
	uint64_t max_downtime_ms; /* 0: the hypervisor's */
	unsigned connections;	  /* 0, 1: one */
	bool encrypt;
};

struct node_virt_progress {
	uint64_t round, pages_total, pages_left, pages_sent, pages_zero;
	uint64_t bytes_sent, rate, dirty_rate; /* bytes, bytes/s */
	uint64_t throttle, total_ns, downtime_ns;
};

struct node_virt_stat {
	char name[80];
	uint64_t value;
};

struct node_virt_result {
	int error; /* -errno: -ENOENT, -ETIMEDOUT, -ECANCELED, -EBUSY, -EINVAL, -EIO */
	char text[NODE_VIRT_TEXT_MAX];	    /* libvirt's words, or "" */
	struct node_virt_progress progress; /* MIGRATE */
	size_t stat_count;
	struct node_virt_stat *stats; /* STATS; belongs to the result */
};

struct node_virt_ops {
	/* MIGRATE: some times a second. May be NULL. */
	void (*progress)(void *ctx, const struct node_virt_progress *p);
	/* Exactly once, unless node_virt_free() comes first; never from inside node_virt_start(). */
	void (*done)(void *ctx, const struct node_virt_result *r);
};

/* Starts the thread; no connection yet. -ENOMEM, -EAGAIN, -EINVAL for an overlong URI. */
BASE_MUST_CHECK int node_virt_new(const struct node_virt_config *config, struct node_virt **out);
/* Migrations under way go on in libvirtd; no callback comes any more. */
void node_virt_free(struct node_virt *v);

void node_virt_status(struct node_virt *v, struct node_virt_status *out);
/* At most `max` of the domains; returns how many. */
size_t node_virt_list(struct node_virt *v, struct node_virt_domain *out, size_t max);
/* By name or by UUID. */
bool node_virt_find(struct node_virt *v, const char *which, struct node_virt_domain *out);
/* The host's CPU as libvirt describes it: XML of at most NODE_VIRT_CPU_XML_MAX, or "". */
void node_virt_cpu_xml(struct node_virt *v, char *out, size_t cap);

/* -ENOTCONN: no connection; -EBUSY: too many requests, or two migrations of a domain; -ENOMEM. */
BASE_MUST_CHECK int node_virt_start(struct node_virt *v, const struct node_virt_request *r,
				    const struct node_virt_ops *ops, void *ctx);

#endif
