/* libs: pg_vmm */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "node/vmm/lapic.h"

enum {
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	SVR = 0xf0,
	ISR = 0x100,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	LVT_TIMER = 0x320,
	LVT_ERROR = 0x370,
	COUNT = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0,
	PERIODIC = 1 << 17,
	DEADLINE = 2 << 17,
	TSC_HZ = 2000000000,
};

struct cpu {
	struct vmm_lapic *l;
	unsigned kicks, arms;
	uint64_t tsc, deadline;
};

static void cpu_kick(void *p)
{
	((struct cpu *)p)->kicks++;
}

static uint64_t cpu_tsc(void *p)
{
	return ((struct cpu *)p)->tsc;
}

static void cpu_arm(void *p, uint64_t deadline)
{
	((struct cpu *)p)->deadline = deadline;
	((struct cpu *)p)->arms++;
}

static const struct vmm_lapic_cpu ops = {.kick = cpu_kick, .tsc = cpu_tsc, .arm = cpu_arm};

static int setup(void **state)
{
	struct cpu *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	c->tsc = 1000;
	assert_int_equal(vmm_lapic_new(NULL, 3, TSC_HZ, &ops, c, &c->l), 0);
	vmm_lapic_write(c->l, SVR, 0x1ff);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct cpu *c = *state;

	vmm_lapic_free(c->l);
	free(c);
	return 0;
}

static void accept_vector(struct cpu *c, uint8_t vector)
{
	struct vmm_irq_msg msg = {.vector = vector};

	vmm_lapic_accept(c->l, &msg);
}

static void accept_event(struct cpu *c, enum vmm_irq_delivery delivery, uint8_t vector)
{
	struct vmm_irq_msg msg = {.vector = vector, .delivery = (uint8_t)delivery};

	vmm_lapic_accept(c->l, &msg);
}

static void delivers_by_priority(void **state)
{
	struct cpu *c = *state;

	assert_int_equal(vmm_lapic_next(c->l), -1);
	accept_vector(c, 0x31);
	accept_vector(c, 0x51);
	accept_vector(c, 0x51);
	assert_int_equal(c->kicks, 2); /* the third was pending already */
	assert_int_equal(vmm_lapic_next(c->l), 0x51);
	vmm_lapic_ack(c->l, 0x51);
	assert_int_equal(vmm_lapic_read(c->l, ISR + 0x20), 1 << 17);
	assert_int_equal(vmm_lapic_read(c->l, PPR), 0x50);
	assert_int_equal(vmm_lapic_next(c->l), -1); /* 0x31 is below what is in service */
	accept_vector(c, 0x5f);
	assert_int_equal(vmm_lapic_next(c->l), -1); /* same class */
	accept_vector(c, 0x61);
	assert_int_equal(vmm_lapic_next(c->l), 0x61);
	vmm_lapic_ack(c->l, 0x61);
	vmm_lapic_write(c->l, EOI, 0);
	vmm_lapic_write(c->l, EOI, 0);
	assert_int_equal(vmm_lapic_next(c->l), 0x5f);
	vmm_lapic_ack(c->l, 0x5f);
	vmm_lapic_write(c->l, EOI, 0);
	assert_int_equal(vmm_lapic_next(c->l), 0x31);
	vmm_lapic_ack(c->l, 0x31);
	vmm_lapic_write(c->l, EOI, 0);
	vmm_lapic_write(c->l, EOI, 0); /* one too many: nothing happens */
	assert_int_equal(vmm_lapic_next(c->l), -1);
}

static void task_priority_holds_back(void **state)
{
	struct cpu *c = *state;

	accept_vector(c, 0x45);
	vmm_lapic_write(c->l, TPR, 0x40);
	assert_int_equal(vmm_lapic_next(c->l), -1);
	vmm_lapic_set_cr8(c->l, 3);
	assert_int_equal(vmm_lapic_tpr(c->l), 0x30);
	assert_int_equal(vmm_lapic_next(c->l), 0x45);
	vmm_lapic_write(c->l, TPR, 0x3f);
	vmm_lapic_set_cr8(c->l, 3); /* same class: the low bits stay */
	assert_int_equal(vmm_lapic_read(c->l, TPR), 0x3f);
	assert_int_equal(vmm_lapic_read(c->l, PPR), 0x3f);
}

