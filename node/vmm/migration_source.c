/* The machine as the engine sees it at the source. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "node/vmm/hot_pages.h"
#include "node/vmm/migration_impl.h"

enum { THROTTLE_PERIOD_MS = 20 };

static int source_dirty_start(void *guest)
{
	struct vmm_migration *m = guest;
	int err = migration_disks_track(m);

	if (!err)
		err = vmm_mem_dirty_start(m->vm->mem);
	if (!m->disk_count)
		vm_disks_release_soon(m->vm);
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
	migration_disks_fetch(m, bitmap);
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

	migration_disks_untrack(m);
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
			return errno == ENXIO ? migration_disks_used(m, bitmap) : -errno;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		bitmap_set_range(bitmap, (uint64_t)data / VMM_PAGE_SIZE,
				 ((uint64_t)hole + VMM_PAGE_SIZE - 1) / VMM_PAGE_SIZE);
		at = hole;
	}
	return migration_disks_used(m, bitmap);
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
	m->paused_wall_ns = migration_wall_ns();
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
	m->hot_count = vmm_hot_pages(&m->vm->vcpus, m->hot, MIG_HOT_MAX);
	/* The destination takes them with the state, or the guest does when it goes on here. */
	if (!err && !m->disk_count)
		err = vm_disks_release(m->vm);
	return err ? err : read_back(fd, m->state_out);
}

static int source_save(void *guest, struct base_wbuf *out)
{
	struct vmm_migration *m = guest;

	m->state_out = out;
	return migration_ask(m, main_save);
}

static unsigned source_hot(void *guest, uint64_t *index, unsigned max)
{
	const struct vmm_migration *m = guest;
	unsigned n = BASE_MIN(m->hot_count, max);

	memcpy(index, m->hot, n * sizeof(*index));
	return n;
}

static int source_journal(void *guest, const char *entry)
{
	return migration_journal(guest, entry);
}

const struct mig_source_ops migration_source_ops = {
	.dirty_start = source_dirty_start,
	.dirty_fetch = source_dirty_fetch,
	.dirty_last = source_dirty_last,
	.dirty_stop = source_dirty_stop,
	.block_read = migration_disks_read,
	.touched = source_touched,
	.pause = source_pause,
	.resume = source_resume,
	.save = source_save,
	.hot = source_hot,
	.throttle = source_throttle,
	.journal = source_journal,
};
