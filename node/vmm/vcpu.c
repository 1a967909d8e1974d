#include "node/vmm/vcpu.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/cpuid.h"
#include "node/vmm/vcpu_internal.h"

/* glibc 2.36 has no name for it. */
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define KICK_SIGNAL SIGUSR1

/* In a row: then KVM means it. */
enum { VCPU_REFAULTS_MAX = 100000 };
enum { STATE_MAX = 1 << 16, STACK_BYTES = 256 << 10 };

static __thread struct kvm_run *this_run;

/* Makes the KVM_RUN under way, or the next one, return. */
static void vcpu_on_kick_signal(int sig)
{
	if (this_run)
		this_run->immediate_exit = 1;
}

/* ---- making ---- */

int vmm_vcpus_init(struct vmm_vcpus *all)
{
	struct sigaction sa = {.sa_handler = vcpu_on_kick_signal};

	all->vcpu = calloc(all->guest_vcpu_count, sizeof(struct vmm_vcpu *));
	if (!all->vcpu)
		return -ENOMEM;
	sigemptyset(&sa.sa_mask);
	if (sigaction(KICK_SIGNAL, &sa, NULL) < 0)
		return -errno;
	pthread_mutex_init(&all->lock, NULL);
	pthread_cond_init(&all->changed, NULL);
	all->paused = true;
	atomic_store(&all->closed, true);
	return 0;
}

static uint64_t vcpu_guest_tsc(struct vmm_vcpu *v)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head = {.nmsrs = 1}, .entry = {.index = 0x10}};

	if (v->all->clock.stable || ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
		return vmm_clock_tsc(&v->all->clock);
	return m.entry.data;
}

static uint64_t lapic_tsc(void *cpu)
{
	return vcpu_guest_tsc(cpu);
}

static void lapic_kick(void *cpu)
{
	vmm_vcpu_kick(cpu);
}

static void lapic_arm(void *cpu, uint64_t tsc_deadline)
{
	struct vmm_vcpu *v = cpu;

	/* The timer itself is set on the way into the guest; most deadlines need none because the
	 * guest halts first. */
	v->deadline = tsc_deadline;
}

static const struct vmm_lapic_cpu lapic_ops = {
	.kick = lapic_kick,
	.tsc = lapic_tsc,
	.arm = lapic_arm,
};

static int vcpu_set_tsc_offset(struct vmm_vcpu *v)
{
	uint64_t offset = atomic_load(&v->all->clock.offset);
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset,
	};

	v->offset = offset;
	return ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr) < 0 ? -errno : 0;
}

/* The first vCPU tells the TSC's rate. */
static int vcpu_first(struct vmm_vcpu *v)
{
	struct vmm_vcpus *all = v->all;
	int khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);

	if (khz <= 0)
		return khz < 0 ? -errno : -ENOTSUP;
	all->kvm->tsc_hz = (uint64_t)khz * 1000;
	vmm_clock_init(&all->clock, all->kvm->tsc_hz, all->kvm->tsc_stable,
		       !all->kvm->has_tsc_offset);
	return 0;
}

static int vcpu_set_cpuid(struct vmm_vcpu *v)
{
	struct vmm_cpuid_params p = {
		.apic_id = v->apic_id,
		.package_vcpus = v->all->package_vcpus,
		.tsc_stable = v->all->clock.stable,
		.has_cmpxchg16b = v->all->kvm->has_cmpxchg16b,
	};
	int err = vmm_cpuid_build(v->all->kvm->cpuid, &p, &v->cpuid);

	if (err)
		return err;
	return ioctl(v->fd, KVM_SET_CPUID2, v->cpuid) < 0 ? -errno : 0;
}

static int vcpu_create(struct vmm_vcpu *v)
{
	v->fd = ioctl(v->all->kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)v->apic_id);
	if (v->fd < 0)
		return -errno;
	v->run = mmap(NULL, v->all->kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return -errno;
	}
	/* A child that had it would keep the machine. */
	return madvise(v->run, v->all->kvm->run_bytes, MADV_DONTFORK) ? -errno : 0;
}

static void vcpu_free(struct vmm_vcpu *v)
{
	vmm_lapic_free(v->lapic);
	if (v->run)
		munmap(v->run, v->all->kvm->run_bytes);
	if (v->fd >= 0)
		close(v->fd);
	base_wbuf_fini(&v->power_up);
	free(v->cpuid);
	free(v);
}

