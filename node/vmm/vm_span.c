/* What a slice of a spanning guest does with the orders of the others. Main thread. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/vm_internal.h"

/* A follower that has asked for the guest's end waits so long for the lead to say so. */
enum { END_WAIT_MS = 5000 };

/* ---- follower ---- */

static void follower_go(struct vmm_vm *vm)
{
	uint64_t offset = 0;
	int err;

	if (vm->state != VMM_PAUSED)
		return;
	err = vmm_span_sync_clock(vm->span, &offset);
	if (err) {
		vm_finish(vm, VMM_FAILED, "the lead does not tell its clock");
		return;
	}
	vmm_vcpus_resume_with(&vm->vcpus, offset);
	vm_set_state(vm, VMM_RUNNING, "");
	vmm_span_going(vm->span);
}

static void follower_halt(struct vmm_vm *vm)
{
	if (vm->state == VMM_RUNNING) {
		vmm_vcpus_pause(&vm->vcpus);
		vm_set_state(vm, VMM_PAUSED, "");
	}
	vmm_span_halted(vm->span);
}

static void follower_reset(struct vmm_vm *vm)
{
	int err;

	vm->entry = vmm_span_entry(vm->span);
	err = vm_reset_vcpus(vm);
	if (err)
		vm_finish(vm, VMM_FAILED, "a vCPU cannot be reset");
}

static void follower_save(struct vmm_vm *vm)
{
	int err = vm->state == VMM_PAUSED ? vmm_span_save_part(vm->span) : -EINVAL;

	if (err)
		log_error("this slice cannot be saved: %s", strerror(-err));
}

static void follower_look(struct vmm_vm *vm)
{
	int err = vmm_span_look_part(vm->span);

	if (err)
		log_error("the lead is not told which pages are used: %s", strerror(-err));
}

static void follower_load(struct vmm_vm *vm)
{
	if (vm->state == VMM_PAUSED)
		vmm_span_load_part(vm->span);
	else
		log_error("this slice is asked to load a vCPU while it runs");
}

/* ---- the end ---- */

/* No vCPU may wait for others any more: whoever waits for a page will do so for ever. */
static void lose(struct vmm_vm *vm, enum vmm_state state, const char *reason)
{
	if (vm_is_final(vm))
		return;
	vm->lost = true;
	vmm_vcpus_close(&vm->vcpus);
	vm_set_state(vm, state, reason);
}

static void on_end_timer(struct base_timer *t)
{
	struct vmm_vm *vm = base_container_of(t, struct vmm_vm, end_timer);

	lose(vm, VMM_FAILED, "the lead did not end the guest when asked to");
}

bool vm_span_ask_end(struct vmm_vm *vm, enum vmm_state state, const char *reason)
{
	if (!vm->span || !vm_follows(vm) || vm->lost)
		return false;
	if (vm->state == VMM_STARTING) {
		lose(vm, state, reason);
		return true;
	}
	if (vm->ending)
		return true;
	vm->ending = true;
	vmm_span_end(vm->span, state == VMM_FAILED, reason);
	vm->end_timer.fire = on_end_timer;
	base_loop_timer(vm->main_loop, &vm->end_timer,
			base_clock_ns() + END_WAIT_MS * BASE_NS_PER_MS);
	return true;
}

/* The lead ends all of it properly; a follower is told when that has been done. */
static void on_end(struct vmm_vm *vm, enum vmm_state state, const char *reason)
{
	if (vm_follows(vm))
		lose(vm, state, reason);
	else
		vm_finish(vm, state, reason);
}

/* ---- both ---- */

static void on_ready(struct vmm_vm *vm)
{
	vm_set_state(vm, VMM_PAUSED, "");
	if (!vm_follows(vm) && vm->resume_when_linked && vmm_vm_resume(vm) < 0)
		vm_finish(vm, VMM_FAILED, "cannot start");
}

/* ---- a saved machine, once all slices are there ---- */

