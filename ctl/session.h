/*
 * A command in a guest, through the guest channel (proto/guest_line.h): its output comes once and in
 * order, its input arrives once and in order, although the VM may move to another node meanwhile
 * and agents may restart. Everything belongs to the loop of `ctl`.
 */
#ifndef CTL_SESSION_H
#define CTL_SESSION_H

#include "ctl/ctl.h"
#include "proto/guest_line.h"

struct ctl_session;

struct ctl_session_ops {
	/* Output; the bytes are gone afterwards. */
	void (*output)(void *ctx, const void *data, size_t len);
	/* More input is wanted. May be NULL. */
	void (*wants_input)(void *ctx);
};

/* Opens it; 0, or an exit code that has been reported. `ops` and `ctx` stay the caller's. */
BASE_MUST_CHECK int ctl_session_open(struct ctl *c, const char *vm, const char *command,
				     const struct ctl_session_ops *ops, void *ctx,
				     struct ctl_session **out);
/* How much of the input is taken now: all or, while some is on the way, nothing. */
size_t ctl_session_input(struct ctl_session *s, const void *data, size_t len);
/* After all input that was taken. */
void ctl_session_eof(struct ctl_session *s);
/* SIGHUP to what runs there. */
void ctl_session_kill(struct ctl_session *s);
bool ctl_session_over(const struct ctl_session *s);
/* Turns the loop until it is over; the command's exit code, or one of ours that was reported. */
BASE_MUST_CHECK int ctl_session_wait(struct ctl_session *s);
/* The command ends if it has not yet. NULL is fine. */
void ctl_session_free(struct ctl_session *s);

#endif
