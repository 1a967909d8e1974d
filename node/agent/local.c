/* What this node answers itself. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/migrate.h"
#include "node/agent/span.h"
#include "node/agent/vm.h"

/* ---- answers that need no waiting ---- */

static void node_record(struct agent *a, struct agent_host *h, struct control_node *n)
{
	agent_host_read(h);
	*n = (struct control_node){.name = a->self->name,
				   .address = a->self->address,
				   .state = "up",
				   .software = PANGAEA_VERSION,
				   .kernel = h->kernel,
				   .cpu = h->cpu,
				   .cpus = h->cpus,
				   .memory_bytes = h->memory_bytes,
				   .available_bytes = h->available_bytes,
				   .load_milli = h->load_milli,
				   .vms = a->vm_count,
				   .vm_vcpus = agent_vms_vcpus(a),
				   .vm_memory_bytes = agent_vms_memory(a),
				   .uptime_ns = h->uptime_ns,
				   .agent_uptime_ns = (uint64_t)(base_clock_ns() - a->started_ns),
				   .pid = (uint64_t)getpid()};
}

/* half: also what is on its way here, or has just left. */
static size_t vm_records(struct agent *a, const char *name, bool half, struct control_vm *out,
			 size_t max)
{
	size_t count = 0;

	base_list_foreach (vm, &a->vms, struct agent_vm, link)
		if (count < max && (half || (!vm->incoming && !vm->departed)) &&
		    (!name[0] || !strcmp(name, vm->spec.name))) {
			agent_vm_record(vm, &out[count]);
			if (vm->incoming || vm->departed)
				out[count].state = "migrating";
			count++;
		}
	return count;
}

static int doctor_now(struct agent *a, uint8_t **out, size_t *len)
{
	BASE_AUTO_FREE struct agent_check *checks = calloc(AGENT_CHECK_MAX, sizeof(*checks));
	struct control_check records[AGENT_CHECK_MAX];
	struct control_reply reply = {.checks = records};

	if (!checks)
		return -ENOMEM;
	reply.check_count = agent_doctor(a, checks);
	for (size_t i = 0; i < reply.check_count; i++)
		records[i] = (struct control_check){a->self->name, checks[i].name, checks[i].level,
						    checks[i].text, checks[i].mend};
	return control_reply_encode(&reply, out, len);
}

int agent_local_now(struct agent *a, const struct control_request *req, uint8_t **out, size_t *len)
{
	BASE_AUTO_FREE struct control_vm *vms = NULL;
	BASE_AUTO_FREE struct node_virt_domain *domains = NULL;
	struct control_item items[AGENT_VIRT_ITEMS];
	struct control_reply reply = {.items = items};
	struct node_virt_status virt;
	const struct vmspec *spec;
	struct control_node node;
	struct agent_host h;

	if (req->op == CONTROL_NODE_DOCTOR)
		return doctor_now(a, out, len);
	if (req->op != CONTROL_NODE_INFO && req->op != CONTROL_VM_LS)
		return -EOPNOTSUPP;
	vms = calloc(a->vm_count + NODE_VIRT_MAX_DOMAINS, sizeof(*vms));
	domains = calloc(NODE_VIRT_MAX_DOMAINS, sizeof(*domains));
	if (!vms || !domains)
		return -ENOMEM;
	reply.vms = vms;
	reply.vm_count = vm_records(
		a, req->vm, req->local && req->op == CONTROL_VM_LS && req->vm[0], vms, a->vm_count);
	/* A VM of ours hides a domain of its name; the domain still has its UUID. */
	if (!req->vm[0] || !reply.vm_count)
		reply.vm_count += agent_virt_records(a, req->vm, domains, vms + reply.vm_count,
						     NODE_VIRT_MAX_DOMAINS);
	/* Who asks for one by name may want to know how it ended. */
	if (req->op == CONTROL_VM_LS && req->vm[0] && !reply.vm_count)
		reply.vm_count = agent_gone_find(a, req->vm, vms, &spec);
	if (req->op == CONTROL_NODE_INFO) {
		node_record(a, &h, &node);
		reply.item_count = agent_virt_items(a, &virt, items);
		if (reply.item_count) {
			node.vm_vcpus += virt.vcpus;
			node.vm_memory_bytes += virt.guest_bytes;
		}
		reply.nodes = &node;
		reply.node_count = 1;
	}
	return control_reply_encode(&reply, out, len);
}

