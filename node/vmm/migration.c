#include "node/vmm/migration.h"

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "migrate/migrate.h"
#include "node/vmm/snapshot.h"
#include "node/vmm/vm_internal.h"
#include "proto/migctl.h"

enum {
	PROGRESS_INTERVAL_MS = 200,
	THROTTLE_PERIOD_MS = 20,
	STALL_MAX_MS = 600000,
	/* A difference of the hosts' clocks beyond this is not the downtime. */
	DOWNTIME_MAX_MS = 30000,
	CONFIG_VERSION = 1,
};

struct vmm_migration {
	struct vmm_vm *vm;
	struct base_loop *loop;
	enum vmm_migration_way way;
	int journal_fd;
	struct base_watch session;
	struct base_timer report_timer;
	bool active, doubt, cut;
	bool ran;	       /* the guest, at this destination */
	enum migctl_end ended; /* how; 0: not yet */

	struct mig_params params;
	struct mig_memory memory;
	struct mig_source *source;
	struct mig_dest *dest;
	struct base_wbuf config;
	pthread_t thread;
	bool thread_started;
	int result;
	char why[MIG_TEXT_MAX];
	int new_fds[1 + MIG_CHANNELS_MAX];

	/* What the engine's thread asks of the main thread, one at a time. */
	int (*ask)(struct vmm_migration *m);
	int answer;
	sem_t answered;
	struct base_wbuf *state_out;
	const void *state_in;
	size_t state_len;
	uint64_t paused_wall_ns;

	pthread_t throttler;
	bool throttling;
	atomic_uint throttle_percent;
};

/* ---- from the engine's thread to the main thread ---- */

static void migration_answer(void *arg)
{
	struct vmm_migration *m = arg;

	m->answer = m->ask(m);
	sem_post(&m->answered);
}

/* Runs fn on the main thread and waits for its result. */
static int migration_ask(struct vmm_migration *m, int (*fn)(struct vmm_migration *m))
{
	int err;

	m->ask = fn;
	err = base_loop_post(m->loop, migration_answer, m);
	if (err)
		return err;
	while (sem_wait(&m->answered) && errno == EINTR)
		;
	return m->answer;
}

/* Survives this process: the next agent reads it. */
static int migration_journal(struct vmm_migration *m, const char *entry)
{
	char line[2 * MIG_ID_LEN + 64];
	size_t at = 0;

	if (m->journal_fd < 0)
		return 0;
	for (int i = 0; i < MIG_ID_LEN; i++)
		at += (size_t)snprintf(line + at, sizeof(line) - at, "%02x", m->params.id[i]);
	at += (size_t)snprintf(line + at, sizeof(line) - at, " %s %s\n",
			       m->way == VMM_MIGRATE_OUT ? "source" : "destination", entry);
	if (write(m->journal_fd, line, at) != (ssize_t)at)
		return errno ? -errno : -EIO;
	return 0;
}

static uint64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the source ---- */

static int source_dirty_start(void *guest)
{
	struct vmm_migration *m = guest;
	int err = vmm_mem_dirty_start(m->vm->mem);

	return err ? err : vmm_kvm_map_memory(&m->vm->kvm, m->vm->mem, true);
}

static int dirty_fetch(struct vmm_migration *m, uint64_t *bitmap, bool last)
{
	size_t words = (vmm_mem_size(m->vm->mem) / VMM_PAGE_SIZE + 63) / 64;
	BASE_AUTO_FREE uint64_t *ours = calloc(words, sizeof(*ours));
	int err;

	if (!ours)
		return -ENOMEM;
	err = last ? vmm_kvm_dirty_last(&m->vm->kvm, m->vm->mem, bitmap)
		   : vmm_kvm_dirty_fetch(&m->vm->kvm, m->vm->mem, bitmap);
	if (err)
		return err;
	vmm_mem_dirty_fetch_and_clear(m->vm->mem, ours);
	for (size_t i = 0; i < words; i++)
		bitmap[i] |= ours[i];
	return 0;
}

