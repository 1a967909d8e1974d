/*
 * The page protocol of dsm/page_fsm.c, for Spin: N nodes, P pages that share no state except the
 * nodes that use them. Channels between two nodes are in order; what crosses between different
 * channels is free. Hold times are left out: deferring is a message that stays in its channel a
 * little longer, which the free interleaving covers already.
 *
 * Checked: no message that a node cannot take (assert), single writer, no stale read after an
 * acknowledged write (a read always sees the last write), and that when all is quiet no request is
 * left open (no deadlock). Each node makes OPS accesses that need the protocol or write, any number
 * of reads in place, and may drop copies. With -DPROGRESS: accesses without end; some access always
 * goes on to complete.
 */
#ifndef N
#define N 3
#endif
#ifndef P
#define P 2
#endif
#ifndef OPS
#define OPS 1
#endif
#define Q 3

#define HOME(p) ((p) % N)
#define B(n)	(1 << (n))

mtype = { GET_S, GET_X, FWD_S, FWD_X, INV, INV_ACK, DATA, DONE };
mtype = { NOBYTES, BYTES };

/* type, page, node, acks, access, kind, value, have */
chan net[N * N] = [Q] of { mtype, byte, byte, byte, byte, mtype, bit, bit };
#define TO(from, to) net[(from) * N + (to)]

#define I 0
#define S 1
#define X 2

typedef node_page {
	byte state;
	byte want;
	bit owner;
	bit has;
	bit data_seen;
	bit need_done;
	bit write; /* what was asked for is to write */
	bit value;
	short acks;
};
typedef dir_page {
	bit touched;
	byte owner;
	byte copyset;
	byte pending;
	bit pending_x;
	byte want_s, want_x, have;
	byte last;
};
typedef pages {
	node_page p[P];
};
pages at[N];
dir_page dir[P];
bit truth[P]; /* the last value written */

/* The scratch variables of a step are no state. */
#define RESET                                                                                      \
	g = 0; from = 0; r = 0; n = 0; acc = 0; k = 0; cnt = 0; was = 0; others = 0; nx = 0; val = 0;         \
	hv = 0; up = 0; w = 0; hh = 0; ty = GET_S; kd = NOBYTES
#ifdef PROGRESS
#define SPEND	  skip /* for ever */
#define COMPLETED tick = 1 - tick
bit tick;
ltl live { []<> tick && []<> !tick }
#else
#define COMPLETED skip
#define SPEND ops--
#endif

#define PG    at[me].p[g]
#define IS(n) at[n].p[g].state

inline single_writer()
{
	assert(!(IS(0) == X && (IS(1) != I || IS(2) != I)));
	assert(!(IS(1) == X && (IS(0) != I || IS(2) != I)));
	assert(!(IS(2) == X && (IS(0) != I || IS(1) != I)));
}

inline done(n)
{
	assert(dir[g].pending & B(n));
	dir[g].pending = dir[g].pending & ~B(n);
	dir[g].pending_x = 0;
	serve();
}

inline finish()
{
	PG.state = PG.want;
	if
	:: PG.want == X -> PG.owner = 1
	:: else
	fi;
	PG.want = I;
	PG.data_seen = 0;
	COMPLETED;
	single_writer();
	assert(PG.value == truth[g]);
	if
	:: PG.write ->
		truth[g] = 1 - truth[g];
		PG.value = truth[g];
		PG.write = 0
	:: else
	fi
}

/* What a node says to itself goes through a channel too, which is emptied before anything else. */
inline grant(r, acc, k, n)
{
	TO(me, r) ! DATA, g, me, n, acc, k, 0, 0
}

