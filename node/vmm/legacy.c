#include "node/vmm/legacy.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

enum {
	LEGACY_VERSION = 1,
	PIT_HZ = 1193182,
	PORT_PIT = 0x40, /* 4 ports; 0x42: channel 2, 0x43: mode */
	PORT_KEYBOARD = 0x60,
	PORT_GATE = 0x61,
	PORT_KEYBOARD_STATUS = 0x64,
	PORT_CMOS = 0x70, /* index, data */
	PORT_RESET = 0xcf9,
	KEYBOARD_RESET = 0xfe,
	CHIPSET_RESET = 0x04,
	GATE_ON = 1,
	GATE_SPEAKER = 3, /* the bits that are kept */
	GATE_OUT = 0x20,
	CMOS_LEN = 128,
};

static const struct {
	uint16_t port, len;
} ranges[] = {{PORT_PIT, 4},
	      {PORT_KEYBOARD, 2},
	      {PORT_KEYBOARD_STATUS, 1},
	      {PORT_CMOS, 2},
	      {PORT_RESET, 1}};

struct legacy {
	struct vmm_device dev;
	const struct vmm_env *env;
	void (*reset)(void *arg);
	void *arg;
	struct legacy_range {
		struct legacy *legacy;
		uint16_t port;
	} at[BASE_ARRAY_LEN(ranges)];
	pthread_mutex_t lock; /* all below */
	uint8_t cmos_index;
	uint8_t gate;
	uint8_t mode;	/* of channel 2: bits 3..1 operation, 5..4 access */
	bool high_next; /* the second byte of a 16-bit access comes next */
	bool latched;
	uint16_t reload, latch;
	uint8_t write_low;
	int64_t start_ns; /* the count began then */
};

static struct legacy *legacy_of(struct vmm_device *dev)
{
	return base_container_of(dev, struct legacy, dev);
}

/* ---- interval timer, channel 2 ---- */

static uint32_t pit_period(const struct legacy *g)
{
	return g->reload ? g->reload : 0x10000;
}

static uint64_t pit_ticks(const struct legacy *g)
{
	if (!(g->gate & GATE_ON))
		return 0;
	return (uint64_t)((__int128)(base_clock_ns() - g->start_ns) * PIT_HZ / BASE_NS_PER_SEC);
}

/* Mode 0 counts once and goes on below zero; the others start again. */
static bool pit_one_shot(const struct legacy *g)
{
	return (g->mode >> 1 & 7) == 0;
}

static uint16_t pit_count(const struct legacy *g)
{
	uint64_t ticks = pit_ticks(g);

	if (pit_one_shot(g))
		return (uint16_t)(pit_period(g) - ticks);
	return (uint16_t)(pit_period(g) - ticks % pit_period(g));
}

static bool pit_out(const struct legacy *g)
{
	if (pit_one_shot(g))
		return pit_ticks(g) >= pit_period(g);
	return pit_ticks(g) % pit_period(g) < pit_period(g) / 2;
}

static uint8_t pit_read(struct legacy *g)
{
	uint16_t v = g->latched ? g->latch : pit_count(g);
	unsigned access = g->mode >> 4 & 3;

	if (access == 1)
		g->latched = false;
	if (access == 1)
		return (uint8_t)v;
	if (access == 3 && !g->high_next) {
		g->high_next = true;
		return (uint8_t)v;
	}
	g->high_next = false;
	g->latched = false;
	return (uint8_t)(v >> 8);
}

static void pit_load(struct legacy *g, uint16_t reload)
{
	g->reload = reload;
	g->start_ns = base_clock_ns();
}

static void pit_write(struct legacy *g, uint8_t v)
{
	unsigned access = g->mode >> 4 & 3;

	if (access == 1) {
		pit_load(g, v);
	} else if (access == 2) {
		pit_load(g, (uint16_t)(v << 8));
	} else if (!g->high_next) {
		g->write_low = v;
		g->high_next = true;
	} else {
		g->high_next = false;
		pit_load(g, (uint16_t)(g->write_low | v << 8));
	}
}

static void pit_write_mode(struct legacy *g, uint8_t v)
{
	if (v >> 6 != 2)
		return;
	if ((v >> 4 & 3) == 0) {
		g->latch = pit_count(g);
		g->latched = true;
		return;
	}
	g->mode = v & 0x3f;
	g->high_next = g->latched = false;
}

static void gate_write(struct legacy *g, uint8_t v)
{
	if ((v & GATE_ON) && !(g->gate & GATE_ON))
		g->start_ns = base_clock_ns();
	g->gate = v & GATE_SPEAKER;
}

/* ---- CMOS clock: BCD, 24 hours, UTC ---- */

static uint8_t bcd(int v)
{
	return (uint8_t)(v / 10 % 10 << 4 | v % 10);
}

static uint8_t cmos_read(const struct legacy *g)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	switch (g->cmos_index) {
	case 0x00: return bcd(tm.tm_sec);
	case 0x02: return bcd(tm.tm_min);
	case 0x04: return bcd(tm.tm_hour);
	case 0x06: return bcd(tm.tm_wday + 1);
	case 0x07: return bcd(tm.tm_mday);
	case 0x08: return bcd(tm.tm_mon + 1);
	case 0x09: return bcd(tm.tm_year % 100);
	case 0x0a: return 0x26; /* 32 kHz, no update in progress */
	case 0x0b: return 0x02; /* 24 hours */
	case 0x0d: return 0x80; /* the battery is good */
	case 0x32: return bcd((tm.tm_year + 1900) / 100);
	default: return 0;
	}
}

