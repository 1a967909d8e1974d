/*
 * A VM of this node: its process, its control connection, and who waits for it to run or to end.
 */
#ifndef NODE_AGENT_VM_H
#define NODE_AGENT_VM_H

#include "node/agent/agent.h"

struct agent_nic {
	struct node_switch_port *port; /* NULL: not on our switch */
	int child_fd[2]; /* while it is started: what the VMM gets, its end and ours; or -1 */
	uint8_t mac[6];
};

/* The VMM's descriptor of interface i; the next one is the switch's end of it. */
#define AGENT_NIC_FD(i) (3 + 2 * (int)(i))

struct agent_vm {
	struct base_list link;
	struct agent *agent;
	struct vmspec spec;
	char dir[AGENT_PATH_MAX];
	pid_t pid;
	struct base_watch process; /* its pidfd; -1: none */
	struct vmmctl_client *control;
	struct base_timer retry; /* of the control connection */
	enum vmmctl_state state;
	char reason[VMMCTL_REASON_MAX];
	int64_t started_ns;
	bool found;  /* by a new agent: not our child */
	bool exited; /* the process; the control connection may have more to say */
	int status;  /* of waitpid(2), -1: not known */
	struct base_list waiters;
	bool incoming; /* its machine is on the way; nobody's VM yet */
	bool departed; /* it runs on another node; the process is ending */
	struct agent_migration *migration;
	struct agent_nic nics[VMSPEC_MAX_NICS];
};

struct agent_vm *agent_vm_find(struct agent *a, const char *name);
/* The record of a VM; its strings live as long as the VM and its next change. */
void agent_vm_record(const struct agent_vm *vm, struct control_vm *out);
uint64_t agent_vms_memory(const struct agent *a);
uint64_t agent_vms_vcpus(const struct agent *a);

/* VM_RUN on this node; ends the call when the VM runs or cannot. Takes over req. */
void agent_vm_run(struct agent *a, struct chan_call *call, struct control_request *req);
/* An empty VM for a migration; agent_migrate_in_ready() follows. */
BASE_MUST_CHECK int agent_vm_incoming(struct agent *a, const struct vmspec *spec,
				      struct agent_vm **out);
/* Ends the process of an incoming VM, of which nobody needs to hear. */
void agent_vm_discard(struct agent_vm *vm);
/* Finds the VMs that an earlier agent of this run-dir left running; clears away the others. */
void agent_vms_recover(struct agent *a);
/* Lets go of a VM without ending it. */
void agent_vm_forget(struct agent_vm *vm);

/* Ends the call when the VM has ended (`stop`: only after timeout_ms for it). */
void agent_vm_end(struct agent_vm *vm, struct chan_call *call, bool kill, uint64_t timeout_ms);

/* ---- vm_check.c ---- */

/* Would the spec run here: host, files. CONTROL_OK, or why not. */
enum control_code agent_vm_check(struct agent *a, const struct vmspec *s, bool overcommit,
				 char why[AGENT_WHY_MAX]);
/* Room for this many vCPUs and bytes in a node's record? Used for placement as well. */
bool agent_vm_fits(const struct control_node *n, const struct vmspec *s, bool overcommit,
		   char why[AGENT_WHY_MAX]);

/* ---- vm_dir.c: the folder of a VM ---- */

/* Makes it with the spec in it. -EEXIST and others of mkdir(2), open(2). */
BASE_MUST_CHECK int agent_vm_dir_make(struct agent_vm *vm);
/* Removes it and what is in it (one level). */
void agent_vm_dir_remove(const char *dir);
/* Writes and reads the pid, with the process's start time against reuse. -ESRCH: it is no more. */
BASE_MUST_CHECK int agent_vm_pid_write(const struct agent_vm *vm);
BASE_MUST_CHECK int agent_vm_pid_read(const char *dir, pid_t *out);
/* The last line of the log, or "". */
void agent_vm_log_tail(const char *dir, char *out, size_t cap);

/* ---- vm_spawn.c ---- */

/* Starts the process in a session of its own; sets vm->pid. -errno. */
BASE_MUST_CHECK int agent_vm_spawn(struct agent_vm *vm);

/* ---- vm_net.c ---- */

/* Ports for a new VM; after the process was started, agent_nics_unpark(). */
BASE_MUST_CHECK int agent_nics_open(struct agent_vm *vm);
void agent_nics_unpark(struct agent_vm *vm);
/* The ports of a VM that an earlier agent started, out of its process. */
void agent_nics_take_back(struct agent_vm *vm);
void agent_nics_close(struct agent_vm *vm);
/* Tells the network that the VM's addresses are here now. */
void agent_nics_announce(struct agent_vm *vm);

/* ---- console.c ---- */

void agent_console(struct agent_vm *vm, struct chan_call *call, const struct control_request *req);

#endif