static int vcpu_set_up(struct vmm_vcpu *v, enum vmm_vcpu_seat seat)
{
	struct vmm_vcpus *all = v->all;
	int err;

	err = vcpu_create(v);
	if (err)
		return err;
	if (all->count == 0) {
		err = vcpu_first(v);
		if (err)
			return err;
	}
	err = vcpu_set_cpuid(v);
	if (err)
		return err;
	err = vcpu_set_tsc_offset(v);
	if (err)
		return err;
	err = vmm_lapic_new(all->irq, v->apic_id, all->clock.tsc_hz, &lapic_ops, v, &v->lapic);
	if (!err && all->shared)
		vmm_lapic_let_breathe(v->lapic);
	if (err)
		return err;
	if (seat == VMM_SEAT_HERE)
		vmm_irqchip_attach(all->irq, v->apic_id, v->lapic);
	else
		vmm_lapic_go_away(v->lapic);
	v->msr = (struct vmm_msr_ctx){.mem = all->mem, .clock = &all->clock, .lapic = v->lapic};
	vmm_vcpu_save(v, &v->power_up);
	return v->power_up.error;
}

static int vcpu_new(struct vmm_vcpus *all, uint32_t apic_id, enum vmm_vcpu_seat seat,
		    struct vmm_vcpu **out)
{
	struct vmm_vcpu *v;
	int err;

	assert(all->count < all->guest_vcpu_count && apic_id < all->guest_vcpu_count);
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->all = all;
	v->apic_id = apic_id;
	v->fd = -1;
	v->activity = VCPU_WAIT_SIPI;
	atomic_store(&v->seat, seat);
	base_wbuf_init(&v->power_up, STATE_MAX);
	err = vcpu_set_up(v, seat);
	if (!err && all->started)
		err = vcpu_start(v);
	if (err) {
		vcpu_free(v);
		return err;
	}
	all->vcpu[all->count] = v;
	atomic_fetch_add(&all->count, 1);
	*out = v;
	return 0;
}

int vmm_vcpu_new(struct vmm_vcpus *all, uint32_t apic_id, struct vmm_vcpu **out)
{
	return vcpu_new(all, apic_id, VMM_SEAT_HERE, out);
}

int vmm_vcpu_new_away(struct vmm_vcpus *all, uint32_t apic_id, struct vmm_vcpu **out)
{
	return vcpu_new(all, apic_id, VMM_SEAT_AWAY, out);
}

/* ---- kicks, sleep, timer ---- */

