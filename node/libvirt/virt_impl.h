/* What the files of node/libvirt/ share. */
#ifndef NODE_LIBVIRT_VIRT_IMPL_H
#define NODE_LIBVIRT_VIRT_IMPL_H

#include <pthread.h>

#include "node/libvirt/virt.h"
#include "node/libvirt/virt_lib.h"

/* One request. Made on the loop's thread, then its own thread's, then the loop's again. */
struct virt_job {
	struct base_list link; /* in node_virt.jobs, under its lock */
	struct node_virt *v;
	struct node_virt_request req;
	const struct node_virt_ops *ops;
	void *ctx;
	virConnectPtr conn;		  /* a reference of its own */
	struct node_virt_result result;	  /* its thread's */
	struct node_virt_progress latest; /* under the lock */
	bool completed;			  /* latest: the summary of a finished migration */
	bool cancelled;			  /* under the lock */
};

struct node_virt {
	struct virt_lib lib; /* complete before `ready` */
	struct base_loop *loop;
	char uri[NODE_VIRT_TEXT_MAX], library[256];
	void (*event)(void *ctx, const char *name, const char *text);
	void *event_ctx;
	int wake_fd; /* an eventfd of the monitor */

	pthread_mutex_t lock;	/* of all below */
	pthread_cond_t changed; /* the list is new */
	unsigned refs;
	bool closing;
	virConnectPtr conn; /* NULL: none */
	struct node_virt_status status;
	char cpu_xml[NODE_VIRT_CPU_XML_MAX];
	struct node_virt_domain *domains;
	size_t domain_count;
	struct base_list jobs;
	unsigned job_count;

	/* The monitor's alone. */
	bool lost, stale, said;
	int connect_timer, refresh_timer, progress_timer, wake_handle;
	int event_ids[2];
};

/* ---- virt.c ---- */

void virt_unref(struct node_virt *v);
/* Has the monitor look again, soon. Any thread. */
void virt_wake(struct node_virt *v);
/* The event of a domain, or of the connection, to the loop. Any thread. */
void virt_tell(struct node_virt *v, const char *name, const char *text);
/* Runs fn(v, arg) on the loop's thread, or drop(arg) when the object is closed by then. */
void virt_post(struct node_virt *v, void (*fn)(struct node_virt *v, void *arg),
	       void (*drop)(void *arg), void *arg);

/* ---- virt_monitor.c ---- */

void *virt_monitor(void *arg);

/* ---- virt_job.c, virt_migrate.c ---- */

void virt_job_migrate(struct virt_job *j, virDomainPtr dom);
/* From libvirt's parameters of a job. */
void virt_progress_read(const struct virt_lib *lib, virTypedParameterPtr params, int count,
			struct node_virt_progress *out);
/* The monitor's: asks for the progress of the migrations under way. */
void virt_jobs_progress(struct node_virt *v);
/* The monitor's: a migration of this domain has ended with these numbers. */
void virt_jobs_completed(struct node_virt *v, const char *uuid, const struct node_virt_progress *p);
/* Fills the result's error and text from libvirt's last error on this thread. */
void virt_job_fail(struct virt_job *j);

#endif
