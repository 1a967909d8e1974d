/*
 * The hand-over of a running guest from a source to a destination: a pure state machine, one step
 * function for each side. No I/O, no clock: events come in, actions go out.
 *
 *      source                                     destination
 *      PRECOPY   pages, while the guest runs      RECEIVE
 *        | switch
 *      FINAL     guest paused; last pages, state
 *        | final sent
 *      PREPARE   ---- PREPARE(digest) ----------> checks digest, loads state
 *                <--- READY --------------------- PREPARED   (may not run)
 *        | journal "committing"
 *      COMMIT    ---- COMMIT -----------------+-> journal "committed"     <== the commit point
 *                <--- RUNNING ----------------+-- COMMITTED  (runs)
 *      DONE      guest destroyed
 *
 * The commit point is the destination's journal entry "committed".
 *
 *  I1  The destination runs the guest only in COMMITTED.
 *  I2  The source runs the guest only in PRECOPY and FAILED. It enters FAILED only
 *      - before it has sent COMMIT, or
 *      - when the destination's verdict is "aborted": its journal then says so, and from "aborted"
 *        no COMMIT is accepted any more, or
 *      - by force of the operator, who answers for the destination being dead.
 *  I3  The destination aborts by itself only in RECEIVE and PREPARED, and journals "aborted" first.
 *  I4  A source that has sent COMMIT and lost the link is in DOUBT: paused, whole, and asking. It
 *      ends by the verdict. "Unknown" (the destination has no record of this migration: its host was
 *      restarted) and silence leave it in DOUBT, where one command resumes it.
 *  I5  A destination in PREPARED that lost the link is HELD: paused and whole. It asks the source's
 *      agent: "gave up" aborts it; "COMMIT was sent" is the COMMIT that was lost; "gone for good"
 *      (the source's process is dead, so it can never resume) lets it commit; silence leaves it
 *      HELD, where one command commits it.
 *
 * So there is never a moment with two running copies (I1-I3), and never one in which no copy runs or
 * can be made to run by one command (I4, I5).
 *
 * Post-copy: the switch comes while pages are still to move. Up to the commit all is as above. Then
 * the destination runs, the source holds memory and no right to run, and both must live:
 *
 *      source                                     destination
 *      COMMIT                                     PREPARED
 *        | RUNNING                                  | journal "committed", run
 *      SERVE     <--- which pages are missing --- FILL      runs; a missing page is waited for
 *                ---- pages --------------------->  | all are here: journal "complete"
 *      DONE      <--- COMPLETE ------------------ COMMITTED
 *
 *      link lost in SERVE, FILL:
 *      CUT       holds the memory, asks           BROKEN    paused, asks
 *        | both sides have a new link               |
 *      SERVE                                      FILL      runs again
 *
 *  I6  After the commit of a post-copy the source never runs the guest again; it ends when the
 *      destination's journal says "complete", or when the destination's process is gone.
 *  I7  The destination runs in FILL only while the link is there. In BROKEN it is paused and whole
 *      but for the pages that the source has; one command (a new link) lets it go on. Only when the
 *      source's process is gone is the guest lost, as it is when any host dies with a guest on it.
 *  I8  A destination in HELD without its source's memory cannot run: "gone" aborts it, FORCE is
 *      nothing to it, and "COMMIT was sent" makes it BROKEN, not running.
 *
 * tests/unit/migrate/test_fsm.c explores all of it with these very functions;
 * tests/model/handover.pml is the model for Spin.
 */
#ifndef MIG_FSM_H
#define MIG_FSM_H

#include <stdbool.h>
#include <stdint.h>

enum mig_src_state {
	MIG_SRC_PRECOPY = 1,
	MIG_SRC_FINAL,
	MIG_SRC_PREPARE,
	MIG_SRC_COMMIT,
	MIG_SRC_DOUBT,
	MIG_SRC_DONE,	/* the guest is the destination's */
	MIG_SRC_FAILED, /* the guest runs here as before */
	MIG_SRC_SERVE,	/* post-copy: gives out memory */
	MIG_SRC_CUT,	/* post-copy: holds memory, without a link */
	MIG_SRC_LOST,	/* post-copy: the destination is gone, and the guest with it */
};

