/*
 * The daemon pvmd3: one per host, user and virtual machine. One thread, one event loop; everything
 * here belongs to it.
 *
 * There is no master. All daemons hold the same table of hosts; the living one with the lowest
 * number is the *coordinator*: it alone adds and deletes hosts, orders the changes of the mailbox
 * and tells the others. When it dies the next lowest carries on with its own copies.
 */
#ifndef PVM_PVMD_MPD_H
#define PVM_PVMD_MPD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/loop.h"
#include "pvm/pvmd/conn.h"
#include "pvm/wire/mp_ops.h"
#include "pvm/wire/mp_seg.h"
#include "pvm/wire/mp_wire.h"

enum {
	MPD_TASK_SLOTS = 1 << 18,
	MPD_NAME_MAX = 256,
	MPD_PATH_MAX = 4096,
	MPD_ARGS_MAX = 65536,
	/* A host that is silent for this long is dead ($PVM_HOSTTIMEOUT, in ms). */
	MPD_HOST_TIMEOUT_MS = 4000,
	MPD_BEAT_MS = 1000,
	MPD_DSIG = 0x408c41, /* data signature of x86-64 Linux */
	MPD_ENC_XDR = 0x10000000,
	MPD_VERSION = 1,
	MPD_SPARE_FDS = 4, /* a console: its connection, its segment */
};

struct mpd;

/* Where the output or the trace of a task goes. */
struct mpd_sink {
	int32_t tid, ctx, tag;
};

struct mpd_trace {
	struct mpd_sink to;
	int32_t buffer, options;
};

struct mpd_watcher { /* someone wants to know of an end */
	struct base_list link;
	int32_t watcher, target, tag, ctx;
};

struct mpd_task {
	struct base_list link; /* mpd.tasks */
	struct mpd *pd;
	int32_t tid, ptid;
	int32_t flags; /* of the spawn */
	pid_t pid;
	bool child;	/* of this daemon: reaped by it */
	int32_t tasker; /* 0, or which was asked to start it and tells its end */
	bool reaped;
	bool choking; /* daemons elsewhere were told that it is slow */
	char *name;
	struct mpd_conn *conn;	/* NULL until it enrols */
	struct base_wbuf early; /* frames for a task that has not enrolled yet */
	struct mpd_sink out;
	struct mpd_trace trace;
	struct mpd_sink told; /* the tracer that knows of it, and hears of its end */
	int status;	      /* as of waitpid(2), once reaped */
	struct rusage usage;
	char *trace_mask;
	struct base_list watchers; /* of its end */
	struct base_list blocked;  /* mpd_block: tasks that wait because this one is slow */
	int seg_fd;		   /* its shared memory, or -1 */
	struct mp_seg_head *seg;   /* the head of it, mapped; NULL */
	struct base_list peers;	   /* mpd_peer: tasks that hold a slot here */
	struct base_list outboxes; /* mpd_peer: slots that it holds elsewhere */
	uint32_t slots[MP_SLOT_WORDS];
	uint32_t cookie; /* $PVMEPID of a spawned task */
	int block_count; /* how many slow receivers keep this task waiting */
	uint64_t serial;
};

enum mpd_host_state { MPD_HOST_JOINING = 1, MPD_HOST_UP };

struct mpd_host {
	struct mpd *pd;
	int id;
	char name[MPD_NAME_MAX];
	char arch[32];
	char ip[64];
	uint16_t port;
	int32_t speed, dsig;
	uint32_t cores;
	bool member;  /* in the table */
	bool suspect; /* we cannot reach it; the coordinator will tell */
	struct mpd_conn *link;
	bool joined;		/* the link has shown who it is */
	struct base_wbuf early; /* frames until the link is there */
	int64_t since_ns;	/* when the wait for a link began */
	int64_t heard_ns;
	double busy;  /* cores in use, measured there */
	double fresh; /* tasks that we put there and the measure does not show yet */
	uint32_t tasks;
	struct base_list blocked; /* senders that wait for the link */
	int64_t no_direct_ns;	  /* until then: connections between tasks failed */
};

typedef void (*mpd_reply_fn)(struct mpd *pd, void *arg, int rc, const struct base_wbuf *body);

