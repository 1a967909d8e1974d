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
};

static void gone_free(struct agent *a, struct gone *g)
{
	base_list_del(&g->link);
	a->gone_count--;
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
	agent_vm_record(vm, &g->record);
	g->record.name = g->spec.name;
	g->record.kernel = g->spec.kernel;
	g->record.reason = g->reason;
	g->record.state = vmmctl_state_name(failed ? VMMCTL_FAILED : VMMCTL_STOPPED);
	base_list_add(&a->gone, &g->link);
	a->gone_count++;
}

bool agent_gone_find(struct agent *a, const char *name, struct control_vm *out,
		     const struct vmspec **spec)
{
	gone_tidy(a, "");
	base_list_foreach (g, &a->gone, struct gone, link) {
		if (strcmp(g->spec.name, name) != 0)
			continue;
		*out = g->record;
		out->ended_ns = (uint64_t)BASE_MAX(base_clock_ns() - g->at_ns, INT64_C(1));
		*spec = &g->spec;
		return true;
	}
	return false;
}

void agent_gone_free(struct agent *a)
{
	base_list_foreach_safe (g, &a->gone, struct gone, link)
		gone_free(a, g);
}
