/* Calls that wait for a VM to run or to end. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "node/agent/vm.h"

struct waiter {
	struct base_list link;
	struct base_timer timer;
	struct agent_vm *vm;
	struct chan_call *call;
	enum agent_wait_for what;
	uint64_t timeout_ms;
};

void agent_vm_reply(const struct agent_vm *vm, struct chan_call *call)
{
	struct control_vm record;

	agent_vm_record(vm, &record);
	agent_reply(call, &(struct control_reply){.vms = &record, .vm_count = 1});
}

static void waiter_end(struct waiter *w)
{
	base_loop_timer_cancel(&w->timer);
	base_list_del(&w->link);
	free(w);
}

static void waiter_timeout(struct base_timer *t)
{
	struct waiter *w = base_container_of(t, struct waiter, timer);
	struct agent_vm *vm = w->vm;
	const char *name = vm->spec.name;

	if (w->what == AGENT_WAIT_OVER) {
		agent_vm_reply(vm, w->call);
		waiter_end(w);
		return;
	}
	if (w->what != AGENT_WAIT_STOP) {
		if (w->what == AGENT_WAIT_RUN)
			snprintf(vm->reason, sizeof(vm->reason),
				 "its process did not come up within %u s",
				 (unsigned)(w->timeout_ms / 1000));
		agent_vm_signal(vm, SIGKILL);
		return;
	}
	agent_reply_text(
		w->call, CONTROL_TIMEOUT,
		"%s has not powered off within %u s: its system may not listen to the power "
		"button; 'pangaea vm kill %s' ends it at once",
		name, (unsigned)(w->timeout_ms / 1000), name);
	waiter_end(w);
}

int agent_wait(struct agent_vm *vm, struct chan_call *call, enum agent_wait_for what,
	       uint64_t timeout_ms)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->vm = vm;
	w->call = call;
	w->what = what;
	w->timeout_ms = timeout_ms;
	w->timer.fire = waiter_timeout;
	base_list_add_tail(&vm->waiters, &w->link);
	base_loop_timer(vm->agent->loop, &w->timer,
			base_clock_ns() + (int64_t)timeout_ms * BASE_NS_PER_MS);
	return 0;
}

void agent_waiters_running(struct agent_vm *vm)
{
	base_list_foreach_safe (w, &vm->waiters, struct waiter, link) {
		if (w->what == AGENT_WAIT_RUN) {
			agent_vm_reply(vm, w->call);
			waiter_end(w);
		}
	}
}

void agent_waiters_over(struct agent_vm *vm, bool failed)
{
	base_list_foreach_safe (w, &vm->waiters, struct waiter, link) {
		if (w->what == AGENT_WAIT_RUN && failed)
			agent_reply_text(w->call, vm->code ? vm->code : CONTROL_FAILED, "%s: %s",
					 vm->spec.name, vm->reason);
		else
			agent_vm_reply(vm, w->call);
		waiter_end(w);
	}
}

void agent_waiters_drop(struct agent_vm *vm)
{
	base_list_foreach_safe (w, &vm->waiters, struct waiter, link) {
		agent_reply_text(w->call, CONTROL_UNREACHABLE, "the agent is ending");
		waiter_end(w);
	}
}