/* The owner's side of FWD_S and FWD_X. */
inline supply(r, acc, n)
{
	assert(PG.owner && PG.state != I);
	if
	:: acc == X ->
		PG.state = I;
		PG.owner = 0;
		PG.has = 0
	:: else -> PG.state = S
	fi;
	TO(me, r) ! DATA, g, me, n, acc, BYTES, PG.value, 0;
	if
	:: HOME(g) == me && n == 0 -> TO(me, me) ! DONE, g, r, 0, 0, NOBYTES, 0, 0
	:: else
	fi
}

inline start_s(r, hv)
{
	if
	:: !dir[g].touched ->
		dir[g].touched = 1;
		dir[g].owner = r;
		dir[g].copyset = B(r);
		grant(r, X, BYTES, 0)
	:: else ->
		if
		:: (dir[g].copyset & B(r)) && hv -> grant(r, S, NOBYTES, 0)
		:: else ->
			dir[g].copyset = dir[g].copyset | B(r);
			dir[g].pending = dir[g].pending | B(r);
			TO(me, dir[g].owner) ! FWD_S, g, r, 0, 0, NOBYTES, 0, 0
		fi
	fi
}

inline start_x(r, hv)
{
	if
	:: !dir[g].touched ->
		dir[g].touched = 1;
		dir[g].owner = r;
		dir[g].copyset = B(r);
		grant(r, X, BYTES, 0)
	:: else ->
		up = (dir[g].copyset & B(r)) && hv;
		was = dir[g].owner;
		others = dir[g].copyset & ~B(r);
		if
		:: !up -> others = others & ~B(was)
		:: else
		fi;
		if
		:: others & B(me) -> /* the home's own copy goes at once */
			PG.state = I;
			PG.owner = 0;
			PG.has = 0;
			others = others & ~B(me)
		:: else
		fi;
		cnt = 0;
		k = 0;
		do
		:: k < N ->
			if
			:: others & B(k) ->
				cnt++;
				TO(me, k) ! INV, g, r, 0, 0, NOBYTES, 0, 0
			:: else
			fi;
			k++
		:: else -> break
		od;
		dir[g].owner = r;
		dir[g].copyset = B(r);
		if
		:: up ->
			if
			:: cnt > 0 ->
				dir[g].pending = B(r);
				dir[g].pending_x = 1
			:: else
			fi;
			grant(r, X, NOBYTES, cnt)
		:: else ->
			dir[g].pending = B(r);
			dir[g].pending_x = 1;
			TO(me, was) ! FWD_X, g, r, cnt, 0, NOBYTES, 0, 0
		fi
	fi
}

inline serve()
{
	do
	:: (dir[g].want_s | dir[g].want_x) == 0 -> break
	:: else ->
		nx = dir[g].last;
		do
		:: nx = (nx + 1) % N;
			if
			:: (dir[g].want_s | dir[g].want_x) & B(nx) -> break
			:: else
			fi
		od;
		w = ((dir[g].want_x & B(nx)) != 0);
		if
		:: (w && dir[g].pending) || (!w && dir[g].pending_x) -> break
		:: else
		fi;
		hh = ((dir[g].have & B(nx)) != 0);
		dir[g].want_s = dir[g].want_s & ~B(nx);
		dir[g].want_x = dir[g].want_x & ~B(nx);
		dir[g].have = dir[g].have & ~B(nx);
		dir[g].last = nx;
		if
		:: w -> start_x(nx, hh)
		:: else -> start_s(nx, hh)
		fi
	od
}

inline enqueue(r, acc, hv)
{
	assert(!((dir[g].want_s | dir[g].want_x | dir[g].pending) & B(r)));
	if
	:: acc == X -> dir[g].want_x = dir[g].want_x | B(r)
	:: else -> dir[g].want_s = dir[g].want_s | B(r)
	fi;
	if
	:: hv -> dir[g].have = dir[g].have | B(r)
	:: else
	fi;
	serve()
}

inline complete()
{
	finish();
	if
	:: PG.need_done ->
		PG.need_done = 0;
		TO(me, HOME(g)) ! DONE, g, me, 0, 0, NOBYTES, 0, 0
	:: else
	fi
}