/* Who asked: a task of ours, or another daemon on behalf of a task. */
struct mpd_from {
	int host; /* 0: a task of ours */
	int32_t tid;
	uint32_t req;
	bool quick;	    /* by the shared memory */
	uint64_t serial;    /* of our task: it may die before the answer */
	mpd_reply_fn reply; /* set: this daemon itself asked, and it takes the answer */
	void *arg;
};

typedef void (*mpd_done_fn)(struct mpd *pd, void *arg, int rc, struct base_rbuf *body);

struct mpd_call {
	struct base_list link;
	uint32_t id;
	int host;
	mpd_done_fn done;
	void *arg;
};

struct mpd_config {
	bool hosted;		      /* -K: started by a hoster */
	uint8_t starter[MPD_KEY_LEN]; /* his public key for us */
	char name[MPD_NAME_MAX];      /* -n */
	char ip[64];
	char hostfile[MPD_PATH_MAX];
	unsigned debug;
	bool slave, manual, nofork;
	bool sealed; /* $PVM_NET=sealed: messages between hosts by the encrypted links only */
	int host_timeout_ms;
	int speed;
};

struct mpd_mbox;
struct mpd_start;
struct mpd_defaults;

struct mpd {
	struct base_loop *loop;
	struct mpd_config config;
	uint8_t key[MPD_KEY_LEN];
	int self;
	int next_host; /* next number that the coordinator gives */
	uint64_t table_version;
	struct mpd_host *hosts[MP_HOST_MAX + 1];
	int host_last; /* highest number in use */

	struct mpd_task **task_by_local; /* MPD_TASK_SLOTS */
	struct base_list tasks;
	uint32_t task_count, next_local;
	uint64_t next_serial;
	int32_t next_context;
	bool *contexts; /* which are in use; NULL: none was */

	struct base_list calls;
	uint32_t next_call;

	struct base_watch listen_task, listen_host, listen_direct, signals;
	uint16_t direct_port;
	struct base_list directs, tickets, dials; /* mpd_direct.c */
	struct base_list tracers;		  /* mpd_trace.c */
	uint64_t next_ticket;
	char dir[108], socket[108], log[MPD_PATH_MAX];
	struct base_timer beat;
	double busy;
	uint64_t cpu_busy, cpu_all; /* last sample of /proc/stat */
	uint32_t cores;
	int next_rr;

	struct base_list watchers; /* of hosts on other machines, and of tasks there */
	struct base_list host_add; /* watchers of new hosts; target: how many more (-1: all) */
	int page_fd;		   /* struct mp_host_page */
	struct mp_host_page *page;
	struct mpd_mbox *mbox;
	struct base_list starts; /* hosts being started */
	/* Standard input, while a user starts one: mpd_manual.c */
	struct base_watch terminal;
	char terminal_text[4096];
	size_t terminal_len;
	struct base_list execs; /* tasks that are to be started here: mpd_exec.c */
	struct base_list started_waits;
	struct mpd_defaults *defaults;
	/* A slave: who started it, and its orders. */
	int master;
	char master_name[MPD_NAME_MAX], master_ip[64];
	uint16_t master_port;
	char *order_ep, *order_wd, *order_bx;
	struct base_list sinks;	    /* outputs being read */
	struct base_list choked;    /* tasks elsewhere that are slow */
	struct base_list strangers; /* links that have not said who they are */
	int stranger_count;
	int32_t role_tid[5]; /* enum mp_role */
	char *epath, *wdir, *debugger;
	struct rlimit nofile; /* as it was: what tasks get */
	int64_t log_max;
	bool halting;
	int exit_code;
	uint64_t calls_served;
	int64_t bail_ns; /* a slave that is no member by then leaves */
	int lock_fd, log_fd;
	int spare_fds[MPD_SPARE_FDS]; /* mpd_fds.c */
};

/* mpd_fds.c: what is kept for the day that descriptors run out. */
void mpd_fds_setup(struct mpd *pd);
/* Takes the spare ones again where it can; whether all are there. */
bool mpd_fds_spare(struct mpd *pd);
/* Gives them up, for one who has to be served. */
void mpd_fds_release(struct mpd *pd);
/* Out of descriptors: accepts and closes one, so that the caller learns of it. */
void mpd_fds_shed(struct mpd *pd, int listen_fd);

