/* One question to every node of the cluster, and all answers together. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/agent.h"

enum { AGAIN_MS = 50 };

/* What belongs to one question under way. */
struct ask {
	struct agent_gather *gather;
	struct agent_answer *answer;
	int64_t sent_ns;
};

static void gather_finish(void *arg)
{
	struct agent_gather *g = arg;

	g->done(g);
	for (size_t i = 0; i < g->count; i++)
		if (!g->answers[i].error)
			control_reply_fini(&g->answers[i].reply);
	if (g->again) {
		base_loop_timer(g->agent->loop, &g->timer,
				base_clock_ns() + AGAIN_MS * BASE_NS_PER_MS);
		return;
	}
	control_request_fini(&g->req);
	free(g);
}

static void answer_take(struct agent_answer *n, int error, const void *body, size_t len)
{
	n->error = error ? error : control_reply_decode(body, len, &n->reply);
}

static void ask_done(void *arg, int error, const void *body, size_t len)
{
	struct ask *ask = arg;
	struct agent_gather *g = ask->gather;

	answer_take(ask->answer, error, body, len);
	ask->answer->rtt_ns = (uint64_t)(base_clock_ns() - ask->sent_ns);
	free(ask);
	if (--g->open == 0)
		gather_finish(g);
}

static const struct chan_out_ops ask_ops = {.done = ask_done};

static int ask_peer(struct agent_gather *g, struct agent_peer *peer, struct agent_answer *answer,
		    const void *body, size_t len)
{
	struct ask *ask = malloc(sizeof(*ask));
	int rc;

	if (!ask)
		return -ENOMEM;
	*ask = (struct ask){g, answer, base_clock_ns()};
	rc = chan_link_call(peer->link, body, len, AGENT_PEER_MS, false, &ask_ops, ask, NULL);
	if (rc)
		free(ask);
	else
		g->open++;
	return rc;
}

static void ask_self(struct agent *a, struct agent_answer *answer,
		     const struct control_request *req)
{
	uint8_t *data;
	size_t len;
	int rc = agent_local_now(a, req, &data, &len);

	if (rc) {
		answer->error = rc;
		return;
	}
	answer_take(answer, 0, data, len);
	free(data);
}

static int gather_start(struct agent_gather *g)
{
	struct control_request ask = {.op = g->op, .local = true};
	struct agent *a = g->agent;
	uint8_t *body;
	size_t len;
	int rc;

	memcpy(ask.vm, g->req.spec ? g->req.spec->name : g->req.vm, sizeof(ask.vm));
	rc = control_request_encode(&ask, &body, &len);
	if (rc)
		return rc;
	/* Held open until all are asked: a failed one must not finish it early. */
	g->open = 1;
	for (size_t i = 0; i < a->cluster->node_count; i++) {
		struct agent_answer *n = &g->answers[g->count++];

		n->node = a->peers[i].node;
		if (!a->peers[i].link) {
			ask_self(a, n, &ask);
			continue;
		}
		rc = ask_peer(g, &a->peers[i], n, body, len);
		if (rc)
			n->error = rc;
	}
	free(body);
	if (--g->open == 0)
		return base_loop_post(a->loop, gather_finish, g);
	return 0;
}

static void gather_again(struct base_timer *t)
{
	struct agent_gather *g = base_container_of(t, struct agent_gather, timer);

	g->again = false;
	g->count = 0;
	memset(g->answers, 0, sizeof(g->answers));
	if (!gather_start(g))
		return;
	agent_reply_text(g->call, CONTROL_FAILED, "out of memory");
	control_request_fini(&g->req);
	free(g);
}

void agent_gather_again(struct agent_gather *g)
{
	g->tries++;
	g->again = true;
	g->timer.fire = gather_again;
}

void agent_gather(struct agent *a, struct chan_call *call, struct control_request *req,
		  enum control_op op, void (*done)(struct agent_gather *g))
{
	struct agent_gather *g = calloc(1, sizeof(*g));
	int rc = -ENOMEM;

	if (g) {
		g->agent = a;
		g->call = call;
		g->req = *req;
		g->done = done;
		g->op = op;
		rc = gather_start(g);
		if (!rc)
			return;
		free(g);
	}
	control_request_fini(req);
	agent_reply_text(call, CONTROL_FAILED, "out of memory");
}
