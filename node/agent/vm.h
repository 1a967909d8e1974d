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

/* What VMMCTL_PLACES says. */
struct agent_places {
	bool known;
	bool ordinary;	  /* all but the lead have left, and its memory is shared no more */
	uint16_t gone;	  /* slices; bits */
	uint8_t vcpu[64]; /* the slice of each */
	uint8_t home[VMSPEC_MAX_PARTS]; /* the slice of each part's memory */
	uint64_t moved_vcpus, pages, pages_total, stood_ns, join_stood_ns;
};

/* What makes a VM a slice of a guest that spans nodes (vmspec_spans()); see span.h. */
struct agent_slice {
	unsigned index; /* of the spec's parts; 0: the lead */
	uint64_t group;
	int listen_fd;			   /* until the process has it; -1 */
	const struct control_slice *start; /* while the process is being started */
	struct base_timer timer;	   /* prepared and not started; or about to be ended */
	struct agent_span *span;	   /* the lead's, while it asks the other nodes */
	bool told;			   /* the others know that it is over */
	bool joins;			   /* a guest that runs, which does not need it yet */
	struct base_timer names_timer;	   /* of a follower: to ask where the others are */
	char note[VMMCTL_REASON_MAX]; /* of the lead: why it is not where it should be, or "" */
	bool overcommit;	      /* of the lead: what it asks other nodes for */
	unsigned starting;	      /* of the lead: slices that have not answered yet */
	unsigned ending;	      /* of the lead: nodes whose slices may not have ended yet */
	struct agent_places places;
	struct agent_spread *spread; /* the lead's, while vCPUs or slices move */
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
	bool found;		/* by a new agent: not our child */
	bool exited;		/* the process; the control connection may have more to say */
	int status;		/* of waitpid(2), -1: not known */
	enum control_code code; /* of a start that failed; 0: CONTROL_FAILED */
	struct base_list waiters;
	bool incoming;		      /* its machine is on the way; nobody's VM yet */
	bool departed;		      /* it runs on another node; the process is ending */
	char moved_to[TEXT_NAME_MAX]; /* that node, when nothing of it is left here */
	struct agent_migration *migration;
	struct agent_slice slice;
	struct agent_nic nics[VMSPEC_MAX_NICS];
};

struct agent_vm *agent_vm_find(struct agent *a, const char *name);
/* The record of a VM; its strings live as long as the VM and its next change. */
void agent_vm_record(const struct agent_vm *vm, struct control_vm *out);
/* What of a spec is this node's: all of it, or its part. */
struct vmspec_part agent_vm_share(const struct agent *a, const struct vmspec *s);
/* The same of a slice of a guest that runs, whose vCPUs and memory may have moved. */
struct vmspec_part agent_vm_part_now(const struct agent_vm *vm, unsigned slice);
/* Parts of it are on other nodes. */
static inline bool agent_vm_spans(const struct agent_vm *vm)
{
	return vmspec_spans(&vm->spec) && !vm->slice.places.ordinary;
}
uint64_t agent_vms_memory(const struct agent *a);
uint64_t agent_vms_vcpus(const struct agent *a);

/* VM_RUN on this node; ends the call when the VM runs or cannot. Takes over req. */
void agent_vm_run(struct agent *a, struct chan_call *call, struct control_request *req);
/* A record without a process, and its end; launched, it ends by itself. */
struct agent_vm *agent_vm_new(struct agent *a, const struct vmspec *spec);
void agent_vm_free(struct agent_vm *vm);
/* Starts its process. */
BASE_MUST_CHECK int agent_vm_launch(struct agent_vm *vm);
/*
 * It has no process (any more), and `reason` says why. Frees it, after the other nodes have answered
 * where it was the lead.
 */
void agent_vm_over(struct agent_vm *vm);
/* The other nodes have answered. */
void agent_vm_over_everywhere(struct agent_vm *vm);
/* It runs, and so does all that it waited for: tells who waits. */
void agent_vm_runs(struct agent_vm *vm);
void agent_vm_signal(const struct agent_vm *vm, int sig);
/* Ends it at once, for this reason unless there is one already. */
void agent_vm_fail(struct agent_vm *vm, const char *reason);
/* A name that is too long for the run-dir: false, and why. */
bool agent_vm_name_fits(const struct agent *a, const char *name, char why[AGENT_WHY_MAX]);
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
/* Is there room for that on this node? */
bool agent_vm_has_room(struct agent *a, uint64_t vcpus, uint64_t memory_bytes, bool overcommit,
		       char why[AGENT_WHY_MAX]);
