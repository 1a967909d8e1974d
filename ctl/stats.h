/* The counters of all slices of one guest, put together for people and for programs. */
#ifndef CTL_STATS_H
#define CTL_STATS_H

#include "ctl/ctl.h"
#include "ctl/kernel.h"
#include "ctl/sysmap.h"

/* One look at all slices. */
struct stats_sample {
	size_t count;
	int64_t at_ns;
	bool there[VMSPEC_MAX_PARTS];
	char node[VMSPEC_MAX_PARTS][TEXT_NAME_MAX];
	struct control_reply reply[VMSPEC_MAX_PARTS]; /* items; where `there` */
};

/* What names the guest's pages. */
struct stats_names {
	const struct sysmap *map; /* NULL: no names at all */
	struct kernel *kernel;	  /* NULL: no processes, */
	const char *why;	  /* because of that; NULL: nobody has looked */
};

/* `before`: an earlier look, for rates, or NULL. */
void stats_print(const struct ctl *c, const struct stats_sample *now,
		 const struct stats_sample *before, const struct stats_names *names);
/* One line. */
void stats_json(const char *vm, const struct stats_sample *now, const struct stats_sample *before,
		const struct stats_names *names);
/* There are pages that were taken often. */
bool stats_has_hot(const struct stats_sample *s);
/* Where page number gfn (in the order of guest memory) lies for the guest. */
uint64_t stats_gfn_address(uint64_t gfn);

#endif
