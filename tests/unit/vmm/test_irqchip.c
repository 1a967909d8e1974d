/* libs: pg_vmm */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "node/vmm/irqchip.h"

enum { CPUS = 4, SVR = 0xf0, LDR = 0xd0, DFR = 0xe0, EOI = 0xb0, ICR = 0x300, ICR_HIGH = 0x310 };
enum {
	LEVEL = 1 << 15,
	LOGICAL = 1 << 11,
	MASKED = 1 << 16,
	LOWEST = 1 << 8,
	REMOTE_IRR = 1 << 14
};

struct cpu {
	struct vmm_lapic *l;
	sem_t kicked;
};

struct fixture {
	struct vmm_bus *mmio;
	struct vmm_irqchip *chip;
	struct cpu cpu[CPUS];
	uint32_t sent_to; /* by the remote hook */
	uint64_t ids;
	unsigned sent, eois;
};

static void cpu_kick(void *p)
{
	sem_post(&((struct cpu *)p)->kicked);
}

static uint64_t cpu_tsc(void *p)
{
	return 0;
}

static void cpu_arm(void *p, uint64_t deadline)
{
}

static const struct vmm_lapic_cpu ops = {.kick = cpu_kick, .tsc = cpu_tsc, .arm = cpu_arm};

/* The last CPU of the guest (id CPUS) lives elsewhere. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(vmm_bus_new(&f->mmio), 0);
	assert_int_equal(vmm_irqchip_new(CPUS + 1, f->mmio, &f->chip), 0);
	for (unsigned i = 0; i < CPUS; i++) {
		sem_init(&f->cpu[i].kicked, 0, 0);
		assert_int_equal(
			vmm_lapic_new(f->chip, i, 1000000000, &ops, &f->cpu[i], &f->cpu[i].l), 0);
		vmm_irqchip_attach(f->chip, i, f->cpu[i].l);
		vmm_lapic_write(f->cpu[i].l, SVR, 0x1ff);
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vmm_irqchip_free(f->chip);
	for (unsigned i = 0; i < CPUS; i++) {
		vmm_lapic_free(f->cpu[i].l);
		sem_destroy(&f->cpu[i].kicked);
	}
	vmm_bus_free(f->mmio);
	free(f);
	return 0;
}

static uint32_t reg_read(struct fixture *f, uint32_t reg)
{
	uint32_t v;

	vmm_bus_write(f->mmio, VMM_IOAPIC_BASE, 4, (uint8_t *)&reg);
	vmm_bus_read(f->mmio, VMM_IOAPIC_BASE + 0x10, 4, (uint8_t *)&v);
	return v;
}

static void reg_write(struct fixture *f, uint32_t reg, uint32_t v)
{
	vmm_bus_write(f->mmio, VMM_IOAPIC_BASE, 4, (uint8_t *)&reg);
	vmm_bus_write(f->mmio, VMM_IOAPIC_BASE + 0x10, 4, (uint8_t *)&v);
}

static void pin_set(struct fixture *f, unsigned pin, uint8_t dest, uint32_t low)
{
	reg_write(f, 0x11 + 2 * pin, (uint32_t)dest << 24);
	reg_write(f, 0x10 + 2 * pin, low);
}

/* Takes the next interrupt of a CPU, with EOI; -1 for none. */
static int take(struct fixture *f, unsigned cpu)
{
	int v = vmm_lapic_next(f->cpu[cpu].l);

	if (v >= 0) {
		vmm_lapic_ack(f->cpu[cpu].l, (uint8_t)v);
		vmm_lapic_write(f->cpu[cpu].l, EOI, 0);
	}
	return v;
}

/* Bit set of the CPUs that have `vector` next; all are taken. */
static unsigned takers(struct fixture *f, int vector)
{
	unsigned set = 0;

	for (unsigned i = 0; i < CPUS; i++) {
		int v = take(f, i);

		assert_true(v == -1 || v == vector);
		if (v == vector)
			set |= 1u << i;
	}
	return set;
}

static void edge_pin_sends_once_a_rise(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(reg_read(f, 1), 0x3f0020);
	pin_set(f, 5, 2, 0x41);
	vmm_irq_set(f->chip, 5, true);
	assert_int_equal(takers(f, 0x41), 4);
	vmm_irq_set(f->chip, 5, true);
	assert_int_equal(takers(f, 0x41), 0);
	vmm_irq_set(f->chip, 5, false);
	vmm_irq_pulse(f->chip, 5);
	assert_int_equal(takers(f, 0x41), 4);
}

