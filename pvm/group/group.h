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
	bool watching;	    /* for the ends of those that this one hears from */
	int64_t rounds;	    /* barriers among members done */
	int64_t last_round; /* that can still be */
	bool *gone;	    /* who has died, and who has left; NULL before the first */
	bool *left;
	/* Of those that are on one host; NULL: their barriers go by messages. */
	struct gs_shared *shared;
	struct mp_msg *shared_keep;
	unsigned arrivals; /* when messages were looked at last */
	unsigned reduce_arrivals;
	uint64_t reductions; /* by shared memory, begun */
	int me;		     /* with `shared` */
	int slots;
	int *tids;
};

enum {
	GS_TURNS = 4,	     /* reductions that members may be ahead of the root without messages */
	GS_PLACE_MAX = 1024, /* bytes; with more the members do it by messages, as a tree */
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
	uint32_t bytes;
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
	_Alignas(64) _Atomic uint64_t came; /* over all rounds */
	struct {
		_Alignas(64) _Atomic int64_t rounds; /* that it has come to */
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
/* Receives the news of those who have left or died. */
void gs_barrier_news(struct gs_members *m);
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
/* Whether a reduction goes by shared memory, which all members answer alike; then all do it. */
bool gs_shared_can_reduce(const struct gs_members *m, size_t bytes);
int gs_shared_reduce(struct gs_members *m, gs_reduce_fn fn, void *data, size_t bytes, int count,
		     int type, int tag, int root);
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