void vmm_vcpu_kick(struct vmm_vcpu *v)
{
	/* Someone else's kick is still to be seen: the thread will look at everything then. */
	if (atomic_exchange(&v->pending, 1) != 0)
		return;
	switch (atomic_load(&v->place)) {
	case VCPU_IN_GUEST: syscall(SYS_tgkill, getpid(), v->tid, KICK_SIGNAL); break;
	case VCPU_ASLEEP:
		syscall(SYS_futex, &v->pending, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		break;
	default: break;
	}
}

/* Without a look at whether it has been kicked: whoever did may not have sent the signal yet. */
static void vcpu_drive_out(struct vmm_vcpu *v)
{
	atomic_store(&v->pending, 1);
	if (atomic_load(&v->place) == VCPU_IN_GUEST)
		syscall(SYS_tgkill, getpid(), v->tid, KICK_SIGNAL);
	else
		syscall(SYS_futex, &v->pending, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static int64_t vcpu_deadline_ns(struct vmm_vcpu *v)
{
	uint64_t tsc = vcpu_guest_tsc(v);
	int64_t now = base_clock_ns();
	uint64_t ns;

	if (tsc >= v->deadline)
		return now;
	ns = vmm_clock_ticks_to_ns(&v->all->clock, v->deadline - tsc);
	/* A guest may ask for the end of time. */
	return ns > (uint64_t)(INT64_MAX - now) ? INT64_MAX : now + (int64_t)ns;
}

/* Until a kick or the timer's deadline. */
static void vcpu_sleep(struct vmm_vcpu *v)
{
	struct timespec until, *limit = NULL;

	if (v->deadline && !v->held && vcpu_sits_here(v)) {
		until = base_clock_timespec(vcpu_deadline_ns(v));
		limit = &until;
	}
	atomic_store(&v->place, VCPU_ASLEEP);
	syscall(SYS_futex, &v->pending, FUTEX_WAIT_BITSET_PRIVATE, 0, limit, NULL,
		FUTEX_BITSET_MATCH_ANY);
	atomic_store(&v->place, VCPU_OUTSIDE);
}

static void vcpu_check_timer(struct vmm_vcpu *v)
{
	if (v->deadline && vcpu_guest_tsc(v) >= v->deadline) {
		v->deadline = 0;
		vmm_lapic_timer_expired(v->lapic);
	}
}

static void vcpu_arm_timer(struct vmm_vcpu *v)
{
	struct itimerspec its = {0};

	if (v->deadline == v->armed)
		return;
	if (v->deadline)
		its.it_value = base_clock_timespec(vcpu_deadline_ns(v));
	timer_settime(v->timer, TIMER_ABSTIME, &its, NULL);
	v->armed = v->deadline;
}

/* ---- the run loop ---- */

static void vcpu_take_events(struct vmm_vcpu *v)
{
	uint32_t ev = vmm_lapic_events(v->lapic);
	int err = 0;

	if (ev & VMM_LAPIC_EV_INIT) {
		vmm_lapic_reset(v->lapic, true);
		v->deadline = 0;
		err = vcpu_load_power_up(v);
		v->activity = v->apic_id == 0 ? VCPU_RUNS : VCPU_WAIT_SIPI;
	}
	if (!err && ev & VMM_LAPIC_EV_SIPI && v->activity == VCPU_WAIT_SIPI)
		err = vcpu_enter_sipi(v, vmm_lapic_sipi_vector(v->lapic));
	if (!err && ev & VMM_LAPIC_EV_NMI && v->activity != VCPU_WAIT_SIPI) {
		err = ioctl(v->fd, KVM_NMI) < 0 ? -errno : 0;
		v->activity = VCPU_RUNS;
	}
	if (err)
		vcpu_fail(v, "cannot be reset: %s", strerror(-err));
}

/* Gives KVM the highest interrupt if the guest takes one now, else asks to be told when. */
static void vcpu_inject(struct vmm_vcpu *v)
{
	struct kvm_interrupt irq;
	int vector = vmm_lapic_next(v->lapic);

	if (vector >= 0 && v->run->ready_for_interrupt_injection) {
		irq.irq = (uint32_t)vector;
		if (ioctl(v->fd, KVM_INTERRUPT, &irq) < 0) {
			vcpu_fail(v, "KVM_INTERRUPT %d: %s", vector, strerror(errno));
			return;
		}
		vmm_lapic_ack(v->lapic, (uint8_t)vector);
		v->run->ready_for_interrupt_injection = 0;
		vector = vmm_lapic_next(v->lapic);
	}
	v->run->request_interrupt_window = vector >= 0;
}

static bool vcpu_may_run(struct vmm_vcpu *v)
{
	if (v->held || v->excluded || !vcpu_sits_here(v) || v->activity == VCPU_WAIT_SIPI)
		return false;
	if (v->activity == VCPU_HALTED) {
		if (!v->run->if_flag || vmm_lapic_next(v->lapic) < 0)
			return false;
		v->activity = VCPU_RUNS;
	}
	return true;
}

/* Another slice's clock is the guest's, and ours was moved to it. */
static void vcpu_follow_clock(struct vmm_vcpu *v)
{
	if (atomic_load_explicit(&v->all->clock.offset, memory_order_relaxed) == v->offset)
		return;
	if (vcpu_set_tsc_offset(v) < 0)
		log_warn("vCPU %u: cannot set the TSC offset", v->apic_id);
}

static void vcpu_enter(struct vmm_vcpu *v)
{
	uint8_t cr8 = vmm_lapic_tpr(v->lapic) >> 4;
	int err;

	if (v->all->shared)
		vcpu_follow_clock(v);

	v->run->cr8 = cr8;
	atomic_store(&v->place, VCPU_IN_GUEST);
	/* A kick from before this point left `pending`, one from after it sends the signal. */
	if (atomic_load(&v->pending)) {
		atomic_store(&v->place, VCPU_OUTSIDE);
		return;
	}
	err = ioctl(v->fd, KVM_RUN, 0) < 0 ? errno : 0;
	atomic_store(&v->place, VCPU_OUTSIDE);
	v->run->immediate_exit = 0;
	if (v->run->cr8 != cr8)
		vmm_lapic_set_cr8(v->lapic, (uint8_t)v->run->cr8);
	if (err == 0) {
		v->refaults = 0;
		vcpu_handle_exit(v);
		return;
	}
	v->io_unfinished = false;
	/* Where the kernel gives up waiting for a page, the guest tries the instruction anew. */
	if (err == EFAULT && vcpu_pages_away(v) && v->refaults++ < VCPU_REFAULTS_MAX) {
		vcpu_count(v, VMM_EXIT_OTHER);
		sched_yield();
	} else if (err == EINTR || err == EAGAIN) {
		/* The timer's signal is spent, whoever sent this one. */
		if (v->armed && vcpu_guest_tsc(v) >= v->armed)
			v->armed = 0;
		vcpu_count(v, VMM_EXIT_KICK);
	} else {
		vcpu_fail(v, "KVM_RUN: %s", strerror(err));
	}
}

/* Under the lock. */
static bool gate_is_shut(const struct vmm_vcpus *all)
{
	return (all->paused || all->held_back) && !all->stopping;
}

static void gate_moved(struct vmm_vcpus *all)
{
	atomic_store(&all->closed, all->paused || all->held_back || all->stopping);
	pthread_cond_broadcast(&all->changed);
}

/* At the gate: acknowledges a pause and waits for its end. False: the thread shall end. */
static bool vcpu_gate(struct vmm_vcpu *v)
{
	struct vmm_vcpus *all = v->all;
	bool go_on;

	/* Most kicks are interrupts, and the lock is everybody's. */
	if (!atomic_load(&all->closed))
		return true;
	pthread_mutex_lock(&all->lock);
	if (gate_is_shut(all)) {
		pthread_mutex_unlock(&all->lock);
		vcpu_finish_io(v);
		pthread_mutex_lock(&all->lock);
		all->parked++;
		pthread_cond_broadcast(&all->changed);
		while (gate_is_shut(all))
			pthread_cond_wait(&all->changed, &all->lock);
		all->parked--;
		v->armed = 0;
	}
	go_on = !all->stopping;
	pthread_mutex_unlock(&all->lock);
	return go_on;
}

static int vcpu_make_timer(struct vmm_vcpu *v)
{
	struct sigevent se = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = KICK_SIGNAL,
	};

	se.sigev_notify_thread_id = v->tid;
	return timer_create(CLOCK_MONOTONIC, &se, &v->timer) < 0 ? -errno : 0;
}

/* After a kick. */
static void vcpu_look(struct vmm_vcpu *v)
{
	vcpu_take_call(v);
	if (vcpu_sits_here(v))
		vcpu_take_events(v);
	else if (!vmm_vcpu_is_here(v))
		vcpu_pass_on(v);
}

static void *vcpu_main(void *arg)
{
	struct vmm_vcpu *v = arg;
	char name[16];
	int err;

	/* By itself: for another thread this needs /proc. */
	snprintf(name, sizeof(name), "vcpu%u", v->apic_id);
	pthread_setname_np(pthread_self(), name);
	v->tid = (pid_t)syscall(SYS_gettid);
	this_run = v->run;
	err = vcpu_make_timer(v);
	if (err)
		vcpu_fail(v, "cannot make its timer: %s", strerror(-err));
	atomic_store(&v->pending, 1);
	for (;;) {
		if (atomic_exchange(&v->pending, 0)) {
			if (!vcpu_gate(v))
				break;
			vcpu_look(v);
		}
		if (vcpu_sits_here(v))
			vcpu_check_timer(v);
		if (!vcpu_may_run(v)) {
			vcpu_sleep(v);
			continue;
		}
		vcpu_inject(v);
		vcpu_arm_timer(v);
		vcpu_enter(v);
	}
	this_run = NULL;
	if (!err)
		timer_delete(v->timer);
	return NULL;
}

/* ---- all of them ---- */

int vcpu_start(struct vmm_vcpu *v)
{
	pthread_attr_t attr;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	err = pthread_create(&v->thread, &attr, vcpu_main, v);
	pthread_attr_destroy(&attr);
	if (err)
		return -err;
	v->thread_started = true;
	return 0;
}

static void vcpus_wait_parked(struct vmm_vcpus *all)
{
	unsigned threads = 0;

	for (unsigned i = 0; i < all->count; i++)
		threads += all->vcpu[i]->thread_started;
	pthread_mutex_lock(&all->lock);
	while (all->parked < threads)
		pthread_cond_wait(&all->changed, &all->lock);
	pthread_mutex_unlock(&all->lock);
}

int vmm_vcpus_start(struct vmm_vcpus *all)
{
	int err;

	for (unsigned i = 0; i < all->count; i++) {
		err = vcpu_start(all->vcpu[i]);
		if (err)
			return err;
	}
	all->started = true;
	if (!all->restored)
		all->paused_tsc = vmm_clock_begin(&all->clock);
	vcpus_wait_parked(all);
	return 0;
}

void vmm_vcpus_close(struct vmm_vcpus *all)
{
	pthread_mutex_lock(&all->lock);
	all->paused = true;
	gate_moved(all);
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < all->count; i++)
		vmm_vcpu_kick(all->vcpu[i]);
}

/* Nothing of a vCPU is touched here: KVM would wait for one that sleeps in a page fault. */
void vmm_vcpus_reopen(struct vmm_vcpus *all)
{
	for (unsigned i = 0; i < all->count; i++)
		atomic_store(&all->vcpu[i]->pending, 1);
	pthread_mutex_lock(&all->lock);
	all->paused = false;
	gate_moved(all);
	pthread_mutex_unlock(&all->lock);
}

void vmm_vcpus_hold_back(struct vmm_vcpus *all)
{
	pthread_mutex_lock(&all->lock);
	all->held_back = true;
	gate_moved(all);
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < all->count; i++)
		vcpu_drive_out(all->vcpu[i]);
}

