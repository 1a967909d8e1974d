/*
 * The inside of libgpvm3: talking to the group server, lists of members, data types. Everything
 * goes through the public calls of libpvm3. One thread, as libpvm3. Negative Pvm codes.
 */
#ifndef PVM_GROUP_H
#define PVM_GROUP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "pvm/gs/gs_proto.h"
#include "pvm/include/pvm3.h"
#include "pvm/mp_shared.h"

int lpvmerr(const char *function, int code); /* of libpvm3 */

/* Buffers and context of the caller, put aside while ours are used. */
struct gs_aside {
	int sbuf, rbuf, ctx;
};
void gs_aside_begin(struct gs_aside *a, int ctx);
void gs_aside_end(const struct gs_aside *a);

/* Members of a group by instance; 0 where nobody is. Frozen groups stay known. */
struct gs_members {
	struct gs_members *next;
	char *name;
	int generation;
	bool is_static;
	/* static: */
	bool broken;	    /* its barriers are over */
	bool watching;	    /* for the ends of those that this one hears from, */
	bool watching_all;  /* and, where it waits for others, of all */
	int64_t rounds;	    /* barriers among members done */
	int64_t last_round; /* that can still be */
	bool *gone;	    /* who has died, and who has left; NULL before the first */
	bool *left;
	/* Of those that are on one host; NULL: their barriers go by messages. */
	struct gs_shared *shared;
	struct mp_msg *shared_keep;
	unsigned arrivals; /* when messages were looked at last */
	unsigned reduce_arrivals;
	uint64_t reductions;	/* begun */
	uint64_t calls_through; /* of them, that all are through, as far as is known */
	int me;			/* with `shared` */
	int slots;
	int *tids;
};

enum {
	GS_TURNS = 4,	     /* reductions that members may be ahead of the root without messages */
	GS_PLACE_MAX = 1024, /* bytes; with more the members do it by messages, as a tree */
	GS_CALLS =
		1024, /* reductions that members may be ahead of others and still agree with them */
};

/* Each GS_TURNS'th reduction: how many are over, how many have come to this one, and how its root is told. */
struct gs_turn {
	_Alignas(64) struct mp_shared_word told;
	_Alignas(64) _Atomic uint64_t over;
	_Atomic uint32_t came;
};

/* What one member adds to one reduction. */
struct gs_place {
	_Alignas(64) _Atomic uint64_t number; /* of the reduction */
	_Alignas(64) char data[GS_PLACE_MAX];
};

/*
 * What the members share, made by instance 0. A round is over when all have come; who comes last says so.
 * Behind it a struct gs_place for each turn and member: shared_reduce.c.
 */
struct gs_shared {
	struct mp_shared_word done; /* the last round that is over, its low 32 bits */
	_Atomic uint32_t cores;
	_Atomic uint32_t by_message; /* reductions, too */
	struct gs_turn turns[GS_TURNS];
	/* What reductions are, by number: the low half of that, and a mark. */
	_Alignas(64) _Atomic uint64_t calls[GS_CALLS];
	_Alignas(64) _Atomic uint64_t came; /* over all rounds */
	struct {
		_Alignas(64) _Atomic int64_t rounds; /* that it has come to */
		_Atomic uint64_t calls;		     /* reductions that it is through */
	} at[];					     /* by instance */
};

/*
 * One request and its reply. The result, or a negative code; what the reply adds can be unpacked in
 * `more` (may be NULL), which returns 0 or a code.
 */
int gs_ask(enum gs_op op, const char *group, int arg, int (*more)(void *arg), void *more_arg);

/* The members as they are now; *out is the library's and valid until the next call. */
BASE_MUST_CHECK int gs_members_get(const char *group, const struct gs_members **out);
/* What is known of a frozen group without asking; NULL otherwise. */
struct gs_members *gs_members_static(const char *group);
/* A barrier of all; the caller is instance `me`. */
int gs_barrier_static(struct gs_members *m, int me);
/*
 * After the freeze, in which all have taken part: the members agree on what they share. A member that
 * leaves or dies meanwhile breaks the group, as in a barrier.
 */
