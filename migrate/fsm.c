#include "migrate/fsm.h"

bool mig_src_runs(const struct mig_src_fsm *f)
{
	return f->state == MIG_SRC_PRECOPY || f->state == MIG_SRC_FAILED;
}

bool mig_dst_runs(const struct mig_dst_fsm *f)
{
	return f->state == MIG_DST_COMMITTED || f->state == MIG_DST_FILL;
}

static uint32_t src_to(struct mig_src_fsm *f, enum mig_src_state s, uint32_t actions)
{
	f->state = s;
	return actions;
}

/* Before COMMIT was sent: the source alone decides, and it goes on as before (I2). */
static uint32_t src_give_up(struct mig_src_fsm *f, bool link_up)
{
	uint32_t abort = link_up ? MIG_ACT_SEND_ABORT : 0;
	uint32_t run = f->state == MIG_SRC_PRECOPY ? 0 : MIG_ACT_RUN;

	return src_to(f, MIG_SRC_FAILED, run | abort | MIG_ACT_END);
}

static uint32_t src_before_commit(struct mig_src_fsm *f, enum mig_event ev)
{
	switch (ev) {
	case MIG_EV_CANCEL: return src_give_up(f, true);
	case MIG_EV_RX_ABORT:
	case MIG_EV_LINK_LOST: return src_give_up(f, false);
	default: break;
	}
	if (f->state == MIG_SRC_PRECOPY && (ev == MIG_EV_SWITCH || ev == MIG_EV_SWITCH_POSTCOPY)) {
		f->postcopy = ev == MIG_EV_SWITCH_POSTCOPY;
		return src_to(f, MIG_SRC_FINAL, MIG_ACT_PAUSE | MIG_ACT_SEND_FINAL);
	}
	if (f->state == MIG_SRC_FINAL && ev == MIG_EV_FINAL_SENT)
		return src_to(f, MIG_SRC_PREPARE, MIG_ACT_SEND_PREPARE);
	if (f->state == MIG_SRC_PREPARE && ev == MIG_EV_RX_READY)
		return src_to(f, MIG_SRC_COMMIT, MIG_ACT_JOURNAL_COMMITTING | MIG_ACT_SEND_COMMIT);
	return 0;
}

/* COMMIT is on its way: only the destination's word counts (I4). A cancel comes too late. */
static uint32_t src_after_commit(struct mig_src_fsm *f, enum mig_event ev)
{
	switch (ev) {
	case MIG_EV_RX_RUNNING:
		if (f->postcopy)
			return f->state == MIG_SRC_COMMIT ? src_to(f, MIG_SRC_SERVE, MIG_ACT_SERVE)
							  : 0;
		return src_to(f, MIG_SRC_DONE, MIG_ACT_DESTROY | MIG_ACT_END);
	case MIG_EV_VERDICT_COMMITTED:
		if (f->postcopy)
			return src_to(f, MIG_SRC_CUT, MIG_ACT_ASK_VERDICT);
		return src_to(f, MIG_SRC_DONE, MIG_ACT_DESTROY | MIG_ACT_END);
	case MIG_EV_VERDICT_COMPLETE: return src_to(f, MIG_SRC_DONE, MIG_ACT_DESTROY | MIG_ACT_END);
	/* It had begun to run, and its process died before all pages were there. */
	case MIG_EV_VERDICT_GONE:
		return f->postcopy ? src_to(f, MIG_SRC_LOST, MIG_ACT_DESTROY | MIG_ACT_END) : 0;
	case MIG_EV_RX_ABORT:
	case MIG_EV_VERDICT_ABORTED: return src_to(f, MIG_SRC_FAILED, MIG_ACT_RUN | MIG_ACT_END);
	case MIG_EV_LINK_LOST:
		return f->state == MIG_SRC_COMMIT ? src_to(f, MIG_SRC_DOUBT, MIG_ACT_ASK_VERDICT)
						  : 0;
	case MIG_EV_FORCE:
		return f->state == MIG_SRC_DOUBT
			       ? src_to(f, MIG_SRC_FAILED, MIG_ACT_RUN | MIG_ACT_END)
			       : 0;
	default: return 0;
	}
}