static void answer_now(struct agent *a, struct chan_call *call, const struct control_request *req)
{
	uint8_t *data;
	size_t len;
	int rc = agent_local_now(a, req, &data, &len);

	if (rc) {
		agent_reply_text(call, CONTROL_FAILED, "%s", strerror(-rc));
		return;
	}
	chan_call_reply(call, data, len);
	free(data);
}

/* ---- questions to the VM's process ---- */

struct question {
	struct agent *agent;
	struct chan_call *call;
	enum control_op op;
	char vm[TEXT_NAME_MAX];
};

static void answer_stats(const struct question *q, const struct vmmctl_reply *r)
{
	struct control_item *items = calloc(r->stat_count + 1, sizeof(*items));
	struct control_reply reply = {.items = items};

	for (size_t i = 0; items && i < r->stat_count && i < CONTROL_MAX_ITEMS; i++)
		items[reply.item_count++] =
			(struct control_item){.name = r->stats[i].name, .value = r->stats[i].value};
	agent_reply(q->call, &reply);
	free(items);
}

static void answer_info(const struct question *q, const struct vmmctl_status *s)
{
	struct agent_vm *vm = agent_vm_find(q->agent, q->vm);
	struct control_item items[VMMCTL_MAX_DEVICES];
	struct control_reply reply = {.items = items, .vm_count = 1};
	struct control_vm record;

	if (!vm) {
		agent_reply_text(q->call, CONTROL_NOT_FOUND, "%s has just ended", q->vm);
		return;
	}
	agent_vm_record(vm, &record);
	if (!record.reason[0])
		record.reason = vm->slice.note;
	reply.vms = &record;
	reply.spec = &vm->spec;
	for (size_t i = 0; s && i < s->device_count; i++)
		items[reply.item_count++] = (struct control_item){.name = s->devices[i].kind,
								  .text = s->devices[i].name};
	agent_reply(q->call, &reply);
}

static void question_done(void *arg, const struct vmmctl_reply *r)
{
	struct question *q = arg;

	if (q->op == CONTROL_VM_INFO)
		answer_info(q, r->error ? NULL : r->status);
	else if (r->error)
		agent_reply_text(q->call, control_code_of(r->error), "%s: %s", q->vm,
				 r->text && r->text[0] ? r->text : strerror(-r->error));
	else if (q->op == CONTROL_VM_STATS)
		answer_stats(q, r);
	else if (q->op == CONTROL_VM_PAGEMAP || q->op == CONTROL_VM_PEEK)
		agent_reply(q->call,
			    &(struct control_reply){.data = r->data, .data_len = r->data_len});
	else
		agent_reply_text(q->call, CONTROL_OK, "%s",
				 q->op == CONTROL_VM_REGISTERS && r->text ? r->text : "");
	free(q);
}

static enum vmmctl_op vmm_op(enum control_op op)
{
	switch (op) {
	case CONTROL_VM_STATS: return VMMCTL_STATS;
	case CONTROL_VM_PAGEMAP: return VMMCTL_PAGEMAP;
	case CONTROL_VM_PEEK: return VMMCTL_PEEK;
	case CONTROL_VM_PAUSE: return VMMCTL_PAUSE;
	case CONTROL_VM_RESUME: return VMMCTL_RESUME;
	case CONTROL_VM_RESET: return VMMCTL_RESET;
	case CONTROL_VM_REGISTERS: return VMMCTL_REGISTERS;
	default: return VMMCTL_STATUS;
	}
}

