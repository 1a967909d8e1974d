/* The host's libvirt domains beside our own VMs: listed with them, and asked by the same requests. */
#include "node/libvirt/virt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "node/agent/agent.h"

/* A request under way. */
struct virt_call {
	struct agent *agent;
	struct chan_call *call; /* NULL: who asked has gone */
	enum control_op op;
	struct node_virt_domain domain;
	const struct cluster_node *peer; /* VM_MIGRATE */
	struct control_migrate migrate;
};

/* ---- what is there ---- */

static void virt_event(void *ctx, const char *name, const char *text)
{
	bool usual = text_name_valid(name);

	agent_event(ctx, usual ? name : "", "libvirt", "%s%s%s", usual ? "" : name,
		    usual || !name[0] ? "" : " ", text);
}

int agent_virt_open(struct agent *a, const struct agent_options *o)
{
	struct node_virt_config config = {
		.loop = a->loop, .uri = o->libvirt, .event = virt_event, .ctx = a};
	int rc;

	if (!o->libvirt || !strcmp(o->libvirt, "none"))
		return 0;
	if (o->libvirt_peer && strlen(o->libvirt_peer) >= sizeof(a->virt_peer)) {
		log_error("--libvirt-peer: the URI is too long");
		return -EINVAL;
	}
	if (o->libvirt_peer)
		snprintf(a->virt_peer, sizeof(a->virt_peer), "%s", o->libvirt_peer);
	else
		snprintf(a->virt_peer, sizeof(a->virt_peer), "qemu://%s/system", a->self->address);
	rc = node_virt_new(&config, &a->virt);
	if (rc)
		log_error("libvirt '%s': %s", o->libvirt, strerror(-rc));
	return rc;
}

/* What stands for a domain where only a valid name may: such a name, or the UUID. */
static const char *label(const struct node_virt_domain *d)
{
	return text_name_valid(d->name) ? d->name : d->uuid;
}

static void record(const struct agent *a, const struct node_virt_domain *d, struct control_vm *out)
{
	*out = (struct control_vm){.name = d->name,
				   .node = a->self->name,
				   .state = d->state,
				   .reason = text_name_valid(d->name) ? "" : d->uuid,
				   .kind = "libvirt",
				   .vcpus = d->vcpus,
				   .memory_bytes = d->memory_bytes};
}

size_t agent_virt_records(struct agent *a, const char *name, struct node_virt_domain *domains,
			  struct control_vm *out, size_t max)
{
	size_t count = 0;

	if (!a->virt)
		return 0;
	if (name[0])
		count = max && node_virt_find(a->virt, name, domains);
	else
		count = node_virt_list(a->virt, domains, max);
	for (size_t i = 0; i < count; i++)
		record(a, &domains[i], &out[i]);
	return count;
}

size_t agent_virt_items(struct agent *a, struct node_virt_status *s, struct control_item *items)
{
	if (!a->virt)
		return 0;
	node_virt_status(a->virt, s);
	items[0] =
		(struct control_item){"libvirt", s->connected ? s->software : s->why, s->connected};
	items[1] = (struct control_item){"libvirt_domains", "", s->domains};
	items[2] = (struct control_item){"libvirt_cpu", s->cpu_model, s->cpus};
	items[3] = (struct control_item){"libvirt_peer", a->virt_peer, 0};
	return AGENT_VIRT_ITEMS;
}

/* ---- the end of a request ---- */

static enum control_code code_of(int error)
{
	return error == -ENOTCONN    ? CONTROL_UNREACHABLE
	       : error == -EINVAL    ? CONTROL_USAGE
	       : error == -ECANCELED ? CONTROL_FAILED
				     : control_code_of(error);
}

static void call_end(struct virt_call *c, const struct control_reply *reply)
{
	if (c->call)
		agent_reply(c->call, reply);
	free(c);
}

static void call_fail(struct virt_call *c, enum control_code code, const char *why)
{
	if (c->op == CONTROL_VM_MIGRATE)
		agent_event(c->agent, label(&c->domain), "migrate", "to %s failed: %s",
			    c->peer->name, why);
	if (c->call)
		agent_reply_text(c->call, code, "%s: %s", c->domain.name, why);
	free(c);
}

static void answer_stats(struct virt_call *c, const struct node_virt_result *r)
{
	BASE_AUTO_FREE struct control_item *items = calloc(r->stat_count + 1, sizeof(*items));
	struct control_reply reply = {.items = items};

	for (size_t i = 0; items && i < r->stat_count; i++)
		items[reply.item_count++] =
			(struct control_item){r->stats[i].name, "", r->stats[i].value};
	call_end(c, &reply);
}

/* ---- migration ---- */

enum { ITEMS = 11 };

