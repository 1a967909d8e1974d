#include "node/vmm/irqchip.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { CHIP_VERSION = 1, CHIP_VCPU_MAX = 4096 };

/* The IOAPIC's registers, and the fields of a redirection entry. */
enum {
	IOAPIC_SELECT = 0x00,
	IOAPIC_WINDOW = 0x10,
	IOAPIC_EOI = 0x40,
	IOAPIC_LEN = 0x100,
	REG_ID = 0,
	REG_VERSION = 1,
	REG_ARBITRATION = 2,
	REG_PIN = 0x10,
	VERSION = 0x20 | (VMM_GSI_COUNT - 1) << 16,
	PIN_LOGICAL = 1 << 11,
	PIN_REMOTE_IRR = 1 << 14,
	PIN_LEVEL = 1 << 15,
	PIN_MASKED = 1 << 16,
};
#define PIN_WRITABLE UINT64_C(0xff0000000001afff)

/*
 * A pin: `level` is the line, `pending` an edge that came while the pin was masked. Real hardware
 * forgets those; keeping them costs a driver one spurious interrupt and never a lost one.
 */
struct vmm_irqchip {
	unsigned vcpu_count;
	struct vmm_bus *mmio;
	_Atomic(struct vmm_lapic *) *lapics; /* NULL: on another slice; changes when a vCPU moves */
	_Atomic uint64_t *ids;
	const struct vmm_irq_remote *remote;
	void *remote_opaque;

	pthread_mutex_t lock; /* all below; never held while a message is sent */
	uint32_t id, select;
	uint64_t pins[VMM_GSI_COUNT];
	uint64_t level, pending; /* a bit a pin */
};

/* ---- routing ---- */

void vmm_irqchip_deliver(struct vmm_irqchip *chip, uint32_t apic_id, const struct vmm_irq_msg *msg)
{
	struct vmm_lapic *l = apic_id < chip->vcpu_count ? chip->lapics[apic_id] : NULL;

	if (l)
		vmm_lapic_accept(l, msg);
}

static void route_one(struct vmm_irqchip *chip, uint32_t apic_id, const struct vmm_irq_msg *msg)
{
	struct vmm_lapic *l;

	if (apic_id >= chip->vcpu_count)
		return;
	l = chip->lapics[apic_id];
	if (l)
		vmm_lapic_accept(l, msg);
	else if (chip->remote)
		chip->remote->send(chip->remote_opaque, apic_id, msg);
}

static bool match_broadcast(const struct vmm_irq_msg *msg)
{
	return msg->dest == (msg->x2apic_dest ? UINT32_MAX : 0xff);
}

static bool match_logical(uint64_t ids, uint32_t dest)
{
	uint32_t ldr = VMM_IRQ_IDS_LDR(ids);

	if (ids & VMM_IRQ_IDS_X2APIC)
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
	if (dest > 0xff)
		return false;
	ldr >>= 24;
	if (ids & VMM_IRQ_IDS_FLAT)
		return ldr & dest;
	return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf);
}

static bool match(struct vmm_irqchip *chip, uint32_t apic_id, const struct vmm_irq_msg *msg)
{
	switch (msg->shorthand) {
	case VMM_IRQ_SELF: return apic_id == msg->source;
	case VMM_IRQ_ALL: return true;
	case VMM_IRQ_OTHERS: return apic_id != msg->source;
	default: break;
	}
	if (match_broadcast(msg))
		return true;
	if (!msg->logical)
		return apic_id == msg->dest;
	return match_logical(atomic_load(&chip->ids[apic_id]), msg->dest);
}

/*
 * Lowest priority: one of those that match and take interrupts. The choice hangs on the vector
 * alone, so a device's interrupts stay on one vCPU and its cache (as KVM's vector hashing does).
 */
static void route_lowest(struct vmm_irqchip *chip, const struct vmm_irq_msg *msg)
{
	unsigned found = 0, nth;

	for (uint32_t id = 0; id < chip->vcpu_count; id++)
		if (match(chip, id, msg) && (atomic_load(&chip->ids[id]) & VMM_IRQ_IDS_ENABLED))
			found++;
	if (found == 0)
		return;
	nth = msg->vector % found;
	for (uint32_t id = 0; id < chip->vcpu_count; id++) {
		if (!match(chip, id, msg) || !(atomic_load(&chip->ids[id]) & VMM_IRQ_IDS_ENABLED))
			continue;
		if (nth-- == 0) {
			route_one(chip, id, msg);
			return;
		}
	}
}