enum mig_dst_state {
	MIG_DST_RECEIVE = 1,
	MIG_DST_PREPARED,
	MIG_DST_HELD,
	MIG_DST_COMMITTED,
	MIG_DST_ABORTED,
	MIG_DST_FILL,	/* post-copy: runs, pages are missing */
	MIG_DST_BROKEN, /* post-copy: paused, without a link */
	MIG_DST_LOST,	/* post-copy: the source is gone, and the missing pages with it */
};

enum mig_event {
	MIG_EV_SWITCH = 1, /* source: what is left fits the downtime */
	MIG_EV_FINAL_SENT, /* source: last pages and state are on the wire */
	MIG_EV_RX_PREPARE, /* destination: all is here, verified and loaded */
	MIG_EV_RX_READY,
	MIG_EV_RX_COMMIT,
	MIG_EV_RX_RUNNING,
	MIG_EV_RX_ABORT,	  /* the other side gives up */
	MIG_EV_LINK_LOST,	  /* broken, silent for too long, or it spoke nonsense */
	MIG_EV_CANCEL,		  /* the user; also a local failure */
	MIG_EV_VERDICT_COMMITTED, /* what the other side's agent answers about this migration */
	MIG_EV_VERDICT_ABORTED,
	MIG_EV_VERDICT_COMMITTING, /* destination asks: COMMIT was sent, the source waits */
	MIG_EV_VERDICT_GONE,	   /* destination asks: the source can never resume */
	MIG_EV_VERDICT_UNKNOWN,
	MIG_EV_FORCE,		    /* the operator: resume (source) or commit (destination) */
	MIG_EV_SWITCH_POSTCOPY,	    /* source: switch, and the rest of memory follows */
	MIG_EV_RX_PREPARE_POSTCOPY, /* destination: the same, all but memory is loaded */
	MIG_EV_ALL_HERE,	    /* destination: the last missing page has come */
	MIG_EV_RX_COMPLETE,
	MIG_EV_LINK_BACK,	 /* a new link, proved to be this migration's */
	MIG_EV_VERDICT_COMPLETE, /* the destination has all */
	MIG_EV_COUNT,
};

/* In the order in which they must be carried out. */
enum mig_action {
	MIG_ACT_PAUSE = 1 << 0,	     /* stop the vCPUs */
	MIG_ACT_SEND_FINAL = 1 << 1, /* last pages, then sections */
	MIG_ACT_SEND_PREPARE = 1 << 2,
	MIG_ACT_JOURNAL_COMMITTING = 1 << 3,
	MIG_ACT_JOURNAL_COMMITTED = 1 << 4,
	MIG_ACT_JOURNAL_ABORTED = 1 << 5,
	MIG_ACT_SEND_READY = 1 << 6,
	MIG_ACT_SEND_COMMIT = 1 << 7,
	MIG_ACT_RUN = 1 << 8, /* start or resume the vCPUs */
	MIG_ACT_SEND_RUNNING = 1 << 9,
	MIG_ACT_SEND_ABORT = 1 << 10,
	MIG_ACT_ASK_VERDICT = 1 << 11, /* repeat until an answer comes */
	MIG_ACT_DESTROY = 1 << 12,     /* free this side's copy */
	MIG_ACT_END = 1 << 13,	       /* the migration is over on this side */
	MIG_ACT_SERVE = 1 << 14,       /* source: push pages, answer requests */
	MIG_ACT_FILL = 1 << 15,	       /* destination: ask for pages as they are missed */
	MIG_ACT_JOURNAL_COMPLETE = 1 << 16,
	MIG_ACT_SEND_COMPLETE = 1 << 17,
};

struct mig_src_fsm {
	enum mig_src_state state;
	bool postcopy; /* set by the switch */
};

struct mig_dst_fsm {
	enum mig_dst_state state;
	bool postcopy;
};

/* Set of enum mig_action; an event that means nothing in the state changes nothing and gives 0. */
uint32_t mig_src_step(struct mig_src_fsm *f, enum mig_event ev);
uint32_t mig_dst_step(struct mig_dst_fsm *f, enum mig_event ev);

/* Whether this side's copy runs, or would run, in this state (I1, I2). */
bool mig_src_runs(const struct mig_src_fsm *f);
bool mig_dst_runs(const struct mig_dst_fsm *f);

const char *mig_src_state_name(enum mig_src_state s);
const char *mig_dst_state_name(enum mig_dst_state s);

#endif
