/*
 * A whole machine to a stream of sections and back. The order: "machine", "memory"..., "irqchip",
 * then for each vCPU "cpuid", "vcpu", "lapic", then the devices, then "end".
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "node/vmm/snapshot.h"
#include "node/vmm/vm_internal.h"

enum {
	MACHINE_VERSION = 1,
	IRQCHIP_VERSION = 1,
	LIVE_ROUNDS = 5,
	LIVE_REST_PAGES = 1024, /* so few are written while the guest stands still */
	END_VERSION = 2,	/* 1 had no digest */
};

/* ---- save ---- */

struct saver {
	int fd;
	int err;
	uint64_t digest;
	uint64_t vcpus; /* bit per vCPU */
	struct base_wbuf buf;
};

static void saver_section(struct saver *s, const char *name, uint32_t instance, uint32_t version)
{
	if (!s->err)
		s->err = s->buf.error;
	if (!s->err)
		s->err = vmm_snap_write(s->fd, name, instance, version, s->buf.data, s->buf.len,
					&s->digest);
	s->buf.len = 0;
}

static void save_machine(struct vmm_vm *vm, struct saver *s)
{
	base_wbuf_u32(&s->buf, vm->config.vcpus);
	base_wbuf_u64(&s->buf, vmm_mem_size(vm->mem));
	base_wbuf_u64(&s->buf, vm->vcpus.clock.tsc_hz);
	base_wbuf_u64(&s->buf, vm->vcpus.paused_tsc);
	base_wbuf_u64(&s->buf, vm->vcpus.clock.base);
	saver_section(s, "machine", 0, MACHINE_VERSION);
}

/* What a follower has packed, as the sections that one of ours would be. */
static int save_remote_vcpu(void *arg, uint32_t id, struct base_rbuf *pack)
{
	static const char *const names[] = {"cpuid", "vcpu", "lapic"};
	struct saver *s = arg;

	if (s->vcpus >> id & 1)
		return -EPROTO;
	s->vcpus |= UINT64_C(1) << id;
	for (unsigned i = 0; i < BASE_ARRAY_LEN(names); i++) {
		uint32_t version = base_rbuf_u32(pack);
		size_t len = 0;
		const void *data = base_rbuf_blob(pack, VMM_VCPU_PACK_MAX, &len);

		if (pack->error)
			return -EPROTO;
		base_wbuf_bytes(&s->buf, data, len);
		saver_section(s, names[i], id, version);
	}
	return base_rbuf_end(pack) ? -EPROTO : s->err;
}

static uint64_t all_vcpus(const struct vmm_vm *vm)
{
	return vm->config.vcpus == 64 ? UINT64_MAX : (UINT64_C(1) << vm->config.vcpus) - 1;
}

static void save_remote_vcpus(struct vmm_vm *vm, struct saver *s)
{
	if (!s->err)
		s->err = vmm_span_each_vcpu(vm->span, save_remote_vcpu, s);
	if (!s->err && s->vcpus != all_vcpus(vm))
		s->err = -EPROTO;
}

static void save_vcpus(struct vmm_vm *vm, struct saver *s)
{
	for (unsigned i = 0; i < vm->vcpus.count; i++) {
		struct vmm_vcpu *v = vm->vcpus.vcpu[i];
		uint32_t id = vmm_vcpu_apic_id(v);

		if (!vmm_vcpu_is_here(v))
			continue;
		s->vcpus |= UINT64_C(1) << id;
		vmm_vcpu_save_cpuid(v, &s->buf);
		saver_section(s, "cpuid", id, VMM_VCPU_CPUID_VERSION);
		vmm_vcpu_save(v, &s->buf);
		saver_section(s, "vcpu", id, VMM_VCPU_STATE_VERSION);
		vmm_lapic_save(vmm_vcpu_lapic(v), &s->buf);
		saver_section(s, "lapic", id, VMM_LAPIC_STATE_VERSION);
	}
}

