/*
 * The lead has a slice join the guest that runs; see span_join.c. Main thread. The guest stands twice for a
 * moment: before, where it was alone on the lead's host and its memory must be shared again, and when the
 * slice is there, while the homes of its part's pages go to it. Where it does not come nothing has changed.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/vm_internal.h"

/* The links have their own time, and say why; this is for a slice that has links but says no hello. */
enum { HELLO_MS = VMM_SPAN_WINDOW_MS + 5000 };

static void over(struct vmm_vm *vm, int err, const char *why)
{
	struct vm_join *j = &vm->join;
	void (*done)(void *arg, int err, const char *why) = j->done;

	base_loop_timer_cancel(&j->timer);
	j->done = NULL;
	j->on = false;
	if (err)
		log_warn("slice %u does not join: %s", j->slice, why);
	else
		log_info("slice %u has joined; all stood for %lld us", j->slice,
			 (long long)(j->stood_ns / 1000));
	if (done)
		done(j->arg, err, why);
}

static void give_up(struct vmm_vm *vm, const char *why)
{
	vmm_span_drop(vm->span, vm->join.slice);
	over(vm, -EIO, why);
}

static void on_timer(struct base_timer *t)
{
	struct vm_join *j = base_container_of(t, struct vm_join, timer);

	give_up(base_container_of(j, struct vmm_vm, join), "it is not there in time");
}

static bool halt(struct vmm_vm *vm)
{
	vm_halt_all(vm);
	if (vm->lost)
		vm_finish(vm, VMM_FAILED, "not all slices could be stopped");
	return !vm->lost;
}

static void broken(struct vmm_vm *vm, const char *why)
{
	vm->lost = true;
	vm_finish(vm, VMM_FAILED, why);
}

/* From here on its memory is shared, though with nobody yet. */
static bool share(struct vmm_vm *vm)
{
	int64_t start = base_clock_ns();

	if (!halt(vm))
		return false;
	if (vmm_span_share(vm->span)) {
		broken(vm, "memory cannot be shared again");
		return false;
	}
	if (vm_go_all(vm) < 0 || vm_is_final(vm))
		return false;
	vm->join.stood_ns += base_clock_ns() - start;
	return true;
}

/* Where it is not ready the others go on without it. */
static void bring_in(struct vmm_vm *vm)
{
	struct vm_join *j = &vm->join;
	bool ran = vm->state == VMM_RUNNING; /* else a debugger has it */
	int64_t start = base_clock_ns();
	int err;

	if (ran && !halt(vm))
		return;
	log_info("all stand until slice %u has joined", j->slice);
	err = vmm_span_welcome(vm->span, j->slice);
	if (!err && vmm_span_take_in(vm->span, j->slice)) {
		broken(vm, "the slices do not agree where memory is at home");
		return;
	}
	if (ran && (vm_go_all(vm) < 0 || vm_is_final(vm)))
		return;
	j->stood_ns += base_clock_ns() - start;
	if (err)
		give_up(vm, "it has gone again, or not all slices have answered in time");
	else
		over(vm, 0, "");
}

void vm_join_admitted(struct vmm_vm *vm, const char *why)
{
	struct vm_join *j = &vm->join;

	if (!j->on)
		return;
	if (why[0]) {
		give_up(vm, why);
		return;
	}
	log_info("slice %u is there", j->slice);
	/* For one that has gone again nobody need stand. */
	if (vmm_span_is_there(vm->span, j->slice))
		give_up(vm, "it has gone again");
	else
		bring_in(vm);
}

int vmm_vm_join_cancel(struct vmm_vm *vm, unsigned slice, const char *why)
{
	if (!vm->join.on || vm->join.slice != slice)
		return -EALREADY;
	give_up(vm, why);
	return 0;
}

bool vm_join_is_on(const struct vmm_vm *vm)
{
	return vm->join.on;
}

bool vmm_vm_joins(const struct vmm_vm *vm)
{
	return vm->join.on;
}

int vmm_vm_links(struct vmm_vm *vm, uint8_t key[VMM_SLICE_KEY_LEN], char *addresses, size_t cap)
{
	return vm->span && !vm_follows(vm) ? vmm_span_links(vm->span, key, addresses, cap)
					   : -EOPNOTSUPP;
}

void vm_join_end(struct vmm_vm *vm)
{
	if (vm->join.on)
		over(vm, -ECANCELED, "the guest has ended");
}

/* Whether its memory is ordinary by now or about to be. */
static bool is_alone(const struct vmm_vm *vm)
{
	for (unsigned i = 1; i < vm->config.slices.count; i++)
		if (!vmm_span_is_gone(vm->span, i))
			return false;
	return true;
}

int vmm_vm_join(struct vmm_vm *vm, unsigned slice, const char *address, uint64_t group,
		void (*done)(void *arg, int err, const char *why), void *arg)
{
	struct vm_join *j = &vm->join;

	if (!vm->span || vm_follows(vm))
		return -EOPNOTSUPP;
	if (vm->state != VMM_RUNNING || !slice || slice >= vm->config.slices.count || !group)
		return -EINVAL;
	if (vmm_vm_moves(vm) || vm_empty_is_on(vm) || j->on)
		return -EBUSY;
	if (!vmm_span_is_gone(vm->span, slice))
		return -EALREADY;
	*j = (struct vm_join){.on = true, .slice = slice, .done = done, .arg = arg};
	j->timer.fire = on_timer;
	if (is_alone(vm) && !share(vm))
		return 0; /* the guest has failed, and so has this */
	base_loop_timer(vm->main_loop, &j->timer, base_clock_ns() + HELLO_MS * BASE_NS_PER_MS);
	vmm_span_admit(vm->span, slice, address, group);
	return 0;
}
