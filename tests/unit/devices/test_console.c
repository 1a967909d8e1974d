/* virtio-console: output and input with back-pressure, size, emergency write, state. */
#include <errno.h>
#include <linux/virtio_console.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/devices/virtio_console.h"
#include "tests/unit/devices/virtio_driver.h"

struct screen {
	char text[4096];
	size_t len, room;
	unsigned asked; /* calls of input_ready */
};

static size_t output(void *opaque, const void *data, size_t len)
{
	struct screen *s = opaque;

	len = BASE_MIN(len, s->room);
	memcpy(s->text + s->len, data, len);
	s->len += len;
	s->room -= len;
	return len;
}

static void input_ready(void *opaque)
{
	struct screen *s = opaque;

	s->asked++;
}

static void plug(struct drv *d, struct screen *s)
{
	struct virtio_console_options o = {
		.output = output, .input_ready = input_ready, .opaque = s, .cols = 80, .rows = 25};

	memset(s, 0, sizeof(*s));
	s->room = sizeof(s->text);
	drv_machine(d);
	drv_must(virtio_console_new(&d->env, d->slot, &o, &d->dev), "console");
	d->dev->ops->resume(d->dev);
	drv_start(d, DRV_ALL_FEATURES);
}

static uint64_t text_at(struct drv *d, const char *text)
{
	uint64_t gpa = drv_alloc(d, strlen(text) + 1);

	memcpy(drv_ptr(d, gpa, strlen(text)), text, strlen(text));
	return gpa;
}

static void say(struct drv *d, const char *text)
{
	struct drv_buf b = {text_at(d, text), strlen(text), false};

	drv_add(d, 1, &b, 1);
	drv_kick(d, 1);
}

static void output_arrives(void **state)
{
	struct drv d;
	struct screen s;

	plug(&d, &s);
	say(&d, "hello, ");
	say(&d, "world");
	drv_wait(&d, 1, NULL);
	drv_wait(&d, 1, NULL);
	assert_int_equal(s.len, 12);
	assert_memory_equal(s.text, "hello, world", 12);
	drv_free(&d);
}

static void a_full_screen_holds_the_guest(void **state)
{
	struct drv d;
	struct screen s;
	struct base_wbuf out;
	struct base_rbuf in;
	struct virtio_console_options o = {
		.output = output, .input_ready = input_ready, .opaque = &s};

	plug(&d, &s);
	s.room = 3;
	say(&d, "abcdef");
	drv_step(&d);
	assert_int_equal(drv_used_idx(&d.q[1]), 0);
	/* Half a buffer was taken: that survives a move to another process. */
	d.dev->ops->pause(d.dev);
	base_wbuf_init(&out, 4096);
	d.dev->ops->save(d.dev, &out);
	d.dev->ops->fini(d.dev);
	drv_must(virtio_console_new(&d.env, d.slot, &o, &d.dev), "console");
	base_rbuf_init(&in, out.data, out.len);
	drv_must(d.dev->ops->load(d.dev, &in, 1), "load");
	base_wbuf_fini(&out);
	d.dev->ops->resume(d.dev);
	drv_step(&d);
	assert_int_equal(drv_used_idx(&d.q[1]), 0);
	s.room = 100;
	virtio_console_output_ready(virtio_console_of(d.dev));
	drv_wait(&d, 1, NULL);
	assert_int_equal(s.len, 6);
	assert_memory_equal(s.text, "abcdef", 6);
	drv_free(&d);
}

static void input_waits_for_room(void **state)
{
	struct drv d;
	struct screen s;
	struct virtio_console *c;
	struct drv_buf b;
	uint32_t len;

	plug(&d, &s);
	c = virtio_console_of(d.dev);
	b = (struct drv_buf){drv_alloc(&d, 4), 4, true};
	assert_int_equal(virtio_console_input(c, "root", 4), 0);
	assert_int_equal(s.asked, 0);
	drv_add(&d, 0, &b, 1);
	drv_kick(&d, 0);
	drv_step(&d);
	assert_int_equal(s.asked, 1);
	assert_int_equal(virtio_console_input(c, "root\n", 5), 4);
	assert_int_equal(drv_wait(&d, 0, &len), 0);
	assert_int_equal(len, 4);
	assert_memory_equal(drv_ptr(&d, b.gpa, 4), "root", 4);
	drv_add(&d, 0, &b, 1);
	drv_kick(&d, 0);
	drv_step(&d);
	assert_int_equal(s.asked, 2);
	assert_int_equal(virtio_console_input(c, "\n", 1), 1);
	/* Paused: nothing is taken, and asked for afterwards. */
	d.dev->ops->pause(d.dev);
	assert_int_equal(virtio_console_input(c, "x", 1), 0);
	drv_add(&d, 0, &b, 1);
	d.dev->ops->resume(d.dev);
	drv_step(&d);
	assert_int_equal(s.asked, 3);
	drv_free(&d);
}

static void size_and_its_changes(void **state)
{
	struct drv d;
	struct screen s;
	uint16_t size[2];
	uint32_t generation;

	plug(&d, &s);
	assert_true(drv_has(&d, VIRTIO_CONSOLE_F_SIZE));
	drv_config(&d, 0, size, 4);
	assert_int_equal(size[0], 80);
	assert_int_equal(size[1], 25);
	/* It had a size before there was a driver. */
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
	drv_write(&d, VIRTIO_MMIO_INTERRUPT_ACK, 2);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	generation = drv_read(&d, VIRTIO_MMIO_CONFIG_GENERATION);
	virtio_console_resize(virtio_console_of(d.dev), 132, 50);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
	assert_int_not_equal(drv_read(&d, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	drv_config(&d, 0, size, 4);
	assert_int_equal(size[0], 132);
	assert_int_equal(size[1], 50);
	drv_free(&d);
}

static void emergency_write_needs_no_driver(void **state)
{
	struct drv d;
	struct screen s;

	plug(&d, &s);
	drv_write(&d, VIRTIO_MMIO_STATUS, 0);
	drv_write(&d, VIRTIO_MMIO_CONFIG + 8, '!');
	assert_int_equal(s.len, 1);
	assert_int_equal(s.text[0], '!');
	drv_write(&d, VIRTIO_MMIO_CONFIG + 60, '!');
	drv_write(&d, VIRTIO_MMIO_CONFIG, '!');
	assert_int_equal(s.len, 1);
	drv_free(&d);
}

static void hopeless_buffers_need_reset(void **state)
{
	struct drv d;
	struct screen s;
	struct drv_buf b;

	plug(&d, &s);
	b = (struct drv_buf){drv_alloc(&d, 4), 4, false};
	drv_add(&d, 0, &b, 1);
	drv_kick(&d, 0);
	drv_step(&d);
	assert_int_equal(virtio_console_input(virtio_console_of(d.dev), "a", 1), 0);
	assert_true(drv_broken(&d));
	drv_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_arrives),
		cmocka_unit_test(a_full_screen_holds_the_guest),
		cmocka_unit_test(input_waits_for_room),
		cmocka_unit_test(size_and_its_changes),
		cmocka_unit_test(emergency_write_needs_no_driver),
		cmocka_unit_test(hopeless_buffers_need_reset),
	};

	base_log_set_level(BASE_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