static int source_dirty_fetch(void *guest, uint64_t *bitmap)
{
	return dirty_fetch(guest, bitmap, false);
}

static int source_dirty_last(void *guest, uint64_t *bitmap)
{
	return dirty_fetch(guest, bitmap, true);
}

static void source_dirty_stop(void *guest)
{
	struct vmm_migration *m = guest;

	vmm_mem_dirty_stop(m->vm->mem);
	if (vmm_kvm_map_memory(&m->vm->kvm, m->vm->mem, false))
		log_warn(
			"migration: the dirty log cannot be switched off; the guest runs on slower");
}

static void bitmap_set_range(uint64_t *bitmap, uint64_t from, uint64_t to)
{
	for (; from < to && from % 64; from++)
		bitmap[from / 64] |= UINT64_C(1) << (from % 64);
	for (; from + 64 <= to; from += 64)
		bitmap[from / 64] = UINT64_MAX;
	for (; from < to; from++)
		bitmap[from / 64] |= UINT64_C(1) << (from % 64);
}

/* Holes of the memfd were never touched, and read as zeros on the other side too. */
static int source_touched(void *guest, uint64_t *bitmap)
{
	struct vmm_migration *m = guest;
	int fd = vmm_mem_fd(m->vm->mem);
	off_t size = (off_t)vmm_mem_size(m->vm->mem), at = 0;

	while (at < size) {
		off_t data = lseek(fd, at, SEEK_DATA), hole;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		bitmap_set_range(bitmap, (uint64_t)data / VMM_PAGE_SIZE,
				 ((uint64_t)hole + VMM_PAGE_SIZE - 1) / VMM_PAGE_SIZE);
		at = hole;
	}
	return 0;
}

/* Duty cycle of all vCPUs; the pause gate keeps the guest's TSC from standing still meanwhile. */
static void *throttler_main(void *arg)
{
	struct vmm_migration *m = arg;
	unsigned percent;

	while ((percent = atomic_load(&m->throttle_percent)) > 0) {
		struct timespec stop = {.tv_nsec = THROTTLE_PERIOD_MS * 10000L * (long)percent};
		struct timespec go = {.tv_nsec =
					      THROTTLE_PERIOD_MS * 10000L * (long)(100 - percent)};

		vmm_vcpus_pause(&m->vm->vcpus);
		nanosleep(&stop, NULL);
		vmm_vcpus_resume(&m->vm->vcpus);
		nanosleep(&go, NULL);
	}
	return NULL;
}

static void throttler_stop(struct vmm_migration *m)
{
	atomic_store(&m->throttle_percent, 0);
	if (m->throttling)
		pthread_join(m->throttler, NULL);
	m->throttling = false;
}

static void source_throttle(void *guest, unsigned percent)
{
	struct vmm_migration *m = guest;

	atomic_store(&m->throttle_percent, percent);
	if (!percent)
		throttler_stop(m);
	else if (!m->throttling)
		m->throttling = !pthread_create(&m->throttler, NULL, throttler_main, m);
}

static int main_pause(struct vmm_migration *m)
{
	return vmm_vm_pause(m->vm);
}

static int source_pause(void *guest)
{
	struct vmm_migration *m = guest;

	throttler_stop(m);
	m->paused_wall_ns = wall_ns();
	return migration_ask(m, main_pause);
}

static int main_resume(struct vmm_migration *m)
{
	return vmm_vm_resume(m->vm);
}

static int source_resume(void *guest)
{
	return migration_ask(guest, main_resume);
}

static int read_back(int fd, struct base_wbuf *out)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st))
		return -errno;
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	base_wbuf_bytes(out, p, (size_t)st.st_size);
	munmap(p, (size_t)st.st_size);
	return out->error;
}