/* ---- ports ---- */

static void legacy_read(void *opaque, uint64_t offset, unsigned len, uint8_t *data)
{
	const struct legacy_range *at = opaque;
	struct legacy *g = at->legacy;

	memset(data, 0, len);
	pthread_mutex_lock(&g->lock);
	switch (at->port + offset) {
	case PORT_PIT + 2: data[0] = pit_read(g); break;
	case PORT_GATE: data[0] = g->gate | (pit_out(g) ? GATE_OUT : 0); break;
	case PORT_CMOS + 1: data[0] = cmos_read(g); break;
	default: break; /* the keyboard controller: nothing to read, ready for commands */
	}
	pthread_mutex_unlock(&g->lock);
}

static void legacy_write(void *opaque, uint64_t offset, unsigned len, const uint8_t *data)
{
	const struct legacy_range *at = opaque;
	struct legacy *g = at->legacy;
	bool reset = false;

	pthread_mutex_lock(&g->lock);
	switch (at->port + offset) {
	case PORT_PIT + 2: pit_write(g, data[0]); break;
	case PORT_PIT + 3: pit_write_mode(g, data[0]); break;
	case PORT_GATE: gate_write(g, data[0]); break;
	case PORT_CMOS: g->cmos_index = data[0] & (CMOS_LEN - 1); break;
	case PORT_KEYBOARD_STATUS: reset = data[0] == KEYBOARD_RESET; break;
	case PORT_RESET: reset = data[0] & CHIPSET_RESET; break;
	default: break;
	}
	pthread_mutex_unlock(&g->lock);
	if (reset)
		g->reset(g->arg);
}

/* ---- the device ---- */

static void legacy_reset(struct vmm_device *dev)
{
	struct legacy *g = legacy_of(dev);

	pthread_mutex_lock(&g->lock);
	g->cmos_index = g->gate = g->mode = g->write_low = 0;
	g->high_next = g->latched = false;
	g->reload = g->latch = 0;
	g->start_ns = base_clock_ns();
	pthread_mutex_unlock(&g->lock);
}

static void legacy_idle(struct vmm_device *dev)
{
}

static void legacy_save(struct vmm_device *dev, struct base_wbuf *out)
{
	struct legacy *g = legacy_of(dev);

	pthread_mutex_lock(&g->lock);
	base_wbuf_u8(out, g->cmos_index);
	base_wbuf_u8(out, g->gate);
	base_wbuf_u8(out, g->mode);
	base_wbuf_u8(out, g->high_next);
	base_wbuf_u8(out, g->latched);
	base_wbuf_u8(out, g->write_low);
	base_wbuf_u16(out, g->reload);
	base_wbuf_u16(out, g->latch);
	base_wbuf_u64(out, (uint64_t)(base_clock_ns() - g->start_ns));
	pthread_mutex_unlock(&g->lock);
}

static int legacy_load(struct vmm_device *dev, struct base_rbuf *in, uint32_t version)
{
	struct legacy *g = legacy_of(dev);
	uint64_t age_ns;

	if (version != LEGACY_VERSION)
		return -EPROTO;
	g->cmos_index = base_rbuf_u8(in) & (CMOS_LEN - 1);
	g->gate = base_rbuf_u8(in) & GATE_SPEAKER;
	g->mode = base_rbuf_u8(in) & 0x3f;
	g->high_next = base_rbuf_u8(in) & 1;
	g->latched = base_rbuf_u8(in) & 1;
	g->write_low = base_rbuf_u8(in);
	g->reload = base_rbuf_u16(in);
	g->latch = base_rbuf_u16(in);
	age_ns = base_rbuf_u64(in);
	if (in->error)
		return in->error;
	if (age_ns > INT64_MAX / 2)
		return -EPROTO;
	g->start_ns = base_clock_ns() - (int64_t)age_ns;
	return 0;
}

static void legacy_unmap(struct legacy *g, size_t count)
{
	for (size_t i = 0; i < count; i++)
		vmm_bus_remove(g->env->pio, ranges[i].port);
}

static void legacy_fini(struct vmm_device *dev)
{
	struct legacy *g = legacy_of(dev);

	legacy_unmap(g, BASE_ARRAY_LEN(ranges));
	pthread_mutex_destroy(&g->lock);
	free(g);
}

static const struct vmm_device_ops legacy_ops = {
	.name = "legacy",
	.version = LEGACY_VERSION,
	.reset = legacy_reset,
	.pause = legacy_idle,
	.resume = legacy_idle,
	.save = legacy_save,
	.load = legacy_load,
	.fini = legacy_fini,
};

int vmm_legacy_new(const struct vmm_env *env, void (*reset)(void *arg), void *arg,
		   struct vmm_device **out)
{
	static const struct vmm_bus_ops bus_ops = {.read = legacy_read, .write = legacy_write};
	struct legacy *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->dev.ops = &legacy_ops;
	base_list_init(&g->dev.link);
	g->env = env;
	g->reset = reset;
	g->arg = arg;
	pthread_mutex_init(&g->lock, NULL);
	legacy_reset(&g->dev);
	for (size_t i = 0; i < BASE_ARRAY_LEN(ranges); i++) {
		int err;

		g->at[i] = (struct legacy_range){g, ranges[i].port};
		err = vmm_bus_add(env->pio, ranges[i].port, ranges[i].len, &bus_ops, &g->at[i]);
		if (err) {
			legacy_unmap(g, i);
			pthread_mutex_destroy(&g->lock);
			free(g);
			return err;
		}
	}
	*out = &g->dev;
	return 0;
}