/* Another thread may have stopped between a rise and its fall. */
static void a_pulse_is_always_sent(void **state)
{
	struct fixture *f = *state;

	pin_set(f, 5, 2, 0x41);
	vmm_irq_set(f->chip, 5, true);
	assert_int_equal(takers(f, 0x41), 4);
	vmm_irq_pulse(f->chip, 5);
	assert_int_equal(takers(f, 0x41), 4);
}

static void masked_edge_is_kept(void **state)
{
	struct fixture *f = *state;

	pin_set(f, 5, 1, MASKED | 0x41);
	vmm_irq_pulse(f->chip, 5);
	assert_int_equal(takers(f, 0x41), 0);
	pin_set(f, 5, 1, 0x41);
	assert_int_equal(takers(f, 0x41), 2);
	pin_set(f, 5, 1, 0x41);
	assert_int_equal(takers(f, 0x41), 0);
}

static void level_pin_repeats_after_eoi(void **state)
{
	struct fixture *f = *state;
	struct vmm_lapic *l = f->cpu[0].l;

	pin_set(f, 9, 0, LEVEL | 0x41);
	vmm_irq_set(f->chip, 9, true);
	assert_int_equal(reg_read(f, 0x10 + 18), LEVEL | REMOTE_IRR | 0x41);
	assert_int_equal(vmm_lapic_next(l), 0x41);
	vmm_lapic_ack(l, 0x41);
	assert_int_equal(vmm_lapic_next(l), -1);
	vmm_lapic_write(l, EOI, 0); /* the line is still high */
	assert_int_equal(vmm_lapic_next(l), 0x41);
	vmm_lapic_ack(l, 0x41);
	vmm_irq_set(f->chip, 9, false);
	vmm_lapic_write(l, EOI, 0);
	assert_int_equal(vmm_lapic_next(l), -1);
	assert_int_equal(reg_read(f, 0x10 + 18), LEVEL | 0x41);
	/* masked while high, then unmasked */
	pin_set(f, 9, 0, LEVEL | MASKED | 0x41);
	vmm_irq_set(f->chip, 9, true);
	assert_int_equal(vmm_lapic_next(l), -1);
	pin_set(f, 9, 0, LEVEL | 0x41);
	assert_int_equal(vmm_lapic_next(l), 0x41);
	/* the IOAPIC's own EOI register */
	uint32_t v = 0x41;

	vmm_irq_set(f->chip, 9, false);
	vmm_bus_write(f->mmio, VMM_IOAPIC_BASE + 0x40, 4, (uint8_t *)&v);
	assert_int_equal(reg_read(f, 0x10 + 18), LEVEL | 0x41);
}

static void logical_destinations(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < CPUS; i++)
		vmm_lapic_write(f->cpu[i].l, LDR, UINT32_C(1) << (24 + i));
	pin_set(f, 1, 0x5, LOGICAL | 0x41);
	vmm_irq_pulse(f->chip, 1);
	assert_int_equal(takers(f, 0x41), 5);
	pin_set(f, 1, 0xff, LOGICAL | 0x41);
	vmm_irq_pulse(f->chip, 1);
	assert_int_equal(takers(f, 0x41), 15);
	/* cluster model: CPUs 0, 1 in cluster 0, the others in cluster 1 */
	for (unsigned i = 0; i < CPUS; i++) {
		vmm_lapic_write(f->cpu[i].l, DFR, 0x0fffffff);
		vmm_lapic_write(f->cpu[i].l, LDR, ((i / 2) << 4 | 1u << i % 2) << 24);
	}
	pin_set(f, 1, 0x12, LOGICAL | 0x41);
	vmm_irq_pulse(f->chip, 1);
	assert_int_equal(takers(f, 0x41), 8);
	pin_set(f, 1, 0x03, LOGICAL | 0x41);
	vmm_irq_pulse(f->chip, 1);
	assert_int_equal(takers(f, 0x41), 3);
}

static void lowest_priority_goes_to_one_that_is_enabled(void **state)
{
	struct fixture *f = *state;
	unsigned seen = 0;

	for (unsigned i = 0; i < CPUS; i++)
		vmm_lapic_write(f->cpu[i].l, LDR, UINT32_C(1) << (24 + i));
	vmm_lapic_write(f->cpu[2].l, SVR, 0xff);
	for (uint32_t v = 0x40; v < 0x50; v++) {
		unsigned got;

		pin_set(f, 1, 0xf, LOGICAL | LOWEST | v);
		vmm_irq_pulse(f->chip, 1);
		got = takers(f, (int)v);
		assert_int_equal(__builtin_popcount(got), 1);
		seen |= got;
	}
	assert_int_equal(seen, 0xb);
}

