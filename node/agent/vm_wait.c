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
	int64_t give_up_ns; /* RUN: when it ends, however busy the process is */
	uint64_t ticks;	    /* RUN: its processor time when it was last looked at */
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

/*
 * A start is judged by what its process does, not by the clock: on a busy machine it may take minutes. A slice
 * of a guest over nodes may have to wait for the others, whose agents look at theirs.
 */
static bool start_goes_on(struct waiter *w)
{
	struct agent_vm *vm = w->vm;
	uint64_t ticks = w->ticks;

	if (base_clock_ns() >= w->give_up_ns)
		return false;
	if (vmspec_spans(&vm->spec) && (vm->slice.index > 0 || vm->slice.starting > 0))
		return true;
	if (agent_vm_ticks(vm, &ticks) || ticks == w->ticks)
		return false;
	w->ticks = ticks;
	return true;
}

static void start_given_up(const struct waiter *w)
{
	struct agent_vm *vm = w->vm;
	bool late = base_clock_ns() >= w->give_up_ns;

	snprintf(vm->reason, sizeof(vm->reason), "its process did not come up: it %s %u s",
		 late ? "was not ready after" : "has done nothing for",
		 (late ? (unsigned)agent_vm_start_ms(vm) : (unsigned)w->timeout_ms) / 1000);
}

static void waiter_arm(struct waiter *w)
{
	base_loop_timer(w->vm->agent->loop, &w->timer,
			base_clock_ns() + (int64_t)w->timeout_ms * BASE_NS_PER_MS);
}

static void waiter_timeout(struct base_timer *t)
{
	struct waiter *w = base_container_of(t, struct waiter, timer);
	struct agent_vm *vm = w->vm;
	const char *name = vm->spec.name;

	if (w->what == AGENT_WAIT_RUN && start_goes_on(w)) {
		waiter_arm(w);
		return;
	}
	if (w->what == AGENT_WAIT_OVER) {
		agent_vm_reply(vm, w->call);
		waiter_end(w);
		return;
	}
	if (w->what != AGENT_WAIT_STOP) {
		if (w->what == AGENT_WAIT_RUN)
			start_given_up(w);
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
	w->give_up_ns = base_clock_ns() + (int64_t)timeout_ms * BASE_NS_PER_MS;
	if (what == AGENT_WAIT_RUN)
		w->timeout_ms = BASE_MIN(timeout_ms, (uint64_t)vm->agent->start_ms);
	waiter_arm(w);
	return 0;
}

int agent_wait_run(struct agent_vm *vm, struct chan_call *call)
{
	return agent_wait(vm, call, AGENT_WAIT_RUN, (uint64_t)agent_vm_start_ms(vm));
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
