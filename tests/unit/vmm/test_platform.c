/* libs: pg_vmm */
/* The serial port, power management and the legacy ports, as a driver uses them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "node/vmm/irqchip.h"
#include "node/vmm/legacy.h"
#include "node/vmm/pm.h"
#include "node/vmm/serial.h"

enum { COM1 = VMM_COM1_PORT, IER = 1, IIR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCRATCH = 7 };
enum { VECTOR = 0x41, BUTTON_VECTOR = 0x51 };

struct fixture {
	struct vmm_env env;
	struct vmm_lapic *l;
	struct vmm_device *serial, *pm, *legacy;
	char out[64];
	size_t out_len;
	unsigned ready, poweroffs, resets;
};

static void cpu_kick(void *p)
{
}

static uint64_t cpu_tsc(void *p)
{
	return 0;
}

static void cpu_arm(void *p, uint64_t deadline)
{
}

static const struct vmm_lapic_cpu cpu_ops = {.kick = cpu_kick, .tsc = cpu_tsc, .arm = cpu_arm};

static void on_output(void *arg, const uint8_t *data, size_t len)
{
	struct fixture *f = arg;

	assert_true(f->out_len + len < sizeof(f->out));
	memcpy(f->out + f->out_len, data, len);
	f->out_len += len;
}

static void on_ready(void *arg)
{
	((struct fixture *)arg)->ready++;
}

static void on_poweroff(void *arg)
{
	((struct fixture *)arg)->poweroffs++;
}

static void on_reset(void *arg)
{
	((struct fixture *)arg)->resets++;
}

static const struct vmm_serial_ops serial_ops = {.output = on_output, .input_ready = on_ready};
static const struct vmm_pm_ops pm_ops = {.poweroff = on_poweroff, .reset = on_reset};

static void pin(struct fixture *f, uint32_t gsi, uint32_t low)
{
	uint32_t reg = 0x10 + 2 * gsi;

	vmm_bus_write(f->env.mmio, VMM_IOAPIC_BASE, 4, (uint8_t *)&reg);
	vmm_bus_write(f->env.mmio, VMM_IOAPIC_BASE + 0x10, 4, (uint8_t *)&low);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(vmm_bus_new(&f->env.pio), 0);
	assert_int_equal(vmm_bus_new(&f->env.mmio), 0);
	assert_int_equal(vmm_irqchip_new(1, f->env.mmio, &f->env.irq), 0);
	assert_int_equal(vmm_lapic_new(f->env.irq, 0, 1000000000, &cpu_ops, f, &f->l), 0);
	vmm_irqchip_attach(f->env.irq, 0, f->l);
	vmm_lapic_write(f->l, 0xf0, 0x1ff);
	pin(f, VMM_COM1_GSI, VECTOR);
	pin(f, VMM_PM_GSI, BUTTON_VECTOR);
	assert_int_equal(vmm_serial_new(&f->env, COM1, VMM_COM1_GSI, 0, &serial_ops, f, &f->serial),
			 0);
	assert_int_equal(vmm_pm_new(&f->env, &pm_ops, f, &f->pm), 0);
	assert_int_equal(vmm_legacy_new(&f->env, on_reset, f, &f->legacy), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->serial->ops->fini(f->serial);
	f->pm->ops->fini(f->pm);
	f->legacy->ops->fini(f->legacy);
	vmm_irqchip_free(f->env.irq);
	vmm_lapic_free(f->l);
	vmm_bus_free(f->env.pio);
	vmm_bus_free(f->env.mmio);
	free(f);
	return 0;
}

static uint8_t in8(struct fixture *f, uint64_t port)
{
	uint8_t v;

	vmm_bus_read(f->env.pio, port, 1, &v);
	return v;
}

static void out8(struct fixture *f, uint64_t port, uint8_t v)
{
	vmm_bus_write(f->env.pio, port, 1, &v);
}

/* True when an interrupt with this vector came since the last call. */
static bool interrupted(struct fixture *f, int vector)
{
	int v = vmm_lapic_next(f->l);

	if (v < 0)
		return false;
	assert_int_equal(v, vector);
	vmm_lapic_ack(f->l, (uint8_t)v);
	vmm_lapic_write(f->l, 0xb0, 0);
	return true;
}