/* mpd_life.c: from start to end. */
void mpd_stop(struct mpd *pd, int code);
void mpd_log(struct mpd *pd, const char *fmt, ...) BASE_PRINTF(2, 3);
void mpd_log_raw(struct mpd *pd, int32_t tid, const char *text, size_t len);

/* mpd_table.c: hosts. */
int mpd_coordinator(const struct mpd *pd);
struct mpd_host *mpd_host_get(const struct mpd *pd, int id); /* a member, or NULL */
struct mpd_host *mpd_host_find(const struct mpd *pd, const char *name);
struct mpd_host *mpd_host_new(struct mpd *pd, int id, const char *name);
int mpd_host_count(const struct mpd *pd);
/* A new version to all members; `done` (may be NULL) when each has it or is dead. */
void mpd_table_publish(struct mpd *pd, void (*done)(struct mpd *pd, void *arg), void *arg);
void mpd_host_put(const struct mpd_host *h, struct base_wbuf *b);
void mpd_host_take(struct mpd_host *h, struct base_rbuf *b);
/* A member is gone: notices, answers to whoever waits for it. Anyone may call it for what it saw.
 */
void mpd_host_lost(struct mpd *pd, struct mpd_host *h, const char *why);
void mpd_host_delete(struct mpd *pd, struct mpd_host *h, const char *why);
void mpd_table_put(struct mpd *pd, struct base_wbuf *b);
BASE_MUST_CHECK int mpd_table_take(struct mpd *pd, struct base_rbuf *b);

/* mpd_link.c: connections to other daemons. */
BASE_MUST_CHECK int mpd_link_listen(struct mpd *pd);
void mpd_link_connect(struct mpd *pd, struct mpd_host *h);
/* Drops connections that never said who they are. */
void mpd_link_tidy(struct mpd *pd, int64_t now_ns);
/* Queued until the link stands. */
void mpd_link_send(struct mpd *pd, struct mpd_host *h, enum mp_frame_type type, uint32_t req,
		   const struct base_wbuf *b);
void mpd_link_ctl(struct mpd *pd, struct mpd_host *h, enum mp_ctl what, const void *p, size_t len);
void mpd_link_all(struct mpd *pd, enum mp_ctl what, const void *p, size_t len);
void mpd_link_piece(struct mpd *pd, struct mpd_host *h, const void *hdr, size_t hdr_len,
		    const void *body, size_t len);

/* mpd_route.c: messages. */
void mpd_route_piece(struct mpd *pd, struct mpd_task *from, struct mpd_host *via,
		     const uint8_t *payload, size_t len);
/* A whole message of the daemon's own. */
void mpd_route_message(struct mpd *pd, int32_t dst, int32_t src, int32_t ctx, int32_t tag,
		       int32_t wid, const void *body, size_t len);
void mpd_route_unblock(struct mpd *pd, struct base_list *blocked);
void mpd_route_forget(struct mpd *pd, struct mpd_task *t);
void mpd_route_choke(struct mpd *pd, int32_t tid, bool on);
void mpd_route_choke_host_gone(struct mpd *pd, int host);
/* A notice to a task anywhere. */
void mpd_route_ctl(struct mpd *pd, int32_t tid, enum mp_ctl what, const void *p, size_t len);

/* mpd_task.c: tasks of this host. */
BASE_MUST_CHECK int mpd_task_listen(struct mpd *pd);
struct mpd_task *mpd_task_get(const struct mpd *pd, int32_t tid);
struct mpd_task *mpd_task_new(struct mpd *pd, const char *name); /* NULL: no memory, no tid */
void mpd_task_gone(struct mpd_task *t);
/* The socket by which others wake it; one that has been killed leaves it behind. */
void mpd_task_unbell(const struct mpd *pd, int32_t tid);
/* The process of `t` has ended: takes in what it still sent, then it is gone. */
void mpd_task_ended(struct mpd_task *t, int status, const struct rusage *usage);
void mpd_task_reaped(struct mpd *pd, pid_t pid, int status, const struct rusage *usage);
void mpd_task_send(struct mpd_task *t, const void *hdr, size_t hdr_len, const void *body,
		   size_t len);
