/* Requests: each a thread that makes libvirt's blocking calls and then reports to the loop. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/libvirt/virt_impl.h"

enum {
	CPU_STATS = VIR_DOMAIN_STATS_STATE | VIR_DOMAIN_STATS_CPU_TOTAL | VIR_DOMAIN_STATS_BALLOON |
		    VIR_DOMAIN_STATS_VCPU | VIR_DOMAIN_STATS_INTERFACE | VIR_DOMAIN_STATS_BLOCK
};

static int errno_of(int code)
{
	switch (code) {
	case VIR_ERR_NO_DOMAIN: return -ENOENT;
	case VIR_ERR_OPERATION_INVALID:
	case VIR_ERR_INVALID_ARG: return -EINVAL;
	case VIR_ERR_OPERATION_ABORTED: return -ECANCELED;
	case VIR_ERR_OPERATION_TIMEOUT: return -EBUSY;
	case VIR_ERR_NO_SUPPORT:
	case VIR_ERR_OPERATION_UNSUPPORTED: return -EOPNOTSUPP;
	case VIR_ERR_AUTH_FAILED:
	case VIR_ERR_ACCESS_DENIED: return -EACCES;
	default: return -EIO;
	}
}

void virt_job_fail(struct virt_job *j)
{
	const struct virt_lib *lib = &j->v->lib;

	j->result.error = errno_of(lib->virGetLastErrorCode());
	snprintf(j->result.text, sizeof(j->result.text), "%s", lib->virGetLastErrorMessage());
	j->result.text[strcspn(j->result.text, "\n")] = 0;
}

/* ---- the end of a request, on the loop ---- */

static void job_drop(void *arg)
{
	struct virt_job *j = arg;

	free(j->result.stats);
	virt_unref(j->v);
	free(j);
}

static void job_done(struct node_virt *v, void *arg)
{
	struct virt_job *j = arg;

	j->ops->done(j->ctx, &j->result);
	job_drop(j);
}

/* ---- stop ---- */

/* Whether the domain is still on; gone means off. */
static bool is_active(const struct node_virt *v, const char *uuid)
{
	for (size_t i = 0; i < v->domain_count; i++)
		if (!strcmp(v->domains[i].uuid, uuid))
			return v->domains[i].active;
	return false;
}

/* Until the monitor has seen it off. */
static void await_off(struct virt_job *j)
{
	struct node_virt *v = j->v;
	struct timespec until;

	until = base_clock_timespec(base_clock_ns() + (int64_t)j->req.timeout_ms * BASE_NS_PER_MS);
	pthread_mutex_lock(&v->lock);
	while (!v->closing && v->conn == j->conn && is_active(v, j->req.uuid) && !j->result.error)
		if (pthread_cond_timedwait(&v->changed, &v->lock, &until))
			j->result.error = -ETIMEDOUT;
	if (v->conn != j->conn && !j->result.error)
		j->result.error = -ENOTCONN;
	pthread_mutex_unlock(&v->lock);
	if (j->result.error == -ETIMEDOUT)
		snprintf(j->result.text, sizeof(j->result.text),
			 "the guest has not powered off in time");
	else if (j->result.error)
		snprintf(j->result.text, sizeof(j->result.text), "the connection was lost");
}

/* ---- statistics ---- */

static bool stat_value(virTypedParameterPtr p, uint64_t *out)
{
	switch (p->type) {
	case VIR_TYPED_PARAM_INT: *out = (uint64_t)BASE_MAX(p->value.i, 0); return true;
	case VIR_TYPED_PARAM_UINT: *out = p->value.ui; return true;
	case VIR_TYPED_PARAM_LLONG: *out = (uint64_t)BASE_MAX(p->value.l, 0LL); return true;
	case VIR_TYPED_PARAM_ULLONG: *out = p->value.ul; return true;
	default: return false;
	}
}

static void job_stats(struct virt_job *j, virDomainPtr dom)
{
	const struct virt_lib *lib = &j->v->lib;
	virDomainPtr doms[] = {dom, NULL};
	virDomainStatsRecordPtr *records = NULL;
	int n = lib->virDomainListGetStats(doms, CPU_STATS, &records, 0);

	if (n < 0) {
		virt_job_fail(j);
		return;
	}
	j->result.stats = calloc(NODE_VIRT_MAX_STATS, sizeof(*j->result.stats));
	for (int i = 0; n == 1 && j->result.stats && i < records[0]->nparams; i++) {
		struct node_virt_stat *s = &j->result.stats[j->result.stat_count];

		if (j->result.stat_count == NODE_VIRT_MAX_STATS ||
		    !stat_value(&records[0]->params[i], &s->value))
			continue;
		snprintf(s->name, sizeof(s->name), "%s", records[0]->params[i].field);
		j->result.stat_count++;
	}
	lib->virDomainStatsRecordListFree(records);
}

