/*
 * A VM on its way to another process: the engine of migrate/ on a thread of its own, with this
 * machine behind it. The agent steers it through a session socket (proto/migctl.h), whose first
 * message brings the connections.
 *
 * All calls on the main thread. While a migration is under way, nothing else may pause, resume,
 * reset, save or change the machine: ask vmm_migration_active() first.
 */
#ifndef VMM_MIGRATION_H
#define VMM_MIGRATION_H

#include "node/vmm/vm.h"

struct vmm_migration;

enum vmm_migration_way { VMM_MIGRATE_OUT = 1, VMM_MIGRATE_IN };

/*
 * Takes the session over, on success only. journal_fd (borrowed, may be -1): where decisions are
 * written, one line each. -EBUSY: one is under way; -EINVAL: the VM is not running (OUT) or not
 * waiting for its machine (IN).
 */
BASE_MUST_CHECK int vmm_migration_start(struct vmm_vm *vm, struct base_loop *loop,
					enum vmm_migration_way way, int session_fd, int journal_fd,
					struct vmm_migration **m);
/*
 * Another agent takes part: the session becomes ours, on success only, and is told how things stand.
 * -ENOENT: there was no migration.
 */
BASE_MUST_CHECK int vmm_migration_attach(struct vmm_migration *m, int session_fd);
/* Post-copy without a link. */
bool vmm_migration_cut(const struct vmm_migration *m);
/* Also one that has ended and one of NULL. */
bool vmm_migration_active(const struct vmm_migration *m);
/* Cancels what is under way and waits for it. */
void vmm_migration_free(struct vmm_migration *m);

#endif
