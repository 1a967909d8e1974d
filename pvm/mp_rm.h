/*
 * Calls that a resource manager (pvm_reg_rm) answers in the daemon's place, in messages SM_* of
 * PVM 3.4. Each returns what the daemon's call would, with `body` in the daemon's form; MP_RM_NONE
 * when there is no resource manager, or none any more: then the daemon is to be asked.
 */
#ifndef PVM_MP_RM_H
#define PVM_MP_RM_H

#include <limits.h>

#include "base/buf.h"

enum { MP_RM_NONE = INT_MIN };

int mp_rm_spawn(const char *file, char **argv, int flags, const char *where, int count,
		struct base_wbuf *body);
int mp_rm_config(struct base_wbuf *body);
int mp_rm_tasks(int where, struct base_wbuf *body);
int mp_rm_addhosts(char **names, int count, struct base_wbuf *body);
int mp_rm_delhosts(char **names, int count, struct base_wbuf *body);
int mp_rm_notify(int what, int tag, int count, const int *tids);

#endif
