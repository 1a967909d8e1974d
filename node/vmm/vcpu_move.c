/* What a vCPU needs to live on another slice: see vcpu.h, and span_move.c for who decides. */
#include <errno.h>

#include "node/vmm/vcpu_internal.h"

struct vmm_vcpu *vmm_vcpus_find(const struct vmm_vcpus *all, uint32_t apic_id)
{
	unsigned n = atomic_load(&all->count);

	for (unsigned i = 0; i < n; i++)
		if (all->vcpu[i]->apic_id == apic_id)
			return all->vcpu[i];
	return NULL;
}

enum vmm_vcpu_seat vmm_vcpu_seat(const struct vmm_vcpu *v)
{
	return (enum vmm_vcpu_seat)atomic_load(&v->seat);
}

void vmm_vcpu_take_seat(struct vmm_vcpu *v, enum vmm_vcpu_seat seat)
{
	atomic_store(&v->seat, seat);
	if (seat == VMM_SEAT_AWAY) {
		vmm_lapic_go_away(v->lapic);
		v->deadline = 0;
	}
	/* It looks at what came meanwhile. */
	atomic_store(&v->pending, 1);
}

bool vmm_vcpu_is_held(const struct vmm_vcpu *v)
{
	return v->held || v->failed || v->excluded;
}

/* ---- calls ---- */

void vmm_vcpu_call(struct vmm_vcpu *v, void (*fn)(void *arg, struct vmm_vcpu *v), void *arg)
{
	pthread_mutex_lock(&v->all->lock);
	v->call = fn;
	v->call_arg = arg;
	pthread_mutex_unlock(&v->all->lock);
	atomic_store(&v->called, true);
	vmm_vcpu_kick(v);
}

void vcpu_take_call(struct vmm_vcpu *v)
{
	void (*fn)(void *arg, struct vmm_vcpu *v);
	void *arg;

	if (!atomic_load_explicit(&v->called, memory_order_relaxed) ||
	    !atomic_exchange(&v->called, false))
		return;
	vcpu_finish_io(v);
	pthread_mutex_lock(&v->all->lock);
	fn = v->call;
	arg = v->call_arg;
	pthread_mutex_unlock(&v->all->lock);
	fn(arg, v);
}

/* ---- interrupts that came too late ---- */

static void pass_on(void *arg, const struct vmm_irq_msg *msg)
{
	vmm_irq_send(arg, msg);
}

void vcpu_pass_on(struct vmm_vcpu *v)
{
	if (vmm_vcpu_seat(v) == VMM_SEAT_AWAY)
		vmm_lapic_take_requests(v->lapic, pass_on, v->all->irq);
}

void vmm_vcpus_pass_on(struct vmm_vcpus *all)
{
	unsigned n = atomic_load(&all->count);

	for (unsigned i = 0; i < n; i++)
		vcpu_pass_on(all->vcpu[i]);
}

/* ---- state ---- */

static void put_part(struct vmm_vcpu *v, struct base_wbuf *out, uint32_t version,
		     void (*save)(struct vmm_vcpu *v, struct base_wbuf *out))
{
	struct base_wbuf part;

	base_wbuf_init(&part, VMM_VCPU_PACK_MAX);
	save(v, &part);
	base_wbuf_u32(out, version);
	base_wbuf_blob(out, part.data, (uint32_t)part.len);
	if (part.error && !out->error)
		out->error = part.error;
	base_wbuf_fini(&part);
}

static void save_lapic(struct vmm_vcpu *v, struct base_wbuf *out)
{
	vmm_lapic_save(v->lapic, out);
}

void vmm_vcpu_pack(struct vmm_vcpu *v, struct base_wbuf *out)
{
	put_part(v, out, VMM_VCPU_CPUID_VERSION, vmm_vcpu_save_cpuid);
	put_part(v, out, VMM_VCPU_STATE_VERSION, vmm_vcpu_save);
	put_part(v, out, VMM_LAPIC_STATE_VERSION, save_lapic);
}

static int get_part(struct vmm_vcpu *v, struct base_rbuf *in,
		    int (*load)(struct vmm_vcpu *v, struct base_rbuf *in, uint32_t version))
{
	uint32_t version = base_rbuf_u32(in);
	size_t len = 0;
	const void *data = base_rbuf_blob(in, VMM_VCPU_PACK_MAX, &len);
	struct base_rbuf part;
	int err;

	if (in->error)
		return in->error;
	base_rbuf_init(&part, data, len);
	err = load(v, &part, version);
	return err ? err : base_rbuf_end(&part);
}

static int move_lapic(struct vmm_vcpu *v, struct base_rbuf *in, uint32_t version)
{
	return vmm_lapic_move_in(v->lapic, in, version);
}

static int load_lapic(struct vmm_vcpu *v, struct base_rbuf *in, uint32_t version)
{
	return vmm_lapic_load(v->lapic, in, version);
}

int vmm_vcpu_unpack(struct vmm_vcpu *v, struct base_rbuf *in, bool requests)
{
	/* KVM judges the registers by the CPUID that it knows. */
	int err = get_part(v, in, vmm_vcpu_load_cpuid);

	if (!err)
		err = get_part(v, in, vmm_vcpu_load);
	if (!err)
		err = get_part(v, in, requests ? load_lapic : move_lapic);
	return err ? err : base_rbuf_end(in);
}