static void shorthands_and_init(void **state)
{
	struct fixture *f = *state;

	vmm_lapic_write(f->cpu[1].l, ICR, 0xc0055); /* all but self */
	assert_int_equal(takers(f, 0x55), 0xd);
	vmm_lapic_write(f->cpu[1].l, ICR, 0x80055); /* all */
	assert_int_equal(takers(f, 0x55), 0xf);
	vmm_lapic_write(f->cpu[1].l, ICR_HIGH, UINT32_C(3) << 24);
	vmm_lapic_write(f->cpu[1].l, ICR, 0xc500); /* INIT, level, assert */
	assert_int_equal(vmm_lapic_events(f->cpu[3].l), VMM_LAPIC_EV_INIT);
	vmm_lapic_write(f->cpu[1].l, ICR, 0x8500); /* de-assert */
	assert_int_equal(vmm_lapic_events(f->cpu[3].l), 0);
	vmm_lapic_write(f->cpu[1].l, ICR, 0x469a);
	assert_int_equal(vmm_lapic_events(f->cpu[3].l), VMM_LAPIC_EV_SIPI);
	assert_int_equal(vmm_lapic_sipi_vector(f->cpu[3].l), 0x9a);
	vmm_lapic_write(f->cpu[1].l, ICR_HIGH, UINT32_C(99) << 24); /* nobody */
	vmm_lapic_write(f->cpu[1].l, ICR, 0x4055);
}

static void x2apic_logical(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(vmm_lapic_wrmsr(f->cpu[i].l, 0x1b,
						 VMM_LAPIC_BASE | 0xc00 | (i ? 0 : 0x100)),
				 0);
	assert_int_equal(vmm_lapic_wrmsr(f->cpu[0].l, 0x830, UINT64_C(0x6) << 32 | 0x4855), 0);
	assert_int_equal(vmm_lapic_next(f->cpu[0].l), -1);
	assert_int_equal(vmm_lapic_next(f->cpu[1].l), 0x55);
	assert_int_equal(vmm_lapic_next(f->cpu[2].l), 0x55);
	assert_int_equal(vmm_lapic_next(f->cpu[3].l), -1);
	assert_int_equal(vmm_lapic_wrmsr(f->cpu[0].l, 0x830, UINT64_C(0x3) << 32 | 0x4056), 0);
	assert_int_equal(vmm_lapic_next(f->cpu[3].l), 0x56);
	assert_int_equal(vmm_lapic_wrmsr(f->cpu[0].l, 0x830, UINT64_C(0xffffffff) << 32 | 0x4057),
			 0);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(vmm_lapic_next(f->cpu[i].l), 0x57);
}

static void remote_send(void *opaque, uint32_t apic_id, const struct vmm_irq_msg *msg)
{
	struct fixture *f = opaque;

	f->sent_to = apic_id;
	f->sent++;
}

static void remote_ids(void *opaque, uint32_t apic_id, uint64_t ids)
{
	((struct fixture *)opaque)->ids = ids;
}

static void remote_eoi(void *opaque, uint8_t vector)
{
	((struct fixture *)opaque)->eois++;
}

static void other_slices_get_their_messages(void **state)
{
	struct fixture *f = *state;
	static const struct vmm_irq_remote remote = {.send = remote_send, .ids = remote_ids};
	static const struct vmm_irq_remote away = {
		.send = remote_send, .ids = remote_ids, .eoi = remote_eoi};
	struct vmm_irq_msg msg = {.vector = 0x61, .level_triggered = true};

	vmm_irqchip_set_remote(f->chip, &remote, f);
	vmm_lapic_write(f->cpu[0].l, ICR_HIGH, (uint32_t)CPUS << 24);
	vmm_lapic_write(f->cpu[0].l, ICR, 0x4055);
	assert_int_equal(f->sent, 1);
	assert_int_equal(f->sent_to, CPUS);
	vmm_lapic_write(f->cpu[0].l, ICR, 0xc0055);
	assert_int_equal(f->sent, 2);
	assert_int_equal(takers(f, 0x55), 0xe);
	/* the logical id that the other slice told */
	vmm_irqchip_set_ids(f->chip, CPUS,
			    UINT64_C(0x80000000) | VMM_IRQ_IDS_FLAT | VMM_IRQ_IDS_ENABLED);
	pin_set(f, 1, 0x80, LOGICAL | LOWEST | 0x41);
	vmm_irq_pulse(f->chip, 1);
	assert_int_equal(f->sent, 3);
	vmm_lapic_write(f->cpu[1].l, LDR, 0x02000000);
	assert_int_equal(f->ids, UINT64_C(0x02000000) | VMM_IRQ_IDS_FLAT | VMM_IRQ_IDS_ENABLED);
	/* this slice is not the IOAPIC's */
	vmm_irqchip_set_remote(f->chip, &away, f);
	vmm_irqchip_deliver(f->chip, 2, &msg);
	vmm_irqchip_deliver(f->chip, 2000, &msg);
	assert_int_equal(take(f, 2), 0x61);
	assert_int_equal(f->eois, 1);
}