static void disabled_takes_only_events(void **state)
{
	struct cpu *c = *state;

	vmm_lapic_write(c->l, SVR, 0xff);
	accept_vector(c, 0x45);
	assert_int_equal(c->kicks, 0);
	assert_int_equal(vmm_lapic_next(c->l), -1);
	vmm_lapic_write(c->l, LVT_TIMER, 0x33); /* masked while disabled */
	assert_int_equal(vmm_lapic_read(c->l, LVT_TIMER), 0x10033);
	accept_event(c, VMM_IRQ_NMI, 0);
	accept_event(c, VMM_IRQ_INIT, 0);
	accept_event(c, VMM_IRQ_SIPI, 0x9a);
	assert_int_equal(c->kicks, 3);
	assert_int_equal(vmm_lapic_events(c->l),
			 VMM_LAPIC_EV_NMI | VMM_LAPIC_EV_INIT | VMM_LAPIC_EV_SIPI);
	assert_int_equal(vmm_lapic_sipi_vector(c->l), 0x9a);
	assert_int_equal(vmm_lapic_events(c->l), 0);
}

static void illegal_vectors_are_errors(void **state)
{
	struct cpu *c = *state;

	vmm_lapic_write(c->l, LVT_ERROR, 0xfe);
	accept_vector(c, 5);
	assert_int_equal(vmm_lapic_next(c->l), -1);
	vmm_lapic_write(c->l, ICR, 5); /* sends vector 5 */
	assert_int_equal(vmm_lapic_next(c->l), 0xfe);
	assert_int_equal(vmm_lapic_read(c->l, ESR), 0);
	vmm_lapic_write(c->l, ESR, 0);
	assert_int_equal(vmm_lapic_read(c->l, ESR), 0x60);
	vmm_lapic_write(c->l, ESR, 0);
	assert_int_equal(vmm_lapic_read(c->l, ESR), 0);
}

static void self_ipi_needs_no_kick(void **state)
{
	struct cpu *c = *state;

	vmm_lapic_write(c->l, ICR, 0x40077);
	assert_int_equal(vmm_lapic_next(c->l), 0x77);
	assert_int_equal(c->kicks, 0);
}

static void one_shot_counts_down_once(void **state)
{
	struct cpu *c = *state;

	vmm_lapic_write(c->l, LVT_TIMER, 0x40);
	vmm_lapic_write(c->l, DIVIDE, 0x3); /* by 16 */
	vmm_lapic_write(c->l, COUNT, 1000); /* 16 us: 32000 cycles */
	assert_int_equal(c->deadline, 1000 + 32000);
	c->tsc += 16000;
	assert_int_equal(vmm_lapic_read(c->l, CURRENT), 500);
	vmm_lapic_timer_expired(c->l); /* too early: armed again */
	assert_int_equal(vmm_lapic_next(c->l), -1);
	assert_int_equal(c->arms, 2);
	c->tsc += 16000;
	assert_int_equal(vmm_lapic_read(c->l, CURRENT), 0);
	vmm_lapic_timer_expired(c->l);
	assert_int_equal(vmm_lapic_next(c->l), 0x40);
	vmm_lapic_ack(c->l, 0x40);
	vmm_lapic_timer_expired(c->l);
	vmm_lapic_write(c->l, EOI, 0);
	assert_int_equal(vmm_lapic_next(c->l), -1);
	vmm_lapic_write(c->l, COUNT, 1000);
	vmm_lapic_write(c->l, COUNT, 0);
	assert_int_equal(c->deadline, 0);
}