/* The guest is the destination's; its memory is still here (I6). */
static uint32_t src_memory(struct mig_src_fsm *f, enum mig_event ev)
{
	switch (ev) {
	case MIG_EV_RX_COMPLETE:
	case MIG_EV_VERDICT_COMPLETE: return src_to(f, MIG_SRC_DONE, MIG_ACT_DESTROY | MIG_ACT_END);
	case MIG_EV_LINK_LOST:
		return f->state == MIG_SRC_SERVE ? src_to(f, MIG_SRC_CUT, MIG_ACT_ASK_VERDICT) : 0;
	case MIG_EV_LINK_BACK:
		return f->state == MIG_SRC_CUT ? src_to(f, MIG_SRC_SERVE, MIG_ACT_SERVE) : 0;
	case MIG_EV_VERDICT_GONE:
		return f->state == MIG_SRC_CUT
			       ? src_to(f, MIG_SRC_LOST, MIG_ACT_DESTROY | MIG_ACT_END)
			       : 0;
	default: return 0;
	}
}

uint32_t mig_src_step(struct mig_src_fsm *f, enum mig_event ev)
{
	switch (f->state) {
	case MIG_SRC_PRECOPY:
	case MIG_SRC_FINAL:
	case MIG_SRC_PREPARE: return src_before_commit(f, ev);
	case MIG_SRC_COMMIT:
	case MIG_SRC_DOUBT: return src_after_commit(f, ev);
	case MIG_SRC_SERVE:
	case MIG_SRC_CUT: return src_memory(f, ev);
	case MIG_SRC_DONE:
	case MIG_SRC_LOST:
	case MIG_SRC_FAILED: return 0;
	}
	return 0;
}

static uint32_t dst_to(struct mig_dst_fsm *f, enum mig_dst_state s, uint32_t actions)
{
	f->state = s;
	return actions;
}

static uint32_t dst_abort(struct mig_dst_fsm *f, bool tell)
{
	return dst_to(f, MIG_DST_ABORTED,
		      MIG_ACT_JOURNAL_ABORTED | (tell ? MIG_ACT_SEND_ABORT : 0) | MIG_ACT_DESTROY |
			      MIG_ACT_END);
}

static uint32_t dst_commit(struct mig_dst_fsm *f)
{
	return dst_to(f, MIG_DST_COMMITTED,
		      MIG_ACT_JOURNAL_COMMITTED | MIG_ACT_RUN | MIG_ACT_SEND_RUNNING | MIG_ACT_END);
}

/* Running without all of its memory (I7). */
static uint32_t dst_fill(struct mig_dst_fsm *f, enum mig_event ev)
{
	if (ev == MIG_EV_ALL_HERE)
		return dst_to(f, MIG_DST_COMMITTED,
			      MIG_ACT_JOURNAL_COMPLETE | MIG_ACT_SEND_COMPLETE | MIG_ACT_END);
	/* A failure on this side is the same: what is here waits, whole. */
	if (ev == MIG_EV_LINK_LOST || ev == MIG_EV_CANCEL)
		return dst_to(f, MIG_DST_BROKEN, MIG_ACT_PAUSE | MIG_ACT_ASK_VERDICT);
	return 0;
}

static uint32_t dst_broken(struct mig_dst_fsm *f, enum mig_event ev)
{
	if (ev == MIG_EV_LINK_BACK)
		return dst_to(f, MIG_DST_FILL, MIG_ACT_FILL | MIG_ACT_RUN);
	if (ev == MIG_EV_VERDICT_GONE)
		return dst_to(f, MIG_DST_LOST, MIG_ACT_DESTROY | MIG_ACT_END);
	return 0;
}