inline receive()
{
	TO(from, me) ? ty, g, r, n, acc, kd, val, hv;
	if
	:: ty == GET_S || ty == GET_X -> enqueue(from, (ty == GET_X -> X : S), hv)
	:: ty == FWD_S || ty == FWD_X -> supply(r, (ty == FWD_X -> X : S), n)
	:: ty == INV ->
		assert(PG.state != X);
		PG.state = I;
		PG.owner = 0;
		PG.has = 0;
		TO(me, r) ! INV_ACK, g, me, 0, 0, NOBYTES, 0, 0
	:: ty == INV_ACK || ty == DATA ->
		assert(PG.want);
		if
		:: ty == INV_ACK -> PG.acks--
		:: else ->
			assert(!PG.data_seen);
			if
			:: kd == BYTES ->
				assert(PG.state == I);
				PG.value = val
			:: else -> assert(PG.has)
			fi;
			PG.has = 1;
			PG.want = acc;
			PG.data_seen = 1;
			PG.need_done = (from != HOME(g) || n > 0);
#ifndef BUG_NO_ACKS /* must be found, or the model checks nothing */
			PG.acks = PG.acks + n
#endif
		fi;
		if
		:: PG.data_seen && PG.acks == 0 -> complete()
		:: else
		fi
	:: ty == DONE -> done(r)
	fi
}

inline ask(acc)
{
	PG.want = acc;
	TO(me, HOME(g)) ! (acc == X -> GET_X : GET_S), g, me, 0, acc, NOBYTES, 0, PG.has
}

proctype node(byte me)
{
	byte g, from, r, n, acc, k, cnt, was, others, nx, ops = OPS;
	bit val, hv, up, w, hh;
	mtype ty, kd;

end:	do
	/* One access of any kind to any page on which none is under way. */
	:: atomic {
#ifdef PROGRESS /* one page; a node in X has nothing to ask for */
		empty(TO(me, me)) && at[me].p[0].want == I && at[me].p[0].state != X -> g = 0;
#else
		ops > 0 && empty(TO(me, me)) -> select(g : 0 .. P - 1);
#endif
		if
		:: PG.want == I && PG.state == I -> SPEND; ask(S)
		:: PG.want == I && PG.state != X -> SPEND; PG.write = 1; ask(X)
#ifndef PROGRESS
		:: PG.want == I && PG.state != I -> assert(PG.value == truth[g]) /* read in place */
		:: PG.want == I && PG.state == X -> SPEND; /* write in place */
			truth[g] = 1 - truth[g];
			PG.value = truth[g]
#endif
		:: PG.want == I && PG.state == S && !PG.owner && HOME(g) != me ->
			PG.state = I /* silent drop */
#ifndef PROGRESS
		:: PG.want == I && PG.state == X -> skip
		:: PG.want != I -> skip
#endif
		fi;
		RESET
	   }
	:: atomic {
		if
		:: nempty(TO(me, me)) -> k = me
		:: empty(TO(me, me)) && me != 0 && nempty(TO(0, me)) -> k = 0
		:: empty(TO(me, me)) && me != 1 && nempty(TO(1, me)) -> k = 1
		:: empty(TO(me, me)) && me != 2 && nempty(TO(2, me)) -> k = 2
		fi;
		from = k;
		receive();
		RESET
	   }
	od
}

init {
	byte i;

	atomic {
		run node(0);
		run node(1);
		run node(2)
	}
	/* Nothing moves any more: then nothing may be left undone. */
	timeout;
	d_step {
		i = 0;
		do
		:: i < N * P ->
			assert(at[i / P].p[i % P].want == I && at[i / P].p[i % P].acks == 0);
			assert(dir[i % P].pending == 0);
			assert((dir[i % P].want_s | dir[i % P].want_x) == 0);
			i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < N * N -> assert(len(net[i]) == 0); i++
		:: else -> break
		od
	}
}
