/*
 * Migration of a domain, peer to peer: the source's libvirtd does it with the destination's. The
 * call returns when it is over; meanwhile the monitor asks for the progress, and gets the summary
 * by an event.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/libvirt/virt_impl.h"

enum { MIB = 1 << 20, SUMMARY_MS = 1000, DEFAULT_PAGE = 4096 };

/* ---- progress ---- */

static uint64_t number(const struct virt_lib *lib, virTypedParameterPtr params, int count,
		       const char *name)
{
	unsigned long long value = 0;
	int small = 0;

	if (lib->virTypedParamsGetULLong(params, count, name, &value) == 1)
		return value;
	if (lib->virTypedParamsGetInt(params, count, name, &small) == 1 && small > 0)
		return (uint64_t)small;
	return 0;
}

void virt_progress_read(const struct virt_lib *lib, virTypedParameterPtr params, int count,
			struct node_virt_progress *out)
{
#define GET(name) number(lib, params, count, VIR_DOMAIN_JOB_##name)
	uint64_t page = GET(MEMORY_PAGE_SIZE);

	if (!page)
		page = DEFAULT_PAGE;
	*out = (struct node_virt_progress){
		.round = GET(MEMORY_ITERATION),
		.pages_total = GET(MEMORY_TOTAL) / page,
		.pages_left = GET(MEMORY_REMAINING) / page,
		.pages_sent = GET(MEMORY_NORMAL),
		.pages_zero = GET(MEMORY_CONSTANT),
		.bytes_sent = GET(DATA_PROCESSED),
		.rate = GET(MEMORY_BPS),
		.dirty_rate = GET(MEMORY_DIRTY_RATE) * page,
		.throttle = GET(AUTO_CONVERGE_THROTTLE),
		.total_ns = GET(TIME_ELAPSED) * (uint64_t)BASE_NS_PER_MS,
		.downtime_ns = GET(DOWNTIME) * (uint64_t)BASE_NS_PER_MS,
	};
#undef GET
}

struct report {
	struct virt_job *job; /* only compared: it may be gone */
	struct node_virt_progress progress;
};

static void report_run(struct node_virt *v, void *arg)
{
	struct report *r = arg;
	const struct node_virt_ops *ops = NULL;
	void *ctx = NULL;

	/* Ended ones are freed on this thread, after they left the list. */
	pthread_mutex_lock(&v->lock);
	base_list_foreach (j, &v->jobs, struct virt_job, link) {
		if (j != r->job)
			continue;
		ops = j->ops;
		ctx = j->ctx;
	}
	pthread_mutex_unlock(&v->lock);
	if (ops && ops->progress)
		ops->progress(ctx, &r->progress);
	free(r);
}

/* Under the lock: the next migration after `last` (NULL: the first), with its domain's UUID. */
static struct virt_job *next_migration(struct node_virt *v, const struct virt_job *last,
				       char uuid[NODE_VIRT_UUID_MAX])
{
	bool past = !last;

	base_list_foreach (j, &v->jobs, struct virt_job, link) {
		if (past && j->req.op == NODE_VIRT_MIGRATE) {
			memcpy(uuid, j->req.uuid, NODE_VIRT_UUID_MAX);
			return j;
		}
		past |= j == last;
	}
	return NULL;
}

static bool ask_progress(struct node_virt *v, const char *uuid, struct node_virt_progress *out)
{
	virDomainPtr dom = v->lib.virDomainLookupByUUIDString(v->conn, uuid);
	virTypedParameterPtr params = NULL;
	int type = VIR_DOMAIN_JOB_NONE, count = 0;

	if (!dom)
		return false;
	if (!v->lib.virDomainGetJobStats(dom, &type, &params, &count, 0)) {
		virt_progress_read(&v->lib, params, count, out);
		v->lib.virTypedParamsFree(params, count);
	}
	v->lib.virDomainFree(dom);
	return type != VIR_DOMAIN_JOB_NONE && out->pages_total;
}