static void saves_and_loads(void **state)
{
	struct fixture *f = *state;
	struct base_wbuf w;
	struct base_rbuf r;

	pin_set(f, 9, 0, LEVEL | 0x41);
	vmm_irq_set(f->chip, 9, true);
	pin_set(f, 3, 1, MASKED | 0x42);
	vmm_irq_pulse(f->chip, 3);
	base_wbuf_init(&w, 4096);
	vmm_irqchip_save(f->chip, &w);
	vmm_irqchip_reset(f->chip);
	assert_int_equal(reg_read(f, 0x10 + 18), MASKED);
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_irqchip_load(f->chip, &r, 1), 0);
	assert_int_equal(base_rbuf_end(&r), 0);
	assert_int_equal(reg_read(f, 0x10 + 18), LEVEL | REMOTE_IRR | 0x41);
	pin_set(f, 3, 1, 0x42);
	assert_int_equal(take(f, 1), 0x42);
	for (size_t n = 0; n < w.len; n++) {
		base_rbuf_init(&r, w.data, n);
		assert_int_not_equal(vmm_irqchip_load(f->chip, &r, 1), 0);
	}
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_irqchip_load(f->chip, &r, 9), -EPROTO);
	w.data[w.len - 2] = 0xff; /* bits that no pin has */
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_irqchip_load(f->chip, &r, 1), -EPROTO);
	base_wbuf_fini(&w);
}

/*
 * Four threads send while the vCPU takes, acknowledges and waits for kicks as the real one does.
 * Every vector that a thread sent must be taken after the store that it announces, and no kick may
 * be lost: then the vCPU would wait for ever.
 */
enum { SENDERS = 4, ROUNDS = 5000 };

struct race {
	struct fixture *f;
	_Atomic unsigned announced[SENDERS], taken[SENDERS];
};

struct sender {
	struct race *race;
	unsigned index;
};

static void *sender_main(void *arg)
{
	struct sender *s = arg;
	struct vmm_irq_msg msg = {.vector = (uint8_t)(0x30 + 0x20 * s->index),
				  .assert_level = true};

	for (unsigned i = 1; i <= ROUNDS; i++) {
		atomic_store_explicit(&s->race->announced[s->index], i, memory_order_relaxed);
		vmm_irq_send(s->race->f->chip, &msg);
	}
	return NULL;
}

static bool race_over(struct race *race)
{
	for (unsigned i = 0; i < SENDERS; i++)
		if (atomic_load(&race->taken[i]) != ROUNDS)
			return false;
	return true;
}

static void no_request_and_no_kick_is_lost(void **state)
{
	struct fixture *f = *state;
	struct race race = {.f = f};
	struct sender senders[SENDERS];
	pthread_t threads[SENDERS];
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 50;
	for (unsigned i = 0; i < SENDERS; i++) {
		senders[i] = (struct sender){&race, i};
		assert_int_equal(pthread_create(&threads[i], NULL, sender_main, &senders[i]), 0);
	}
	while (!race_over(&race)) {
		int v = vmm_lapic_next(f->cpu[0].l);

		if (v < 0) {
			assert_int_equal(sem_timedwait(&f->cpu[0].kicked, &limit), 0);
			continue;
		}
		vmm_lapic_ack(f->cpu[0].l, (uint8_t)v);
		atomic_store(&race.taken[(v - 0x30) / 0x20],
			     atomic_load_explicit(&race.announced[(v - 0x30) / 0x20],
						  memory_order_relaxed));
		vmm_lapic_write(f->cpu[0].l, EOI, 0);
	}
	for (unsigned i = 0; i < SENDERS; i++)
		pthread_join(threads[i], NULL);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(edge_pin_sends_once_a_rise),
		TEST(a_pulse_is_always_sent),
		TEST(masked_edge_is_kept),
		TEST(level_pin_repeats_after_eoi),
		TEST(logical_destinations),
		TEST(lowest_priority_goes_to_one_that_is_enabled),
		TEST(shorthands_and_init),
		TEST(x2apic_logical),
		TEST(other_slices_get_their_messages),
		TEST(saves_and_loads),
		TEST(no_request_and_no_kick_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