/* ---- dispatch ---- */

static void job_cancel(struct virt_job *j, virDomainPtr dom)
{
	struct node_virt *v = j->v;
	bool found = false;

	pthread_mutex_lock(&v->lock);
	base_list_foreach (other, &v->jobs, struct virt_job, link) {
		if (other->req.op != NODE_VIRT_MIGRATE || strcmp(other->req.uuid, j->req.uuid) != 0)
			continue;
		other->cancelled = found = true;
	}
	pthread_mutex_unlock(&v->lock);
	if (v->lib.virDomainAbortJob(dom)) {
		virt_job_fail(j);
		if (!found)
			snprintf(j->result.text, sizeof(j->result.text), "it is not migrating");
	}
}

static void job_call(struct virt_job *j, int (*call)(virDomainPtr dom), virDomainPtr dom)
{
	if (call(dom))
		virt_job_fail(j);
}

static void job_run(struct virt_job *j, virDomainPtr dom)
{
	const struct virt_lib *lib = &j->v->lib;

	switch (j->req.op) {
	case NODE_VIRT_START: job_call(j, lib->virDomainCreate, dom); break;
	case NODE_VIRT_STOP:
		job_call(j, lib->virDomainShutdown, dom);
		virt_wake(j->v);
		if (!j->result.error)
			await_off(j);
		break;
	case NODE_VIRT_KILL: job_call(j, lib->virDomainDestroy, dom); break;
	case NODE_VIRT_PAUSE: job_call(j, lib->virDomainSuspend, dom); break;
	case NODE_VIRT_RESUME: job_call(j, lib->virDomainResume, dom); break;
	case NODE_VIRT_RESET:
		if (lib->virDomainReset(dom, 0))
			virt_job_fail(j);
		break;
	case NODE_VIRT_STATS: job_stats(j, dom); break;
	case NODE_VIRT_MIGRATE: virt_job_migrate(j, dom); break;
	case NODE_VIRT_CANCEL: job_cancel(j, dom); break;
	}
}

static void *job_thread(void *arg)
{
	struct virt_job *j = arg;
	struct node_virt *v = j->v;
	virDomainPtr dom = v->lib.virDomainLookupByUUIDString(j->conn, j->req.uuid);

	if (dom) {
		job_run(j, dom);
		v->lib.virDomainFree(dom);
	} else {
		virt_job_fail(j);
	}
	v->lib.virConnectClose(j->conn);
	pthread_mutex_lock(&v->lock);
	base_list_del(&j->link);
	v->job_count--;
	pthread_mutex_unlock(&v->lock);
	virt_wake(v);
	virt_post(v, job_done, job_drop, j);
	return NULL;
}

/* ---- starting one ---- */

static int job_admit(struct node_virt *v, struct virt_job *j)
{
	if (!v->conn)
		return -ENOTCONN;
	if (v->job_count >= NODE_VIRT_MAX_JOBS)
		return -EBUSY;
	base_list_foreach (other, &v->jobs, struct virt_job, link)
		if (j->req.op == NODE_VIRT_MIGRATE && other->req.op == NODE_VIRT_MIGRATE &&
		    !strcmp(other->req.uuid, j->req.uuid))
			return -EBUSY;
	if (v->lib.virConnectRef(v->conn))
		return -ENOTCONN;
	j->conn = v->conn;
	base_list_add_tail(&v->jobs, &j->link);
	v->job_count++;
	v->refs++;
	return 0;
}

static void job_withdraw(struct node_virt *v, struct virt_job *j)
{
	v->lib.virConnectClose(j->conn);
	pthread_mutex_lock(&v->lock);
	base_list_del(&j->link);
	v->job_count--;
	pthread_mutex_unlock(&v->lock);
	virt_unref(v);
}

static int job_spawn(struct virt_job *j)
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return -rc;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&thread, &attr, job_thread, j);
	pthread_attr_destroy(&attr);
	return -rc;
}

int node_virt_start(struct node_virt *v, const struct node_virt_request *r,
		    const struct node_virt_ops *ops, void *ctx)
{
	bool migrate = r->op == NODE_VIRT_MIGRATE;
	struct virt_job *j = calloc(1, sizeof(*j));
	int rc;

	if (!j)
		return -ENOMEM;
	j->v = v;
	j->req = *r;
	j->ops = ops;
	j->ctx = ctx;
	pthread_mutex_lock(&v->lock);
	rc = job_admit(v, j);
	pthread_mutex_unlock(&v->lock);
	if (!rc) {
		rc = job_spawn(j);
		if (rc)
			job_withdraw(v, j);
	}
	if (rc)
		free(j);
	else if (migrate)
		virt_wake(v); /* so that the monitor asks for its progress */
	return rc;
}
