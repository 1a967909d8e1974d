/* One line of a host file, or one name given to pvm_addhosts. Pure. */
#ifndef PVM_PVMD_MPD_HOSTFILE_H
#define PVM_PVMD_MPD_HOSTFILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

enum { MPD_FIELD_MAX = 1024 };

struct mpd_hostline {
	char name[256]; /* empty: a comment, or defaults ("*") */
	bool defaults;	/* "*": for the lines that follow */
	bool later;	/* "&": known, not started */
	char login[256], start[16], daemon[MPD_FIELD_MAX], path[MPD_FIELD_MAX];
	char dir[MPD_FIELD_MAX], debugger[MPD_FIELD_MAX], ip[256], vmid[64];
	int speed; /* 0: not given */
};

/*
 * Fills *out, starting from *base (the defaults so far, may be NULL). -EINVAL with a text in
 * why[] when the line is not valid.
 */
BASE_MUST_CHECK int mpd_hostline_parse(const char *line, const struct mpd_hostline *base,
				       struct mpd_hostline *out, char *why, size_t why_cap);

#endif
