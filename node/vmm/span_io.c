/*
 * Device accesses of vCPUs that live elsewhere. A vCPU has at most one under way, so the lead needs
 * one place for each and no queue can grow.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "node/vmm/span_internal.h"

/* ---- follower ---- */

void vmm_span_io(struct vmm_span *s, uint32_t apic_id, bool pio, bool write, uint64_t addr,
		 unsigned len, uint8_t *data)
{
	struct span_io *io = &s->io[apic_id];
	struct span_msg m = {.type = SPAN_IO_ASK,
			     .number = apic_id,
			     .io = {.pio = pio, .write = write, .len = (uint8_t)len, .addr = addr}};

	if (write)
		memcpy(m.io.data, data, len);
	pthread_mutex_lock(&s->lock);
	io->busy = true;
	pthread_mutex_unlock(&s->lock);
	span_send(s, SPAN_LEAD, &m);
	pthread_mutex_lock(&s->lock);
	while (io->busy && !s->lost)
		pthread_cond_wait(&s->changed, &s->lock);
	if (!write && !io->busy)
		memcpy(data, io->msg.io.data, len);
	else if (!write)
		memset(data, 0xff, len);
	io->busy = false;
	pthread_mutex_unlock(&s->lock);
}

int span_io_done(struct vmm_span *s, const struct span_msg *m)
{
	struct span_io *io = &s->io[m->number];
	int err;

	pthread_mutex_lock(&s->lock);
	err = io->busy ? 0 : -EPROTO;
	io->msg = *m;
	io->busy = false;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* ---- lead ---- */

static int add_work(struct vmm_span *s, uint32_t what)
{
	if (s->work_tail - s->work_head == BASE_ARRAY_LEN(s->work))
		return -EPROTO;
	s->work[s->work_tail++ % BASE_ARRAY_LEN(s->work)] = what;
	pthread_cond_broadcast(&s->changed);
	return 0;
}

int span_io_asked(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	struct span_io *io = &s->io[m->number];
	int err = -EPROTO;

	pthread_mutex_lock(&s->lock);
	if (!io->busy) {
		io->busy = true;
		io->peer = peer;
		io->msg = *m;
		err = add_work(s, m->number);
	}
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* The line may be raised again at once, and its message must not wait on the service thread. */
int span_eoi(struct vmm_span *s, const struct span_msg *m)
{
	int err = -EPROTO;

	pthread_mutex_lock(&s->lock);
	if (m->number <= UINT8_MAX)
		err = add_work(s, SPAN_WORK_EOI | m->number);
	pthread_mutex_unlock(&s->lock);
	return err;
}

static void do_io(struct vmm_span *s, struct span_io *io)
{
	struct span_msg *m = &io->msg;
	struct vmm_bus *bus = m->io.pio ? s->config.pio : s->config.mmio;

	if (m->io.write)
		vmm_bus_write(bus, m->io.addr, m->io.len, m->io.data);
	else
		vmm_bus_read(bus, m->io.addr, m->io.len, m->io.data);
	m->type = SPAN_IO_DONE;
	pthread_mutex_lock(&s->lock);
	io->busy = false;
	pthread_mutex_unlock(&s->lock);
	span_send(s, io->peer,
		  &(struct span_msg){.type = SPAN_IO_DONE, .number = m->number, .io = m->io});
}

static void *io_main(void *arg)
{
	struct vmm_span *s = arg;

	pthread_setname_np(pthread_self(), "slice-io");
	pthread_mutex_lock(&s->lock);
	for (;;) {
		uint32_t what;

		while (s->work_head == s->work_tail && !s->stopping)
			pthread_cond_wait(&s->changed, &s->lock);
		if (s->stopping)
			break;
		what = s->work[s->work_head++ % BASE_ARRAY_LEN(s->work)];
		s->io_working = true;
		pthread_mutex_unlock(&s->lock);
		if (what & SPAN_WORK_EOI)
			vmm_irqchip_eoi(s->config.irq, (uint8_t)what);
		else
			do_io(s, &s->io[what]);
		pthread_mutex_lock(&s->lock);
		s->io_working = false;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int span_io_start(struct vmm_span *s)
{
	int err = -pthread_create(&s->io_thread, NULL, io_main, s);

	s->io_thread_started = !err;
	return err;
}

void span_io_stop(struct vmm_span *s)
{
	if (s->io_thread_started)
		pthread_join(s->io_thread, NULL);
	s->io_thread_started = false;
}