static int main_save(struct vmm_migration *m)
{
	BASE_AUTO_FD int fd = memfd_create("machine", MFD_CLOEXEC);
	int err;

	if (fd < 0)
		return -errno;
	base_wbuf_u64(m->state_out, m->paused_wall_ns);
	err = vm_save_machine(m->vm, fd);
	return err ? err : read_back(fd, m->state_out);
}

static int source_save(void *guest, struct base_wbuf *out)
{
	struct vmm_migration *m = guest;

	m->state_out = out;
	return migration_ask(m, main_save);
}

static int source_journal(void *guest, const char *entry)
{
	return migration_journal(guest, entry);
}

static const struct mig_source_ops source_ops = {
	.dirty_start = source_dirty_start,
	.dirty_fetch = source_dirty_fetch,
	.dirty_last = source_dirty_last,
	.dirty_stop = source_dirty_stop,
	.touched = source_touched,
	.pause = source_pause,
	.resume = source_resume,
	.save = source_save,
	.throttle = source_throttle,
	.journal = source_journal,
};

/* ---- what must fit before the first page moves ---- */

static void config_write(struct vmm_vm *vm, struct base_wbuf *out)
{
	uint32_t devices = 0;

	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		devices++;
	base_wbuf_u32(out, CONFIG_VERSION);
	base_wbuf_u32(out, vm->config.vcpus);
	base_wbuf_u64(out, vmm_mem_size(vm->mem));
	base_wbuf_u64(out, vm->vcpus.clock.tsc_hz);
	base_wbuf_u32(out, devices);
	base_list_foreach (dev, &vm->devices, struct vmm_device, link) {
		base_wbuf_str(out, dev->ops->name);
		base_wbuf_u32(out, dev->instance);
		base_wbuf_u32(out, dev->ops->version);
	}
	vmm_vcpu_save_cpuid(vm->vcpus.vcpu[0], out);
}

static const struct vmm_device *find_device(const struct vmm_vm *vm, const char *name,
					    uint32_t instance)
{
	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		if (!strcmp(dev->ops->name, name) && dev->instance == instance)
			return dev;
	return NULL;
}

static int config_check_devices(struct vmm_vm *vm, struct base_rbuf *in, char *why)
{
	uint32_t count = base_rbuf_u32(in), ours = 0;

	base_list_foreach (dev, &vm->devices, struct vmm_device, link)
		ours++;
	for (uint32_t i = 0; i < count && !in->error; i++) {
		const struct vmm_device *dev;
		uint32_t instance, version;
		char name[32];

		base_rbuf_str(in, name, sizeof(name));
		instance = base_rbuf_u32(in);
		version = base_rbuf_u32(in);
		dev = find_device(vm, name, instance);
		if (!in->error && (!dev || dev->ops->version < version)) {
			snprintf(why, MIG_TEXT_MAX, "the destination has no device %.31s.%u%s",
				 name, instance, dev ? " of that version" : "");
			return -EINVAL;
		}
	}
	if (!in->error && count != ours) {
		snprintf(why, MIG_TEXT_MAX, "the destination has %u devices, the source %u", ours,
			 count);
		return -EINVAL;
	}
	return in->error;
}

static int config_check_cpu(struct vmm_vm *vm, struct base_rbuf *in, char *why)
{
	int err = vmm_vcpu_load_cpuid(vm->vcpus.vcpu[0], in, VMM_VCPU_CPUID_VERSION);

	if (err == -ENOTSUP)
		snprintf(why, MIG_TEXT_MAX,
			 "the destination's CPU lacks features that the guest was promised");
	return err ? err : base_rbuf_end(in);
}

