/* What the files span*.c share. */
#ifndef VMM_SPAN_INTERNAL_H
#define VMM_SPAN_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "dsm/dsm.h"
#include "node/vmm/shadow.h"
#include "node/vmm/span.h"
#include "node/vmm/span_wire.h"

enum { SPAN_LEAD = 0, SPAN_ORDERS_MAX = 64 };

/* A vCPU's access. Follower: what it waits for; lead: what is to be done. */
struct span_io {
	bool busy; /* asked, not done */
	uint8_t peer;
	struct span_msg msg;
};

struct span_news {
	enum vmm_span_order order;
	char reason[SPAN_TEXT_MAX];
};

/* One move of a vCPU, as the lead, the source and the target of it each see it. */
enum span_move_phase {
	SPAN_MOVE_NONE,
	SPAN_MOVE_ASKED, /* lead: target asked. source: leaving. target: prepared */
	SPAN_MOVE_READY, /* lead: the target is ready. source: state sent. target: state is coming */
	SPAN_MOVE_LEAVING, /* lead: source asked. target: state is complete, being loaded */
	SPAN_MOVE_LOADED,  /* target: awaits the commit */
	SPAN_MOVE_OVER,	   /* lead: the end is to be told */
};

struct span_move {
	enum span_move_phase phase;
	uint32_t number, vcpu;
	uint8_t peer; /* source: the target; target: the source; lead: the target */
};

/* What a peer sends of a saved machine. */
struct span_part {
	uint8_t *data;
	uint32_t len, total;
};

struct vmm_span {
	struct vmm_span_config config;
	struct vmm_slice_config slices;
	uint8_t self;
	_Atomic(uint8_t) where[VMM_VCPU_MAX]; /* the slice of each vCPU, as far as is known here */
	_Atomic(uint16_t) gone;		      /* slices that have left; bits */
	uint8_t home[VMM_SLICE_MAX];	      /* of each part's pages; the main thread's */
	struct dsm *dsm;
	struct vmm_shadow *shadow; /* or NULL */
	struct dsm_callbacks callbacks;
	pthread_t linker;
	bool linker_started;

	pthread_mutex_t sampling; /* of the lead's clock, by one thread at a time; before `lock` */
	pthread_mutex_t lock;	  /* all below; held for moments only */
	pthread_cond_t changed;
	bool lost, stopping;
	uint16_t hello, halted, going;	 /* followers that said so; bits */
	uint32_t halt_number, go_number; /* of the last HALT, the last GO */
	bool end_wished;		 /* lead: a follower wants the end */
	uint64_t lead_base, lead_tsc_hz;
	/* Follower: the guest runs, and has not stood since clock_number changed. */
	bool clock_runs;
	uint32_t clock_number;
	uint64_t clock_steps;
	/* One sample of the lead's clock. */
	uint32_t time_number;
	bool time_told;
	uint64_t time_lead, time_at; /* its guest TSC; our host TSC when it came */

	struct vmm_entry reset_entry;
	struct span_move led, out, in; /* as the lead, source and target */
	uint8_t led_from;
	char failure[SPAN_TEXT_MAX];   /* lead: of the move; source: what the target said */
	uint32_t placed[VMM_VCPU_MAX]; /* the number of the move that put a vCPU where it is */
	struct span_msg next_task;
	uint32_t task_number; /* lead: of the last TASK, and what has been heard of it */
	enum span_task task_op;
	uint8_t task_slice;
	uint16_t task_open; /* who has not finished; bits */
	int task_error;
	uint64_t task_done[VMM_SLICE_MAX], task_total[VMM_SLICE_MAX];
	/* What comes of the vCPU's state: the receiver's until it is complete, then the vCPU's. */
	uint8_t *state;
	uint32_t state_len, state_total;

	/* A slice that joins (span_join.c). Member: whose link is awaited, or 0; what became of it. */
	uint8_t admitted;
	bool admit_told, admit_said; /* by the DSM; to the lead */
	int admit_error;
	/* Lead: who is to come, or 0; all have its link; why it does not come. */
	uint8_t joining;
	bool join_linked;
	char join_why[SPAN_TEXT_MAX];
	/* Of those that joined later. */
	char address[VMM_SLICE_MAX][SPAN_ADDRESS_MAX];

	struct span_msg task; /* that is being done here; the main thread's */
	struct base_timer task_timer;