void vmm_irq_send(struct vmm_irqchip *chip, const struct vmm_irq_msg *msg)
{
	bool direct = msg->shorthand == VMM_IRQ_DEST && !msg->logical && !match_broadcast(msg);

	if (direct) {
		route_one(chip, msg->dest, msg);
		return;
	}
	if (msg->delivery == VMM_IRQ_LOWEST) {
		route_lowest(chip, msg);
		return;
	}
	for (uint32_t id = 0; id < chip->vcpu_count; id++)
		if (match(chip, id, msg))
			route_one(chip, id, msg);
}

void vmm_irqchip_set_ids(struct vmm_irqchip *chip, uint32_t apic_id, uint64_t ids)
{
	if (apic_id >= chip->vcpu_count)
		return;
	atomic_store(&chip->ids[apic_id], ids);
	if (chip->lapics[apic_id] && chip->remote)
		chip->remote->ids(chip->remote_opaque, apic_id, ids);
}

/* ---- the IOAPIC ---- */

static struct vmm_irq_msg pin_message(uint64_t pin)
{
	return (struct vmm_irq_msg){
		.dest = (uint32_t)(pin >> 56),
		.vector = (uint8_t)pin,
		.delivery = pin >> 8 & 7,
		.logical = pin & PIN_LOGICAL,
		.level_triggered = pin & PIN_LEVEL,
		.assert_level = true,
	};
}

/* Called with the lock held: true when the pin has something to send, which is then taken. */
static bool pin_take(struct vmm_irqchip *chip, unsigned gsi, struct vmm_irq_msg *msg)
{
	uint64_t *pin = &chip->pins[gsi], bit = UINT64_C(1) << gsi;

	if (*pin & PIN_MASKED)
		return false;
	if (*pin & PIN_LEVEL) {
		if (!(chip->level & bit) || (*pin & PIN_REMOTE_IRR))
			return false;
		*pin |= PIN_REMOTE_IRR;
	} else if (!(chip->pending & bit)) {
		return false;
	}
	chip->pending &= ~bit;
	*msg = pin_message(*pin);
	return true;
}

static void pin_service(struct vmm_irqchip *chip, unsigned gsi)
{
	struct vmm_irq_msg msg;
	bool send;

	pthread_mutex_lock(&chip->lock);
	send = pin_take(chip, gsi, &msg);
	pthread_mutex_unlock(&chip->lock);
	if (send)
		vmm_irq_send(chip, &msg);
}

static bool line_is_remote(const struct vmm_irqchip *chip)
{
	return chip->remote && chip->remote->line;
}

void vmm_irq_set(struct vmm_irqchip *chip, unsigned gsi, bool level)
{
	uint64_t bit = UINT64_C(1) << gsi % VMM_GSI_COUNT;
	struct vmm_irq_msg msg;
	bool send = false;

	assert(gsi < VMM_GSI_COUNT);
	if (line_is_remote(chip)) {
		chip->remote->line(chip->remote_opaque, gsi, level);
		return;
	}
	pthread_mutex_lock(&chip->lock);
	if (level && !(chip->level & bit)) {
		chip->level |= bit;
		if (!(chip->pins[gsi] & PIN_LEVEL))
			chip->pending |= bit;
		send = pin_take(chip, gsi, &msg);
	} else if (!level) {
		chip->level &= ~bit;
	}
	pthread_mutex_unlock(&chip->lock);
	if (send)
		vmm_irq_send(chip, &msg);
}

void vmm_irq_pulse(struct vmm_irqchip *chip, unsigned gsi)
{
	uint64_t bit = UINT64_C(1) << gsi % VMM_GSI_COUNT;
	struct vmm_irq_msg msg;
	bool send;

	assert(gsi < VMM_GSI_COUNT);
	if (line_is_remote(chip)) {
		chip->remote->line(chip->remote_opaque, gsi, true);
		chip->remote->line(chip->remote_opaque, gsi, false);
		return;
	}
	/* At once, not up and down: of two threads each must be heard, even if one stops halfway. */
	pthread_mutex_lock(&chip->lock);
	if (chip->pins[gsi] & PIN_LEVEL) {
		uint64_t level = chip->level;

		chip->level |= bit;
		send = pin_take(chip, gsi, &msg);
		chip->level = level;
	} else {
		chip->pending |= bit;
		send = pin_take(chip, gsi, &msg);
	}
	pthread_mutex_unlock(&chip->lock);
	if (send)
		vmm_irq_send(chip, &msg);
}