static int dest_check(void *guest, const void *config, size_t len, char *why)
{
	struct vmm_migration *m = guest;
	struct base_rbuf in;
	uint32_t version, vcpus;
	uint64_t memory, hz, ours = m->vm->vcpus.clock.tsc_hz;
	int err;

	base_rbuf_init(&in, config, len);
	version = base_rbuf_u32(&in);
	vcpus = base_rbuf_u32(&in);
	memory = base_rbuf_u64(&in);
	hz = base_rbuf_u64(&in);
	if (in.error || version != CONFIG_VERSION)
		return -EPROTO;
	if (vcpus != m->vm->config.vcpus || memory != vmm_mem_size(m->vm->mem)) {
		snprintf(why, MIG_TEXT_MAX, "the source has %u vCPUs and %llu MiB", vcpus,
			 (unsigned long long)(memory >> 20));
		return -EINVAL;
	}
	if ((hz > ours ? hz - ours : ours - hz) > ours / VM_TSC_TOLERANCE) {
		snprintf(why, MIG_TEXT_MAX, "TSC: %llu kHz at the source, %llu kHz here",
			 (unsigned long long)hz / 1000, (unsigned long long)ours / 1000);
		return -EINVAL;
	}
	err = config_check_devices(m->vm, &in, why);
	return err ? err : config_check_cpu(m->vm, &in, why);
}

/* ---- the destination ---- */

static int main_load(struct vmm_migration *m)
{
	BASE_AUTO_FD int fd = memfd_create("machine", MFD_CLOEXEC);
	struct base_rbuf in;
	char why[VMM_WHY_MAX];
	size_t left;
	int err;

	if (fd < 0)
		return -errno;
	base_rbuf_init(&in, m->state_in, m->state_len);
	m->paused_wall_ns = base_rbuf_u64(&in);
	left = base_rbuf_left(&in);
	if (in.error || pwrite(fd, base_rbuf_take(&in, left), left, 0) != (ssize_t)left)
		return -EIO;
	err = vm_load(m->vm, fd, why);
	if (err)
		log_error("migration: %s", why);
	return err;
}

static int dest_load(void *guest, const void *state, size_t len)
{
	struct vmm_migration *m = guest;

	m->state_in = state;
	m->state_len = len;
	return migration_ask(m, main_load);
}

/* For the guest, the time of the hand-over has passed: its clocks go on without a jump back. */
static void add_downtime(struct vmm_migration *m)
{
	struct vmm_vcpus *all = &m->vm->vcpus;
	int64_t gap = (int64_t)(wall_ns() - m->paused_wall_ns);

	if (gap <= 0 || gap > DOWNTIME_MAX_MS * BASE_NS_PER_MS)
		return;
	all->paused_tsc += (uint64_t)((double)gap * (double)all->clock.tsc_hz / 1e9);
}

static void report(struct vmm_migration *m);

static void main_filled(void *arg)
{
	struct vmm_migration *m = arg;

	vm_filled(m->vm);
}

static int main_run(struct vmm_migration *m)
{
	int err;

	if (m->ran) {
		vmm_vcpus_reopen(&m->vm->vcpus);
		vm_set_state(m->vm, VMM_RUNNING, "");
		return 0;
	}
	m->vm->incoming = false;
	vmm_populate_free(m->vm->populate);
	m->vm->populate = NULL;
	add_downtime(m);
	err = vmm_vm_resume(m->vm);
	m->ran = !err;
	/* The agent tells the network at once. */
	report(m);
	return err;
}

/* vCPUs that sleep in a page fault stand still already; nobody waits for them. */
static int main_hold(struct vmm_migration *m)
{
	vmm_vcpus_close(&m->vm->vcpus);
	vm_set_state(m->vm, VMM_PAUSED, "its memory is still on another node, and the link broke");
	return 0;
}

static int dest_hold(void *guest)
{
	return migration_ask(guest, main_hold);
}

/* ---- memory that follows ---- */

static bool dest_can_fill(void *guest)
{
	struct vmm_migration *m = guest;

	return m->vm->fill && !m->vm->populate;
}

static int dest_discard(void *guest, uint64_t index, uint64_t count)
{
	return vmm_fill_discard(((struct vmm_migration *)guest)->vm->fill, index, count);
}