/* All behind the memory. */
static void save_rest(struct vmm_vm *vm, struct saver *s)
{
	vmm_irqchip_save(vm->irq, &s->buf);
	saver_section(s, "irqchip", 0, IRQCHIP_VERSION);
	save_vcpus(vm, s);
	if (vm->span)
		save_remote_vcpus(vm, s);
	base_list_foreach (dev, &vm->devices, struct vmm_device, link) {
		dev->ops->save(dev, &s->buf);
		saver_section(s, dev->ops->name, dev->instance, dev->ops->version);
	}
	base_wbuf_u64(&s->buf, s->digest);
	saver_section(s, "end", 0, END_VERSION);
}

static void saver_begin(struct vmm_vm *vm, int fd, struct saver *s)
{
	*s = (struct saver){.fd = fd};
	base_wbuf_init(&s->buf, VMM_SNAP_SECTION_MAX);
	s->err = vmm_snap_write_header(fd);
	save_machine(vm, s);
}

/* All slices' memory, page by page through the DSM; and what else the others have. */
static int save_shared_memory(struct vmm_vm *vm, struct saver *s)
{
	size_t words = (vmm_mem_size(vm->mem) / VMM_PAGE_SIZE + 63) / 64;
	BASE_AUTO_FREE uint64_t *pages = calloc(words, sizeof(*pages));
	int err = pages ? vmm_span_collect(vm->span, pages) : -ENOMEM;

	return err ? err : vmm_snap_write_pages(s->fd, vm->mem, pages, &s->digest);
}

static int save_memory(struct vmm_vm *vm, struct saver *s)
{
	return vm->span && !vmm_span_is_over(vm->span)
		       ? save_shared_memory(vm, s)
		       : vmm_snap_write_memory(s->fd, vm->mem, &s->digest);
}

/* Without memory where something else carries it. */
static int vm_save_sections(struct vmm_vm *vm, int fd, bool memory)
{
	struct saver s;

	if (vm->state != VMM_PAUSED)
		return -EINVAL;
	atomic_store(&vm->transfer, vm->span != NULL);
	saver_begin(vm, fd, &s);
	if (!s.err && memory)
		s.err = save_memory(vm, &s);
	save_rest(vm, &s);
	atomic_store(&vm->transfer, false);
	base_wbuf_fini(&s.buf);
	return s.err;
}

/* ---- save while it runs ---- */

/* What is known of the pages, a bit each, in the order of the memory file. */
struct live {
	struct vmm_vm *vm;
	bool shared; /* with other slices */
	size_t words;
	uint64_t *dirty, *part,
		*written; /* to be written next; of one log; written at least once */
	uint64_t count;	  /* of dirty */
};

static void live_fini(struct live *l)
{
	free(l->dirty);
	free(l->part);
	free(l->written);
	if (l->shared)
		vmm_span_track_stop(l->vm->span);
	vmm_mem_dirty_stop(l->vm->mem);
	if (vmm_kvm_map_memory(&l->vm->kvm, l->vm->mem, false))
		log_warn("the dirty log cannot be switched off; the guest runs on slower");
}

static int live_init(struct live *l, struct vmm_vm *vm)
{
	int err = 0;

	*l = (struct live){.vm = vm, .words = (vmm_mem_size(vm->mem) / VMM_PAGE_SIZE + 63) / 64};
	l->dirty = calloc(l->words, sizeof(*l->dirty));
	l->part = calloc(l->words, sizeof(*l->part));
	l->written = calloc(l->words, sizeof(*l->written));
	if (!l->dirty || !l->part || !l->written)
		err = -ENOMEM;
	if (!err && vm->span && !vmm_span_is_over(vm->span)) {
		err = vmm_span_track_start(vm->span);
		l->shared = !err;
	}
	if (!err)
		err = vmm_mem_dirty_start(vm->mem);
	if (!err)
		err = vmm_kvm_map_memory(&vm->kvm, vm->mem, true);
	if (err)
		live_fini(l);
	return err;
}

