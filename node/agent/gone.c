/* What became of VMs that have ended: for 'vm info', for a while. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "node/agent/vm.h"

struct gone {
	struct base_list link;
	int64_t at_ns;
	struct vmspec spec;
	struct control_vm record; /* strings: of spec, reason, state and the agent */
	char reason[VMMCTL_REASON_MAX];
	char moved_to[TEXT_NAME_MAX];
	uint8_t *output; /* the end of its console's */
	size_t output_len;
};

static void gone_free(struct agent *a, struct gone *g)
{
	base_list_del(&g->link);
	a->gone_count--;
	free(g->output);
	free(g);
}

/* Those that are too old, too many, or have a successor of this name. */
static void gone_tidy(struct agent *a, const char *name)
{
	int64_t since = base_clock_ns() - (int64_t)AGENT_GONE_MINUTES * 60 * INT64_C(1000000000);
	unsigned seen = 0;

	base_list_foreach_safe (g, &a->gone, struct gone, link)
		if (++seen >= AGENT_GONE_MAX || g->at_ns < since || !strcmp(g->spec.name, name))
			gone_free(a, g);
}

static void take_output(struct gone *g, const char *dir)
{
	uint8_t *output = malloc(VMMCTL_SCROLLBACK_BYTES);

	if (output)
		g->output_len = vmmctl_output_read(dir, output, VMMCTL_SCROLLBACK_BYTES);
	/* Most say little. */
	g->output = g->output_len ? realloc(output, g->output_len) : NULL;
	if (!g->output)
		free(output);
	g->output_len = g->output ? g->output_len : 0;
}

void agent_gone_keep(const struct agent_vm *vm, bool failed)
{
	struct agent *a = vm->agent;
	struct gone *g = calloc(1, sizeof(*g));

	gone_tidy(a, vm->spec.name);
	if (!g)
		return;
	g->at_ns = base_clock_ns();
	g->spec = vm->spec;
	memcpy(g->reason, vm->reason, sizeof(g->reason));
	memcpy(g->moved_to, vm->moved_to, sizeof(g->moved_to));
	if (vm->moved_to[0])
		snprintf(g->reason, sizeof(g->reason), "it has moved to node %s", vm->moved_to);
	agent_vm_record(vm, &g->record);
	g->record.name = g->spec.name;
	g->record.kernel = g->spec.kernel;
	g->record.reason = g->reason;
	g->record.state = vmmctl_state_name(failed ? VMMCTL_FAILED : VMMCTL_STOPPED);
	take_output(g, vm->dir);
	base_list_add(&a->gone, &g->link);
	a->gone_count++;
}

static struct gone *gone_find(struct agent *a, const char *name)
{
	gone_tidy(a, "");
	base_list_foreach (g, &a->gone, struct gone, link)
		if (!strcmp(g->spec.name, name))
			return g;
	return NULL;
}

bool agent_gone_find(struct agent *a, const char *name, struct control_vm *out,
		     const struct vmspec **spec)
{
	struct gone *g = gone_find(a, name);

	if (!g)
		return false;
	*out = g->record;
	out->ended_ns = (uint64_t)BASE_MAX(base_clock_ns() - g->at_ns, INT64_C(1));
	*spec = &g->spec;
	return true;
}

const char *agent_gone_moved_to(struct agent *a, const char *name)
{
	const struct gone *g = gone_find(a, name);

	return g ? g->moved_to : "";
}

void agent_gone_output(struct agent *a, const char *name, struct chan_call *call)
{
	struct gone *g = gone_find(a, name);

	_Static_assert(VMMCTL_SCROLLBACK_BYTES / CONTROL_DATA_MAX < CHAN_WINDOW,
		       "a new stream has credit for all of it");
	for (size_t at = 0; g && at < g->output_len; at += CONTROL_DATA_MAX) {
		size_t len = BASE_MIN(g->output_len - at, (size_t)CONTROL_DATA_MAX);

		if (agent_item(call,
			       &(struct control_reply){.data = g->output + at, .data_len = len}))
			return;
	}
}

void agent_gone_free(struct agent *a)
{
	base_list_foreach_safe (g, &a->gone, struct gone, link)
		gone_free(a, g);
}