static int dest_fill_start(void *guest, int *fault_fd)
{
	struct vmm_migration *m = guest;
	int err = vmm_fill_start(m->vm->fill);

	if (err)
		return err;
	atomic_store(&m->vm->vcpus.filling, true);
	atomic_store(&m->vm->filling, true);
	*fault_fd = vmm_fill_fd(m->vm->fill);
	return 0;
}

static int dest_faults(void *guest, uint64_t *index, unsigned max)
{
	return vmm_fill_faults(((struct vmm_migration *)guest)->vm->fill, index, max);
}

static int dest_fill(void *guest, uint64_t index, const void *page)
{
	return vmm_fill_page(((struct vmm_migration *)guest)->vm->fill, index, page);
}

static void dest_fill_stop(void *guest)
{
	struct vmm_migration *m = guest;

	vmm_fill_stop(m->vm->fill);
	if (!m->vm->incoming && base_loop_post(m->loop, main_filled, m))
		log_error("the main loop takes no posts");
}

static int dest_run(void *guest)
{
	return migration_ask(guest, main_run);
}

static int dest_journal(void *guest, const char *entry)
{
	return migration_journal(guest, entry);
}

static const struct mig_dest_ops dest_ops = {
	.check = dest_check,
	.load = dest_load,
	.run = dest_run,
	.journal = dest_journal,
	.can_fill = dest_can_fill,
	.discard = dest_discard,
	.fill_start = dest_fill_start,
	.faults = dest_faults,
	.fill = dest_fill,
	.fill_stop = dest_fill_stop,
	.pause = dest_hold,
};

/* ---- the session ---- */

static void fill_progress(struct vmm_migration *m, struct migctl_progress *out)
{
	struct mig_progress p = {0};

	if (m->source)
		mig_source_progress(m->source, &p);
	*out = (struct migctl_progress){
		.round = p.round,
		.throttle = p.throttle,
		.pages_total = p.pages_total,
		.pages_left = p.pages_left,
		.bytes_sent = p.bytes_sent,
		.pages_sent = p.pages_sent,
		.pages_zero = p.pages_zero,
		.pages_unchanged = p.pages_unchanged,
		.pages_resent = p.pages_resent,
		.rate = p.rate,
		.dirty_rate = p.dirty_rate,
		.total_ns = (uint64_t)(p.total_ns   ? p.total_ns
				       : p.start_ns ? base_clock_ns() - p.start_ns
						    : 0),
		.downtime_ns = (uint64_t)p.downtime_ns,
	};
	snprintf(out->state, sizeof(out->state), "%s",
		 m->source ? mig_src_state_name(p.state)
		 : m->cut  ? mig_dst_state_name(MIG_DST_BROKEN)
		 : m->ran  ? mig_dst_state_name(MIG_DST_FILL)
			   : "receive");
	if (m->dest)
		out->pages_left = mig_dest_missing(m->dest);
}

static void send_to_agent(struct vmm_migration *m, struct migctl_msg *msg)
{
	fill_progress(m, &msg->progress);
	/* Without an agent the migration goes on; the journal has the outcome. */
	if (m->session.fd >= 0 && migctl_send(m->session.fd, msg))
		log_debug("migration: the agent does not read");
}

static void report(struct vmm_migration *m)
{
	struct migctl_msg msg = {.kind = MIGCTL_PROGRESS};

	send_to_agent(m, &msg);
}

static void report_tick(struct base_timer *t)
{
	struct vmm_migration *m = base_container_of(t, struct vmm_migration, report_timer);

	report(m);
	base_loop_timer(m->loop, t, base_clock_ns() + PROGRESS_INTERVAL_MS * BASE_NS_PER_MS);
}

static void send_result(struct vmm_migration *m, enum migctl_end end)
{
	struct migctl_msg msg = {.kind = MIGCTL_RESULT, .result.end = end};

	snprintf(msg.result.text, sizeof(msg.result.text), "%s", m->why);
	send_to_agent(m, &msg);
}

static void session_close(struct vmm_migration *m)
{
	base_loop_remove(&m->session);
	if (m->session.fd >= 0)
		close(m->session.fd);
	m->session.fd = -1;
}

