/*
 * A call that another node answers. Both halves have the same window and every credit is passed on,
 * so neither half can overrun the other.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "node/agent/agent.h"

struct relay {
	struct chan_call *call;
	struct chan_out *out;
	char node[TEXT_NAME_MAX];
};

static void relay_end(struct relay *r)
{
	if (r->out)
		chan_out_cancel(r->out);
	chan_call_reply(r->call, NULL, 0);
	free(r);
}

static void relay_item(void *arg, const void *body, size_t len)
{
	struct relay *r = arg;

	if (chan_call_item(r->call, body, len))
		relay_end(r);
}

static void relay_out_credit(void *arg, uint32_t n)
{
	struct relay *r = arg;

	chan_call_grant(r->call, n);
}

static void relay_done(void *arg, int error, const void *body, size_t len)
{
	struct relay *r = arg;

	if (error)
		agent_reply_text(r->call, control_code_of(error), "node %s: %s", r->node,
				 control_error_text(error));
	else
		chan_call_reply(r->call, body, len);
	free(r);
}

static const struct chan_out_ops out_ops = {relay_item, relay_out_credit, relay_done};

static void relay_input(void *arg, const void *body, size_t len)
{
	struct relay *r = arg;

	/* The sender keeps to the credits that we pass on; else it loses what it sent. */
	if (chan_out_input(r->out, body, len))
		log_debug("input to node %s is dropped", r->node);
}

static void relay_call_credit(void *arg, uint32_t n)
{
	struct relay *r = arg;

	chan_out_grant(r->out, n);
}

static void relay_cancel(void *arg)
{
	relay_end(arg);
}

static const struct chan_call_ops call_ops = {relay_input, relay_call_credit, relay_cancel};

/* How long the other node may take until its first answer. */
static int relay_timeout(const struct control_request *req)
{
	uint64_t ms = req->timeout_ms ? req->timeout_ms : AGENT_STOP_MS;

	switch (req->op) {
	case CONTROL_VM_RUN:
		if (req->spec && req->spec->restore[0])
			return AGENT_SAVE_MS;
		return AGENT_START_MAX_MS + 2 * AGENT_PEER_MS;
	case CONTROL_VM_SPREAD:
	case CONTROL_VM_CONSOLIDATE:
	case CONTROL_VM_MIGRATE: return AGENT_START_MS + 2 * AGENT_PEER_MS;
	case CONTROL_VM_CHECKPOINT:
	case CONTROL_VM_RESTORE: return AGENT_SAVE_MS;
	case CONTROL_VM_STOP: return (int)BASE_MIN(ms, (uint64_t)INT_MAX / 2) + AGENT_PEER_MS;
	default: return 2 * AGENT_VMM_MS;
	}
}

static bool is_stream(const struct control_request *req)
{
	switch (req->op) {
	case CONTROL_VM_RUN:
	case CONTROL_VM_RESTORE:
	case CONTROL_VM_CONSOLE:
	case CONTROL_VM_CHANNEL:
	case CONTROL_VM_MIGRATE:
	case CONTROL_VM_SPREAD:
	case CONTROL_VM_CONSOLIDATE: return true;
	default: return req->follow;
	}
}

static int relay_start(struct relay *r, struct chan_link *link, const struct control_request *req)
{
	bool stream = is_stream(req);
	uint8_t *body;
	size_t len;
	int rc = control_request_encode(req, &body, &len);

	if (rc)
		return rc;
	rc = chan_link_call(link, body, len, relay_timeout(req), stream, &out_ops, r, &r->out);
	free(body);
	return rc;
}

void agent_relay(struct agent *a, const struct cluster_node *to, struct chan_call *call,
		 struct control_request *req)
{
	struct chan_link *link = a->peers[to - a->cluster->nodes].link;
	struct relay *r = calloc(1, sizeof(*r));
	int rc = !link ? -ECANCELED : r ? 0 : -ENOMEM;

	req->local = true;
	memcpy(req->node, to->name, sizeof(req->node));
	if (!rc) {
		r->call = call;
		memcpy(r->node, to->name, sizeof(r->node));
		rc = relay_start(r, link, req);
	}
	control_request_fini(req);
	if (rc) {
		free(r);
		agent_reply_text(call, control_code_of(rc), "node %s: %s", to->name,
				 control_error_text(rc));
		return;
	}
	chan_call_stream(call, &call_ops, r);
}