static void progress_items(const struct node_virt_progress *p, struct control_item items[ITEMS])
{
	const struct control_item all[ITEMS] = {
		{"round", "", p->round},
		{"pages_total", "", p->pages_total},
		{"pages_left", "", p->pages_left},
		{"bytes_sent", "", p->bytes_sent},
		{"pages_sent", "", p->pages_sent},
		{"pages_zero", "", p->pages_zero},
		{"rate", "", p->rate},
		{"dirty_rate", "", p->dirty_rate},
		{"throttle", "", p->throttle},
		{"total_ns", "", p->total_ns},
		{"downtime_ns", "", p->downtime_ns},
	};

	memcpy(items, all, sizeof(all));
}

static void migrate_progress(void *ctx, const struct node_virt_progress *p)
{
	struct virt_call *c = ctx;
	struct control_item items[ITEMS];
	struct control_reply r = {.text = "copying", .items = items, .item_count = ITEMS};

	progress_items(p, items);
	if (c->call && agent_item(c->call, &r))
		log_debug("%s: nobody reads the progress", c->domain.name);
}

static void answer_moved(struct virt_call *c, const struct node_virt_progress *p)
{
	struct control_item items[ITEMS];
	struct control_reply r = {.text = "done", .items = items, .item_count = ITEMS};

	progress_items(p, items);
	agent_event(c->agent, label(&c->domain), "migrate",
		    "moved to %s in %" PRIu64 " ms, downtime %" PRIu64 " ms, %" PRIu64
		    " rounds, %" PRIu64 " MB",
		    c->peer->name, p->total_ns / 1000000, p->downtime_ns / 1000000, p->round,
		    p->bytes_sent / 1000000);
	call_end(c, &r);
}

static void request_done(void *ctx, const struct node_virt_result *r)
{
	struct virt_call *c = ctx;
	struct control_vm vm;

	if (r->error) {
		call_fail(c, code_of(r->error), r->text[0] ? r->text : strerror(-r->error));
	} else if (c->op == CONTROL_VM_MIGRATE) {
		answer_moved(c, &r->progress);
	} else if (c->op == CONTROL_VM_STATS) {
		answer_stats(c, r);
	} else {
		record(c->agent, &c->domain, &vm);
		call_end(c, &(struct control_reply){.vms = &vm, .vm_count = 1});
	}
}

static const struct node_virt_ops request_ops = {.progress = migrate_progress,
						 .done = request_done};

static void request_start(struct virt_call *c, const struct node_virt_request *r)
{
	int rc = node_virt_start(c->agent->virt, r, &request_ops, c);

	if (rc)
		call_fail(c, code_of(rc),
			  rc == -ENOTCONN ? "libvirtd is not reached"
			  : rc == -EBUSY  ? "it is migrating, or too much is asked of libvirt"
					  : strerror(-rc));
}

static const char *item_text(const struct control_reply *r, const char *name)
{
	for (size_t i = 0; i < r->item_count; i++)
		if (!strcmp(r->items[i].name, name))
			return r->items[i].text;
	return "";
}

static bool peer_has_libvirt(const struct control_reply *r)
{
	for (size_t i = 0; i < r->item_count; i++)
		if (!strcmp(r->items[i].name, "libvirt"))
			return r->items[i].value != 0;
	return false;
}

static void migrate_start(struct virt_call *c, const struct control_reply *peer)
{
	struct node_virt_request r = {.op = NODE_VIRT_MIGRATE,
				      .bandwidth = c->migrate.bandwidth,
				      .max_downtime_ms = c->migrate.max_downtime_ms,
				      .connections = c->migrate.channels,
				      .encrypt = c->migrate.encrypt};
	const char *uri = item_text(peer, "libvirt_peer");
	char why[NODE_VIRT_TEXT_MAX + 64];

	if (!peer_has_libvirt(peer) || !uri[0] || strlen(uri) >= sizeof(r.to_uri)) {
		snprintf(why, sizeof(why), "node %s has no libvirtd: %.300s", c->peer->name,
			 item_text(peer, "libvirt"));
		call_fail(c, CONTROL_UNREACHABLE, why);
		return;
	}
	memcpy(r.uuid, c->domain.uuid, sizeof(r.uuid));
	memcpy(r.to_uri, uri, strlen(uri) + 1);
	snprintf(r.data_uri, sizeof(r.data_uri), "tcp://%s", c->peer->address);
	agent_event(c->agent, label(&c->domain), "migrate", "to %s by libvirt", c->peer->name);
	request_start(c, &r);
}

static void peer_told(void *ctx, int error, const void *body, size_t len)
{
	struct virt_call *c = ctx;
	struct control_reply r;

	if (!error)
		error = control_reply_decode(body, len, &r);
	if (error) {
		call_fail(c, control_code_of(error), control_error_text(error));
		return;
	}
	migrate_start(c, &r);
	control_reply_fini(&r);
}