static uint32_t dst_prepared(struct mig_dst_fsm *f, enum mig_event ev)
{
	switch (ev) {
	case MIG_EV_RX_COMMIT:
		if (f->postcopy)
			return dst_to(f, MIG_DST_FILL,
				      MIG_ACT_JOURNAL_COMMITTED | MIG_ACT_FILL | MIG_ACT_RUN |
					      MIG_ACT_SEND_RUNNING);
		return dst_commit(f);
	case MIG_EV_RX_ABORT: return dst_abort(f, false);
	/* The source may have sent COMMIT already: the abort reaches it as the answer (I3). */
	case MIG_EV_CANCEL: return dst_abort(f, true);
	case MIG_EV_LINK_LOST: return dst_to(f, MIG_DST_HELD, MIG_ACT_ASK_VERDICT);
	default: return 0;
	}
}

static uint32_t dst_held(struct mig_dst_fsm *f, enum mig_event ev)
{
	switch (ev) {
	case MIG_EV_VERDICT_COMMITTING:
		if (f->postcopy)
			return dst_to(f, MIG_DST_BROKEN,
				      MIG_ACT_JOURNAL_COMMITTED | MIG_ACT_ASK_VERDICT);
		return dst_commit(f);
	case MIG_EV_VERDICT_GONE: return f->postcopy ? dst_abort(f, false) : dst_commit(f);
	case MIG_EV_FORCE: return f->postcopy ? 0 : dst_commit(f);
	case MIG_EV_VERDICT_ABORTED:
	case MIG_EV_CANCEL: return dst_abort(f, false);
	default: return 0;
	}
}

uint32_t mig_dst_step(struct mig_dst_fsm *f, enum mig_event ev)
{
	switch (f->state) {
	case MIG_DST_RECEIVE:
		if (ev == MIG_EV_RX_PREPARE || ev == MIG_EV_RX_PREPARE_POSTCOPY) {
			f->postcopy = ev == MIG_EV_RX_PREPARE_POSTCOPY;
			return dst_to(f, MIG_DST_PREPARED, MIG_ACT_SEND_READY);
		}
		if (ev == MIG_EV_CANCEL)
			return dst_abort(f, true);
		if (ev == MIG_EV_RX_ABORT || ev == MIG_EV_LINK_LOST)
			return dst_abort(f, false);
		return 0;
	case MIG_DST_PREPARED: return dst_prepared(f, ev);
	case MIG_DST_HELD: return dst_held(f, ev);
	case MIG_DST_FILL: return dst_fill(f, ev);
	case MIG_DST_BROKEN: return dst_broken(f, ev);
	case MIG_DST_COMMITTED:
	case MIG_DST_LOST:
	case MIG_DST_ABORTED: return 0;
	}
	return 0;
}

const char *mig_src_state_name(enum mig_src_state s)
{
	switch (s) {
	case MIG_SRC_PRECOPY: return "precopy";
	case MIG_SRC_FINAL: return "final";
	case MIG_SRC_PREPARE: return "prepare";
	case MIG_SRC_COMMIT: return "commit";
	case MIG_SRC_DOUBT: return "in doubt";
	case MIG_SRC_DONE: return "done";
	case MIG_SRC_FAILED: return "failed";
	case MIG_SRC_SERVE: return "postcopy";
	case MIG_SRC_CUT: return "link lost";
	case MIG_SRC_LOST: return "lost";
	}
	return "?";
}

const char *mig_dst_state_name(enum mig_dst_state s)
{
	switch (s) {
	case MIG_DST_RECEIVE: return "receive";
	case MIG_DST_PREPARED: return "prepared";
	case MIG_DST_HELD: return "held";
	case MIG_DST_COMMITTED: return "committed";
	case MIG_DST_ABORTED: return "aborted";
	case MIG_DST_FILL: return "postcopy";
	case MIG_DST_BROKEN: return "link lost";
	case MIG_DST_LOST: return "lost";
	}
	return "?";
}
