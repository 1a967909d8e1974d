/*
 * Trace events. A public call is made of the call itself (mp_api.h) and of an event at its start and
 * at its end (mp_traced.c); the task that traces us gets them as messages. Calls that one call of the
 * library makes of another are not reported, and pvmtoplvl is 0 meanwhile; libgpvm3 does the same.
 *
 * A message holds, as XDR integers and pvm_pkstr strings, one event
 *	TEV_MARK_EVENT_DESC	event, name, then for each datum its id, type and value; ..._END
 *	TEV_MARK_EVENT_RECORD	event, then the values alone; ..._END
 * the first of each kind described, others as records; with a buffer size set several between
 * TEV_MARK_EVENT_BUFFER and ..._END. The first data of each are seconds, microseconds and the tid.
 * One thread, as all of libpvm3.
 */
#ifndef PVM_MP_TEV_H
#define PVM_MP_TEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pvm/include/pvm3.h"
#include "pvm/include/pvmtev.h"

struct mp_tev_item {
	uint8_t did, type; /* TEV_DID_*, TEV_DATA_* */
	int count;	   /* of an array */
	int value;
	const void *data; /* string, array of int, array of strings */
};

enum mp_tev_state { MP_TEV_UNKNOWN, MP_TEV_OFF, MP_TEV_ON };
extern enum mp_tev_state mp_tev_state;

/* True: this call is reported. mp_tev_leave() goes with it. */
bool mp_tev_enter_slowly(bool enrol);
void mp_tev_leave(void);
/* Whether the event `kind` is wanted; with TEV_EVENT_EXIT or _ENTRY its count or time is kept here. */
bool mp_tev_wants(int event);
void mp_tev_put(int event, const struct mp_tev_item *items, size_t n);

/* The task has enrolled, or its sink or mask has changed. */
void mp_tev_changed(void);
/* What is still in the buffer goes out: before an exit, and before the sink changes. */
void mp_tev_finish(void);
/* The daemon is gone, or this is a child of fork(): all is forgotten. */
void mp_tev_reset(void);

static inline bool mp_tev_enter(bool enrol)
{
	return mp_tev_state != MP_TEV_OFF && mp_tev_enter_slowly(enrol);
}

#define MP_TEV_INT(id, v)                                                                          \
	{                                                                                          \
		.did = TEV_DID_##id, .type = TEV_DATA_INT, .value = (v)                            \
	}
/* Four bytes of it, as the original. */
#define MP_TEV_ADDRESS(id, p)                                                                      \
	{                                                                                          \
		.did = TEV_DID_##id, .type = TEV_DATA_LONG, .value = (int)(intptr_t)(p)            \
	}
#define MP_TEV_STRING(id, s)                                                                       \
	{                                                                                          \
		.did = TEV_DID_##id, .type = TEV_DATA_STRING, .data = (s)                          \
	}
#define MP_TEV_INTS(id, p, n)                                                                      \
	{                                                                                          \
		.did = TEV_DID_##id, .type = TEV_DATA_INT | TEV_DATA_ARRAY, .count = (n),          \
		.data = (p)                                                                        \
	}
#define MP_TEV_STRINGS(id, p, n)                                                                   \
	{                                                                                          \
		.did = TEV_DID_##id, .type = TEV_DATA_STRING | TEV_DATA_ARRAY, .count = (n),       \
		.data = (p)                                                                        \
	}

/* The items are looked at only when they are wanted. */
#define MP_TEV(event, ...)                                                                         \
	do {                                                                                       \
		if (mp_tev_wants(event))                                                           \
			mp_tev_put(event, (struct mp_tev_item[]){__VA_ARGS__},                     \
				   sizeof((struct mp_tev_item[]){__VA_ARGS__}) /                   \
					   sizeof(struct mp_tev_item));                            \
	} while (0)

#endif
