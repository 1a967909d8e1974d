#include "node/vmm/serial.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { SERIAL_VERSION = 1, SERIAL_LEN = 8, RX_CAP = 256 };

enum {
	REG_DATA = 0, /* or the divisor's low byte */
	REG_IER = 1,  /* or its high byte */
	REG_IIR = 2,  /* written: FCR */
	REG_LCR = 3,
	REG_MCR = 4,
	REG_LSR = 5,
	REG_MSR = 6,
	REG_SCRATCH = 7,

	IER_RX = 1,
	IER_TX = 2,
	IER_LINE = 4,
	IIR_NONE = 1,
	IIR_TX = 2,
	IIR_RX = 4,
	IIR_LINE = 6,
	IIR_FIFO = 0xc0,
	FCR_ENABLE = 1,
	FCR_CLEAR_RX = 2,
	LCR_DIVISOR = 0x80,
	MCR_LOOP = 0x10,
	LSR_READY = 1,
	LSR_OVERRUN = 2,
	LSR_EMPTY = 0x60, /* the transmitter, always */
	MSR_CONNECTED = 0xb0,
};

/*
 * The receive queue is deeper than a 16550's: no driver can tell, as each reads until LSR says that
 * nothing is left.
 */
struct serial {
	struct vmm_device dev;
	const struct vmm_env *env;
	uint16_t port;
	unsigned gsi;
	const struct vmm_serial_ops *ops;
	void *arg;

	pthread_mutex_t lock; /* all below */
	uint8_t ier, fcr, lcr, mcr, scratch, overrun;
	uint16_t divisor;
	bool tx_pending; /* the transmitter-empty interrupt was not seen yet */
	bool line;
	bool wanted; /* vmm_serial_input() had to leave bytes behind */
	uint8_t rx[RX_CAP];
	unsigned rx_head, rx_count;
};

static struct serial *serial_of(struct vmm_device *dev)
{
	return base_container_of(dev, struct serial, dev);
}

static uint8_t serial_cause(const struct serial *s)
{
	if ((s->ier & IER_LINE) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->rx_count)
		return IIR_RX;
	if ((s->ier & IER_TX) && s->tx_pending)
		return IIR_TX;
	return IIR_NONE;
}

static void serial_update_line(struct serial *s)
{
	bool line = serial_cause(s) != IIR_NONE;

	if (line == s->line)
		return;
	s->line = line;
	vmm_irq_set(s->env->irq, s->gsi, line);
}

static void serial_push(struct serial *s, uint8_t byte)
{
	if (s->rx_count == RX_CAP) {
		s->overrun = LSR_OVERRUN;
		return;
	}
	s->rx[(s->rx_head + s->rx_count++) % RX_CAP] = byte;
}

static uint8_t serial_pop(struct serial *s)
{
	uint8_t byte;

	if (s->rx_count == 0)
		return 0;
	byte = s->rx[s->rx_head];
	s->rx_head = (s->rx_head + 1) % RX_CAP;
	s->rx_count--;
	return byte;
}

