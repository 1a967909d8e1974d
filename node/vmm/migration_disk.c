/* Disks that move along: to the engine, pages behind those of memory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "node/devices/virtio_blk.h"
#include "node/vmm/migration_impl.h"

enum { NAMES_MS = 10000 }; /* the agent's time to give the copies their names */

int migration_disks_add(struct vmm_migration *m)
{
	uint64_t first = vmm_mem_size(m->vm->mem) / VMM_PAGE_SIZE;
	unsigned wanted = 0;

	for (unsigned i = 0; i < m->vm->config.disk_count; i++)
		wanted += !m->vm->config.disk[i].read_only;
	base_list_foreach (dev, &m->vm->devices, struct vmm_device, link) {
		struct blk_copy *copy =
			strcmp(dev->ops->name, "virtio-blk") ? NULL : virtio_blk_copy(dev);
		struct migration_disk *d = &m->disks[m->disk_count];

		if (!copy)
			continue;
		if (m->disk_count == VMM_DISK_MAX || m->memory.region_count == MIG_REGIONS_MAX)
			return -ENOSPC;
		*d = (struct migration_disk){copy, first, blk_copy_blocks(copy)};
		m->memory.regions[m->memory.region_count++] =
			(struct mig_region){.page_count = d->count};
		first += d->count;
		m->disk_count++;
	}
	return m->disk_count == wanted ? 0 : -EOPNOTSUPP;
}

static struct migration_disk *disk_at(struct vmm_migration *m, uint64_t index)
{
	for (unsigned i = 0; i < m->disk_count; i++)
		if (index >= m->disks[i].first && index - m->disks[i].first < m->disks[i].count)
			return &m->disks[i];
	return NULL;
}

/* ---- at the source ---- */

int migration_disks_track(struct vmm_migration *m)
{
	int err = 0;

	for (unsigned i = 0; i < m->disk_count && !err; i++)
		err = blk_copy_start(m->disks[i].copy);
	return err;
}

void migration_disks_untrack(struct vmm_migration *m)
{
	for (unsigned i = 0; i < m->disk_count; i++)
		blk_copy_stop(m->disks[i].copy);
}

void migration_disks_fetch(struct vmm_migration *m, uint64_t *bitmap)
{
	for (unsigned i = 0; i < m->disk_count; i++)
		blk_copy_fetch(m->disks[i].copy, bitmap, m->disks[i].first);
}

int migration_disks_used(struct vmm_migration *m, uint64_t *bitmap)
{
	int err = 0;

	for (unsigned i = 0; i < m->disk_count && !err; i++)
		err = blk_copy_used(m->disks[i].copy, bitmap, m->disks[i].first);
	return err;
}

int migration_disks_read(void *guest, uint64_t index, void *page)
{
	const struct migration_disk *d = disk_at(guest, index);

	return d ? blk_copy_read(d->copy, index - d->first, page) : -EINVAL;
}

/* ---- at the destination ---- */

/* A run may begin on one disk and end on the next. */
int migration_disks_write(void *guest, uint64_t index, unsigned count, const void *pages)
{
	int err = 0;

	while (count && !err) {
		const struct migration_disk *d = disk_at(guest, index);
		unsigned n;

		if (!d)
			return -EINVAL;
		n = (unsigned)BASE_MIN((uint64_t)count, d->first + d->count - index);
		err = blk_copy_write(d->copy, index - d->first, n, pages);
		if (pages)
			pages = (const uint8_t *)pages + (size_t)n * BLK_COPY_BLOCK;
		index += n;
		count -= n;
	}
	return err;
}

static int main_ask_names(struct vmm_migration *m)
{
	if (m->session.fd < 0)
		return -ENOTCONN;
	m->naming = true;
	migration_report(m);
	return 0;
}

static int main_names_over(struct vmm_migration *m)
{
	m->naming = false;
	return 0;
}

void migration_disks_named(struct vmm_migration *m, int result)
{
	if (!m->naming)
		return;
	m->naming = false;
	m->named_result = result;
	sem_post(&m->named);
}

int migration_disks_settle(struct vmm_migration *m)
{
	struct timespec until;
	int err = 0;

	for (unsigned i = 0; i < m->disk_count && !err; i++)
		err = blk_copy_sync(m->disks[i].copy);
	if (err || !m->disk_count)
		return err;
	err = migration_ask(m, main_ask_names);
	if (err)
		return err;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += NAMES_MS / 1000;
	while (sem_timedwait(&m->named, &until)) {
		if (errno == EINTR)
			continue;
		(void)!migration_ask(m, main_names_over);
		/* It may have come in between. */
		return sem_trywait(&m->named) ? -ETIMEDOUT : m->named_result;
	}
	return m->named_result;
}
