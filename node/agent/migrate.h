/*
 * The agents' part of a migration. The source's agent leads:
 *
 *   source agent                              destination agent
 *     MIGRATE_PREPARE(spec, id, key) -------> makes an empty VM (--incoming), listens
 *                                    <------- port
 *     1 + channels connections -------------> sorted by the preamble of each
 *     hands them to its VM's process          hands them to its VM's process
 *                       (the processes migrate: migrate/fsm.h)
 *     result: done, failed, or in doubt       result
 *     in doubt: MIGRATE_VERDICT(id) --------> committed, aborted, or unknown yet
 *
 * Post-copy that lost its link is taken up from the destination, where the guest is:
 *
 *     connects again <------- MIGRATE_RELINK(id, port)
 *
 * What a migration ended with is remembered for the other side's questions, as long as this agent
 * lives; a running VM's journal outlives it, and migrate_back.c takes up what is under way.
 */
#ifndef NODE_AGENT_MIGRATE_H
#define NODE_AGENT_MIGRATE_H

#include "node/agent/vm.h"
#include "proto/migctl.h"

enum {
	MIGRATE_PREAMBLE_LEN = CONTROL_MIGRATE_ID + 2, /* id, then the connection's number (LE) */
	MIGRATE_CHANNELS_DEFAULT = 4,
	MIGRATE_CONNECT_MS = 10000,
	MIGRATE_ASK_MS = 500, /* between two questions for the verdict */
};

enum agent_verdict {
	VERDICT_UNKNOWN,
	VERDICT_COMMITTED,
	VERDICT_ABORTED,
	VERDICT_COMMITTING,
	VERDICT_GONE,
	VERDICT_FILLING,  /* committed; memory is still at the source */
	VERDICT_COMPLETE, /* it has come */
	VERDICT_NONE,	  /* this node knows nothing of it, and will not */
};

const char *agent_verdict_name(enum agent_verdict v);
enum agent_verdict agent_verdict_parse(const char *name);

/* A connection that is being made: its preamble is under way. */
struct agent_migration_conn {
	struct agent_migration *g;
	struct base_watch watch; /* fd -1: free */
	uint8_t preamble[MIGRATE_PREAMBLE_LEN];
	size_t len;
};

/* One side of a migration, of vm->migration. */
struct agent_migration {
	struct agent *agent;
	struct agent_vm *vm;
	bool out; /* the source */
	struct control_migrate m;
	const struct cluster_node *peer;
	struct chan_call
		*call; /* who waits: VM_MIGRATE at the source, PREPARE at the destination */
	struct base_timer timer;

	/* The connections: fds[0] control. */
	unsigned wanted, ready;
	int fds[MIGCTL_MAX_FDS];
	struct agent_migration_conn conns[MIGCTL_MAX_FDS];
	struct base_watch listener; /* destination */

	int disk_fds[VMSPEC_MAX_DISKS]; /* destination: copies without a name; -1: none */

	/* The VM's process. */
	struct base_watch session;
	bool handed_over, doubt, asking;
	bool found;	/* by a new agent */
	bool cut;	/* post-copy without a link; then doubt is set too */
	bool relinking; /* it is being linked again */
	bool no_record; /* the other node's agent knows nothing of this migration */
	bool moved;	/* the source is done; its process is about to end */
	struct migctl_progress progress;
	char why[MIGCTL_TEXT_MAX];
};

/* ---- migrate.c: both sides ---- */

BASE_MUST_CHECK int agent_migration_new(struct agent_vm *vm, bool out,
					const struct control_migrate *m,
					struct agent_migration **result);
/* Closes all; a call that still waits is answered with `why`. */
void agent_migration_end(struct agent_migration *g, enum control_code code, const char *why);
/* Takes the descriptor over; ready() is called on `events`. */
BASE_MUST_CHECK int agent_migration_conn(struct agent_migration *g, int fd, uint32_t events,
					 void (*ready)(struct base_watch *w, uint32_t events));
/* Its preamble is through: it is connection `index` now. */
void agent_migration_conn_done(struct agent_migration_conn *c, unsigned index);
void agent_migration_conn_close(struct agent_migration_conn *c);
/* All connections are there: gives them to the VM's process. -errno. */
BASE_MUST_CHECK int agent_migration_hand_over(struct agent_migration *g);
BASE_MUST_CHECK int agent_migration_order(struct agent_migration *g, enum migctl_order order);
/* Makes the session; *theirs is for the process. */
BASE_MUST_CHECK int agent_migration_session(struct agent_migration *g, int *theirs);
void agent_migration_close_connections(struct agent_migration *g);
/* What the other node's agent was asked; the VM or its migration may be gone when it answers. */
struct agent_migration_question {
	struct agent *agent;
	char vm[TEXT_NAME_MAX];
	uint8_t id[CONTROL_MIGRATE_ID];
};
/* Asks `op`; ops->done gets a question, which it frees. port: MIGRATE_RELINK. -errno. */
BASE_MUST_CHECK int agent_migration_ask(struct agent_migration *g, enum control_op op,
					uint16_t port, int timeout_ms,
					const struct chan_out_ops *ops);
