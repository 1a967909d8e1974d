/* A guest as people see it: the records of its slices together. */
#ifndef CTL_GUEST_H
#define CTL_GUEST_H

#include "ctl/ctl.h"

struct ctl_guest {
	const struct control_vm *vm;			  /* the lead's record where there is one */
	size_t count;					  /* of slices; 0: an ordinary guest */
	const struct control_vm *slice[VMSPEC_MAX_PARTS]; /* NULL: its node does not answer */
};

/* Groups the records of a VM_LS; `out` has room for r->vm_count. */
size_t ctl_guests(const struct control_reply *r, struct ctl_guest *out);
/* Its vCPUs and memory are on other nodes. */
bool ctl_guest_left(const struct ctl_guest *g, size_t slice);
/* "a", or "a+b" in the order of the slices. */
void ctl_guest_nodes(const struct ctl_guest *g, char *out, size_t cap);
/*
 * The slices of one guest, also of one that has ended, from all nodes. `r` holds the records and is
 * for control_reply_fini(). An exit code that has been reported.
 */
BASE_MUST_CHECK int ctl_guest_ask(struct ctl *c, const char *vm, struct control_reply *r,
				  struct ctl_guest *g);

#endif