void mpd_task_ctl(struct mpd_task *t, enum mp_ctl what, const void *p, size_t len, int fd);
void mpd_task_wake(struct mpd_task *t);
void mpd_task_connect(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b);

/* mpd_direct.c: connections between tasks of two hosts. */
void mpd_direct_connect(struct mpd *pd, const struct mpd_from *from, int32_t tid);
void mpd_direct_task_gone(struct mpd *pd, int32_t tid);
/* What a task elsewhere said of itself by MP_C_NET_GONE to `local`. */
void mpd_direct_remote_gone(struct mpd *pd, int32_t local, int32_t remote);
void mpd_direct_host_gone(struct mpd *pd, int host);

/* mpd_call.c: calls and answers. */
void mpd_call_serve(struct mpd *pd, const struct mpd_from *from, uint16_t op, struct base_rbuf *b);
void mpd_call_reply(struct mpd *pd, const struct mpd_from *from, int rc,
		    const struct base_wbuf *body, int fd);
/* `args` without the tid; `done` runs exactly once, with PvmHostFail when the host dies. */
void mpd_call_host(struct mpd *pd, int host, uint16_t op, int32_t tid, const void *args, size_t len,
		   mpd_done_fn done, void *arg);
/* Sends the whole call on and passes the answer back. */
void mpd_call_forward(struct mpd *pd, const struct mpd_from *from, int host, uint16_t op,
		      const struct base_rbuf *b);
void mpd_call_answer(struct mpd *pd, int host, uint32_t id, struct base_rbuf *b);
void mpd_call_host_gone(struct mpd *pd, int host);

/* mpd_quick.c: calls by the shared memory. */
void mpd_quick_serve(struct mpd *pd);
void mpd_quick_call(struct mpd_task *t); /* if it has one */
bool mpd_quick_news(const struct mpd *pd);
/* False: the answer must go by the socket. */
bool mpd_quick_answer(struct mpd_task *t, uint32_t req, const struct base_wbuf *b);

/* Handlers of calls, in the files of their subject. */
typedef void mpd_op_fn(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b);
mpd_op_fn mpd_op_config, mpd_op_tasks, mpd_op_spawn, mpd_op_exec, mpd_op_signal, mpd_op_notify,
	mpd_op_addhosts, mpd_op_delhosts, mpd_op_pstat, mpd_op_mstat, mpd_op_tickle, mpd_op_halt,
	mpd_op_mbox_put, mpd_op_mbox_get, mpd_op_mbox_del, mpd_op_mbox_info, mpd_op_context,
	mpd_op_hostsync, mpd_op_setopt, mpd_op_register, mpd_op_hosts, mpd_op_exit, mpd_op_started,
	mpd_op_mbox_reset, mpd_op_direct;

/* mpd_notify.c */
/* A task of another host has ended, or was never there. */
void mpd_notify_task_ended(struct mpd *pd, int32_t tid);
void mpd_notify_task_gone(struct mpd *pd, struct mpd_task *t);
void mpd_notify_host_gone(struct mpd *pd, int host);
void mpd_notify_host_added(struct mpd *pd, const int32_t *tids, uint32_t n);
void mpd_notify_forget(struct mpd *pd, int32_t watcher);

/* mpd_role.c: resource manager, hoster, tasker. */
/* What the resource manager is told: a task has come by itself, a task or host has ended. */
void mpd_role_task_came(struct mpd *pd, int32_t tid);
void mpd_role_taskx(struct mpd *pd, int32_t tid);
void mpd_role_hostx(struct mpd *pd, int host);
/* A whole message to this daemon. */
void mpd_role_message(struct mpd *pd, int32_t src, const struct mp_msghdr *h, const uint8_t *body,
		      size_t len);