void virt_jobs_progress(struct node_virt *v)
{
	char uuid[NODE_VIRT_UUID_MAX];
	struct virt_job *job = NULL;

	if (!v->conn)
		return;
	for (;;) {
		struct node_virt_progress p = {0};
		struct report *r;

		pthread_mutex_lock(&v->lock);
		job = next_migration(v, job, uuid);
		pthread_mutex_unlock(&v->lock);
		if (!job)
			return;
		if (!ask_progress(v, uuid, &p))
			continue;
		pthread_mutex_lock(&v->lock);
		base_list_foreach (j, &v->jobs, struct virt_job, link)
			if (j == job && !j->completed)
				j->latest = p;
		pthread_mutex_unlock(&v->lock);
		r = malloc(sizeof(*r));
		if (!r)
			return;
		*r = (struct report){job, p};
		virt_post(v, report_run, free, r);
	}
}

void virt_jobs_completed(struct node_virt *v, const char *uuid, const struct node_virt_progress *p)
{
	pthread_mutex_lock(&v->lock);
	base_list_foreach (j, &v->jobs, struct virt_job, link) {
		if (j->req.op != NODE_VIRT_MIGRATE || strcmp(j->req.uuid, uuid) != 0)
			continue;
		j->latest = *p;
		j->completed = true;
	}
	pthread_cond_broadcast(&v->changed);
	pthread_mutex_unlock(&v->lock);
}

/* The event with the summary is on its way when the call returns. */
static void take_summary(struct virt_job *j, int64_t started_ns)
{
	struct node_virt *v = j->v;
	struct timespec until = base_clock_timespec(base_clock_ns() + SUMMARY_MS * BASE_NS_PER_MS);

	pthread_mutex_lock(&v->lock);
	while (!j->result.error && !j->completed && !v->closing && v->conn == j->conn)
		if (pthread_cond_timedwait(&v->changed, &v->lock, &until))
			break;
	j->result.progress = j->latest;
	pthread_mutex_unlock(&v->lock);
	j->result.progress.total_ns = (uint64_t)(base_clock_ns() - started_ns);
}

/* ---- the call ---- */

struct params {
	virTypedParameterPtr at;
	int count, max;
};

static int add_params(const struct virt_job *j, struct params *p)
{
	const struct virt_lib *lib = &j->v->lib;
	const struct node_virt_request *r = &j->req;
	int bad = 0;

	if (r->data_uri[0])
		bad |= lib->virTypedParamsAddString(&p->at, &p->count, &p->max,
						    VIR_MIGRATE_PARAM_URI, r->data_uri);
	if (r->bandwidth)
		bad |= lib->virTypedParamsAddULLong(&p->at, &p->count, &p->max,
						    VIR_MIGRATE_PARAM_BANDWIDTH,
						    BASE_MAX(r->bandwidth / MIB, UINT64_C(1)));
	if (r->connections > 1)
		bad |= lib->virTypedParamsAddInt(&p->at, &p->count, &p->max,
						 VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS,
						 (int)r->connections);
	return bad;
}

static unsigned migrate_flags(const struct virt_job *j, virDomainPtr dom)
{
	unsigned flags = VIR_MIGRATE_LIVE | VIR_MIGRATE_PEER2PEER | VIR_MIGRATE_AUTO_CONVERGE |
			 VIR_MIGRATE_ABORT_ON_ERROR;

	/* What is defined here is then defined there. */
	if (j->v->lib.virDomainIsPersistent(dom) == 1)
		flags |= VIR_MIGRATE_PERSIST_DEST | VIR_MIGRATE_UNDEFINE_SOURCE;
	if (j->req.connections > 1)
		flags |= VIR_MIGRATE_PARALLEL;
	if (j->req.encrypt)
		flags |= VIR_MIGRATE_TLS;
	return flags;
}

void virt_job_migrate(struct virt_job *j, virDomainPtr dom)
{
	const struct virt_lib *lib = &j->v->lib;
	int64_t started_ns = base_clock_ns();
	struct params p = {0};

	/* Not every hypervisor lets it be set before the migration is under way. */
	if (j->req.max_downtime_ms &&
	    lib->virDomainMigrateSetMaxDowntime(dom, j->req.max_downtime_ms, 0))
		log_debug("libvirt: %s", lib->virGetLastErrorMessage());
	if (add_params(j, &p) ||
	    lib->virDomainMigrateToURI3(dom, j->req.to_uri, p.at, (unsigned)p.count,
					migrate_flags(j, dom)))
		virt_job_fail(j);
	lib->virTypedParamsFree(p.at, p.count);
	pthread_mutex_lock(&j->v->lock);
	if (j->result.error && j->cancelled)
		j->result.error = -ECANCELED;
	pthread_mutex_unlock(&j->v->lock);
	take_summary(j, started_ns);
}
