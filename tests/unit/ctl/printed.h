#ifndef TESTS_UNIT_CTL_PRINTED_H
#define TESTS_UNIT_CTL_PRINTED_H

#include "ctl/stats.h"

/* What stats_json() writes to stdout; free(3) it. */
static inline char *printed_json(const struct stats_sample *s, const struct stats_names *names)
{
	FILE *old = stdout, *f;
	char *text = NULL;
	size_t len = 0;

	f = open_memstream(&text, &len);
	assert_non_null(f);
	stdout = f;
	stats_json("big", s, NULL, names);
	stdout = old;
	fclose(f);
	return text;
}

#endif
