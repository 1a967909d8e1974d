/*
 * pangaead, the agent of a node: it answers the control channel, forwards what concerns other
 * nodes, and starts and watches this node's VMs. One thread, one event loop. A VM is a process of
 * its own session that outlives the agent; all that the agent knows of it can be found again in
 * <run-dir>/vm/NAME: vm.yaml, pid, log, and the sockets of the VMM.
 */
#ifndef NODE_AGENT_AGENT_H
#define NODE_AGENT_AGENT_H

#include <limits.h>

#include "base/list.h"
#include "base/loop.h"
#include "node/libvirt/virt.h"
#include "node/net/switch.h"
#include "proto/cluster.h"
#include "proto/control.h"
#include "proto/vmmctl.h"

enum {
	AGENT_PATH_MAX = 512,
	AGENT_WHY_MAX = VMSPEC_WHY_MAX,
	AGENT_PEER_MS = 3000,	/* what another agent gets for a short question */
	AGENT_VMM_MS = 5000,	/* what a VM's process gets for one */
	AGENT_START_MS = 30000, /* a new VM's process that does nothing for so long is given up */
	AGENT_START_MAX_MS = 600000, /* and one that does not run by then anyway */
	AGENT_SAVE_MS = 3600000,     /* until a checkpoint is written, or read */
	AGENT_STOP_MS = 30000,	     /* until a guest has powered off, unless asked otherwise */
	AGENT_EVENT_MAX = 1024,
	AGENT_OUTCOME_MAX = 256,
	AGENT_GONE_MAX = 64,
	AGENT_GONE_MINUTES = 60, /* 'vm info' says so long why a VM failed */
	AGENT_NETWORK = 1,	 /* the switch's number of "--nic net" */
};

struct agent_options {
	const char *home;	  /* cluster.yaml, node, keys/ */
	const char *node;	  /* our name; NULL: from home/node */
	const char *run_dir;	  /* absolute */
	const char *vmm;	  /* pangaea-vmm; NULL: found beside us, or in PATH */
	int start_ms;		  /* 0: AGENT_START_MS */
	const char *libvirt;	  /* libvirt's URI of this host; "none": leave it alone */
	const char *libvirt_peer; /* how others' libvirtd reaches it; NULL: qemu://ADDRESS/system */
};

struct agent_event {
	uint64_t seq, time_ns;
	char vm[TEXT_NAME_MAX];
	char kind[16];
	char text[400];
};

/* What became of a migration, for the other side's questions; see migrate.h. */
struct agent_outcome {
	uint8_t id[CONTROL_MIGRATE_ID];
	uint8_t verdict; /* enum agent_verdict; 0: none */
};

struct agent_peer {
	struct agent *agent;
	const struct cluster_node *node;
	struct chan_link *link; /* NULL for ourselves */
	struct node_switch_peer *tunnel;
	bool was_up;
};

struct agent {
	struct base_loop *loop;
	struct cluster *cluster;
	const struct cluster_node *self;
	struct keys_pair keys;
	char run_dir[AGENT_PATH_MAX], vmm[AGENT_PATH_MAX];
	int lock_fd;
	int64_t started_ns;
	int start_ms;
	struct chan *chan;
	struct chan_server *server;
	struct agent_peer peers[CLUSTER_MAX_NODES]; /* as in the cluster file */
	struct node_switch *net;		    /* NULL: this node has no switch */
	struct node_virt *virt;			    /* NULL: libvirt is left alone */
	char virt_peer[NODE_VIRT_TEXT_MAX];
	struct base_list vms;
	unsigned vm_count;
	struct base_list gone; /* VMs that have ended, the newest first */
	unsigned gone_count;
	struct agent_event events[AGENT_EVENT_MAX]; /* at seq % AGENT_EVENT_MAX */
	uint64_t event_seq;			    /* of the newest; 0: none yet */
	struct base_list followers;
	struct agent_outcome outcomes[AGENT_OUTCOME_MAX]; /* a ring */
	unsigned outcome_count;
};

/* -errno; the reason has been logged. */
BASE_MUST_CHECK int agent_new(struct base_loop *loop, const struct agent_options *options,
			      struct agent **out);
/* The VMs go on. */
void agent_free(struct agent *a);

/* ---- request.c: which node answers ---- */

