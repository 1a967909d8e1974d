/* The counters of all slices of one guest, put together for people and for programs. */
#ifndef CTL_STATS_H
#define CTL_STATS_H

#include "ctl/ctl.h"
#include "ctl/sysmap.h"

/* One look at all slices. */
struct stats_sample {
	size_t count;
	int64_t at_ns;
	bool there[VMSPEC_MAX_PARTS];
	char node[VMSPEC_MAX_PARTS][TEXT_NAME_MAX];
	struct control_reply reply[VMSPEC_MAX_PARTS]; /* items; where `there` */
};

/* `before`: an earlier look, for rates, or NULL. `map` may be NULL. */
void stats_print(const struct ctl *c, const struct stats_sample *now,
		 const struct stats_sample *before, const struct sysmap *map);
/* One line. */
void stats_json(const char *vm, const struct stats_sample *now, const struct stats_sample *before,
		const struct sysmap *map);
/* Where page number gfn (in the order of guest memory) lies for the guest. */
uint64_t stats_gfn_address(uint64_t gfn);

#endif