void vmm_vcpus_let_go(struct vmm_vcpus *all)
{
	pthread_mutex_lock(&all->lock);
	all->held_back = false;
	gate_moved(all);
	pthread_mutex_unlock(&all->lock);
}

void vmm_vcpus_pause(struct vmm_vcpus *all)
{
	bool was = all->paused; /* only the main thread changes it */

	vmm_vcpus_close(all);
	vcpus_wait_parked(all);
	if (!was)
		all->paused_tsc = vmm_clock_tsc(&all->clock);
}

static void vcpus_open(struct vmm_vcpus *all)
{
	for (unsigned i = 0; i < all->count; i++) {
		struct vmm_vcpu *v = all->vcpu[i];

		if (vcpu_set_tsc_offset(v) < 0)
			log_warn("vCPU %u: cannot set the TSC offset", v->apic_id);
		v->held = v->failed;
		/* Whatever it missed while it could not look. */
		atomic_store(&v->pending, 1);
	}
	pthread_mutex_lock(&all->lock);
	all->paused = false;
	gate_moved(all);
	/* A pause right after this must not count threads that have not left the gate yet. */
	pthread_mutex_unlock(&all->lock);
}

void vmm_vcpus_resume(struct vmm_vcpus *all)
{
	/* The time of the pause did not pass for the guest. */
	vmm_clock_set(&all->clock, all->paused_tsc);
	vcpus_open(all);
}