	/* Saving and loading (span_save.c). */
	uint32_t save_number;
	enum span_type save_asked; /* follower: SAVE or LOOK of that number, until it is answered */
	uint64_t save_news;	   /* whoever waits for more waits on while this grows */
	uint16_t flushed[2];	   /* peers whose messages of the round have come */
	struct span_part part[VMM_SLICE_MAX];
	uint16_t parts; /* complete ones */
	bool part_loaded;
	char part_why[SPAN_TEXT_MAX];

	struct span_news news[SPAN_ORDERS_MAX]; /* for the main thread */
	unsigned news_head, news_tail;

	struct span_io io[VMM_VCPU_MAX]; /* by APIC id */
	/* Lead: work of the I/O thread in the order of arrival: APIC ids, or EOIs. */
	uint32_t work[4 * VMM_VCPU_MAX];
	unsigned work_head, work_tail;
	bool io_working;
	pthread_t io_thread;
	bool io_thread_started;
};

#define SPAN_WORK_EOI UINT32_C(0x10000) /* | vector */

static inline bool span_leads(const struct vmm_span *s)
{
	return s->self == SPAN_LEAD;
}

/* Any thread but the service thread may wait here for room in the queue. */
void span_send(struct vmm_span *s, unsigned peer, const struct span_msg *m);
void span_send_all(struct vmm_span *s, const struct span_msg *m);
/* Any thread: an order for the main thread. */
void span_tell(struct vmm_span *s, enum vmm_span_order order, const char *reason);
void span_lost(struct vmm_span *s, const char *reason);

/* span_msg.c: a message of a peer, on the service thread. */
void span_receive(void *arg, uint8_t peer, const void *data, size_t len);
/* span_clock.c: keeps a follower's TSC in step with the lead's, until the end. */
void span_clock_keep(struct vmm_span *s);
/* span_io.c */
BASE_MUST_CHECK int span_io_start(struct vmm_span *s);
void span_io_stop(struct vmm_span *s);
BASE_MUST_CHECK int span_io_asked(struct vmm_span *s, uint8_t peer, const struct span_msg *m);
BASE_MUST_CHECK int span_io_done(struct vmm_span *s, const struct span_msg *m);
BASE_MUST_CHECK int span_eoi(struct vmm_span *s, const struct span_msg *m);

/* span_move.c */
void span_move_init(struct vmm_span *s);
BASE_MUST_CHECK int span_move_handle(struct vmm_span *s, uint8_t peer, const struct span_msg *m);

/* span_task.c */
BASE_MUST_CHECK int span_task_asked(struct vmm_span *s, uint8_t peer, const struct span_msg *m);
BASE_MUST_CHECK int span_task_done(struct vmm_span *s, uint8_t peer, const struct span_msg *m);
/* Main thread: the answer to a task. */
void span_task_answer(struct vmm_span *s, const struct span_msg *task, int err);
/* Lead, main thread: sends a task to all other members but the slices `but` (bits), and numbers it. */
void span_task_give(struct vmm_span *s, uint16_t but, struct span_msg *m);
/* Lead, main thread: all members but the slice that it is about do it at once; waits for them. */
BASE_MUST_CHECK int span_task_do(struct vmm_span *s, enum span_task op, unsigned slice);
/* Lead, main thread: all stand; whether all members and the slice that is to join can do REHOME. */
BASE_MUST_CHECK int span_task_ready(struct vmm_span *s, unsigned slice);

/* span_join.c */
void span_join_init(struct vmm_span *s);
void span_join_link(void *ctx, uint8_t peer, int err);
BASE_MUST_CHECK int span_join_admit(struct vmm_span *s, const struct span_msg *m);
BASE_MUST_CHECK int span_join_task(struct vmm_span *s, const struct span_msg *m);
/* Lead, service thread: the hello of a slice that joins; why: it does not fit, or "". */
void span_join_hello(struct vmm_span *s, uint8_t peer, const char *why);
void span_join_admitted(struct vmm_span *s, int err);
/* Main thread: 0 if none is to join, or its link is there; it is a member from now on. */
BASE_MUST_CHECK int span_join_there(struct vmm_span *s);
BASE_MUST_CHECK int span_join_keep(struct vmm_span *s);

/* Where an interrupt for it, or its own messages, belong. */
static inline unsigned span_where(const struct vmm_span *s, uint32_t apic_id)
{
	return apic_id < VMM_VCPU_MAX ? atomic_load(&s->where[apic_id]) : UINT8_MAX;
}

/* span_save.c */
BASE_MUST_CHECK int span_save_handle(struct vmm_span *s, uint8_t peer, const struct span_msg *m);
void span_save_free(struct vmm_span *s);

#endif
