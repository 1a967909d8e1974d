#include "node/libvirt/virt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "node/libvirt/virt_impl.h"

struct post {
	struct node_virt *v;
	void (*fn)(struct node_virt *v, void *arg);
	void (*drop)(void *arg);
	void *arg;
};

/* ---- life ---- */

void virt_unref(struct node_virt *v)
{
	bool last;

	pthread_mutex_lock(&v->lock);
	last = --v->refs == 0;
	pthread_mutex_unlock(&v->lock);
	if (!last)
		return;
	close(v->wake_fd);
	pthread_cond_destroy(&v->changed);
	pthread_mutex_destroy(&v->lock);
	free(v->domains);
	free(v);
}

/* Waits by the monotonic clock. */
static int init_locks(struct node_virt *v)
{
	pthread_condattr_t attr;
	int rc = pthread_condattr_init(&attr);

	if (rc)
		return -rc;
	rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!rc)
		rc = pthread_cond_init(&v->changed, &attr);
	pthread_condattr_destroy(&attr);
	if (!rc)
		rc = pthread_mutex_init(&v->lock, NULL);
	return -rc;
}

static int start_monitor(struct node_virt *v)
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return -rc;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	v->refs++;
	rc = pthread_create(&thread, &attr, virt_monitor, v);
	pthread_attr_destroy(&attr);
	if (rc)
		v->refs--;
	return -rc;
}

int node_virt_new(const struct node_virt_config *config, struct node_virt **out)
{
	const char *library = config->library ? config->library : "libvirt.so.0";
	struct node_virt *v;
	int rc;

	if (strlen(config->uri) >= sizeof(v->uri) || strlen(library) >= sizeof(v->library))
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	rc = init_locks(v);
	if (rc) {
		free(v);
		return rc;
	}
	v->loop = config->loop;
	v->event = config->event;
	v->event_ctx = config->ctx;
	v->refs = 1;
	base_list_init(&v->jobs);
	snprintf(v->uri, sizeof(v->uri), "%s", config->uri);
	snprintf(v->library, sizeof(v->library), "%s", library);
	snprintf(v->status.uri, sizeof(v->status.uri), "%s", config->uri);
	snprintf(v->status.why, sizeof(v->status.why), "not tried yet");
	v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = v->wake_fd < 0 ? -errno : start_monitor(v);
	if (rc) {
		virt_unref(v);
		return rc;
	}
	*out = v;
	return 0;
}

void node_virt_free(struct node_virt *v)
{
	if (!v)
		return;
	pthread_mutex_lock(&v->lock);
	v->closing = true;
	pthread_cond_broadcast(&v->changed);
	pthread_mutex_unlock(&v->lock);
	virt_wake(v);
	virt_unref(v);
}

void virt_wake(struct node_virt *v)
{
	uint64_t one = 1;

	if (write(v->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warn("libvirt: %s", strerror(errno));
}

/* ---- to the loop ---- */

static void post_run(void *arg)
{
	struct post *p = arg;
	bool closing;

	pthread_mutex_lock(&p->v->lock);
	closing = p->v->closing; /* set by this very thread: it stays as it is */
	pthread_mutex_unlock(&p->v->lock);
	if (closing)
		p->drop(p->arg);
	else
		p->fn(p->v, p->arg);
	virt_unref(p->v);
	free(p);
}

void virt_post(struct node_virt *v, void (*fn)(struct node_virt *v, void *arg),
	       void (*drop)(void *arg), void *arg)
{
	struct post *p = malloc(sizeof(*p));
	int rc = p ? -ECANCELED : -ENOMEM;

	/* Under the lock: the loop may be freed once we are closed. */
	pthread_mutex_lock(&v->lock);
	if (p && !v->closing) {
		*p = (struct post){v, fn, drop, arg};
		rc = base_loop_post(v->loop, post_run, p);
		v->refs += !rc;
	}
	pthread_mutex_unlock(&v->lock);
	if (!rc)
		return;
	if (rc != -ECANCELED)
		log_error("libvirt: a message is lost: %s", strerror(-rc));
	free(p);
	drop(arg);
}

struct told {
	char name[NODE_VIRT_NAME_MAX], text[NODE_VIRT_TEXT_MAX];
};

static void tell_run(struct node_virt *v, void *arg)
{
	struct told *t = arg;

	if (v->event)
		v->event(v->event_ctx, t->name, t->text);
	free(t);
}

void virt_tell(struct node_virt *v, const char *name, const char *text)
{
	struct told *t = malloc(sizeof(*t));

	if (!t)
		return;
	snprintf(t->name, sizeof(t->name), "%s", name);
	snprintf(t->text, sizeof(t->text), "%s", text);
	virt_post(v, tell_run, free, t);
}

/* ---- what is known ---- */

void node_virt_status(struct node_virt *v, struct node_virt_status *out)
{
	pthread_mutex_lock(&v->lock);
	*out = v->status;
	pthread_mutex_unlock(&v->lock);
}

void node_virt_cpu_xml(struct node_virt *v, char *out, size_t cap)
{
	pthread_mutex_lock(&v->lock);
	snprintf(out, cap, "%s", v->cpu_xml);
	pthread_mutex_unlock(&v->lock);
}

size_t node_virt_list(struct node_virt *v, struct node_virt_domain *out, size_t max)
{
	size_t n;

	pthread_mutex_lock(&v->lock);
	n = BASE_MIN(max, v->domain_count);
	if (n)
		memcpy(out, v->domains, n * sizeof(*out));
	pthread_mutex_unlock(&v->lock);
	return n;
}

bool node_virt_find(struct node_virt *v, const char *which, struct node_virt_domain *out)
{
	const struct node_virt_domain *found = NULL;

	pthread_mutex_lock(&v->lock);
	for (size_t i = 0; i < v->domain_count && !found; i++)
		if (!strcmp(which, v->domains[i].name))
			found = &v->domains[i];
	for (size_t i = 0; i < v->domain_count && !found; i++)
		if (!strcmp(which, v->domains[i].uuid))
			found = &v->domains[i];
	if (found)
		*out = *found;
	pthread_mutex_unlock(&v->lock);
	return found != NULL;
}