static void migration_over(struct vmm_migration *m, int result)
{
	base_loop_timer_cancel(&m->report_timer);
	m->doubt = result == -EINPROGRESS;
	m->cut = result == -ENOLINK;
	if (m->doubt || m->cut) {
		send_result(m, m->doubt ? MIGCTL_DOUBT : MIGCTL_CUT);
		return;
	}
	m->ended = !result ? MIGCTL_DONE : result == -ESTALE ? MIGCTL_LOST : MIGCTL_FAILED;
	/* Who asks later, on behalf of a destination that holds its copy, must find that the guest went
	 * on here. */
	if (m->way == VMM_MIGRATE_OUT && m->ended == MIGCTL_FAILED &&
	    migration_journal(m, "aborted"))
		log_warn("migration: the journal cannot be written");
	send_result(m, m->ended);
	session_close(m);
	m->active = false;
	if (m->ended == MIGCTL_LOST) {
		vmm_vm_kill(m->vm, "the other node of its post-copy migration is gone");
		return;
	}
	if (m->way == VMM_MIGRATE_OUT && !result)
		vmm_vm_kill(m->vm, "migrated");
	else if (m->way == VMM_MIGRATE_IN && result)
		vmm_vm_kill(m->vm, m->why[0] ? m->why : "the migration failed");
	else if (result)
		log_warn("migration failed: %s", m->why);
}

static void thread_ended(void *arg)
{
	struct vmm_migration *m = arg;

	pthread_join(m->thread, NULL);
	m->thread_started = false;
	migration_over(m, m->result);
}

static void keep_why(struct vmm_migration *m)
{
	struct mig_progress p;

	if (m->dest) {
		snprintf(m->why, sizeof(m->why), "%s", mig_dest_error(m->dest));
		return;
	}
	mig_source_progress(m->source, &p);
	snprintf(m->why, sizeof(m->why), "%s", p.error);
}

static void *engine_main(void *arg)
{
	struct vmm_migration *m = arg;

	m->result = m->source ? mig_source_run(m->source) : mig_dest_run(m->dest);
	if (m->result)
		keep_why(m);
	if (base_loop_post(m->loop, thread_ended, m))
		log_error("the main loop takes no posts");
	return NULL;
}

static void take_params(struct vmm_migration *m, const struct migctl_start *s)
{
	mig_params_default(&m->params);
	memcpy(m->params.id, s->id, sizeof(m->params.id));
	memcpy(m->params.key, s->key, sizeof(m->params.key));
	m->params.encrypt = s->encrypt;
	m->params.auto_converge = s->auto_converge;
	m->params.channels = s->channels;
	m->params.bandwidth = s->bandwidth;
	if (s->max_downtime_ms)
		m->params.max_downtime_ms = s->max_downtime_ms;
	if (s->stall_ms)
		m->params.stall_ms = BASE_MIN(s->stall_ms, (uint32_t)STALL_MAX_MS);
	if (s->max_rounds)
		m->params.max_rounds = s->max_rounds;
	m->params.mode = (enum mig_mode)s->mode;
	if (s->postcopy_rounds)
		m->params.postcopy_rounds = s->postcopy_rounds;
}

static void take_memory(struct vmm_migration *m)
{
	m->memory.region_count = vmm_mem_region_count(m->vm->mem);
	for (unsigned i = 0; i < m->memory.region_count; i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(m->vm->mem, i);

		m->memory.regions[i] = (struct mig_region){r->host, r->len / VMM_PAGE_SIZE};
	}
}

static int make_engine(struct vmm_migration *m, const int *fds)
{
	for (unsigned i = 0; i <= m->params.channels; i++) {
		int err = mig_socket_prepare(fds[i], m->params.stall_ms);

		if (err)
			return err;
	}
	if (m->way == VMM_MIGRATE_IN)
		return mig_dest_new(&m->params, &m->memory, &dest_ops, m, fds, &m->dest);
	base_wbuf_init(&m->config, 1 << 20);
	config_write(m->vm, &m->config);
	if (m->config.error)
		return m->config.error;
	return mig_source_new(&m->params, &m->memory, &source_ops, m, m->config.data, m->config.len,
			      fds, &m->source);
}

