/*
 * The monitor: the one thread that opens and closes the connection and runs libvirt's event loop.
 * It looks at all domains whenever libvirt reports a change, a request has ended, or some seconds
 * have passed.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "node/libvirt/virt_impl.h"

enum { CONNECT_AGAIN_MS = 3000, REFRESH_MS = 5000, PROGRESS_MS = 250, KEEPALIVE_S = 5 };

/* ---- the state of a domain ---- */

static const char *state_name(int state, int reason)
{
	/* At the destination until it arrives, and at the source from its pause on. */
	if (state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_MIGRATION)
		return "migrating";
	switch (state) {
	case VIR_DOMAIN_RUNNING: return "running";
	case VIR_DOMAIN_BLOCKED: return "blocked";
	case VIR_DOMAIN_PAUSED: return "paused";
	case VIR_DOMAIN_SHUTDOWN: return "stopping";
	case VIR_DOMAIN_SHUTOFF: return "off";
	case VIR_DOMAIN_CRASHED: return "crashed";
	case VIR_DOMAIN_PMSUSPENDED: return "asleep";
	default: return "unknown";
	}
}

static bool state_active(int state)
{
	return state != VIR_DOMAIN_SHUTOFF && state != VIR_DOMAIN_CRASHED &&
	       state != VIR_DOMAIN_NOSTATE;
}

static bool domain_read(const struct virt_lib *lib, virDomainPtr dom, struct node_virt_domain *out)
{
	const char *name = lib->virDomainGetName(dom);
	char uuid[VIR_UUID_STRING_BUFLEN];
	virDomainInfo info;
	int state, reason;

	/* One that has gone meanwhile is no domain of ours any more. */
	if (!name || lib->virDomainGetUUIDString(dom, uuid) || lib->virDomainGetInfo(dom, &info) ||
	    lib->virDomainGetState(dom, &state, &reason, 0))
		return false;
	*out = (struct node_virt_domain){.state = state_name(state, reason),
					 .active = state_active(state),
					 .persistent = lib->virDomainIsPersistent(dom) == 1,
					 .vcpus = info.nrVirtCpu,
					 .memory_bytes = (uint64_t)info.maxMem * 1024,
					 .cpu_time_ns = info.cpuTime};
	snprintf(out->name, sizeof(out->name), "%s", name);
	snprintf(out->uuid, sizeof(out->uuid), "%s", uuid);
	return true;
}

/* ---- the list ---- */

/* Takes over `domains`. */
static void list_publish(struct node_virt *v, struct node_virt_domain *domains, size_t count)
{
	struct node_virt_domain *old;

	pthread_mutex_lock(&v->lock);
	old = v->domains;
	v->domains = domains;
	v->domain_count = count;
	v->status.domains = count;
	v->status.active = v->status.vcpus = v->status.guest_bytes = 0;
	for (size_t i = 0; i < count; i++) {
		if (!domains[i].active)
			continue;
		v->status.active++;
		v->status.vcpus += domains[i].vcpus;
		v->status.guest_bytes += domains[i].memory_bytes;
	}
	pthread_cond_broadcast(&v->changed);
	pthread_mutex_unlock(&v->lock);
	free(old);
}

static void refresh(struct node_virt *v)
{
	const struct virt_lib *lib = &v->lib;
	struct node_virt_domain *list;
	virDomainPtr *doms = NULL;
	int n = lib->virConnectListAllDomains(v->conn, &doms, 0);
	size_t count = 0;

	if (n < 0) {
		log_debug("libvirt: no list of domains: %s", lib->virGetLastErrorMessage());
		v->lost = lib->virConnectIsAlive(v->conn) != 1;
		return;
	}
	list = calloc((size_t)n + 1, sizeof(*list));
	for (int i = 0; i < n; i++) {
		if (list && count < NODE_VIRT_MAX_DOMAINS &&
		    domain_read(lib, doms[i], &list[count]))
			count++;
		lib->virDomainFree(doms[i]);
	}
	free(doms);
	if (list)
		list_publish(v, list, count);
	v->stale = false;
}

/* ---- libvirt's events ---- */

static const char *event_text(int event)
{
	switch (event) {
	case VIR_DOMAIN_EVENT_DEFINED: return "defined";
	case VIR_DOMAIN_EVENT_UNDEFINED: return "undefined";
	case VIR_DOMAIN_EVENT_STARTED: return "started";
	case VIR_DOMAIN_EVENT_SUSPENDED: return "paused";
	case VIR_DOMAIN_EVENT_RESUMED: return "resumed";
	case VIR_DOMAIN_EVENT_STOPPED: return "stopped";
	case VIR_DOMAIN_EVENT_SHUTDOWN: return "powers off";
	case VIR_DOMAIN_EVENT_CRASHED: return "crashed";
	default: return "changed";
	}
}

static int on_lifecycle(virConnectPtr conn, virDomainPtr dom, int event, int detail, void *opaque)
{
	struct node_virt *v = opaque;
	const char *name = v->lib.virDomainGetName(dom);

	v->stale = true;
	virt_tell(v, name ? name : "?", event_text(event));
	return 0;
}