static void ask_vm(struct agent_vm *vm, struct chan_call *call, const struct control_request *creq)
{
	enum control_op op = creq->op;
	struct vmmctl_request req = {
		.op = vmm_op(op), .cols = creq->cols, .address = creq->address};
	struct question *q = calloc(1, sizeof(*q));
	int rc = q ? -ENOTCONN : -ENOMEM;

	if (q) {
		*q = (struct question){.agent = vm->agent, .call = call, .op = op};
		memcpy(q->vm, vm->spec.name, sizeof(q->vm));
	}
	if (q && vm->control)
		rc = vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS, question_done, q);
	if (!rc)
		return;
	if (q && op == CONTROL_VM_INFO)
		answer_info(q, NULL);
	else
		agent_reply_text(call, control_code_of(rc), "%s: its process takes no requests: %s",
				 vm->spec.name, strerror(-rc));
	free(q);
}

/* ---- dispatch ---- */

static void cancel_migration(struct agent_vm *vm, struct chan_call *call)
{
	if (!vm->migration || !vm->migration->out)
		agent_reply_text(call, CONTROL_USAGE, "%s is not migrating", vm->spec.name);
	else if (agent_migration_order(vm->migration, MIGCTL_CANCEL))
		agent_reply_text(call, CONTROL_BUSY,
				 "%s: the migration cannot be cancelled at this moment",
				 vm->spec.name);
	else
		agent_reply_text(call, CONTROL_OK, "%s", "");
}

/* What only the lead's process does, and what no spanning guest can. True: refused. */
static bool refuse_slice(const struct agent_vm *vm, struct chan_call *call, enum control_op op)
{
	if (!vmspec_spans(&vm->spec))
		return false;
	if (op == CONTROL_VM_MIGRATE && agent_vm_spans(vm)) {
		agent_reply_text(call, CONTROL_USAGE,
				 "%s spans nodes and does not migrate so; 'pangaea vm consolidate "
				 "%s --to %s' first",
				 vm->spec.name, vm->spec.name, vm->spec.parts[0].node);
		return true;
	}
	if (!vm->slice.index || op == CONTROL_VM_KILL || op == CONTROL_VM_INFO ||
	    op == CONTROL_VM_STATS || op == CONTROL_VM_REGISTERS || op == CONTROL_VM_PAGEMAP ||
	    op == CONTROL_VM_PEEK)
		return false;
	agent_reply_text(call, CONTROL_USAGE,
			 "node %s has a follower of %s; its lead is on node %s (leave out --node)",
			 vm->agent->self->name, vm->spec.name, vm->spec.parts[0].node);
	return true;
}

void agent_no_vm(struct agent *a, struct chan_call *call, const struct control_request *req)
{
	const struct vmspec *spec;
	struct control_vm record;

	if (req->op == CONTROL_VM_CONSOLE)
		agent_gone_output(a, req->vm, call);
	if (!agent_gone_find(a, req->vm, &record, &spec))
		agent_reply_text(call, CONTROL_NOT_FOUND, "there is no VM '%s' on node %s", req->vm,
				 a->self->name);
	else if (req->op == CONTROL_VM_INFO)
		agent_reply(call,
			    &(struct control_reply){.vms = &record, .vm_count = 1, .spec = spec});
	else
		agent_reply_text(call, CONTROL_NOT_FOUND,
				 "there is no VM '%s' any more; it %s on node %s: %s", req->vm,
				 !strcmp(record.state, "failed") ? "failed" : "ended",
				 a->self->name, record.reason);
}

/* Who asked found the VM here a moment ago: the request follows it. */
static const struct cluster_node *moved_to(struct agent *a, const char *name)
{
	const struct agent_vm *vm = agent_vm_find(a, name);
	const char *node = vm ? vm->moved_to : agent_gone_moved_to(a, name);

	return node[0] ? cluster_find(a->cluster, node) : NULL;
}