/*
 * Of a guest that spans: KVM and the devices know what was written here, and the DSM what others may
 * have written. Which pages are used at all is asked for after that, so each of them was there before.
 */
static int live_used(struct live *l, bool stands)
{
	int err;

	vmm_span_track_take(l->vm->span, l->dirty);
	memset(l->part, 0, l->words * sizeof(*l->part));
	err = stands ? vmm_span_collect(l->vm->span, l->part) : vmm_span_look(l->vm->span, l->part);
	for (size_t i = 0; i < l->words; i++) {
		l->dirty[i] = (l->dirty[i] | ~l->written[i]) & l->part[i];
		l->written[i] |= l->dirty[i];
	}
	return err;
}

static int live_fetch(struct live *l, bool stands)
{
	int err;

	memset(l->dirty, 0, l->words * sizeof(*l->dirty));
	err = vmm_kvm_dirty_fetch(&l->vm->kvm, l->vm->mem, l->dirty);
	if (err)
		return err;
	vmm_mem_dirty_fetch_and_clear(l->vm->mem, l->part);
	for (size_t i = 0; i < l->words; i++)
		l->dirty[i] |= l->part[i];
	if (l->shared)
		err = live_used(l, stands);
	l->count = 0;
	for (size_t i = 0; i < l->words; i++)
		l->count += (uint64_t)__builtin_popcountll(l->dirty[i]);
	return err;
}

static int live_write(struct live *l, struct saver *s)
{
	return vmm_snap_write_pages(s->fd, l->vm->mem, l->dirty, &s->digest);
}

static int live_first(struct live *l, struct saver *s)
{
	int err;

	if (!l->shared)
		return vmm_snap_write_memory_live(s->fd, l->vm->mem, &s->digest);
	err = live_fetch(l, false);
	return err ? err : live_write(l, s);
}

/* What was written meanwhile goes out again, and supersedes; the guest stops for the rest. */
static int live_rounds(struct live *l, struct saver *s, int (*pause)(void *arg), void *arg)
{
	uint64_t before = UINT64_MAX;
	int err = live_first(l, s);

	for (int round = 0; !err && round < LIVE_ROUNDS; round++) {
		err = live_fetch(l, false);
		if (!err)
			err = live_write(l, s);
		if (l->count <= LIVE_REST_PAGES || l->count > before / 2)
			break;
		before = l->count;
	}
	if (!err)
		err = pause(arg);
	if (!err)
		err = live_fetch(l, true);
	return err ? err : live_write(l, s);
}

int vmm_vm_save_live(struct vmm_vm *vm, int fd, int (*pause)(void *arg), void *arg)
{
	struct live l;
	struct saver s;
	int err = live_init(&l, vm);

	if (err)
		return err;
	atomic_store(&vm->transfer, vm->span != NULL);
	saver_begin(vm, fd, &s);
	if (!s.err)
		s.err = live_rounds(&l, &s, pause, arg);
	if (!s.err) {
		/* Once more: now the clock stands still. */
		save_machine(vm, &s);
		save_rest(vm, &s);
	}
	atomic_store(&vm->transfer, false);
	base_wbuf_fini(&s.buf);
	live_fini(&l);
	return s.err;
}

int vmm_vm_save(struct vmm_vm *vm, int fd)
{
	return vm_save_sections(vm, fd, true);
}

int vm_save_machine(struct vmm_vm *vm, int fd)
{
	return vm_save_sections(vm, fd, false);
}

/* ---- load ---- */

/* What has come so far; a machine is complete or refused. */
struct loader {
	struct vmm_vm *vm;
	bool machine, irqchip, end;
	uint64_t cpuids, vcpus, lapics; /* bit per vCPU */
	uint64_t digest;		/* of the sections so far */
	uint32_t remote;		/* the vCPU of another slice that `pack` is of */
	struct base_wbuf pack;
	unsigned devices;
	char *why;
};