void gs_barrier_setup(struct gs_members *m, int me);
/* Of a group with `shared`. */
int gs_shared_round(struct gs_members *m);
/* Instance `inst` has ended: the rounds that it was in. */
int64_t gs_shared_rounds(const struct gs_members *m, int inst);
/* Of the host that they are on, the same for all of them. */
int gs_shared_cores(const struct gs_members *m);
/* Bytes before the places. */
size_t gs_shared_places_at(int slots);
/* Who waits for others than in barriers hears of their deaths, too. Again: does nothing. */
BASE_MUST_CHECK int gs_barrier_watch_all(struct gs_members *m);
/* Receives the news of those who have left or died. */
void gs_barrier_news(struct gs_members *m);
/* The tag of a sum. */
int gs_sum_tag(const struct gs_members *m);
/* All are woken that wait for messages alone, or the one. */
void gs_barrier_go(struct gs_members *m);
void gs_barrier_wake(struct gs_members *m, int inst);
/* The others hear of it. */
void gs_barrier_leave(struct gs_members *m, int me);
int gs_members_ask(enum gs_op op, const char *group, int arg);
void gs_members_forget(const char *group);
/* Instance of `tid`, PvmNotInGroup. */
int gs_members_inst(const struct gs_members *m, int tid);
int gs_members_count(const struct gs_members *m);

/* PvmNullGroup when there is no name. */
int gs_name_check(const char *group);

/* Bytes of one item of a PVM_* type, 0 for what is none. */
size_t gs_type_size(int type);

/* The calls without their trace events, which group/traced.c adds. */
typedef void (*gs_reduce_fn)(int *type, void *x, void *y, int *count, int *info);
/* A reduction of a group with `shared`; `number` counts from 1. */
struct gs_call {
	struct gs_members *m;
	struct gs_turn *turn;
	uint64_t number;
	gs_reduce_fn fn;
	int tag, type, count, root;
	size_t bytes;
};

/* Whether reductions are made that way, which all members answer alike. */
bool gs_shared_can_reduce(const struct gs_members *m);
/* The caller sets fn, tag, type, count and root, whatever they are. */
int gs_shared_reduce(struct gs_members *m, struct gs_call *c, void *data);
/* shared_agree.c: before a call, and after it. `error`: what is wrong with the arguments already. */
int gs_call_agree(const struct gs_call *c, int error);
void gs_call_end(const struct gs_call *c);
/* By any of the members; who waits is woken then. */
bool gs_call_refused(const struct gs_call *c);
/* The place of member `inst` has its part of a call of a few bytes. */
bool gs_place_is_full(const struct gs_call *c, int inst);
/* shared_part.c: a sum that comes from member `inst` by a message: 1 and it is in data; 0, not yet; an error, its own as well. */
int gs_part_poll(const struct gs_call *c, int inst, void *data);
/* The same, waited for. */
int gs_part_await(const struct gs_call *c, int inst, void *data);
/* With an error instead of data. */
int gs_part_send(const struct gs_call *c, int inst, const void *data, int error);

/* tree.c */
struct gs_tree {
	int n, rank; /* 0 is the root */
	int width;   /* how many share a core */
	/* What is here goes to another, or the news that it has failed. */
	int (*send)(struct gs_tree *t, int rank, int error);
	/* Adds what comes from another; with `error` it is only heard. */
	int (*take)(struct gs_tree *t, int rank, int error);
};
int gs_tree_run(struct gs_tree *t);

int gs_do_joingroup(char *group);
int gs_do_lvgroup(char *group);
int gs_do_getinst(char *group, int tid);
int gs_do_gettid(char *group, int inst);
int gs_do_gsize(char *group);
int gs_do_freezegroup(char *group, int size);
int gs_do_barrier(char *group, int count);
/* *tids, which the caller frees, are those that got it. */
int gs_do_bcast(char *group, int msgtag, int **tids, int *count);
int gs_do_reduce(gs_reduce_fn fn, void *data, int count, int type, int tag, char *group, int root);
int gs_do_gather(void *result, void *data, int count, int type, int tag, char *group, int root);
int gs_do_scatter(void *result, void *data, int count, int type, int tag, char *group, int root);

#endif
