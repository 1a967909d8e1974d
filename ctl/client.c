/* The connection to an agent, and calls that wait for their end. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "ctl/ctl.h"

int ctl_fail(const struct ctl *c, enum control_code code, const char *fmt, ...)
{
	struct print_json j = {.f = stdout};
	char text[1500];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text_clean(text);
	fprintf(stderr, "pangaea: %s\n", text);
	if (c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "error", text);
		print_json_number(&j, "code", code);
		print_json_close(&j, '}');
		putchar('\n');
	}
	return code;
}

int ctl_check(const struct ctl *c, const struct control_reply *r)
{
	return r->code ? ctl_fail(c, r->code, "%s", r->text) : 0;
}

bool ctl_name(const struct ctl *c, const char *what, const char *name, char out[TEXT_NAME_MAX])
{
	if (!text_name_valid(name)) {
		ctl_fail(c, CONTROL_USAGE, "'%.80s' is no %s name", name, what);
		return false;
	}
	memcpy(out, name, strlen(name) + 1);
	return true;
}

bool ctl_vm_request(const struct ctl *c, enum control_op op, struct control_request *req)
{
	*req = (struct control_request){.op = op};
	if (c->node && !ctl_name(c, "node", c->node, req->node))
		return false;
	return ctl_name(c, "VM", c->args[0], req->vm);
}

/* ---- connecting ---- */

static int load_cluster(struct ctl *c)
{
	char path[CTL_PATH_MAX], why[CLUSTER_WHY_MAX];
	int rc;

	snprintf(path, sizeof(path), "%s/cluster.yaml", c->home);
	rc = cluster_read(path, true, &c->cluster, why);
	if (rc)
		return ctl_fail(c, rc == -ENOENT ? CONTROL_NOT_FOUND : CONTROL_FAILED, "%s%s", why,
				rc == -ENOENT
					? "; 'pangaea init' makes a cluster, --home says where "
					  "it is"
					: "");
	return 0;
}

static int load_channel(struct ctl *c)
{
	struct chan_config config = {.loop = c->loop, .name = "pangaea"};
	char path[CTL_PATH_MAX], why[CLUSTER_WHY_MAX];
	int rc;

	snprintf(path, sizeof(path), "%s/keys/admin.key", c->home);
	rc = keys_load(path, &config.keys, why, sizeof(why));
	if (rc)
		return ctl_fail(c, CONTROL_DENIED, "%s", why);
	rc = chan_new(&config, &c->chan);
	explicit_bzero(&config.keys, sizeof(config.keys));
	return rc ? ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc)) : 0;
}

/* The agent of --agent, or of this host, or any. */
static const struct cluster_node *first_choice(const struct ctl *c)
{
	BASE_AUTO_FILE FILE *f = NULL;
	char path[CTL_PATH_MAX], name[TEXT_NAME_MAX + 2] = "";

	if (c->agent)
		return cluster_find(c->cluster, c->agent);
	snprintf(path, sizeof(path), "%s/node", c->home);
	f = fopen(path, "re");
	if (f && fgets(name, sizeof(name), f))
		name[strcspn(name, "\n")] = 0;
	return name[0] ? cluster_find(c->cluster, name) : NULL;
}

static int link_to(struct ctl *c, const struct cluster_node *n)
{
	int rc;

	chan_link_free(c->link);
	c->link = NULL;
	rc = chan_link_new(c->chan, n->address, n->port, &n->key, false, NULL, NULL, &c->link);
	if (rc)
		return ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc));
	memcpy(c->talking_to, n->name, sizeof(c->talking_to));
	while (!chan_link_up(c->link) && !chan_link_down(c->link)) {
		rc = base_loop_step(c->loop, -1);
		if (rc)
			return ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc));
	}
	return 0;
}

int ctl_connect(struct ctl *c)
{
	const struct cluster_node *n;
	int rc;

	if (c->link)
		return 0;
	rc = base_loop_new(&c->loop);
	if (rc)
		return ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc));
	rc = load_cluster(c);
	if (!rc)
		rc = load_channel(c);
	if (rc)
		return rc;
	n = first_choice(c);
	if (!n && c->agent)
		return ctl_fail(c, CONTROL_NOT_FOUND, "--agent: there is no node '%s'", c->agent);
	if (n)
		return link_to(c, n);
	for (size_t i = 0; i < c->cluster->node_count; i++) {
		rc = link_to(c, &c->cluster->nodes[i]);
		if (rc || chan_link_up(c->link))
			return rc;
	}
	return 0;
}

void ctl_disconnect(struct ctl *c)
{
	chan_link_free(c->link);
	chan_free(c->chan);
	base_loop_free(c->loop);
	free(c->cluster);
	c->link = NULL;
	c->chan = NULL;
	c->loop = NULL;
	c->cluster = NULL;
}

/* ---- calls ---- */

struct waiting {
	struct ctl *ctl;
	struct chan_out *out;
	ctl_item *item;
	void *arg;
	struct control_reply *reply;
	bool over;
	int code;
};

static void call_item(void *arg, const void *body, size_t len)
{
	struct waiting *w = arg;
	struct control_reply item;
	bool go_on;

	if (control_reply_decode(body, len, &item)) {
		chan_out_cancel(w->out);
		w->over = true;
		w->code = ctl_fail(w->ctl, CONTROL_FAILED, "the agent's answer is malformed");
		return;
	}
	go_on = !w->item || w->item(w->arg, &item);
	control_reply_fini(&item);
	if (go_on) {
		chan_out_grant(w->out, 1);
		return;
	}
	chan_out_cancel(w->out);
	*w->reply = (struct control_reply){.text = ""};
	w->over = true;
}

static void call_done(void *arg, int error, const void *body, size_t len)
{
	struct waiting *w = arg;

	w->over = true;
	if (error)
		w->code = ctl_fail(w->ctl, control_code_of(error), "node %s: %s",
				   w->ctl->talking_to, control_error_text(error));
	else if (control_reply_decode(body, len, w->reply))
		w->code = ctl_fail(w->ctl, CONTROL_FAILED, "the agent's answer is malformed");
}

static const struct chan_out_ops call_ops = {.item = call_item, .done = call_done};

static int call_timeout(const struct ctl *c, const struct control_request *req)
{
	uint64_t ms = c->timeout_ms;

	/* These wait for something: the agent keeps the time, we only back it up. */
	if (req->op == CONTROL_VM_STOP)
		ms = req->timeout_ms + CTL_CALL_MS;
	else if (req->op == CONTROL_VM_RUN)
		ms = CTL_RUN_MS;
	else if ((req->op == CONTROL_VM_CHECKPOINT || req->op == CONTROL_VM_RESTORE) && !ms)
		ms = 3600000;
	else if (!ms)
		ms = CTL_CALL_MS;
	return (int)BASE_MIN(ms, UINT64_C(0x7fffffff));
}

int ctl_call(struct ctl *c, const struct control_request *req, ctl_item *item, void *arg,
	     struct control_reply *out)
{
	struct waiting w = {.ctl = c, .item = item, .arg = arg, .reply = out};
	uint8_t *body;
	size_t len;
	int rc = ctl_connect(c);

	if (rc)
		return rc;
	rc = control_request_encode(req, &body, &len);
	if (rc)
		return ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc));
	rc = chan_link_call(c->link, body, len, call_timeout(c, req), item != NULL, &call_ops, &w,
			    &w.out);
	free(body);
	while (!rc && !w.over)
		rc = base_loop_step(c->loop, -1);
	if (rc)
		return ctl_fail(c, CONTROL_FAILED, "%s", strerror(-rc));
	return w.code;
}
