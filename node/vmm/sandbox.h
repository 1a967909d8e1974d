/*
 * Gives up everything that a running VM does not need. Called once, after all files, sockets and
 * devices are open. Threads that exist already (those of devices) keep the old mount namespace, but
 * the user and the list of system calls hold for them too:
 *   - as root: private mount, network and IPC namespaces, an empty read-only root, then the user and
 *     no capabilities;
 *   - as anyone: no new privileges, no new files through Landlock where the kernel has it, and a
 *     list of the system calls that remain (others fail with EPERM).
 * A soft RDMA device takes nothing from a process that has changed its credentials: with one, the user
 * stays and Landlock is left out; the empty root and the list of system calls hold.
 * What is open stays open: the VM lives on its descriptors.
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

#include <stdbool.h>

#include "base/cleanup.h"

struct vmm_sandbox {
	/* The VM keeps this host's network and may make TCP connections: a slice that reconnects. */
	bool network;
	bool keep_user;	  /* no change of user, no Landlock */
	const char *user; /* "pangaea"; where it does not exist, nobody. Only used by root. */
	/* Set where the kernel offered it. */
	int namespaces, landlock, user_changed;
};

/* -errno with one line in why[cap]: the caller must not go on. */
BASE_MUST_CHECK int vmm_sandbox_enter(struct vmm_sandbox *s, char *why, size_t cap);

#endif