void agent_request(void *ctx, struct chan_call *call, const void *body, size_t len);
/* VM_RUN: checks it against the whole cluster, then has its node start it. Takes over req. */
void agent_request_run(struct agent *a, struct chan_call *call, struct control_request *req);

/* ---- reply.c ---- */

void agent_reply(struct chan_call *call, const struct control_reply *reply);
void agent_reply_text(struct chan_call *call, enum control_code code, const char *fmt, ...)
	BASE_PRINTF(3, 4);
/* One item of a stream; -EAGAIN and the others of chan_call_item(). */
BASE_MUST_CHECK int agent_item(struct chan_call *call, const struct control_reply *reply);

/* ---- local.c: what this node answers itself; both end the call, now or later ---- */

void agent_local(struct agent *a, struct chan_call *call, struct control_request *req);
/* The answers that need no waiting (NODE_INFO, NODE_DOCTOR, VM_LS), encoded, for free(3). */
BASE_MUST_CHECK int agent_local_now(struct agent *a, const struct control_request *req,
				    uint8_t **out, size_t *len);

/* ---- gather.c: one question to all nodes ---- */

struct agent_answer {
	const struct cluster_node *node;
	int error; /* -errno of chan_out_ops.done; 0: reply is there */
	uint64_t rtt_ns;
	struct control_reply reply;
};

struct agent_gather {
	struct agent *agent;
	struct chan_call *call;
	struct control_request req;
	void (*done)(struct agent_gather *g);
	size_t count, open;
	enum control_op op;
	unsigned tries;
	bool again;
	struct base_timer timer;
	struct agent_answer answers[CLUSTER_MAX_NODES];
};

/*
 * Asks every node, ourselves included, for `op` (one of agent_local_now()), and calls done() with
 * all answers, never from inside. Takes over `req`; done() must end the call. On failure the call
 * is answered already.
 */
void agent_gather(struct agent *a, struct chan_call *call, struct control_request *req,
		  enum control_op op, void (*done)(struct agent_gather *g));

/* From done(), instead of ending the call: asks all once more, a moment later. */
void agent_gather_again(struct agent_gather *g);

/* ---- relay.c: another node answers ---- */

/* Takes over call and req. */
void agent_relay(struct agent *a, const struct cluster_node *to, struct chan_call *call,
		 struct control_request *req);

/* ---- events.c ---- */

void agent_event(struct agent *a, const char *vm, const char *kind, const char *fmt, ...)
	BASE_PRINTF(4, 5);
/* Ends the call, or with req->follow keeps it. Of the whole cluster unless req->local. */
void agent_events(struct agent *a, struct chan_call *call, struct control_request *req);

/* ---- virt.c: libvirt's domains ---- */

BASE_MUST_CHECK int agent_virt_open(struct agent *a, const struct agent_options *options);
/* Of the domains called `name`, or all (""), at most `max` records, into `domains` and `out`. */
size_t agent_virt_records(struct agent *a, const char *name, struct node_virt_domain *domains,
			  struct control_vm *out, size_t max);
/* A request about a VM that is none of ours: true, the call ends now or later, or false. */
bool agent_virt_request(struct agent *a, struct chan_call *call, const struct control_request *req);
enum { AGENT_VIRT_ITEMS = 4 };
/* What a node's record says of libvirt; the strings are `s` and `a`'s. */
size_t agent_virt_items(struct agent *a, struct node_virt_status *s, struct control_item *items);

/* ---- host.c, doctor.c ---- */

struct agent_host {
	char kernel[65], cpu[65];
	uint64_t cpus, memory_bytes, available_bytes, load_milli, uptime_ns;
};

void agent_host_read(struct agent_host *h);

enum { AGENT_CHECK_MAX = 32 };

struct agent_check {
	char name[24], level[8], text[200], mend[240];
};

/* Fills at most AGENT_CHECK_MAX; returns how many. */
size_t agent_doctor(struct agent *a, struct agent_check *out);
/*
 * Can this host have a slice of a guest that spans nodes? false: why not, with the remedy. What is
 * only slow or doubtful goes into `warning`, or "".
 */
bool agent_doctor_span(struct agent *a, bool rdma, char why[AGENT_WHY_MAX],
		       char warning[AGENT_WHY_MAX]);

#endif