static void on_job_completed(virConnectPtr conn, virDomainPtr dom, virTypedParameterPtr params,
			     int count, void *opaque)
{
	struct node_virt *v = opaque;
	char uuid[VIR_UUID_STRING_BUFLEN];
	struct node_virt_progress p;

	if (v->lib.virDomainGetUUIDString(dom, uuid))
		return;
	virt_progress_read(&v->lib, params, count, &p);
	virt_jobs_completed(v, uuid, &p);
}

static void on_close(virConnectPtr conn, int reason, void *opaque)
{
	struct node_virt *v = opaque;

	v->lost = true;
}

static void on_wake(int watch, int fd, int events, void *opaque)
{
	struct node_virt *v = opaque;
	uint64_t count;

	if (read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		v->stale = true;
}

static void on_connect_timer(int timer, void *opaque)
{
	struct node_virt *v = opaque;

	v->lib.virEventUpdateTimeout(timer, -1);
}

static void on_refresh_timer(int timer, void *opaque)
{
	struct node_virt *v = opaque;

	v->stale = true;
}

static void on_progress_timer(int timer, void *opaque)
{
	virt_jobs_progress(opaque);
}

static void no_word(void *data, virErrorPtr error)
{
}

/* ---- the connection ---- */

/* The host's own <cpu> element out of its capabilities. */
static void read_cpu(struct node_virt *v)
{
	char *caps = v->lib.virConnectGetCapabilities(v->conn);
	const char *host = caps ? strstr(caps, "<host>") : NULL;
	const char *from = host ? strstr(host, "<cpu>") : NULL;
	const char *to = from ? strstr(from, "</cpu>") : NULL;
	const char *model = from ? strstr(from, "<model>") : NULL;
	const char *arch = from ? strstr(from, "<arch>") : NULL;
	size_t len = to ? (size_t)(to - from) + strlen("</cpu>") : 0;

	pthread_mutex_lock(&v->lock);
	v->cpu_xml[0] = v->status.cpu_model[0] = v->status.arch[0] = 0;
	if (len && len < sizeof(v->cpu_xml))
		snprintf(v->cpu_xml, sizeof(v->cpu_xml), "%.*s", (int)len, from);
	if (model && model < to)
		snprintf(v->status.cpu_model, sizeof(v->status.cpu_model), "%.*s",
			 (int)strcspn(model + 7, "<"), model + 7);
	if (arch && arch < to)
		snprintf(v->status.arch, sizeof(v->status.arch), "%.*s",
			 (int)strcspn(arch + 6, "<"), arch + 6);
	pthread_mutex_unlock(&v->lock);
	free(caps);
}

static void version_text(unsigned long n, char *out, size_t cap)
{
	snprintf(out, cap, "%lu.%lu.%lu", n / 1000000 % 1000, n / 1000 % 1000, n % 1000);
}

static void read_host(struct node_virt *v)
{
	const struct virt_lib *lib = &v->lib;
	const char *type = lib->virConnectGetType(v->conn);
	unsigned long lib_version = 0, version = 0;
	char of_lib[16], of_hyp[16];
	virNodeInfo info = {.cpus = 0};

	if (lib->virConnectGetLibVersion(v->conn, &lib_version) ||
	    lib->virConnectGetVersion(v->conn, &version) || lib->virNodeGetInfo(v->conn, &info))
		log_debug("libvirt: %s", lib->virGetLastErrorMessage());
	version_text(lib_version, of_lib, sizeof(of_lib));
	version_text(version, of_hyp, sizeof(of_hyp));
	read_cpu(v);
	pthread_mutex_lock(&v->lock);
	snprintf(v->status.software, sizeof(v->status.software), "libvirt %s, %.16s %s", of_lib,
		 type ? type : "?", of_hyp);
	v->status.cpus = info.cpus;
	v->status.memory_bytes = (uint64_t)info.memory * 1024;
	pthread_mutex_unlock(&v->lock);
}

static void set_why(struct node_virt *v, const char *why)
{
	pthread_mutex_lock(&v->lock);
	v->status.connected = false;
	snprintf(v->status.why, sizeof(v->status.why), "%s", why);
	v->status.why[strcspn(v->status.why, "\n")] = 0;
	pthread_mutex_unlock(&v->lock);
}

static void watch_domains(struct node_virt *v)
{
	const struct virt_lib *lib = &v->lib;

	v->event_ids[0] =
		lib->virConnectDomainEventRegisterAny(v->conn, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
						      VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), v,
						      NULL);
	v->event_ids[1] = lib->virConnectDomainEventRegisterAny(
		v->conn, NULL, VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
		VIR_DOMAIN_EVENT_CALLBACK(on_job_completed), v, NULL);
	/* Drivers without them are looked at every few seconds. */
	if (lib->virConnectRegisterCloseCallback(v->conn, on_close, v, NULL) ||
	    lib->virConnectSetKeepAlive(v->conn, KEEPALIVE_S, 5) < 0)
		log_debug("libvirt: %s", lib->virGetLastErrorMessage());
}