static void on_loaded(void *arg)
{
	struct vmm_vm *vm = arg;

	pthread_join(vm->loader, NULL);
	if (vm_is_final(vm))
		return;
	if (vm->load_error)
		vm_finish(vm, VMM_FAILED, vm->load_why);
	else
		on_ready(vm);
}

static void *load_main(void *arg)
{
	struct vmm_vm *vm = arg;

	vm->load_error = vm_load(vm, vm->restore_fd, vm->load_why);
	close(vm->restore_fd);
	vm->restore_fd = -1;
	atomic_store(&vm->transfer, false);
	if (base_loop_post(vm->main_loop, on_loaded, vm) < 0)
		log_error("the main loop takes no posts");
	return NULL;
}

/* A guest comes to memory that is nobody else's; LINKED and PLACES, in whichever order, say that it is. */
static void on_linked(struct vmm_vm *vm)
{
	int err;

	if (vm->state != VMM_STARTING || (vm->incoming && !vmm_span_is_over(vm->span)))
		return;
	if (vm->restore_fd < 0) {
		on_ready(vm);
		return;
	}
	/* It waits for pages and for other slices, which the main thread must not. */
	atomic_store(&vm->transfer, true);
	err = pthread_create(&vm->loader, NULL, load_main, vm);
	if (!err)
		return;
	atomic_store(&vm->transfer, false);
	vm_finish(vm, VMM_FAILED, "no thread to load the saved machine");
}

/* ---- a vCPU that moves ---- */

static void end_move(struct vmm_vm *vm, int err, const char *why)
{
	void (*moved)(void *arg, int err, const char *why) = vm->moved;

	vm->moved = NULL;
	if (moved)
		moved(vm->moved_arg, err, why);
}

static void on_moved(struct vmm_vm *vm, const char *why)
{
	bool reset = vm->reset_after_move;

	if (vm_empty_moves_vcpus(vm)) {
		vm_empty_moved(vm, why);
		return;
	}
	vm->reset_after_move = false;
	end_move(vm, why[0] ? -EIO : 0, why);
	if (reset && vmm_vm_reset(vm) < 0)
		log_error("reset failed");
}

void vm_span_end_move(struct vmm_vm *vm)
{
	end_move(vm, -ECANCELED, "the guest has ended");
	vm_empty_end(vm);
	vm_join_end(vm);
}

int vmm_vm_move_vcpu(struct vmm_vm *vm, uint32_t apic_id, unsigned slice,
		     void (*moved)(void *arg, int err, const char *why), void *arg)
{
	int err;

	if (!vm->span || vm_follows(vm))
		return -EOPNOTSUPP;
	if (vm->state != VMM_RUNNING)
		return -EINVAL;
	err = vm_empty_is_on(vm) || vm_join_is_on(vm) ? -EBUSY
						      : vmm_span_move(vm->span, apic_id, slice);
	if (err)
		return err;
	vm->moved = moved;
	vm->moved_arg = arg;
	return 0;
}

bool vmm_vm_moves(const struct vmm_vm *vm)
{
	return vm->span && (vmm_span_moves(vm->span) || vm_empty_moves_vcpus(vm));
}

static void on_order(void *arg, enum vmm_span_order order, const char *reason)
{
	struct vmm_vm *vm = arg;

	if (vm_is_final(vm))
		return;
	switch (order) {
	case VMM_SPAN_LINKED: on_linked(vm); break;
	case VMM_SPAN_GO: follower_go(vm); break;
	case VMM_SPAN_HALT: follower_halt(vm); break;
	case VMM_SPAN_RESET: follower_reset(vm); break;
	case VMM_SPAN_SAVE: follower_save(vm); break;
	case VMM_SPAN_LOOK: follower_look(vm); break;
	case VMM_SPAN_LOAD: follower_load(vm); break;
	case VMM_SPAN_STOPPED: on_end(vm, VMM_STOPPED, reason); break;
	case VMM_SPAN_FAILED: on_end(vm, VMM_FAILED, reason); break;
	case VMM_SPAN_LOST: lose(vm, VMM_FAILED, reason); break;
	case VMM_SPAN_EMPTIED: vm_empty_evicted(vm, reason); break;
	case VMM_SPAN_DISMISSED: vm_empty_dismissed(vm, reason); break;
	case VMM_SPAN_ADMITTED: vm_join_admitted(vm, reason); break;
	case VMM_SPAN_PLACES:
		if (vm->incoming)
			on_linked(vm);
		if (vm->ops->places)
			vm->ops->places(vm->arg);
		break;
	case VMM_SPAN_LEFT:
		vm_set_state(vm, VMM_STOPPED, "its part of the guest is on another node now");
		break;
	case VMM_SPAN_MOVED: on_moved(vm, reason); break;
	case VMM_SPAN_WISH_RESET:
		if (vmm_vm_reset(vm) < 0)
			log_error("reset failed");
		break;
	}
}

