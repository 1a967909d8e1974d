/*
 * The lead has a slice leave the guest that runs: its vCPUs go to another one by one; all stand for a
 * moment while its page homes go there too; its pages follow in the background; then it ends. Main
 * thread. Where a vCPU cannot go, those that have gone come back, and the slice stays.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/vm_internal.h"

enum empty_phase { EMPTY_NONE, EMPTY_VCPUS, EMPTY_BACK, EMPTY_PAGES, EMPTY_END };

static void over(struct vmm_vm *vm, int err, const char *why)
{
	struct vm_empty *e = &vm->empty;
	void (*done)(void *arg, int err, const char *why) = e->done;

	e->phase = EMPTY_NONE;
	e->done = NULL;
	if (err)
		log_warn("slice %u stays: %s", e->slice, why);
	else
		log_info("slice %u has left; all stood for %lld us", e->slice,
			 (long long)(e->stood_ns / 1000));
	if (done)
		done(e->arg, err, why);
}

static void after_vcpus(struct vmm_vm *vm)
{
	if (!vm->reset_after_move)
		return;
	vm->reset_after_move = false;
	if (vmm_vm_reset(vm) < 0)
		log_error("reset failed");
}

/* ---- pages ---- */

static void move_homes(struct vmm_vm *vm)
{
	struct vm_empty *e = &vm->empty;
	int64_t start = base_clock_ns();
	int err;

	e->phase = EMPTY_PAGES;
	vm_halt_all(vm);
	if (vm->lost) {
		vm_finish(vm, VMM_FAILED, "not all slices could be stopped");
		return;
	}
	err = vmm_span_rehome(vm->span, e->slice, e->to);
	if (err && err != -EAGAIN) {
		vm->lost = true;
		vm_finish(vm, VMM_FAILED, "the slices do not agree where memory is at home");
		return;
	}
	if (vm_go_all(vm) < 0 || vm_is_final(vm))
		return;
	e->stood_ns = base_clock_ns() - start;
	if (err)
		over(vm, -EIO, "its vCPUs have moved, but its memory is too busy: try again");
	else
		vmm_span_evict(vm->span, e->slice, e->rate);
}

void vm_empty_evicted(struct vmm_vm *vm, const char *why)
{
	if (vm->empty.phase != EMPTY_PAGES)
		return;
	if (why[0]) {
		over(vm, -EIO, why);
		return;
	}
	vm->empty.phase = EMPTY_END;
	vmm_span_dismiss(vm->span, vm->empty.slice);
}

void vm_empty_dismissed(struct vmm_vm *vm, const char *why)
{
	if (vm->empty.phase == EMPTY_END)
		over(vm, why[0] ? -EIO : 0, why);
}

/* ---- vCPUs ---- */

/* The next vCPU that is where it should not be, or the number of all. */
static unsigned next_vcpu(const struct vmm_vm *vm)
{
	const struct vm_empty *e = &vm->empty;
	unsigned i = 0;

	for (; i < vm->config.vcpus; i++) {
		unsigned where = vmm_span_where(vm->span, i);

		if (e->phase == EMPTY_VCPUS ? where == e->slice
					    : (e->moved >> i & 1) && where != e->slice)
			break;
	}
	return i;
}

static void step(struct vmm_vm *vm)
{
	struct vm_empty *e = &vm->empty;
	unsigned vcpu = next_vcpu(vm);
	bool back = e->phase == EMPTY_BACK;
	int err;

	if (vcpu < vm->config.vcpus) {
		err = vmm_span_move(vm->span, vcpu, back ? e->slice : e->to);
		if (!err && !back)
			e->moved |= UINT64_C(1) << vcpu;
		if (err)
			over(vm, err, strerror(-err));
	} else if (back) {
		over(vm, -EIO, e->why);
		after_vcpus(vm);
	} else {
		after_vcpus(vm);
		move_homes(vm);
	}
}

void vm_empty_moved(struct vmm_vm *vm, const char *why)
{
	struct vm_empty *e = &vm->empty;

	if (why[0] && e->phase == EMPTY_BACK) {
		over(vm, -EIO, e->why);
		after_vcpus(vm);
		return;
	}
	if (why[0]) {
		snprintf(e->why, sizeof(e->why), "%s", why);
		e->phase = EMPTY_BACK;
	}
	step(vm);
}

/* ---- asking ---- */

bool vm_empty_is_on(const struct vmm_vm *vm)
{
	return vm->empty.phase != EMPTY_NONE;
}

bool vm_empty_moves_vcpus(const struct vmm_vm *vm)
{
	return vm->empty.phase == EMPTY_VCPUS || vm->empty.phase == EMPTY_BACK;
}

void vm_empty_end(struct vmm_vm *vm)
{
	if (vm_empty_is_on(vm))
		over(vm, -ECANCELED, "the guest has ended");
}

int vmm_vm_empty(struct vmm_vm *vm, unsigned slice, unsigned to, uint64_t pages_per_s,
		 void (*done)(void *arg, int err, const char *why), void *arg)
{
	if (!vm->span || vm_follows(vm))
		return -EOPNOTSUPP;
	if (vm->state != VMM_RUNNING || slice == 0 || slice >= vm->config.slices.count ||
	    slice == to || vmm_span_is_gone(vm->span, to))
		return -EINVAL;
	if (vmm_vm_moves(vm) || vm_empty_is_on(vm) || vm_join_is_on(vm))
		return -EBUSY;
	if (vmm_span_is_gone(vm->span, slice))
		return -EALREADY;
	vm->empty = (struct vm_empty){.phase = EMPTY_VCPUS,
				      .slice = slice,
				      .to = to,
				      .rate = pages_per_s,
				      .done = done,
				      .arg = arg};
	step(vm);
	return 0;
}

bool vmm_vm_spans(const struct vmm_vm *vm)
{
	return vm->span && !vmm_span_is_over(vm->span);
}

void vmm_vm_places(struct vmm_vm *vm, void (*put)(void *arg, const char *name, uint64_t value),
		   void *arg)
{
	const struct vm_empty *e = &vm->empty;
	uint64_t done, total;
	char name[32];

	for (unsigned i = 0; i < vm->config.vcpus; i++) {
		snprintf(name, sizeof(name), "vcpu%u.slice", i);
		put(arg, name, vmm_span_where(vm->span, i));
	}
	for (unsigned i = 0; i < vm->config.slices.count; i++) {
		snprintf(name, sizeof(name), "slice%u.gone", i);
		put(arg, name, vmm_span_is_gone(vm->span, i));
		snprintf(name, sizeof(name), "part%u.home", i);
		put(arg, name, vmm_span_home(vm->span, i));
	}
	put(arg, "ordinary", vmm_span_is_over(vm->span));
	vmm_span_evicted(vm->span, &done, &total);
	put(arg, "empty.phase", (uint64_t)e->phase);
	put(arg, "empty.vcpus", (uint64_t)__builtin_popcountll(e->moved));
	/* Before that they are those of the slice that left last. */
	put(arg, "empty.pages", vm_empty_moves_vcpus(vm) ? 0 : done);
	put(arg, "empty.pages_total", vm_empty_moves_vcpus(vm) ? 0 : total);
	put(arg, "empty.stood_ns", (uint64_t)e->stood_ns);
	put(arg, "join.stood_ns", (uint64_t)vm->join.stood_ns);
}
