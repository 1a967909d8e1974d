/*
 * The hand-over of migrate/fsm.h for Spin: messages in flight, a link that may break, processes that
 * may die, agents that answer from the journals. Checked: never two running copies (assertions), and
 * every execution that stops faulting ends with a running copy or a lost host (no invalid end state).
 */
mtype = { PREPARE, PREPARE_POST, READY, COMMIT, RUNNING, COMPLETE, ABORT };
mtype = { PRECOPY, FINAL, WAIT_READY, COMMITTING, DOUBT, DONE, FAILED, SERVE, CUT };
mtype = { RECEIVE, PREPARED, HELD, COMMITTED, ABORTED, FILL, BROKEN };
mtype = { NONE, LOST };

chan to_dst = [2] of { mtype };
chan to_src = [2] of { mtype };
mtype src = PRECOPY, dst = RECEIVE, journal = NONE;
bool link_up = true, src_alive = true, dst_alive = true;
bool post = false, dst_post = false; /* post-copy, as each side knows it */

#define SRC_RUNS (src_alive && (src == PRECOPY || src == FAILED))
#define DST_RUNS (dst_alive && (dst == COMMITTED || dst == FILL))
#define CHECK assert(!(SRC_RUNS && DST_RUNS))
#define SEND(c, m) if :: link_up -> c!m :: else fi

proctype source()
{
	mtype m;
end:	do
	:: !src_alive -> break
	:: src == DONE || src == FAILED || src == LOST -> break
	:: atomic { src_alive && src == PRECOPY -> src = FINAL }
	:: atomic { src_alive && src == PRECOPY -> src = FINAL; post = true }
	:: atomic { src_alive && src == FINAL && !post -> SEND(to_dst, PREPARE); src = WAIT_READY }
	:: atomic { src_alive && src == FINAL && post -> SEND(to_dst, PREPARE_POST); src = WAIT_READY }
	:: atomic { src_alive && (src == PRECOPY || src == FINAL || src == WAIT_READY) ->
		SEND(to_dst, ABORT); src = FAILED; CHECK } /* cancel */
	:: atomic { src_alive && to_src?[m] -> to_src?m;
		if
		:: m == READY && src == WAIT_READY -> src = COMMITTING; SEND(to_dst, COMMIT)
		:: m == RUNNING && (src == COMMITTING || src == DOUBT) && !post -> src = DONE
		:: m == RUNNING && src == COMMITTING && post -> src = SERVE
		:: m == COMPLETE && src == SERVE -> src = DONE
		:: m == ABORT && src != DONE -> src = FAILED; CHECK
		:: else
		fi }
	:: atomic { src_alive && !link_up && empty(to_src) &&
			(src == PRECOPY || src == FINAL || src == WAIT_READY) -> src = FAILED; CHECK }
	:: atomic { src_alive && !link_up && src == COMMITTING -> src = DOUBT }
	/* The destination's agent answers from its journal; for a dead process without an entry it
	 * writes "aborted" first. */
	:: atomic { src_alive && src == DOUBT && journal == COMMITTED && !post -> src = DONE }
	:: atomic { src_alive && src == DOUBT && journal == COMMITTED && post && dst_alive -> src = CUT }
	:: atomic { src_alive && (src == DOUBT || src == CUT) && journal == COMPLETE -> src = DONE }
	:: atomic { src_alive && (src == DOUBT || src == CUT) && post && journal == COMMITTED && !dst_alive ->
		src = LOST }
	:: atomic { src_alive && !link_up && src == SERVE -> src = CUT }
	/* A new link, by one command. */
	:: atomic { src_alive && dst_alive && !link_up && src == CUT && dst == BROKEN ->
		do :: to_dst?[m] -> to_dst?m :: to_src?[m] -> to_src?m
		   :: empty(to_dst) && empty(to_src) -> break od;
		link_up = true; src = SERVE; dst = FILL; CHECK }
	:: atomic { src_alive && src == DOUBT && journal == ABORTED -> src = FAILED; CHECK }
	:: atomic { src_alive && src == DOUBT && journal == NONE && !dst_alive ->
		journal = ABORTED; src = FAILED; CHECK }
	od
}