/* The migration that was asked about, or NULL. */
struct agent_migration *agent_migration_asked(const struct agent_migration_question *q);
/* Asks the other node until it knows. */
void agent_migration_in_doubt(struct agent_migration *g);
/* The agent ends, the migration goes on. */
void agent_migration_forget(struct agent_migration *g);
/* The VM is about to be freed. */
void agent_migration_vm_gone(struct agent_vm *vm);
/* Keeps what became of a migration. */
void agent_verdict_keep(struct agent *a, const uint8_t id[CONTROL_MIGRATE_ID],
			enum agent_verdict v);
/* The last entry with this id in the journal that a VM's process keeps in its folder. */
enum agent_verdict agent_verdict_of_journal(const char *dir, const uint8_t id[CONTROL_MIGRATE_ID]);
/* MIGRATE_VERDICT: answers at once. */
void agent_verdict_answer(struct agent *a, struct chan_call *call,
			  const struct control_request *req);

/* ---- migrate_out.c ---- */

/* VM_MIGRATE; ends the call when it is over. */
void agent_migrate_out(struct agent_vm *vm, struct chan_call *call,
		       const struct control_request *req);
/* Connects to the destination's port; agent_migration_hand_over() follows, or the failure. */
void agent_migrate_out_connect(struct agent_migration *g, uint16_t port);
void agent_migrate_out_progress(struct agent_migration *g);
void agent_migrate_out_result(struct agent_migration *g, const struct migctl_result *r);
/* The process that the guest left has ended: tells the caller, and ends. */
void agent_migrate_out_moved(struct agent_migration *g);

/* ---- migrate_in.c ---- */

/* MIGRATE_PREPARE; ends the call when connections can come. Takes over req. */
void agent_migrate_in(struct agent *a, struct chan_call *call, struct control_request *req);
/* The new VM's process answers: listen and tell the source. */
void agent_migrate_in_ready(struct agent_vm *vm);
void agent_migrate_in_progress(struct agent_migration *g);
void agent_migrate_in_result(struct agent_migration *g, const struct migctl_result *r);
BASE_MUST_CHECK int agent_migrate_in_listen(struct agent_migration *g, uint16_t *port);

/* ---- migrate_disk.c ---- */

/* Fills in what moves along, or says why not. */
enum control_code agent_migrate_disks_measure(const struct agent_vm *vm, struct control_migrate *m,
					      char why[AGENT_WHY_MAX]);
/* Files for what comes; they are closed with the migration. */
enum control_code agent_migrate_disks_make(struct agent_migration *g, char why[AGENT_WHY_MAX]);
void agent_migrate_disks_close(struct agent_migration *g);
/* -EEXIST and others of linkat(2); then settle(dir, false) follows, with the end. */
BASE_MUST_CHECK int agent_migrate_disks_name(struct agent_migration *g);
/* At the end of a migration that came to this VM's folder: of names that were given, those of an
 * abort go, and what a commit has replaced. */
void agent_migrate_disks_settle(const char *dir, bool committed);

/* ---- migrate_back.c: after a break ---- */

/* The file that tells the next agent of this migration. */
BASE_MUST_CHECK int agent_migration_write(const struct agent_migration *g);
void agent_migration_unwrite(const struct agent_migration *g);
/* A VM that was found with such a file, before its process answers; and one whose process is gone. */
void agent_migration_found(struct agent_vm *vm);
void agent_migration_found_dead(struct agent *a, const char *dir);
/* Its process answers. */
void agent_migration_attach(struct agent_vm *vm);
/* VM_MIGRATE_RESUME and MIGRATE_RELINK; both end the call. */
void agent_migrate_resume(struct agent_vm *vm, struct chan_call *call);
void agent_migrate_relink(struct agent *a, struct chan_call *call,
			  const struct control_request *req);
/* How the making of new connections ended. */
void agent_migration_relink_failed(struct agent_migration *g, enum control_code code,
				   const char *why);
void agent_migration_relinked(struct agent_migration *g);

#endif