static void periodic_keeps_its_raster(void **state)
{
	struct cpu *c = *state;
	uint64_t period = TSC_HZ / 1000;

	vmm_lapic_write(c->l, LVT_TIMER, PERIODIC | 0x40);
	vmm_lapic_write(c->l, DIVIDE, 0xb);    /* by 1 */
	vmm_lapic_write(c->l, COUNT, 1000000); /* 1 ms */
	assert_int_equal(c->deadline, 1000 + period);
	c->tsc = c->deadline + 70;
	vmm_lapic_timer_expired(c->l);
	assert_int_equal(c->deadline, 1000 + 2 * period);
	assert_int_equal(vmm_lapic_next(c->l), 0x40);
	c->tsc = 1000 + 9 * period + 5; /* stopped for a while */
	vmm_lapic_timer_expired(c->l);
	assert_int_equal(c->deadline, 1000 + 10 * period);
	vmm_lapic_write(c->l, COUNT, 1); /* a hostile period */
	assert_true(c->deadline >= c->tsc + TSC_HZ / 100000);
}

static void tsc_deadline_mode(void **state)
{
	struct cpu *c = *state;
	uint64_t v;

	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 5000), 0);
	assert_int_equal(c->deadline, 0); /* not in this mode yet */
	vmm_lapic_write(c->l, LVT_TIMER, DEADLINE | 0x40);
	vmm_lapic_write(c->l, COUNT, 77);
	assert_int_equal(vmm_lapic_read(c->l, COUNT), 0);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 5000), 0);
	assert_int_equal(c->deadline, 5000);
	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x6e0, &v), 0);
	assert_int_equal(v, 5000);
	c->tsc = 5000;
	vmm_lapic_timer_expired(c->l);
	assert_int_equal(vmm_lapic_next(c->l), 0x40);
	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x6e0, &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 9000), 0);
	vmm_lapic_write(c->l, LVT_TIMER, 0x40); /* leaving the mode disarms */
	assert_int_equal(c->deadline, 0);
}

static void long_ticks_leave_time_between(void **state)
{
	struct cpu *c = *state;

	vmm_lapic_let_breathe(c->l);
	vmm_lapic_write(c->l, LVT_TIMER, DEADLINE | 0x40);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 5000), 0);
	c->tsc = 5000;
	vmm_lapic_timer_expired(c->l);
	c->tsc = 5010; /* a short tick: the next one is far enough away */
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 6000), 0);
	assert_int_equal(c->deadline, 6000);
	c->tsc = 6000;
	vmm_lapic_timer_expired(c->l);
	c->tsc = 8000; /* a long one */
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 7000), 0);
	assert_int_equal(c->deadline, 8000 + 7 * 2000);
	c->tsc = 8500; /* and what comes meanwhile waits too */
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 8600), 0);
	assert_int_equal(c->deadline, 22000);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 0), 0);
	assert_int_equal(c->deadline, 0);
	c->tsc = 30000;
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, 30001), 0);
	assert_int_equal(c->deadline, 30001);
	c->tsc = 30001;
	vmm_lapic_timer_expired(c->l);
	c->tsc += TSC_HZ; /* not a tick that set the timer, but a guest that had no need */
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x6e0, c->tsc), 0);
	assert_int_equal(c->deadline, c->tsc + TSC_HZ);
}

static void masked_timer_is_silent(void **state)
{
	struct cpu *c = *state;

	vmm_lapic_write(c->l, LVT_TIMER, 0x10040);
	vmm_lapic_write(c->l, COUNT, 10);
	c->tsc = c->deadline;
	vmm_lapic_timer_expired(c->l);
	assert_int_equal(vmm_lapic_next(c->l), -1);
}