void vmm_vcpus_resume_with(struct vmm_vcpus *all, uint64_t offset)
{
	if (!all->clock.fixed)
		atomic_store(&all->clock.offset, offset);
	vcpus_open(all);
}

void vmm_vcpus_new_offset(struct vmm_vcpus *all)
{
	for (unsigned i = 0; i < all->count; i++)
		vmm_vcpu_kick(all->vcpu[i]);
}

void vmm_vcpus_stop(struct vmm_vcpus *all)
{
	pthread_mutex_lock(&all->lock);
	all->stopping = true;
	gate_moved(all);
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < all->count; i++) {
		struct vmm_vcpu *v = all->vcpu[i];

		vmm_vcpu_kick(v);
		if (v->thread_started)
			pthread_join(v->thread, NULL);
		v->thread_started = false;
	}
}

void vmm_vcpus_fini(struct vmm_vcpus *all)
{
	vmm_vcpus_stop(all);
	for (unsigned i = 0; i < all->count; i++)
		vcpu_free(all->vcpu[i]);
	free(all->vcpu);
	pthread_cond_destroy(&all->changed);
	pthread_mutex_destroy(&all->lock);
}

uint32_t vmm_vcpu_apic_id(const struct vmm_vcpu *v)
{
	return v->apic_id;
}

struct vmm_lapic *vmm_vcpu_lapic(const struct vmm_vcpu *v)
{
	return v->lapic;
}

uint64_t vmm_vcpu_exits(const struct vmm_vcpu *v, enum vmm_vcpu_exit_kind kind)
{
	return atomic_load_explicit(&v->exits[kind], memory_order_relaxed);
}

const char *vmm_vcpu_exit_name(enum vmm_vcpu_exit_kind kind)
{
	static const char *const names[VMM_EXIT_KINDS] = {
		"pio", "mmio", "lapic", "msr", "hlt", "irq_window", "kick", "other",
	};

	return kind < VMM_EXIT_KINDS ? names[kind] : "?";
}

void vmm_vcpus_run_only(struct vmm_vcpus *all, struct vmm_vcpu *v)
{
	for (unsigned i = 0; i < all->count; i++)
		all->vcpu[i]->excluded = v && all->vcpu[i] != v;
}

const struct kvm_debug_exit_arch *vmm_vcpu_debug_exit(const struct vmm_vcpu *v)
{
	return &v->debug;
}