static void session_start(struct vmm_migration *m, struct migctl_msg *msg)
{
	int err;

	take_params(m, &msg->start);
	take_memory(m);
	err = make_engine(m, msg->fds);
	if (err) {
		for (unsigned i = 0; i < msg->fd_count; i++)
			close(msg->fds[i]);
	} else {
		err = -pthread_create(&m->thread, NULL, engine_main, m);
	}
	if (err) {
		snprintf(m->why, sizeof(m->why), "%s", strerror(-err));
		migration_over(m, err);
		return;
	}
	m->thread_started = true;
	pthread_setname_np(m->thread, "migration");
	report_tick(&m->report_timer);
}

static void *relink_main(void *arg)
{
	struct vmm_migration *m = arg;

	m->result = m->source ? mig_source_relink(m->source, m->new_fds)
			      : mig_dest_relink(m->dest, m->new_fds);
	if (m->result)
		keep_why(m);
	if (base_loop_post(m->loop, thread_ended, m))
		log_error("the main loop takes no posts");
	return NULL;
}

/* New connections for a post-copy that lost its own. */
static void session_relink(struct vmm_migration *m, const struct migctl_msg *msg)
{
	bool ours = m->cut && !m->thread_started && msg->fd_count == m->params.channels + 1 &&
		    !memcmp(msg->start.id, m->params.id, sizeof(m->params.id));

	for (unsigned i = 0; i < msg->fd_count; i++) {
		m->new_fds[i] = msg->fds[i];
		if (!ours || mig_socket_prepare(msg->fds[i], m->params.stall_ms))
			close(msg->fds[i]);
	}
	if (!ours) {
		log_warn("migration: new connections, but none are missed");
		return;
	}
	if (pthread_create(&m->thread, NULL, relink_main, m)) {
		log_error("migration: no thread for the new link");
		for (unsigned i = 0; i < msg->fd_count; i++)
			close(msg->fds[i]);
		return;
	}
	m->thread_started = true;
	m->cut = false;
	report_tick(&m->report_timer);
}

static enum mig_event verdict_of(enum migctl_order order)
{
	switch (order) {
	case MIGCTL_VERDICT_COMMITTED: return MIG_EV_VERDICT_COMMITTED;
	case MIGCTL_VERDICT_ABORTED: return MIG_EV_VERDICT_ABORTED;
	case MIGCTL_VERDICT_COMMITTING: return MIG_EV_VERDICT_COMMITTING;
	case MIGCTL_VERDICT_GONE: return MIG_EV_VERDICT_GONE;
	case MIGCTL_VERDICT_COMPLETE: return MIG_EV_VERDICT_COMPLETE;
	case MIGCTL_FORCE: return MIG_EV_FORCE;
	case MIGCTL_CANCEL: return MIG_EV_CANCEL;
	case MIGCTL_VERDICT_UNKNOWN: break;
	}
	return MIG_EV_VERDICT_UNKNOWN;
}

static void *verdict_main(void *arg)
{
	struct vmm_migration *m = arg;
	enum mig_event ev = (enum mig_event)m->result;

	m->result = m->source ? mig_source_verdict(m->source, ev) : mig_dest_verdict(m->dest, ev);
	if (base_loop_post(m->loop, thread_ended, m))
		log_error("the main loop takes no posts");
	return NULL;
}

/* On a thread, because what it decides runs on the main thread. */
static void session_verdict(struct vmm_migration *m, enum migctl_order order)
{
	m->result = (int)verdict_of(order);
	if (pthread_create(&m->thread, NULL, verdict_main, m)) {
		log_error("migration: no thread for the verdict");
		return;
	}
	m->thread_started = true;
	m->doubt = m->cut = false;
}