static void x2apic_registers(void **state)
{
	struct cpu *c = *state;
	uint64_t v, base;

	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x802, &v), -EINVAL);
	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x1b, &base), 0);
	assert_int_equal(base, VMM_LAPIC_BASE | 0x800);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x1b, base | 0x400), 0);
	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x802, &v), 0);
	assert_int_equal(v, 3);
	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x80d, &v), 0);
	assert_int_equal(v, 1 << 3);
	assert_int_equal(vmm_lapic_read(c->l, SVR), 0); /* no MMIO any more */
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x83f, 0x55), 0);
	assert_int_equal(vmm_lapic_next(c->l), 0x55);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x80b, 1), -EINVAL);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x80b, 0), 0);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x80e, 0), -EINVAL);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x802, 0), -EINVAL);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x808, UINT64_C(1) << 32), -EINVAL);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x830, 1 << 20), -EINVAL);
	/* back to xAPIC only through disabled */
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x1b, base), -EINVAL);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x1b, VMM_LAPIC_BASE), 0);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x1b, base | 0x400), -EINVAL);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x1b, 0xfed00000 | 0x800), -EINVAL);
	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x1b, base), 0);
}

static void init_keeps_id_and_base(void **state)
{
	struct cpu *c = *state;
	uint64_t v;

	assert_int_equal(vmm_lapic_wrmsr(c->l, 0x1b, VMM_LAPIC_BASE | 0xc00), 0);
	accept_vector(c, 0x45);
	vmm_lapic_reset(c->l, true);
	assert_int_equal(vmm_lapic_next(c->l), -1);
	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x1b, &v), 0);
	assert_int_equal(v, VMM_LAPIC_BASE | 0xc00);
	assert_int_equal(vmm_lapic_rdmsr(c->l, 0x802, &v), 0);
	assert_int_equal(v, 3);
}

static void take_request(void *to, const struct vmm_irq_msg *msg)
{
	vmm_lapic_accept(to, msg);
}

/* What waits when the registers are taken, and what comes before and after they arrive. */
static void moves_with_all_requests(void **state)
{
	struct cpu *c = *state, there = {.tsc = 5000};
	const struct vmm_irq_msg sipi = {.delivery = VMM_IRQ_SIPI, .vector = 0x9a};
	struct base_wbuf w;
	struct base_rbuf r;

	assert_int_equal(vmm_lapic_new(NULL, 3, TSC_HZ, &ops, &there, &there.l), 0);
	vmm_lapic_go_away(there.l);
	accept_vector(c, 0x41);
	vmm_lapic_ack(c->l, 0x41);
	accept_vector(c, 0x52);
	base_wbuf_init(&w, 4096);
	vmm_lapic_save(c->l, &w);
	accept_vector(c, 0x63);
	accept_vector(&there, 0x74);
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_lapic_move_in(there.l, &r, VMM_LAPIC_STATE_VERSION), 0);
	accept_vector(&there, 0x85);
	vmm_lapic_accept(c->l, &sipi);
	vmm_lapic_take_requests(c->l, take_request, there.l);
	vmm_lapic_take_requests(c->l, take_request, there.l);
	for (uint8_t vector = 0x85; vector >= 0x52; vector -= 0x11) {
		assert_int_equal(vmm_lapic_next(there.l), vector);
		vmm_lapic_ack(there.l, vector);
		vmm_lapic_write(there.l, EOI, 0);
	}
	/* Of the first the handler was running. */
	assert_int_equal(vmm_lapic_read(there.l, ISR + 0x20), 1 << 1);
	assert_int_equal(vmm_lapic_next(there.l), -1);
	assert_int_equal(vmm_lapic_next(c->l), -1);
	assert_int_equal(vmm_lapic_events(there.l), VMM_LAPIC_EV_SIPI);
	assert_int_equal(vmm_lapic_sipi_vector(there.l), 0x9a);
	assert_int_equal(vmm_lapic_events(c->l), 0);
	base_wbuf_fini(&w);
	vmm_lapic_free(there.l);
}

