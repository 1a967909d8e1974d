/* The command `pangaea`: what its parts share. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include <getopt.h>

#include "base/loop.h"
#include "ctl/print.h"
#include "proto/cluster.h"
#include "proto/control.h"

enum {
	CTL_PATH_MAX = 1024,
	CTL_CALL_MS = 10000,
	CTL_RUN_MS = 660000, /* an agent gives up a VM before */
	CTL_REST = 1000,     /* as max_args: options end at the first argument */
};

/* Everything that the command line can say. */
struct ctl {
	bool json, colour, quiet, watch, follow, overcommit, together, attach, progress;
	const char *home, *agent, *node;
	uint64_t timeout_ms; /* 0: not given */
	uint64_t interval_ms;
	int escape;
	const char *until;
	/* vm run */
	struct vmspec *spec;
	const char *file;
	/* vm stats, vm heatmap */
	const char *system_map, *output;
	uint64_t seconds;
	/* vm migrate */
	const char *target, *from, *places;
	bool cancel, resume, encrypt, live, with_disk, force;
	uint32_t mode, postcopy_after; /* of a migration */
	uint32_t max_downtime_ms, channels;
	uint64_t bandwidth;
	/* pvm */
	const char *vms;
	uint32_t tasks;
	/* init */
	const char *nodes, *out_dir, *cluster_name, *admin_key;
	int arg_count;
	char **args;
	/* the connection */
	struct base_loop *loop;
	struct cluster *cluster;
	struct chan *chan;
	struct chan_link *link;
	char talking_to[TEXT_NAME_MAX];
};

struct ctl_option {
	const char *name;
	char letter;	   /* 0: none */
	const char *value; /* what --help calls its argument; NULL: takes none */
	const char *help;
	/* false: one line in `why`. */
	bool (*take)(struct ctl *c, const char *value, char why[VMSPEC_WHY_MAX]);
};

enum { CTL_MAX_OPTIONS = 24 };

struct ctl_command {
	const char *group, *name; /* "vm", "run"; name NULL: the group alone is the command */
	const char *args;	  /* for --help */
	int min_args, max_args;
	const char *summary;
	const char *more;		  /* details */
	const char *examples;		  /* lines */
	const struct ctl_option *options; /* up to one without a name */
	int (*run)(struct ctl *c);	  /* the exit code */
};

extern const struct ctl_command ctl_commands[];
extern const size_t ctl_command_count;
extern const struct ctl_option ctl_global_options[];

/* main() without the process: parses, runs, and returns the exit code. */
int ctl_main(int argc, char **argv);

/* ---- errors ---- */

/* "pangaea: text" on standard error, {"error":..,"code":..} on standard output with --json. */
int ctl_fail(const struct ctl *c, enum control_code code, const char *fmt, ...) BASE_PRINTF(3, 4);
/* For a reply: 0, or ctl_fail() of its text. */
int ctl_check(const struct ctl *c, const struct control_reply *r);

/* ---- client.c ---- */

/* Called for each item of a stream; false ends it. */
typedef bool ctl_item(void *arg, const struct control_reply *item);

/*
 * Asks the agent, connecting first if need be. 0 and *out is for control_reply_fini(), or an exit
 * code that has been reported.
 */
BASE_MUST_CHECK int ctl_call(struct ctl *c, const struct control_request *req, ctl_item *item,
			     void *arg, struct control_reply *out);
BASE_MUST_CHECK int ctl_connect(struct ctl *c);
void ctl_disconnect(struct ctl *c);
/* A name from the command line into out; false: it is none, and that has been reported. */
bool ctl_name(const struct ctl *c, const char *what, const char *name, char out[TEXT_NAME_MAX]);

/* A request about the VM of the first argument, at --node; false: reported. */
bool ctl_vm_request(const struct ctl *c, enum control_op op, struct control_request *req);

/* ---- the commands ---- */

int ctl_node_ls(struct ctl *c);
int ctl_node_info(struct ctl *c);
int ctl_node_doctor(struct ctl *c);
int ctl_node_drain(struct ctl *c);
int ctl_vm_run(struct ctl *c);
int ctl_vm_ls(struct ctl *c);
int ctl_vm_info(struct ctl *c);
int ctl_vm_console(struct ctl *c);
int ctl_vm_start(struct ctl *c);
int ctl_vm_stop(struct ctl *c);
int ctl_vm_kill(struct ctl *c);
int ctl_vm_pause(struct ctl *c);
int ctl_vm_resume(struct ctl *c);
int ctl_vm_reset(struct ctl *c);
int ctl_vm_stats(struct ctl *c);
int ctl_vm_registers(struct ctl *c);
int ctl_vm_heatmap(struct ctl *c);
int ctl_vm_migrate(struct ctl *c);
int ctl_vm_spread(struct ctl *c);
int ctl_vm_consolidate(struct ctl *c);
int ctl_vm_checkpoint(struct ctl *c);
int ctl_vm_restore(struct ctl *c);
int ctl_pvm_up(struct ctl *c);
int ctl_pvm_run(struct ctl *c);
int ctl_pvm_status(struct ctl *c);
int ctl_pvm_console(struct ctl *c);
int ctl_pvm_down(struct ctl *c);
int ctl_events(struct ctl *c);
int ctl_init(struct ctl *c);
int ctl_version(struct ctl *c);
int ctl_completion(struct ctl *c);

/* A path as the node sees it: relative ones are meant from here. false: reported. */
bool ctl_make_absolute(const struct ctl *c, const char *what, char *path, size_t cap);
/* What vm run and vm restore print: of the stream, and of the VM that runs. */
bool ctl_run_item(void *arg, const struct control_reply *item);
void ctl_print_started(const struct ctl *c, const struct control_vm *v);

/* Of vm migrate: one report as a line or in JSON, what the options say, and a number of a report. */
void ctl_migrate_progress(const struct ctl *c, const char *vm, const struct control_reply *item);
void ctl_migrate_json(const struct control_reply *r, const char *vm);
/* Takes the live line off the terminal, if there is one. */
void ctl_progress_clear(const struct ctl *c);
/* The same of vm spread and vm consolidate; arg: the struct ctl, whose first argument is the VM. */
bool ctl_spread_item(void *arg, const struct control_reply *item);
void ctl_migrate_options(const struct ctl *c, struct control_migrate *m);
uint64_t ctl_item_value(const struct control_reply *r, const char *name);

/* Attaches to a console until the user leaves or the VM ends. */
int ctl_console_attach(struct ctl *c, const char *vm);

#endif
