#include "node/vmm/pm.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

enum { PM_VERSION = 1, SLEEP_ENABLE = 0x20 };

struct pm {
	struct vmm_device dev;
	const struct vmm_env *env;
	const struct vmm_pm_ops *ops;
	void *arg;
	_Atomic uint32_t events;
};

static struct pm *pm_of(struct vmm_device *dev)
{
	return base_container_of(dev, struct pm, dev);
}

static void pm_read(void *opaque, uint64_t offset, unsigned len, uint8_t *data)
{
	struct pm *pm = opaque;
	uint32_t v = 0;

	if (offset == VMM_PM_EVENTS - VMM_PM_PORT)
		v = atomic_exchange(&pm->events, 0);
	memset(data, 0, len);
	memcpy(data, &v, BASE_MIN(len, (unsigned)sizeof(v)));
}

static void pm_write(void *opaque, uint64_t offset, unsigned len, const uint8_t *data)
{
	struct pm *pm = opaque;
	uint8_t v = data[0];

	if (offset == VMM_PM_SLEEP_CONTROL - VMM_PM_PORT) {
		if ((v & SLEEP_ENABLE) && (v >> 2 & 7) == VMM_PM_SLEEP_TYPE_S5)
			pm->ops->poweroff(pm->arg);
	} else if (offset == VMM_PM_RESET - VMM_PM_PORT) {
		if (v == VMM_PM_RESET_VALUE)
			pm->ops->reset(pm->arg);
	}
}

void vmm_pm_press_button(struct vmm_device *dev)
{
	struct pm *pm = pm_of(dev);

	atomic_fetch_or(&pm->events, VMM_PM_EVENT_BUTTON);
	vmm_irq_pulse(pm->env->irq, VMM_PM_GSI);
}

static void pm_reset(struct vmm_device *dev)
{
	atomic_store(&pm_of(dev)->events, 0);
}

/* Nothing is ever in flight. */
static void pm_idle(struct vmm_device *dev)
{
}

static void pm_save(struct vmm_device *dev, struct base_wbuf *out)
{
	base_wbuf_u32(out, atomic_load(&pm_of(dev)->events));
}

static int pm_load(struct vmm_device *dev, struct base_rbuf *in, uint32_t version)
{
	uint32_t events = base_rbuf_u32(in);

	if (version != PM_VERSION || (events & ~(uint32_t)VMM_PM_EVENT_BUTTON))
		return -EPROTO;
	atomic_store(&pm_of(dev)->events, events);
	return in->error;
}

static void pm_fini(struct vmm_device *dev)
{
	vmm_bus_remove(pm_of(dev)->env->pio, VMM_PM_PORT);
	free(pm_of(dev));
}

static const struct vmm_device_ops pm_ops = {
	.name = "pm",
	.version = PM_VERSION,
	.reset = pm_reset,
	.pause = pm_idle,
	.resume = pm_idle,
	.save = pm_save,
	.load = pm_load,
	.fini = pm_fini,
};

int vmm_pm_new(const struct vmm_env *env, const struct vmm_pm_ops *ops, void *arg,
	       struct vmm_device **out)
{
	static const struct vmm_bus_ops bus_ops = {.read = pm_read, .write = pm_write};
	struct pm *pm = calloc(1, sizeof(*pm));
	int err;

	if (!pm)
		return -ENOMEM;
	pm->dev.ops = &pm_ops;
	base_list_init(&pm->dev.link);
	pm->env = env;
	pm->ops = ops;
	pm->arg = arg;
	err = vmm_bus_add(env->pio, VMM_PM_PORT, VMM_PM_PORT_LEN, &bus_ops, pm);
	if (err) {
		free(pm);
		return err;
	}
	*out = &pm->dev;
	return 0;
}