static void saves_and_loads(void **state)
{
	struct cpu *c = *state, d = {.tsc = 2000};
	struct base_wbuf w;
	struct base_rbuf r;

	vmm_lapic_write(c->l, LVT_TIMER, PERIODIC | 0x40);
	vmm_lapic_write(c->l, COUNT, 1000000);
	accept_vector(c, 0x77);
	accept_vector(c, 0x33);
	vmm_lapic_ack(c->l, 0x77);
	accept_event(c, VMM_IRQ_SIPI, 0x10);
	base_wbuf_init(&w, 4096);
	vmm_lapic_save(c->l, &w);
	assert_int_equal(w.error, 0);
	assert_int_equal(vmm_lapic_new(NULL, 3, TSC_HZ, &ops, &d, &d.l), 0);
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_lapic_load(d.l, &r, 1), 0);
	assert_int_equal(base_rbuf_end(&r), 0);
	assert_int_equal(d.deadline, c->deadline);
	assert_int_equal(vmm_lapic_next(d.l), -1);
	vmm_lapic_write(d.l, EOI, 0);
	assert_int_equal(vmm_lapic_next(d.l), 0x33);
	assert_int_equal(vmm_lapic_events(d.l), VMM_LAPIC_EV_SIPI);
	/* hostile bytes: every truncation, another id, another version, seeded noise */
	for (size_t n = 0; n < w.len; n++) {
		base_rbuf_init(&r, w.data, n);
		assert_int_not_equal(vmm_lapic_load(d.l, &r, 1), 0);
	}
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_lapic_load(d.l, &r, 2), -EPROTO);
	w.data[0] = 9;
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_lapic_load(d.l, &r, 1), -EPROTO);
	w.data[0] = 3;
	w.data[12] = 0; /* the base MSR is elsewhere... */
	w.data[6] = 0x11;
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(vmm_lapic_load(d.l, &r, 1), -EPROTO);
	vmm_lapic_free(d.l);
	base_wbuf_fini(&w);
}

/*
 * Seeded random steps against a model that is a plain set of vectors: what is requested, what is in
 * service, and the priority rule of the manual.
 */
struct model {
	bool irr[256], isr[256];
	unsigned tpr;
};

static int model_highest(const bool *set)
{
	for (int v = 255; v >= 0; v--)
		if (set[v])
			return v;
	return -1;
}

static int model_next(const struct model *m)
{
	int request = model_highest(m->irr), service = model_highest(m->isr);
	int class = BASE_MAX((int)m->tpr >> 4, service < 0 ? 0 : service >> 4);

	return request >= 0 && request >> 4 > class ? request : -1;
}

static void agrees_with_the_model(void **state)
{
	struct cpu *c = *state;
	struct model m = {.tpr = 0};
	struct base_rng rng;

	base_rng_seed(&rng, 42);
	for (unsigned step = 0; step < 200000; step++) {
		unsigned v = 16 + (unsigned)base_rng_below(&rng, 240);
		int next = vmm_lapic_next(c->l);

		assert_int_equal(next, model_next(&m));
		switch (base_rng_below(&rng, 5)) {
		case 0:
		case 1:
			accept_vector(c, (uint8_t)v);
			m.irr[v] = true;
			break;
		case 2:
			if (next < 0)
				break;
			vmm_lapic_ack(c->l, (uint8_t)next);
			m.irr[next] = false;
			m.isr[next] = true;
			break;
		case 3:
			vmm_lapic_write(c->l, EOI, 0);
			if (model_highest(m.isr) >= 0)
				m.isr[model_highest(m.isr)] = false;
			break;
		default:
			m.tpr = (unsigned)base_rng_below(&rng, 4) ? 0 : v;
			vmm_lapic_write(c->l, TPR, m.tpr);
		}
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(delivers_by_priority),
		TEST(task_priority_holds_back),
		TEST(disabled_takes_only_events),
		TEST(illegal_vectors_are_errors),
		TEST(self_ipi_needs_no_kick),
		TEST(one_shot_counts_down_once),
		TEST(periodic_keeps_its_raster),
		TEST(tsc_deadline_mode),
		TEST(long_ticks_leave_time_between),
		TEST(masked_timer_is_silent),
		TEST(x2apic_registers),
		TEST(init_keeps_id_and_base),
		TEST(moves_with_all_requests),
		TEST(saves_and_loads),
		TEST(agrees_with_the_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