static void clock_stepped(void *arg)
{
	vmm_vcpus_new_offset(&((struct vmm_vm *)arg)->vcpus);
}

/* ---- making ---- */

int vm_span_new(struct vmm_vm *vm, char *why)
{
	const struct vmm_span_config config = {
		.slices = &vm->config.slices,
		.mem = vm->mem,
		.irq = vm->irq,
		.pio = vm->pio,
		.mmio = vm->mmio,
		.vcpus = &vm->vcpus,
		.clock = &vm->vcpus.clock,
		.main_loop = vm->main_loop,
		.clock_stepped = clock_stepped,
		.order = on_order,
		.arg = vm,
	};
	bool loaded = vm->config.restore || vm->incoming;
	int err = vmm_span_new(&config, &vm->span);

	if (!err && vm->config.restore)
		err = vm_open_restore(vm, &vm->restore_fd, why);
	if (!err)
		err = vm_follows(vm) || loaded ? vm_reset_vcpus(vm) : vm_boot(vm, why);
	if (err) {
		if (!why[0])
			snprintf(why, VMM_WHY_MAX, "a slice: %s", strerror(-err));
		return err;
	}
	return vmm_span_open(vm->span, why);
}

int vm_span_start(struct vmm_vm *vm, bool resume)
{
	vm->resume_when_linked = resume;
	return vmm_span_start(vm->span);
}

bool vmm_vm_pagemap(struct vmm_vm *vm, unsigned parts, uint8_t *out)
{
	if (!vm->span)
		return false;
	vmm_span_pagemap(vm->span, parts, out);
	return true;
}

static const struct vmm_mem_region *region_of(const struct vmm_mem *mem, uint64_t gpa)
{
	for (unsigned i = 0; i < vmm_mem_region_count(mem); i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(mem, i);

		if (gpa >= r->gpa && gpa - r->gpa < r->len)
			return r;
	}
	return NULL;
}

/* From the file, by no fault: a page that is taken away meanwhile reads as zero, so it is asked again. */
static bool peek_page(struct vmm_vm *vm, uint64_t offset, uint8_t *out)
{
	uint64_t page = offset / VMM_PAGE_SIZE;

	if (vm->span && !vmm_span_has(vm->span, page))
		return false;
	return pread(vmm_mem_fd(vm->mem), out, VMM_PAGE_SIZE, (off_t)offset) == VMM_PAGE_SIZE &&
	       (!vm->span || vmm_span_has(vm->span, page));
}

ssize_t vmm_vm_peek(struct vmm_vm *vm, uint64_t gpa, unsigned pages, uint8_t *out)
{
	const struct vmm_mem_region *r = region_of(vm->mem, gpa);
	uint64_t at, left;
	size_t len = 0;

	if (!r || gpa % VMM_PAGE_SIZE)
		return -EFAULT;
	at = gpa - r->gpa + r->fd_offset;
	left = (r->len - (gpa - r->gpa)) / VMM_PAGE_SIZE;
	for (; len / VMM_PAGE_SIZE < BASE_MIN(left, (uint64_t)pages); len += VMM_PAGE_SIZE)
		if (!peek_page(vm, at + len, out + len))
			break;
	return (ssize_t)len;
}