static void tells_whether_somebody_reads(void **state)
{
	struct fixture *f = *state;

	assert_false(vmm_serial_listens(f->serial));
	out8(f, COM1 + IER, 2);
	assert_false(vmm_serial_listens(f->serial));
	out8(f, COM1 + IER, 3);
	assert_true(vmm_serial_listens(f->serial));
	f->serial->ops->reset(f->serial);
	assert_false(vmm_serial_listens(f->serial));
}

/* What Linux does to find a 16550A (8250_port.c, autoconfig). */
static void looks_like_a_16550a(void **state)
{
	struct fixture *f = *state;

	out8(f, COM1 + IER, 0x0f);
	assert_int_equal(in8(f, COM1 + IER), 0x0f);
	out8(f, COM1 + IER, 0);
	assert_int_equal(in8(f, COM1 + IER), 0);
	out8(f, COM1 + MCR, 0x1a);
	assert_int_equal(in8(f, COM1 + MSR) & 0xf0, 0x90);
	out8(f, COM1 + MCR, 0x08);
	assert_int_equal(in8(f, COM1 + IIR) >> 6, 0);
	out8(f, COM1 + IIR, 1);
	assert_int_equal(in8(f, COM1 + IIR) >> 6, 3);
	out8(f, COM1 + SCRATCH, 0xa5);
	assert_int_equal(in8(f, COM1 + SCRATCH), 0xa5);
	out8(f, COM1 + LCR, 0x80);
	out8(f, COM1, 0x34);
	out8(f, COM1 + IER, 0x12);
	assert_int_equal(in8(f, COM1), 0x34);
	assert_int_equal(in8(f, COM1 + IER), 0x12);
	out8(f, COM1 + LCR, 0x03);
	assert_int_equal(in8(f, COM1 + IER), 0);
	assert_int_equal(in8(f, COM1 + LSR), 0x60);
}

static void sends_and_tells_that_it_did(void **state)
{
	struct fixture *f = *state;

	out8(f, COM1, 'h');
	out8(f, COM1, 'i');
	assert_memory_equal(f->out, "hi", 2);
	assert_false(interrupted(f, VECTOR));
	out8(f, COM1 + IER, 2);
	assert_true(interrupted(f, VECTOR));
	assert_int_equal(in8(f, COM1 + IIR), 2);
	assert_int_equal(in8(f, COM1 + IIR), 1);
	out8(f, COM1, '!');
	assert_true(interrupted(f, VECTOR));
	assert_int_equal(in8(f, COM1 + IIR), 2);
	/* The test for a broken transmitter interrupt: off and on must raise it again. */
	out8(f, COM1 + IER, 0);
	out8(f, COM1 + IER, 2);
	assert_int_equal(in8(f, COM1 + IIR), 2);
}

static void receives_without_loss(void **state)
{
	struct fixture *f = *state;
	uint8_t text[400];
	size_t taken;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)i;
	out8(f, COM1 + IER, 1);
	taken = vmm_serial_input(f->serial, text, sizeof(text));
	assert_true(taken > 0 && taken < sizeof(text));
	assert_true(interrupted(f, VECTOR));
	assert_int_equal(in8(f, COM1 + IIR), 4);
	for (size_t i = 0; i < sizeof(text); i++) {
		assert_int_equal(in8(f, COM1 + LSR) & 1, 1);
		assert_int_equal(in8(f, COM1), (uint8_t)i);
		if (f->ready) {
			f->ready = 0;
			taken += vmm_serial_input(f->serial, text + taken, sizeof(text) - taken);
		}
	}
	assert_int_equal(taken, sizeof(text));
	assert_int_equal(in8(f, COM1 + LSR) & 1, 0);
	assert_int_equal(in8(f, COM1 + IIR), 1);
	(void)interrupted(f, VECTOR);
	assert_int_equal(vmm_serial_input(f->serial, text, 1), 1);
	assert_true(interrupted(f, VECTOR));
}

static void loops_back(void **state)
{
	struct fixture *f = *state;

	out8(f, COM1 + MCR, 0x10);
	out8(f, COM1, 'x');
	assert_int_equal(f->out_len, 0);
	assert_int_equal(in8(f, COM1), 'x');
}

static void powers_off_and_resets(void **state)
{
	struct fixture *f = *state;

	out8(f, VMM_PM_SLEEP_CONTROL, 0x14); /* S5, but not enabled */
	assert_int_equal(f->poweroffs, 0);
	out8(f, VMM_PM_SLEEP_CONTROL, 0x34);
	assert_int_equal(f->poweroffs, 1);
	out8(f, VMM_PM_RESET, VMM_PM_RESET_VALUE);
	out8(f, 0x64, 0xfe);
	out8(f, 0xcf9, 0x06);
	assert_int_equal(f->resets, 3);
	assert_int_equal(in8(f, 0x64), 0); /* never busy */
}

