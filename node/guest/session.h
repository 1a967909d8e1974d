/*
 * A command in the guest on behalf of someone outside (proto/guest_line.h): its process, what it is
 * to read, and what it has written and nobody has acknowledged. One thread, one loop.
 */
#ifndef NODE_GUEST_SESSION_H
#define NODE_GUEST_SESSION_H

#include <sys/types.h>

#include "base/list.h"
#include "base/loop.h"
#include "proto/guest_line.h"

enum { SESSION_MAX = 32, SESSION_BUFFER = 65536 };

struct guest_helper {
	struct base_loop *loop;
	void (*send)(const struct guest_line *l);
	int64_t again_ms; /* GUEST_AGAIN_MS, or shorter in tests */
	struct base_list sessions;
	unsigned session_count;
};

/* A line for us; opens, feeds and ends sessions. */
void guest_take(struct guest_helper *h, const struct guest_line *l);
/* A child has ended. */
void guest_reaped(struct guest_helper *h, pid_t pid, int status);

#endif