static uint8_t serial_read_iir(struct serial *s)
{
	uint8_t cause = serial_cause(s);

	if (cause == IIR_TX)
		s->tx_pending = false;
	return cause | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t serial_read_msr(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_CONNECTED;
	/* RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD. */
	return (uint8_t)((s->mcr & 2) << 3 | (s->mcr & 1) << 5 | (s->mcr & 12) << 4);
}

static uint8_t serial_read_reg(struct serial *s, unsigned reg)
{
	uint8_t v;

	switch (reg) {
	case REG_DATA: return s->lcr & LCR_DIVISOR ? (uint8_t)s->divisor : serial_pop(s);
	case REG_IER: return s->lcr & LCR_DIVISOR ? (uint8_t)(s->divisor >> 8) : s->ier;
	case REG_IIR: return serial_read_iir(s);
	case REG_LCR: return s->lcr;
	case REG_MCR: return s->mcr;
	case REG_LSR:
		v = (uint8_t)(LSR_EMPTY | s->overrun | (s->rx_count ? LSR_READY : 0));
		s->overrun = 0;
		return v;
	case REG_MSR: return serial_read_msr(s);
	default: return s->scratch;
	}
}

/* True when the byte is to be sent. */
static bool serial_write_data(struct serial *s, uint8_t v)
{
	if (s->lcr & LCR_DIVISOR) {
		s->divisor = (uint16_t)((s->divisor & 0xff00) | v);
		return false;
	}
	/* Full and empty again: the line must fall in between for an edge to be seen. */
	s->tx_pending = false;
	serial_update_line(s);
	s->tx_pending = true;
	if (s->mcr & MCR_LOOP) {
		serial_push(s, v);
		return false;
	}
	return true;
}

static bool serial_write_reg(struct serial *s, unsigned reg, uint8_t v)
{
	switch (reg) {
	case REG_DATA: return serial_write_data(s, v);
	case REG_IER:
		if (s->lcr & LCR_DIVISOR) {
			s->divisor = (uint16_t)((s->divisor & 0xff) | v << 8);
			break;
		}
		if ((v & IER_TX) && !(s->ier & IER_TX))
			s->tx_pending = true;
		s->ier = v & 15;
		break;
	case REG_IIR:
		s->fcr = v;
		if (v & FCR_CLEAR_RX)
			s->rx_count = 0;
		break;
	case REG_LCR: s->lcr = v; break;
	case REG_MCR: s->mcr = v & 31; break;
	case REG_SCRATCH: s->scratch = v; break;
	default: break;
	}
	return false;
}

/* Under the lock: true once when a sender waits and the queue is at least half empty. */
static bool serial_take_wanted(struct serial *s)
{
	if (!s->wanted || s->rx_count > RX_CAP / 2)
		return false;
	s->wanted = false;
	return true;
}

static void serial_read(void *opaque, uint64_t offset, unsigned len, uint8_t *data)
{
	struct serial *s = opaque;
	bool ready;

	memset(data, 0xff, len);
	pthread_mutex_lock(&s->lock);
	data[0] = serial_read_reg(s, (unsigned)offset);
	serial_update_line(s);
	ready = serial_take_wanted(s);
	pthread_mutex_unlock(&s->lock);
	if (ready)
		s->ops->input_ready(s->arg);
}

static void serial_write(void *opaque, uint64_t offset, unsigned len, const uint8_t *data)
{
	struct serial *s = opaque;
	bool send, ready;

	pthread_mutex_lock(&s->lock);
	send = serial_write_reg(s, (unsigned)offset, data[0]);
	serial_update_line(s);
	ready = serial_take_wanted(s);
	pthread_mutex_unlock(&s->lock);
	if (send)
		s->ops->output(s->arg, data, 1);
	if (ready)
		s->ops->input_ready(s->arg);
}

bool vmm_serial_listens(struct vmm_device *dev)
{
	struct serial *s = serial_of(dev);
	bool listens;

	pthread_mutex_lock(&s->lock);
	listens = s->ier & IER_RX;
	pthread_mutex_unlock(&s->lock);
	return listens;
}

size_t vmm_serial_input(struct vmm_device *dev, const uint8_t *data, size_t len)
{
	struct serial *s = serial_of(dev);
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = BASE_MIN(len, (size_t)(RX_CAP - s->rx_count));
	for (size_t i = 0; i < n; i++)
		serial_push(s, data[i]);
	s->wanted = n < len;
	serial_update_line(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}

static void serial_reset(struct vmm_device *dev)
{
	struct serial *s = serial_of(dev);

	pthread_mutex_lock(&s->lock);
	s->ier = s->fcr = s->lcr = s->scratch = s->overrun = 0;
	s->mcr = 8;
	s->divisor = 12;
	s->tx_pending = false;
	s->rx_head = s->rx_count = 0;
	serial_update_line(s);
	pthread_mutex_unlock(&s->lock);
}

/* All work is done inside the accesses: nothing is in flight once the vCPUs stand. */
static void serial_pause(struct vmm_device *dev)
{
}

/* Bytes that came while nobody could run are waiting at the sender. */
static void serial_resume(struct vmm_device *dev)
{
	struct serial *s = serial_of(dev);
	bool ready;

	pthread_mutex_lock(&s->lock);
	ready = serial_take_wanted(s);
	pthread_mutex_unlock(&s->lock);
	if (ready)
		s->ops->input_ready(s->arg);
}

static void serial_save(struct vmm_device *dev, struct base_wbuf *out)
{
	struct serial *s = serial_of(dev);

	pthread_mutex_lock(&s->lock);
	base_wbuf_u8(out, s->ier);
	base_wbuf_u8(out, s->fcr);
	base_wbuf_u8(out, s->lcr);
	base_wbuf_u8(out, s->mcr);
	base_wbuf_u8(out, s->scratch);
	base_wbuf_u8(out, s->overrun);
	base_wbuf_u16(out, s->divisor);
	base_wbuf_u8(out, s->tx_pending);
	base_wbuf_u8(out, s->line);
	base_wbuf_u32(out, s->rx_count);
	for (unsigned i = 0; i < s->rx_count; i++)
		base_wbuf_u8(out, s->rx[(s->rx_head + i) % RX_CAP]);
	pthread_mutex_unlock(&s->lock);
}

/* Nothing runs yet. `line` is what the saved IOAPIC has seen of us. */
static int serial_load(struct vmm_device *dev, struct base_rbuf *in, uint32_t version)
{
	struct serial *s = serial_of(dev);
	uint32_t count;

	if (version != SERIAL_VERSION)
		return -EPROTO;
	s->ier = base_rbuf_u8(in) & 15;
	s->fcr = base_rbuf_u8(in);
	s->lcr = base_rbuf_u8(in);
	s->mcr = base_rbuf_u8(in) & 31;
	s->scratch = base_rbuf_u8(in);
	s->overrun = base_rbuf_u8(in) & LSR_OVERRUN;
	s->divisor = base_rbuf_u16(in);
	s->tx_pending = base_rbuf_u8(in) & 1;
	s->line = base_rbuf_u8(in) & 1;
	count = base_rbuf_u32(in);
	if (in->error)
		return in->error;
	if (count > RX_CAP)
		return -EPROTO;
	s->rx_head = 0;
	s->rx_count = count;
	base_rbuf_bytes(in, s->rx, count);
	return in->error;
}

static void serial_fini(struct vmm_device *dev)
{
	struct serial *s = serial_of(dev);

	vmm_bus_remove(s->env->pio, s->port);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct vmm_device_ops serial_ops = {
	.name = "serial",
	.version = SERIAL_VERSION,
	.reset = serial_reset,
	.pause = serial_pause,
	.resume = serial_resume,
	.save = serial_save,
	.load = serial_load,
	.fini = serial_fini,
};

int vmm_serial_new(const struct vmm_env *env, uint16_t port, unsigned gsi, uint32_t instance,
		   const struct vmm_serial_ops *ops, void *arg, struct vmm_device **out)
{
	static const struct vmm_bus_ops bus_ops = {.read = serial_read, .write = serial_write};
	struct serial *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->dev = (struct vmm_device){.ops = &serial_ops, .instance = instance};
	base_list_init(&s->dev.link);
	s->env = env;
	s->port = port;
	s->gsi = gsi;
	s->ops = ops;
	s->arg = arg;
	pthread_mutex_init(&s->lock, NULL);
	serial_reset(&s->dev);
	err = vmm_bus_add(env->pio, port, SERIAL_LEN, &bus_ops, s);
	if (err) {
		pthread_mutex_destroy(&s->lock);
		free(s);
		return err;
	}
	*out = &s->dev;
	return 0;
}