static void button_is_one_event(void **state)
{
	struct fixture *f = *state;
	uint32_t v;

	vmm_pm_press_button(f->pm);
	assert_true(interrupted(f, BUTTON_VECTOR));
	vmm_bus_read(f->env.pio, VMM_PM_EVENTS, 4, (uint8_t *)&v);
	assert_int_equal(v, VMM_PM_EVENT_BUTTON);
	vmm_bus_read(f->env.pio, VMM_PM_EVENTS, 4, (uint8_t *)&v);
	assert_int_equal(v, 0);
}

static void clock_and_timer_answer(void **state)
{
	struct fixture *f = *state;
	unsigned spins = 0;
	uint16_t count;
	int64_t start;
	uint8_t low;

	out8(f, 0x70, 0x0a);
	assert_int_equal(in8(f, 0x71) & 0x80, 0);
	out8(f, 0x70, 0x32);
	assert_true(in8(f, 0x71) >= 0x20);
	out8(f, 0x70, 0x09);
	assert_true((in8(f, 0x71) & 15) <= 9);
	/* One shot of 1 ms on channel 2, as the TSC calibration does. Whoever had to wait for the
	 * processor meanwhile sees a count that has come round. */
	do {
		start = base_clock_ns();
		out8(f, 0x61, 1);
		out8(f, 0x43, 0xb0);
		out8(f, 0x42, 1193 & 0xff);
		out8(f, 0x42, 1193 >> 8);
		while (!(in8(f, 0x61) & 0x20))
			spins++;
		out8(f, 0x43, 0x80); /* latch */
		low = in8(f, 0x42);
		count = (uint16_t)(low | in8(f, 0x42) << 8);
	} while (base_clock_ns() - start > 20 * BASE_NS_PER_MS);
	assert_true(spins > 0);
	assert_true(count == 0 || count > 0x8000); /* it goes on below zero */
}

/* Saved state comes back, cut state is refused, and no bytes do harm. */
static void check_state(struct fixture *f, struct vmm_device *dev)
{
	struct base_wbuf w, again;
	struct base_rbuf r;
	struct base_rng rng;

	base_wbuf_init(&w, 4096);
	base_wbuf_init(&again, 4096);
	dev->ops->save(dev, &w);
	dev->ops->reset(dev);
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(dev->ops->load(dev, &r, dev->ops->version), 0);
	assert_int_equal(base_rbuf_end(&r), 0);
	dev->ops->save(dev, &again);
	assert_int_equal(again.len, w.len);
	assert_memory_equal(again.data, w.data, w.len > 8 ? w.len - 8 : w.len);
	for (size_t n = 0; n < w.len; n++) {
		base_rbuf_init(&r, w.data, n);
		assert_int_not_equal(dev->ops->load(dev, &r, dev->ops->version), 0);
	}
	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(dev->ops->load(dev, &r, dev->ops->version + 1), -EPROTO);
	base_rng_seed(&rng, 7);
	for (unsigned i = 0; i < 1000; i++) {
		w.data[base_rng_below(&rng, w.len)] = (uint8_t)base_rng_next(&rng);
		base_rbuf_init(&r, w.data, w.len);
		if (dev->ops->load(dev, &r, dev->ops->version))
			dev->ops->reset(dev);
		for (uint64_t port = 0; port < 8; port++)
			(void)in8(f, COM1 + port);
	}
	base_wbuf_fini(&w);
	base_wbuf_fini(&again);
}

static void states_survive(void **state)
{
	struct fixture *f = *state;
	uint8_t byte = 'q';

	out8(f, COM1 + IER, 1);
	assert_int_equal(vmm_serial_input(f->serial, &byte, 1), 1);
	vmm_pm_press_button(f->pm);
	out8(f, 0x70, 0x32);
	check_state(f, f->serial);
	check_state(f, f->pm);
	check_state(f, f->legacy);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tells_whether_somebody_reads),
		TEST(looks_like_a_16550a),
		TEST(sends_and_tells_that_it_did),
		TEST(receives_without_loss),
		TEST(loops_back),
		TEST(powers_off_and_resets),
		TEST(button_is_one_event),
		TEST(clock_and_timer_answer),
		TEST(states_survive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
