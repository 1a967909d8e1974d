/*
 * The hand-over of migrate/fsm.h for Spin: messages in flight, a link that may break, processes that
 * may die, agents that answer from the journals. Checked: never two running copies (assertions), and
 * every execution that stops faulting ends with a running copy or a lost host (no invalid end state).
 */
mtype = { PREPARE, READY, COMMIT, RUNNING, ABORT };
mtype = { PRECOPY, FINAL, WAIT_READY, COMMITTING, DOUBT, DONE, FAILED };
mtype = { RECEIVE, PREPARED, HELD, COMMITTED, ABORTED };
mtype = { NONE };

chan to_dst = [2] of { mtype };
chan to_src = [2] of { mtype };
mtype src = PRECOPY, dst = RECEIVE, journal = NONE;
bool link_up = true, src_alive = true, dst_alive = true;

#define SRC_RUNS (src_alive && (src == PRECOPY || src == FAILED))
#define DST_RUNS (dst_alive && dst == COMMITTED)
#define CHECK assert(!(SRC_RUNS && DST_RUNS))
#define SEND(c, m) if :: link_up -> c!m :: else fi

proctype source()
{
	mtype m;
end:	do
	:: !src_alive -> break
	:: src == DONE || src == FAILED -> break
	:: atomic { src_alive && src == PRECOPY -> src = FINAL }
	:: atomic { src_alive && src == FINAL -> SEND(to_dst, PREPARE); src = WAIT_READY }
	:: atomic { src_alive && (src == PRECOPY || src == FINAL || src == WAIT_READY) ->
		SEND(to_dst, ABORT); src = FAILED; CHECK } /* cancel */
	:: atomic { src_alive && to_src?[m] -> to_src?m;
		if
		:: m == READY && src == WAIT_READY -> src = COMMITTING; SEND(to_dst, COMMIT)
		:: m == RUNNING && (src == COMMITTING || src == DOUBT) -> src = DONE
		:: m == ABORT && src != DONE -> src = FAILED; CHECK
		:: else
		fi }
	:: atomic { src_alive && !link_up && empty(to_src) &&
			(src == PRECOPY || src == FINAL || src == WAIT_READY) -> src = FAILED; CHECK }
	:: atomic { src_alive && !link_up && src == COMMITTING -> src = DOUBT }
	/* The destination's agent answers from its journal; for a dead process without an entry it
	 * writes "aborted" first. */
	:: atomic { src_alive && src == DOUBT && journal == COMMITTED -> src = DONE }
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
	:: dst == COMMITTED || dst == ABORTED -> break
	:: atomic { dst_alive && to_dst?[m] -> to_dst?m;
		if
		:: m == PREPARE && dst == RECEIVE -> dst = PREPARED; SEND(to_src, READY)
		:: m == COMMIT && dst == PREPARED -> journal = COMMITTED; dst = COMMITTED; CHECK;
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
	:: atomic { dst_alive && dst == HELD && !src_alive -> journal = COMMITTED; dst = COMMITTED; CHECK }
	:: atomic { dst_alive && dst == HELD && src_alive && (src == COMMITTING || src == DOUBT) ->
		journal = COMMITTED; dst = COMMITTED; CHECK }
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
	assert(!(src_alive && !dst_alive && journal != COMMITTED) || SRC_RUNS);
	assert(!(dst_alive && !src_alive && dst != ABORTED && dst != RECEIVE) || DST_RUNS)
}