static const struct chan_out_ops peer_ops = {.done = peer_told};

static void migrate_cancelled(void *ctx)
{
	struct virt_call *c = ctx;

	/* Who asked has gone; the migration goes on. */
	chan_call_reply(c->call, NULL, 0);
	c->call = NULL;
}

static const struct chan_call_ops migrate_call_ops = {.cancel = migrate_cancelled};

/* Asks the other node where its libvirtd is. */
static void migrate_ask(struct virt_call *c)
{
	struct control_request ask = {.op = CONTROL_NODE_INFO, .local = true};
	struct agent *a = c->agent;
	struct chan_link *link = a->peers[c->peer - a->cluster->nodes].link;
	uint8_t *body;
	size_t len;
	int rc = control_request_encode(&ask, &body, &len);

	chan_call_stream(c->call, &migrate_call_ops, c);
	if (!rc) {
		rc = chan_link_call(link, body, len, AGENT_PEER_MS, false, &peer_ops, c, NULL);
		free(body);
	}
	if (rc)
		call_fail(c, control_code_of(rc), control_error_text(rc));
}

/* ---- requests ---- */

static bool refuse_migrate(struct agent *a, struct chan_call *call, const struct control_migrate *m,
			   const struct node_virt_domain *d, const struct cluster_node *to)
{
	if (!to)
		agent_reply_text(call, CONTROL_NOT_FOUND,
				 "there is no node '%s'; 'pangaea node ls' lists them", m->target);
	else if (to == a->self)
		agent_reply_text(call, CONTROL_USAGE, "%s is on node %s already", d->name,
				 to->name);
	else if (!d->active)
		agent_reply_text(call, CONTROL_BUSY, "%s is %s; only a running domain migrates",
				 d->name, d->state);
	else
		return false;
	return true;
}

static enum node_virt_op virt_op(enum control_op op)
{
	switch (op) {
	case CONTROL_VM_START: return NODE_VIRT_START;
	case CONTROL_VM_STOP: return NODE_VIRT_STOP;
	case CONTROL_VM_KILL: return NODE_VIRT_KILL;
	case CONTROL_VM_PAUSE: return NODE_VIRT_PAUSE;
	case CONTROL_VM_RESUME: return NODE_VIRT_RESUME;
	case CONTROL_VM_RESET: return NODE_VIRT_RESET;
	case CONTROL_VM_STATS: return NODE_VIRT_STATS;
	case CONTROL_VM_MIGRATE: return NODE_VIRT_MIGRATE;
	case CONTROL_VM_MIGRATE_CANCEL: return NODE_VIRT_CANCEL;
	default: return 0;
	}
}

static void answer_info(struct agent *a, struct chan_call *call, const struct node_virt_domain *d)
{
	struct control_vm vm;
	struct control_item item = {"uuid", d->uuid, 0};

	record(a, d, &vm);
	agent_reply(call, &(struct control_reply){
				  .vms = &vm, .vm_count = 1, .items = &item, .item_count = 1});
}

static void request_domain(struct agent *a, struct chan_call *call,
			   const struct control_request *req, const struct node_virt_domain *d)
{
	const struct cluster_node *to = cluster_find(a->cluster, req->migrate.target);
	struct node_virt_request r = {.op = virt_op(req->op)};
	struct virt_call *c;

	if (req->op == CONTROL_VM_MIGRATE && refuse_migrate(a, call, &req->migrate, d, to))
		return;
	c = calloc(1, sizeof(*c));
	if (!c) {
		agent_reply_text(call, CONTROL_FAILED, "out of memory");
		return;
	}
	*c = (struct virt_call){a, call, req->op, *d, to, req->migrate};
	if (req->op == CONTROL_VM_MIGRATE) {
		migrate_ask(c);
		return;
	}
	memcpy(r.uuid, d->uuid, sizeof(r.uuid));
	r.timeout_ms =
		req->timeout_ms ? BASE_MIN(req->timeout_ms, UINT64_C(86400000)) : AGENT_STOP_MS;
	request_start(c, &r);
}

bool agent_virt_request(struct agent *a, struct chan_call *call, const struct control_request *req)
{
	struct node_virt_domain d;

	if (!a->virt || !node_virt_find(a->virt, req->vm, &d))
		return false;
	if (req->op == CONTROL_VM_INFO)
		answer_info(a, call, &d);
	else if (!virt_op(req->op))
		agent_reply_text(call, CONTROL_USAGE,
				 "%s is a libvirt domain: 'virsh' does this for those", d.name);
	else
		request_domain(a, call, req, &d);
	return true;
}