static int loader_refuse(struct loader *l, int err, const char *fmt, ...) BASE_PRINTF(3, 4);

static int loader_refuse(struct loader *l, int err, const char *fmt, ...)
{
	va_list ap;
	int n = snprintf(l->why, VMM_WHY_MAX, "--restore: ");

	va_start(ap, fmt);
	vsnprintf(l->why + n, VMM_WHY_MAX - (size_t)n, fmt, ap);
	va_end(ap);
	return err;
}

static int load_machine(struct loader *l, const struct vmm_snap_section *s, struct base_rbuf *in)
{
	struct vmm_vm *vm = l->vm;
	uint32_t vcpus = base_rbuf_u32(in);
	uint64_t memory = base_rbuf_u64(in), hz = base_rbuf_u64(in), tsc = base_rbuf_u64(in);
	uint64_t base = base_rbuf_u64(in);
	uint64_t ours = vm->vcpus.clock.tsc_hz, apart = hz > ours ? hz - ours : ours - hz;

	if (s->version != MACHINE_VERSION || in->error)
		return -EPROTO;
	if (vcpus != vm->config.vcpus || memory != vmm_mem_size(vm->mem))
		return loader_refuse(l, -EINVAL, "the saved machine has %u vCPUs and %llu MiB",
				     vcpus, (unsigned long long)(memory >> 20));
	if (apart > ours / VM_TSC_TOLERANCE)
		return loader_refuse(
			l, -EINVAL, "the saved machine's TSC runs at %llu kHz, this host's at %llu",
			(unsigned long long)hz / 1000, (unsigned long long)ours / 1000);
	vm->vcpus.paused_tsc = tsc;
	vm->vcpus.clock.base = base;
	vm->vcpus.restored = true;
	l->machine = true;
	return 0;
}

/* Its three sections go to its slice together. */
static int load_remote_part(struct loader *l, const struct vmm_snap_section *s,
			    struct base_rbuf *in)
{
	uint64_t bit = UINT64_C(1) << s->instance, *seen = &l->lapics;
	char why[VMM_WHY_MAX] = "";
	int err;

	if (!strcmp(s->name, "cpuid")) {
		l->remote = s->instance;
		l->pack.len = 0;
		seen = &l->cpuids;
	} else if (!strcmp(s->name, "vcpu")) {
		seen = &l->vcpus;
	}
	if (l->remote != s->instance || *seen & bit || (seen != &l->cpuids && !(l->cpuids & bit)) ||
	    (seen == &l->lapics && !(l->vcpus & bit)))
		return -EPROTO;
	*seen |= bit;
	base_wbuf_u32(&l->pack, s->version);
	base_wbuf_blob(&l->pack, in->data, (uint32_t)base_rbuf_left(in));
	base_rbuf_init(in, in->data, 0);
	if (seen != &l->lapics)
		return l->pack.error;
	err = vmm_span_load_vcpu(l->vm->span, s->instance, &l->pack, why);
	return err && why[0] ? loader_refuse(l, err, "%s", why) : err;
}

static int load_vcpu_part(struct loader *l, const struct vmm_snap_section *s, struct base_rbuf *in)
{
	struct vmm_vcpu *v;
	uint64_t bit;
	int err;

	if (s->instance >= l->vm->config.vcpus)
		return -EPROTO;
	v = vmm_vcpus_find(&l->vm->vcpus, s->instance);
	if (!v)
		return l->vm->span ? load_remote_part(l, s, in) : -EPROTO;
	bit = UINT64_C(1) << s->instance;
	if (strcmp(s->name, "cpuid") == 0) {
		err = vmm_vcpu_load_cpuid(v, in, s->version);
		l->cpuids |= bit;
		if (err == -ENOTSUP)
			return loader_refuse(l, err,
					     "this host's CPU lacks features of the saved one");
	} else if (strcmp(s->name, "vcpu") == 0) {
		/* KVM judges the registers by the CPUID that it knows. */
		if (!(l->cpuids & bit))
			return -EPROTO;
		err = vmm_vcpu_load(v, in, s->version);
		l->vcpus |= bit;
	} else {
		err = vmm_lapic_load(vmm_vcpu_lapic(v), in, s->version);
		l->lapics |= bit;
	}
	return err;
}