static bool monitor_connect(struct node_virt *v)
{
	virConnectPtr conn = v->lib.virConnectOpen(v->uri);
	char text[NODE_VIRT_TEXT_MAX];

	if (!conn) {
		set_why(v, v->lib.virGetLastErrorMessage());
		if (!v->said)
			log_info("libvirt: no connection to %s: %s", v->uri,
				 v->lib.virGetLastErrorMessage());
		v->said = true;
		return false;
	}
	pthread_mutex_lock(&v->lock);
	v->conn = conn;
	pthread_mutex_unlock(&v->lock);
	v->lost = false;
	watch_domains(v);
	read_host(v);
	refresh(v);
	pthread_mutex_lock(&v->lock);
	v->status.connected = true;
	v->status.why[0] = 0;
	snprintf(text, sizeof(text), "connected to %.280s: %s", v->uri, v->status.software);
	pthread_mutex_unlock(&v->lock);
	virt_tell(v, "", text);
	v->said = false;
	return true;
}

static void monitor_disconnect(struct node_virt *v, const char *why)
{
	virConnectPtr conn = v->conn;

	for (size_t i = 0; i < BASE_ARRAY_LEN(v->event_ids); i++)
		if (v->event_ids[i] >= 0)
			v->lib.virConnectDomainEventDeregisterAny(conn, v->event_ids[i]);
	v->lib.virConnectUnregisterCloseCallback(conn, on_close);
	pthread_mutex_lock(&v->lock);
	v->conn = NULL;
	pthread_mutex_unlock(&v->lock);
	v->lib.virConnectClose(conn);
	set_why(v, why);
	list_publish(v, NULL, 0);
	virt_tell(v, "", why);
}

/* ---- the thread ---- */

static int monitor_prepare(struct node_virt *v)
{
	const struct virt_lib *lib = &v->lib;

	lib->virSetErrorFunc(NULL, no_word);
	if (lib->virInitialize() || lib->virEventRegisterDefaultImpl())
		return -EIO;
	v->connect_timer = lib->virEventAddTimeout(-1, on_connect_timer, v, NULL);
	v->refresh_timer = lib->virEventAddTimeout(REFRESH_MS, on_refresh_timer, v, NULL);
	v->progress_timer = lib->virEventAddTimeout(-1, on_progress_timer, v, NULL);
	v->wake_handle =
		lib->virEventAddHandle(v->wake_fd, VIR_EVENT_HANDLE_READABLE, on_wake, v, NULL);
	return v->connect_timer < 0 || v->refresh_timer < 0 || v->progress_timer < 0 ||
			       v->wake_handle < 0
		       ? -EIO
		       : 0;
}

/* libvirt's event loop is the process's: it must not call us any more. */
static void monitor_finish(struct node_virt *v)
{
	v->lib.virEventRemoveTimeout(v->connect_timer);
	v->lib.virEventRemoveTimeout(v->refresh_timer);
	v->lib.virEventRemoveTimeout(v->progress_timer);
	v->lib.virEventRemoveHandle(v->wake_handle);
}

/* How often to ask for progress: not at all without a migration. */
static bool monitor_state(struct node_virt *v, bool *migrating)
{
	bool closing;

	*migrating = false;
	pthread_mutex_lock(&v->lock);
	closing = v->closing;
	base_list_foreach (j, &v->jobs, struct virt_job, link)
		*migrating |= j->req.op == NODE_VIRT_MIGRATE;
	pthread_mutex_unlock(&v->lock);
	return !closing;
}

static void monitor_run(struct node_virt *v)
{
	const struct virt_lib *lib = &v->lib;
	bool migrating, asked = false;

	while (monitor_state(v, &migrating)) {
		if (!v->conn && !monitor_connect(v))
			lib->virEventUpdateTimeout(v->connect_timer, CONNECT_AGAIN_MS);
		if (v->conn && v->stale)
			refresh(v);
		if (v->conn && v->lost) {
			monitor_disconnect(v, "the connection to libvirtd was lost");
			lib->virEventUpdateTimeout(v->connect_timer, CONNECT_AGAIN_MS);
		}
		if (migrating != asked)
			lib->virEventUpdateTimeout(v->progress_timer, migrating ? PROGRESS_MS : -1);
		asked = migrating;
		if (lib->virEventRunDefaultImpl())
			log_debug("libvirt: %s", lib->virGetLastErrorMessage());
	}
	if (v->conn)
		monitor_disconnect(v, "closed");
	monitor_finish(v);
}

/* A monitor that was told to end may be in a call of libvirt still; it must not serve the next one's. */
static pthread_mutex_t event_loop = PTHREAD_MUTEX_INITIALIZER;

void *virt_monitor(void *arg)
{
	struct node_virt *v = arg;
	char why[NODE_VIRT_TEXT_MAX];
	bool loaded = !virt_lib_open(v->library, &v->lib, why, sizeof(why));

	if (!loaded)
		set_why(v, why);
	pthread_mutex_lock(&event_loop);
	if (loaded && monitor_prepare(v))
		set_why(v, "libvirt's event loop cannot be had");
	else if (loaded)
		monitor_run(v);
	pthread_mutex_unlock(&event_loop);
	virt_unref(v);
	return NULL;
}