proctype destination()
{
	mtype m;
end:	do
	:: !dst_alive -> break
	:: dst == COMMITTED || dst == ABORTED || dst == LOST -> break
	:: atomic { dst_alive && to_dst?[m] -> to_dst?m;
		if
		:: m == PREPARE && dst == RECEIVE -> dst = PREPARED; SEND(to_src, READY)
		:: m == PREPARE_POST && dst == RECEIVE -> dst = PREPARED; dst_post = true; SEND(to_src, READY)
		:: m == COMMIT && dst == PREPARED && dst_post -> journal = COMMITTED; dst = FILL; CHECK;
			SEND(to_src, RUNNING)
		:: m == COMMIT && dst == PREPARED && !dst_post -> journal = COMMITTED; dst = COMMITTED; CHECK;
			SEND(to_src, RUNNING)
		:: m == ABORT && (dst == RECEIVE || dst == PREPARED) -> journal = ABORTED; dst = ABORTED
		:: else
		fi }
	:: atomic { dst_alive && (dst == RECEIVE || dst == PREPARED) ->
		journal = ABORTED; dst = ABORTED; SEND(to_src, ABORT) } /* cancel */
	:: atomic { dst_alive && dst == HELD -> journal = ABORTED; dst = ABORTED }
	:: atomic { dst_alive && !link_up && dst == RECEIVE -> journal = ABORTED; dst = ABORTED }
	:: atomic { dst_alive && !link_up && dst == PREPARED -> dst = HELD }
	/* The source's agent answers. */
	:: atomic { dst_alive && dst == HELD && !src_alive && !dst_post ->
		journal = COMMITTED; dst = COMMITTED; CHECK }
	:: atomic { dst_alive && dst == HELD && !src_alive && dst_post -> journal = ABORTED; dst = ABORTED }
	:: atomic { dst_alive && dst == HELD && src_alive && (src == COMMITTING || src == DOUBT) ->
		journal = COMMITTED;
		if :: dst_post -> dst = BROKEN :: else -> dst = COMMITTED fi;
		CHECK }
	/* The last page comes while the source has the memory and the link. */
	:: atomic { dst_alive && dst == FILL && link_up && src_alive && (src == COMMITTING || src == SERVE) ->
		journal = COMPLETE; dst = COMMITTED; SEND(to_src, COMPLETE) }
	:: atomic { dst_alive && dst == FILL && !link_up -> dst = BROKEN }
	:: atomic { dst_alive && dst == BROKEN && !src_alive -> dst = LOST }
	:: atomic { dst_alive && dst == HELD && src_alive && src == FAILED ->
		journal = ABORTED; dst = ABORTED }
	od
}

/* At most one fault of each kind, at any moment. */
proctype faults()
{
	mtype m;
	if
	:: atomic { link_up = false;
		if :: to_dst?[m] -> to_dst?m :: true fi;
		if :: to_src?[m] -> to_src?m :: true fi }
	:: atomic { link_up = false; src_alive = false; do :: to_src?[m] -> to_src?m :: empty(to_src) -> break od }
	:: atomic { link_up = false; dst_alive = false; do :: to_dst?[m] -> to_dst?m :: empty(to_dst) -> break od }
	:: skip
	fi
}

init {
	atomic { run source(); run destination(); run faults() }
	timeout; /* nothing can move any more: some copy runs, unless its process died as the only one */
	assert(SRC_RUNS || DST_RUNS || !src_alive || !dst_alive);
	assert(!(src_alive && !dst_alive && journal != COMMITTED && journal != COMPLETE) || SRC_RUNS);
	assert(!(dst_alive && !src_alive && dst != ABORTED && dst != RECEIVE && dst != LOST) || DST_RUNS);
	assert(!(src == DONE && post && dst_alive && (dst == FILL || dst == BROKEN)))
}
