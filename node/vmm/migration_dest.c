/* The machine as the engine sees it at the destination. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/migration_impl.h"
#include "node/vmm/snapshot.h"

/* A difference of the hosts' clocks beyond this is not the downtime. */
enum { DOWNTIME_MAX_MS = 30000 };

static int dest_check(void *guest, const void *config, size_t len, char *why)
{
	return migration_config_check(((struct vmm_migration *)guest)->vm, config, len, why);
}

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
	if (!err)
		err = vm_disks_acquire(m->vm, why);
	if (err)
		log_error("migration: %s", why);
	return err;
}

static int dest_load(void *guest, const void *state, size_t len)
{
	struct vmm_migration *m = guest;
	int err;

	m->state_in = state;
	m->state_len = len;
	err = migration_ask(m, main_load);
	return err ? err : migration_disks_settle(m);
}

/* For the guest, the time of the hand-over has passed: its clocks go on without a jump back. */
static void add_downtime(struct vmm_migration *m)
{
	struct vmm_vcpus *all = &m->vm->vcpus;
	int64_t gap = (int64_t)(migration_wall_ns() - m->paused_wall_ns);

	if (gap <= 0 || gap > DOWNTIME_MAX_MS * BASE_NS_PER_MS)
		return;
	all->paused_tsc += (uint64_t)((double)gap * (double)all->clock.tsc_hz / 1e9);
}

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
	vmm_populate_stop(m->vm->populate);
	add_downtime(m);
	err = vmm_vm_resume(m->vm);
	m->ran = !err;
	/* The agent tells the network at once. */
	migration_report(m);
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

const struct mig_dest_ops migration_dest_ops = {
	.check = dest_check,
	.load = dest_load,
	.run = dest_run,
	.journal = dest_journal,
	.blocks_write = migration_disks_write,
	.can_fill = dest_can_fill,
	.discard = dest_discard,
	.fill_start = dest_fill_start,
	.faults = dest_faults,
	.fill = dest_fill,
	.fill_stop = dest_fill_stop,
	.pause = dest_hold,
};