static void vm_request(struct agent *a, struct chan_call *call, const struct control_request *req)
{
	struct agent_vm *vm = agent_vm_find(a, req->vm);
	uint64_t ms = req->timeout_ms ? req->timeout_ms : AGENT_STOP_MS;

	if (!vm) {
		if (!agent_virt_request(a, call, req))
			agent_no_vm(a, call, req);
		return;
	}
	if (refuse_slice(vm, call, req->op))
		return;
	switch (req->op) {
	case CONTROL_VM_CHANNEL:
	case CONTROL_VM_CONSOLE: agent_console(vm, call, req); break;
	case CONTROL_VM_STOP:
		agent_vm_end(vm, call, false, BASE_MIN(ms, UINT64_C(86400000)));
		break;
	case CONTROL_VM_KILL: agent_vm_end(vm, call, true, 0); break;
	case CONTROL_VM_MIGRATE: agent_migrate_out(vm, call, req); break;
	case CONTROL_VM_CHECKPOINT: agent_checkpoint(vm, call, req); break;
	case CONTROL_VM_SPREAD:
	case CONTROL_VM_CONSOLIDATE: agent_spread(vm, call, req); break;
	case CONTROL_VM_MIGRATE_CANCEL: cancel_migration(vm, call); break;
	case CONTROL_VM_MIGRATE_RESUME: agent_migrate_resume(vm, call); break;
	case CONTROL_VM_START:
		agent_reply_text(call, CONTROL_EXISTS, "%s is %s already", vm->spec.name,
				 vmmctl_state_name(vm->state));
		break;
	default: ask_vm(vm, call, req); break;
	}
}

void agent_local(struct agent *a, struct chan_call *call, struct control_request *req)
{
	if (req->node[0] && strcmp(req->node, a->self->name) != 0) {
		agent_reply_text(call, CONTROL_FAILED, "this is node %s, not %s", a->self->name,
				 req->node);
		control_request_fini(req);
		return;
	}
	if (((req->op >= CONTROL_SLICE_PREPARE && req->op <= CONTROL_SLICE_STOP) ||
	     req->op == CONTROL_MIGRATE_RELINK) &&
	    !cluster_find(a->cluster, chan_call_user(call))) {
		agent_reply_text(call, CONTROL_DENIED, "only agents ask that of each other");
		control_request_fini(req);
		return;
	}
	switch (req->op) {
	case CONTROL_NODE_LS:
	case CONTROL_NODE_INFO:
		req->op = CONTROL_NODE_INFO;
		answer_now(a, call, req);
		break;
	case CONTROL_NODE_DOCTOR:
	case CONTROL_VM_LS: answer_now(a, call, req); break;
	case CONTROL_VM_RUN: agent_vm_run(a, call, req); return;
	case CONTROL_VM_RESTORE: agent_restore(a, call, req); return;
	case CONTROL_MIGRATE_PREPARE: agent_migrate_in(a, call, req); return;
	case CONTROL_MIGRATE_VERDICT: agent_verdict_answer(a, call, req); break;
	case CONTROL_MIGRATE_RELINK: agent_migrate_relink(a, call, req); break;
	case CONTROL_SLICE_PREPARE: agent_slice_prepare(a, call, req); return;
	case CONTROL_SLICE_START: agent_slice_start(a, call, req); break;
	case CONTROL_SLICE_STOP: agent_slice_stop(a, call, req); break;
	case CONTROL_EVENTS:
		req->local = true;
		agent_events(a, call, req);
		return;
	default:
		if (moved_to(a, req->vm)) {
			agent_relay(a, moved_to(a, req->vm), call, req);
			return;
		}
		vm_request(a, call, req);
		break;
	}
	control_request_fini(req);
}