static int load_device(struct loader *l, const struct vmm_snap_section *s, struct base_rbuf *in)
{
	base_list_foreach (dev, &l->vm->devices, struct vmm_device, link) {
		if (strcmp(dev->ops->name, s->name) != 0 || dev->instance != s->instance)
			continue;
		l->devices += dev != l->vm->channel_dev;
		return dev->ops->load(dev, in, s->version);
	}
	return loader_refuse(l, -EINVAL, "this machine has no device %s.%u", s->name, s->instance);
}

static int load_end(struct loader *l, const struct vmm_snap_section *s, struct base_rbuf *in)
{
	uint64_t digest = s->version > 1 ? base_rbuf_u64(in) : l->digest;

	if (in->error)
		return -EPROTO;
	if (digest != l->digest)
		return -EBADMSG;
	l->end = true;
	return 0;
}

static int load_section(struct loader *l, const struct vmm_snap_section *s)
{
	struct base_rbuf in;
	int err;

	base_rbuf_init(&in, s->data, s->len);
	if (strcmp(s->name, "machine") == 0)
		return load_machine(l, s, &in);
	if (!l->machine)
		return -EBADMSG;
	if (strcmp(s->name, "memory") == 0)
		return vmm_snap_load_memory(s, l->vm->mem);
	if (strcmp(s->name, "end") == 0)
		return load_end(l, s, &in);
	if (strcmp(s->name, "irqchip") == 0) {
		err = vmm_irqchip_load(l->vm->irq, &in, s->version);
		l->irqchip = true;
	} else if (strcmp(s->name, "cpuid") == 0 || strcmp(s->name, "vcpu") == 0 ||
		   strcmp(s->name, "lapic") == 0) {
		err = load_vcpu_part(l, s, &in);
	} else {
		err = load_device(l, s, &in);
	}
	return err ? err : base_rbuf_end(&in);
}

static bool loader_complete(const struct loader *l)
{
	uint64_t all = all_vcpus(l->vm);
	unsigned devices = 0;

	/* Machines that were saved before there was a guest channel have none. */
	base_list_foreach (dev, &l->vm->devices, struct vmm_device, link)
		devices += dev != l->vm->channel_dev;
	return l->irqchip && l->cpuids == all && l->vcpus == all && l->lapics == all &&
	       l->devices == devices;
}

int vm_load(struct vmm_vm *vm, int fd, char *why)
{
	struct loader l = {.vm = vm, .why = why};
	struct vmm_snap_section s = {0};
	int err = vmm_snap_read_header(fd);

	if (err)
		return loader_refuse(&l, err, "%s",
				     err == -EPROTONOSUPPORT ? "a format of another version"
							     : "this is not a saved machine");
	why[0] = 0;
	base_wbuf_init(&l.pack, VMM_VCPU_PACK_MAX);
	while (!err && !l.end) {
		err = vmm_snap_read(fd, &s);
		if (!err)
			err = load_section(&l, &s);
		if (!err)
			l.digest = vmm_snap_digest(l.digest, s.checksum);
	}
	if (err && !why[0])
		err = loader_refuse(&l, err, "section '%s': %s", s.name,
				    err == -EBADMSG ? "damaged or cut off" : strerror(-err));
	if (!err && !loader_complete(&l))
		err = loader_refuse(&l, -EBADMSG, "parts of the machine are missing");
	base_wbuf_fini(&l.pack);
	free(s.data);
	return err;
}