/* The end of a task, or with tid 0 of all of a host: was it the resource manager? */
void mpd_role_gone(struct mpd *pd, int32_t tid, int host);
/* Asks the tasker to start `t`; its tid, or an error (then it is gone). */
int mpd_role_start_task(struct mpd *pd, struct mpd_task *t, const char *path, uint32_t argc,
			char **argv, uint32_t envc, char **env);
/* The task that had the role has ended: so have those that it was to start and that have not come. */
void mpd_tasker_gone(struct mpd *pd);

/* mpd_trace.c: events that daemons report. */
/* Nobody traces it: then the tracer that has registered, if any, gets its events and output. */
void mpd_trace_adopt(struct mpd *pd, struct mpd_task *t);
void mpd_trace_task_came(struct mpd *pd, struct mpd_task *task, bool spawned);
void mpd_trace_task_gone(struct mpd *pd, struct mpd_task *task);
void mpd_trace_fini(struct mpd *pd);

/* mpd_output.c: what tasks print. Takes the descriptor. */
BASE_MUST_CHECK int mpd_output_new(struct mpd *pd, int32_t tid, int32_t ptid, int fd,
				   const struct mpd_sink *to);
void mpd_output_retarget(struct mpd *pd, int32_t tid, const struct mpd_sink *to);
void mpd_output_flush(struct mpd *pd, int32_t tid);
void mpd_output_log(struct mpd *pd, struct base_rbuf *b);

/* mpd_mbox.c */
BASE_MUST_CHECK int mpd_mbox_new(struct mpd *pd);
void mpd_mbox_free(struct mpd *pd);
void mpd_mbox_apply(struct mpd *pd, struct base_rbuf *b);
void mpd_mbox_task_gone(struct mpd *pd, int32_t tid); /* one of ours */
void mpd_mbox_task_told(struct mpd *pd, int32_t tid, int by);
void mpd_mbox_host_gone(struct mpd *pd, int host);
/* The body of the first entry of a class, XDR; valid until the next change. */
bool mpd_mbox_first(const struct mpd *pd, const char *name, struct base_rbuf *body);
void mpd_mbox_dump(struct mpd *pd, struct mpd_host *to);

/* mpd_exec.c: a turn of the loop starts one task. */
bool mpd_exec_due(const struct mpd *pd);
void mpd_exec_step(struct mpd *pd);
/* Before a child is reaped: it may be one of which we have not heard yet. */
void mpd_exec_look(struct mpd *pd);
void mpd_exec_fini(struct mpd *pd);

/* mpd_hoster.c: a task starts them. */
void mpd_hoster_answer(struct mpd *pd, const uint8_t *body, size_t len);
void mpd_hoster_gone(struct mpd *pd);

/* mpd_start.c: starting daemons elsewhere. */
void mpd_start_reaped(struct mpd *pd, pid_t pid, int status);
void mpd_start_joined(struct mpd *pd, int host);
BASE_MUST_CHECK int mpd_start_hostfile(struct mpd *pd, const char *path);
BASE_MUST_CHECK int mpd_start_setup(struct mpd *pd);
void mpd_start_fini(struct mpd *pd);
struct mpd_hostline;
void mpd_host_options(struct mpd *pd, const struct mpd_hostline *h);

/* mpd_life.c */
/* Replaces a setting; variables ($NAME) are expanded. Without memory the old one stays. */
void mpd_set_path(char **field, const char *value);
BASE_MUST_CHECK int mpd_life_setup(struct mpd *pd);
/* Until mpd_stop(); its code, or -errno. */
BASE_MUST_CHECK int mpd_life_run(struct mpd *pd);
void mpd_life_fini(struct mpd *pd);
/* A slave reads what its coordinator tells it. -EPROTO. */
BASE_MUST_CHECK int mpd_life_read_orders(struct mpd *pd, FILE *in);

/* mpd_load.c */
void mpd_load_sample(struct mpd *pd);
uint32_t mpd_load_cores(void);
/* Answers a get of MP_LOAD_CLASS. */
void mpd_load_reply(struct mpd *pd, const struct mpd_from *from, int host);
/* The host that a new task suits best, among `ok[id]`; counts it as fresh. 0: none. */
int mpd_load_place(struct mpd *pd, const bool *ok);

#endif