void vmm_irqchip_eoi(struct vmm_irqchip *chip, uint8_t vector)
{
	uint64_t want = PIN_LEVEL | PIN_REMOTE_IRR | vector, cleared = 0;

	if (chip->remote && chip->remote->eoi) {
		chip->remote->eoi(chip->remote_opaque, vector);
		return;
	}
	pthread_mutex_lock(&chip->lock);
	for (unsigned gsi = 0; gsi < VMM_GSI_COUNT; gsi++) {
		if ((chip->pins[gsi] & (PIN_LEVEL | PIN_REMOTE_IRR | 0xff)) != want)
			continue;
		chip->pins[gsi] &= ~(uint64_t)PIN_REMOTE_IRR;
		cleared |= UINT64_C(1) << gsi;
	}
	pthread_mutex_unlock(&chip->lock);
	for (; cleared; cleared &= cleared - 1)
		pin_service(chip, (unsigned)__builtin_ctzll(cleared));
}

static uint32_t ioapic_read_reg(const struct vmm_irqchip *chip)
{
	unsigned pin = (chip->select - REG_PIN) / 2;

	switch (chip->select) {
	case REG_ID:
	case REG_ARBITRATION: return chip->id;
	case REG_VERSION: return VERSION;
	default: break;
	}
	if (chip->select < REG_PIN || pin >= VMM_GSI_COUNT)
		return 0;
	return (uint32_t)(chip->pins[pin] >> (chip->select & 1 ? 32 : 0));
}

/* Returns the pin that may have something to send now, or -1. */
static int ioapic_write_reg(struct vmm_irqchip *chip, uint32_t v)
{
	unsigned n = (chip->select - REG_PIN) / 2;
	uint64_t *pin;

	if (chip->select == REG_ID)
		chip->id = v & 0x0f000000;
	if (chip->select < REG_PIN || n >= VMM_GSI_COUNT)
		return -1;
	pin = &chip->pins[n];
	if (chip->select & 1)
		*pin = (uint32_t)*pin | ((uint64_t)v << 32 & PIN_WRITABLE);
	else
		*pin = (*pin & ~(PIN_WRITABLE & UINT32_MAX)) | (v & PIN_WRITABLE);
	/* Switching to edge and back is how old drivers clear a stuck remote IRR. */
	if (!(*pin & PIN_LEVEL))
		*pin &= ~(uint64_t)PIN_REMOTE_IRR;
	else
		chip->pending &= ~(UINT64_C(1) << n);
	return (int)n;
}

static void ioapic_read(void *opaque, uint64_t offset, unsigned len, uint8_t *data)
{
	struct vmm_irqchip *chip = opaque;
	uint32_t v = 0;

	pthread_mutex_lock(&chip->lock);
	if (offset == IOAPIC_SELECT)
		v = chip->select;
	else if (offset == IOAPIC_WINDOW)
		v = ioapic_read_reg(chip);
	pthread_mutex_unlock(&chip->lock);
	memset(data, 0, len);
	memcpy(data, &v, BASE_MIN(len, (unsigned)sizeof(v)));
}

static void ioapic_write(void *opaque, uint64_t offset, unsigned len, const uint8_t *data)
{
	struct vmm_irqchip *chip = opaque;
	int service = -1;
	uint32_t v = 0;

	memcpy(&v, data, BASE_MIN(len, (unsigned)sizeof(v)));
	pthread_mutex_lock(&chip->lock);
	if (offset == IOAPIC_SELECT)
		chip->select = v & 0xff;
	else if (offset == IOAPIC_WINDOW)
		service = ioapic_write_reg(chip, v);
	pthread_mutex_unlock(&chip->lock);
	if (offset == IOAPIC_EOI)
		vmm_irqchip_eoi(chip, (uint8_t)v);
	if (service >= 0)
		pin_service(chip, (unsigned)service);
}

static const struct vmm_bus_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write};

/* ---- the object ---- */