static void session_order(struct vmm_migration *m, enum migctl_order order)
{
	/* A cancel comes too late for a guest that runs elsewhere. */
	if (m->doubt || (m->cut && order != MIGCTL_CANCEL))
		session_verdict(m, order);
	else if (order == MIGCTL_CANCEL && m->source)
		mig_source_cancel(m->source);
	else if (order == MIGCTL_CANCEL && m->dest)
		mig_dest_cancel(m->dest);
}

static void session_ready(struct base_watch *w, uint32_t events)
{
	struct vmm_migration *m = base_container_of(w, struct vmm_migration, session);
	struct migctl_msg msg;
	int err = migctl_recv(w->fd, &msg);

	if (err == -EAGAIN || err == -EINTR)
		return;
	if (!err && msg.kind == MIGCTL_START) {
		if (m->source || m->dest)
			session_relink(m, &msg);
		else
			session_start(m, &msg);
		return;
	}
	if (!err && msg.kind == MIGCTL_ORDER) {
		session_order(m, msg.order);
		return;
	}
	for (unsigned i = 0; !err && i < msg.fd_count; i++)
		close(msg.fds[i]);
	if (err != -ECONNRESET)
		log_warn("migration: the agent broke the protocol");
	session_close(m);
	if (!m->source && !m->dest) {
		snprintf(m->why, sizeof(m->why), "the agent went away");
		migration_over(m, -ECONNRESET);
	}
}

int vmm_migration_start(struct vmm_vm *vm, struct base_loop *loop, enum vmm_migration_way way,
			int session_fd, int journal_fd, struct vmm_migration **out)
{
	struct vmm_migration *m = *out;
	int err;

	if (vmm_migration_active(m))
		return -EBUSY;
	if (way == VMM_MIGRATE_OUT ? vm->state != VMM_RUNNING : !vm->incoming)
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->vm = vm;
	m->loop = loop;
	m->way = way;
	m->journal_fd = journal_fd;
	m->active = true;
	m->report_timer.fire = report_tick;
	m->session =
		(struct base_watch){.fd = session_fd, .events = EPOLLIN, .ready = session_ready};
	sem_init(&m->answered, 0, 0);
	err = base_loop_add(loop, &m->session);
	if (err) {
		sem_destroy(&m->answered);
		free(m);
		return err;
	}
	vmm_migration_free(*out);
	*out = m;
	return 0;
}

int vmm_migration_attach(struct vmm_migration *m, int session_fd)
{
	int err;

	if (!m)
		return -ENOENT;
	session_close(m);
	m->session =
		(struct base_watch){.fd = session_fd, .events = EPOLLIN, .ready = session_ready};
	err = base_loop_add(m->loop, &m->session);
	if (err) {
		m->session.fd = -1;
		return err;
	}
	if (m->doubt || m->cut)
		send_result(m, m->doubt ? MIGCTL_DOUBT : MIGCTL_CUT);
	else if (m->active)
		report(m);
	else
		send_result(m, m->ended);
	if (!m->active)
		session_close(m);
	return 0;
}

bool vmm_migration_cut(const struct vmm_migration *m)
{
	return m && m->cut;
}

bool vmm_migration_active(const struct vmm_migration *m)
{
	return m && m->active;
}

static void migration_stop_thread(struct vmm_migration *m)
{
	if (m->source)
		mig_source_cut(m->source);
	if (m->dest)
		mig_dest_cancel(m->dest);
	/* The engine may be waiting for this very thread. */
	while (m->thread_started)
		if (base_loop_step(m->loop, 100))
			break;
}

void vmm_migration_free(struct vmm_migration *m)
{
	if (!m)
		return;
	migration_stop_thread(m);
	base_loop_timer_cancel(&m->report_timer);
	session_close(m);
	mig_source_free(m->source);
	mig_dest_free(m->dest);
	base_wbuf_fini(&m->config);
	sem_destroy(&m->answered);
	free(m);
}