/* Room for this many vCPUs and bytes in a node's record? Used for placement as well. */
bool agent_vm_fits(const struct control_node *n, uint64_t vcpus, uint64_t memory_bytes,
		   bool overcommit, char why[AGENT_WHY_MAX]);

/* ---- vm_dir.c: the folder of a VM ---- */

/* Makes it with the spec in it. -EEXIST and others of mkdir(2), open(2). */
BASE_MUST_CHECK int agent_vm_dir_make(struct agent_vm *vm);
/* Writes the spec anew. -errno: it is as it was. */
BASE_MUST_CHECK int agent_vm_spec_write(const struct agent_vm *vm);
/* Removes it and what is in it (one level). */
void agent_vm_dir_remove(const char *dir);
/* Writes and reads the pid, with the process's start time against reuse. -ESRCH: it is no more. */
BASE_MUST_CHECK int agent_vm_pid_write(const struct agent_vm *vm);
BASE_MUST_CHECK int agent_vm_pid_read(const char *dir, pid_t *out);
/* The processor time that its process has used, in clock ticks. -ESRCH. */
BASE_MUST_CHECK int agent_vm_ticks(const struct agent_vm *vm, uint64_t *out);
/* The group, the index and `joins` of a slice. index: UINT_MAX where an older agent has not written it. */
BASE_MUST_CHECK int agent_vm_group_write(const struct agent_vm *vm);
BASE_MUST_CHECK int agent_vm_group_read(const char *dir, struct agent_slice *out);
/* The last line of the log, or "". */
void agent_vm_log_tail(const char *dir, char *out, size_t cap);

/* ---- vm_wait.c: calls that wait for a VM ---- */

enum agent_wait_for {
	AGENT_WAIT_RUN,	 /* until it runs; too late: it is ended */
	AGENT_WAIT_STOP, /* until it has ended; too late: the caller is told so */
	AGENT_WAIT_KILL, /* the same; too late: its process is killed */
	AGENT_WAIT_OVER, /* the same; too late: answered anyway */
};

/* What a new VM gets until it runs: one that is restored reads its memory first. */
static inline int agent_vm_start_ms(const struct agent_vm *vm)
{
	return vm->spec.restore[0] ? AGENT_SAVE_MS : AGENT_START_MAX_MS;
}
/* Ends the call when the VM runs, which is given up where its process does nothing. */
BASE_MUST_CHECK int agent_wait_run(struct agent_vm *vm, struct chan_call *call);
/* Ends the call with the VM's record, or why it failed. */
BASE_MUST_CHECK int agent_wait(struct agent_vm *vm, struct chan_call *call,
			       enum agent_wait_for what, uint64_t timeout_ms);
void agent_waiters_running(struct agent_vm *vm);
void agent_waiters_over(struct agent_vm *vm, bool failed);
/* The agent ends. */
void agent_waiters_drop(struct agent_vm *vm);
/* Answers with the VM's record. */
void agent_vm_reply(const struct agent_vm *vm, struct chan_call *call);

/* ---- gone.c: what became of VMs that have ended ---- */

/* Remembers it for AGENT_GONE_MINUTES, with what its folder has of its console. */
void agent_gone_keep(const struct agent_vm *vm, bool failed);
/* The record of the last one of this name; false: nothing is known. Valid until the next end. */
bool agent_gone_find(struct agent *a, const char *name, struct control_vm *out,
		     const struct vmspec **spec);
/* The node that it has moved to from here; "": it has not. */
const char *agent_gone_moved_to(struct agent *a, const char *name);
/* Sends what is known of its console's output as items of a call for a stream. */
void agent_gone_output(struct agent *a, const char *name, struct chan_call *call);
void agent_gone_free(struct agent *a);

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

/* ---- local.c ---- */

/* Ends a call about a VM that is none of this node's: what is known of its end. */
void agent_no_vm(struct agent *a, struct chan_call *call, const struct control_request *req);

/* ---- console.c ---- */

/* Ends the call, now or later. */
void agent_console(struct agent_vm *vm, struct chan_call *call, const struct control_request *req);

/* checkpoint.c: VM_CHECKPOINT and VM_RESTORE; each ends the call. The latter takes over req. */
void agent_checkpoint(struct agent_vm *vm, struct chan_call *call,
		      const struct control_request *req);
void agent_restore(struct agent *a, struct chan_call *call, struct control_request *req);

#endif