int vmm_irqchip_new(unsigned vcpu_count, struct vmm_bus *mmio, struct vmm_irqchip **out)
{
	struct vmm_irqchip *chip;
	int err = -ENOMEM;

	if (vcpu_count == 0 || vcpu_count > CHIP_VCPU_MAX)
		return -EINVAL;
	chip = calloc(1, sizeof(*chip));
	if (!chip)
		return -ENOMEM;
	chip->vcpu_count = vcpu_count;
	chip->mmio = mmio;
	pthread_mutex_init(&chip->lock, NULL);
	chip->lapics = calloc(vcpu_count, sizeof(*chip->lapics));
	chip->ids = calloc(vcpu_count, sizeof(*chip->ids));
	if (!chip->lapics || !chip->ids)
		goto err_free;
	for (unsigned i = 0; i < vcpu_count; i++)
		atomic_store(&chip->ids[i], VMM_IRQ_IDS_FLAT);
	vmm_irqchip_reset(chip);
	err = vmm_bus_add(mmio, VMM_IOAPIC_BASE, IOAPIC_LEN, &ioapic_ops, chip);
	if (err)
		goto err_free;
	*out = chip;
	return 0;
err_free:
	free(chip->lapics);
	free(chip->ids);
	pthread_mutex_destroy(&chip->lock);
	free(chip);
	return err;
}

void vmm_irqchip_free(struct vmm_irqchip *chip)
{
	if (!chip)
		return;
	vmm_bus_remove(chip->mmio, VMM_IOAPIC_BASE);
	free(chip->lapics);
	free(chip->ids);
	pthread_mutex_destroy(&chip->lock);
	free(chip);
}

void vmm_irqchip_attach(struct vmm_irqchip *chip, uint32_t apic_id, struct vmm_lapic *l)
{
	assert(apic_id < chip->vcpu_count && !chip->lapics[apic_id]);
	chip->lapics[apic_id] = l;
}

void vmm_irqchip_detach(struct vmm_irqchip *chip, uint32_t apic_id)
{
	assert(apic_id < chip->vcpu_count);
	chip->lapics[apic_id] = NULL;
}

uint64_t vmm_irqchip_ids(const struct vmm_irqchip *chip, uint32_t apic_id)
{
	return apic_id < chip->vcpu_count ? atomic_load(&chip->ids[apic_id]) : 0;
}

void vmm_irqchip_set_remote(struct vmm_irqchip *chip, const struct vmm_irq_remote *ops,
			    void *opaque)
{
	assert(!ops || (ops->send && ops->ids));
	chip->remote = ops;
	chip->remote_opaque = opaque;
}

void vmm_irqchip_reset(struct vmm_irqchip *chip)
{
	pthread_mutex_lock(&chip->lock);
	chip->id = chip->select = 0;
	chip->level = chip->pending = 0;
	for (unsigned i = 0; i < VMM_GSI_COUNT; i++)
		chip->pins[i] = PIN_MASKED;
	pthread_mutex_unlock(&chip->lock);
}

void vmm_irqchip_save(struct vmm_irqchip *chip, struct base_wbuf *out)
{
	pthread_mutex_lock(&chip->lock);
	base_wbuf_u32(out, VMM_GSI_COUNT);
	base_wbuf_u32(out, chip->id);
	base_wbuf_u32(out, chip->select);
	base_wbuf_u64(out, chip->level);
	base_wbuf_u64(out, chip->pending);
	for (unsigned i = 0; i < VMM_GSI_COUNT; i++)
		base_wbuf_u64(out, chip->pins[i]);
	pthread_mutex_unlock(&chip->lock);
}

int vmm_irqchip_load(struct vmm_irqchip *chip, struct base_rbuf *in, uint32_t version)
{
	uint64_t pins[VMM_GSI_COUNT], level, pending, bad = 0;
	uint32_t count = base_rbuf_u32(in), id, select;

	if (version != CHIP_VERSION || (!in->error && count != VMM_GSI_COUNT))
		return -EPROTO;
	id = base_rbuf_u32(in);
	select = base_rbuf_u32(in);
	level = base_rbuf_u64(in);
	pending = base_rbuf_u64(in);
	for (unsigned i = 0; i < VMM_GSI_COUNT; i++) {
		pins[i] = base_rbuf_u64(in);
		bad |= pins[i] & ~(PIN_WRITABLE | PIN_REMOTE_IRR);
	}
	if (in->error)
		return in->error;
	if (bad || select > 0xff || (id & ~UINT32_C(0x0f000000)))
		return -EPROTO;
	pthread_mutex_lock(&chip->lock);
	chip->id = id;
	chip->select = select;
	chip->level = level;
	chip->pending = pending;
	memcpy(chip->pins, pins, sizeof(pins));
	pthread_mutex_unlock(&chip->lock);
	return 0;
}
