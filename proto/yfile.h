/*
 * Strict reading of small YAML files by tables of fields: unknown, repeated and missing keys, wrong
 * types and values beyond their bounds are errors that name the file and the line. Bounded: 256
 * KiB, one document, no aliases.
 */
#ifndef PROTO_YFILE_H
#define PROTO_YFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

enum { YFILE_MAX_BYTES = 256 * 1024, YFILE_MAX_FIELDS = 32 };

struct yfile;

struct yfield {
	const char *key;
	/* Takes the value at `node` into `out`; -EBADMSG by yfile_fail(). */
	int (*take)(struct yfile *f, int node, void *out);
	bool required;
};

/*
 * Parses text; `name` is what errors call it. `why` (kept by reference) receives the first error.
 * -EBADMSG, -E2BIG, -ENOMEM.
 */
BASE_MUST_CHECK int yfile_parse(const char *name, const void *text, size_t len, char *why,
				size_t cap, struct yfile **out);
/* The same for a file; -errno of open(2) and read(2) as well. */
BASE_MUST_CHECK int yfile_read(const char *path, char *why, size_t cap, struct yfile **out);
void yfile_free(struct yfile *f);

int yfile_root(const struct yfile *f);
/* Records "FILE:LINE: text" unless there is an error already; returns -EBADMSG. */
int yfile_fail(struct yfile *f, int node, const char *fmt, ...) BASE_PRINTF(3, 4);

BASE_MUST_CHECK int yfile_map(struct yfile *f, int node, const struct yfield *fields, size_t count,
			      void *out);
BASE_MUST_CHECK int yfile_seq(struct yfile *f, int node, size_t max,
			      int (*take)(struct yfile *f, int node, void *out), void *out);
/* The text of a scalar (valid as long as the file), or NULL and an error is recorded. */
const char *yfile_scalar(struct yfile *f, int node);
/* Copies a scalar of less than cap bytes without control characters. */
BASE_MUST_CHECK int yfile_text(struct yfile *f, int node, char *out, size_t cap);
BASE_MUST_CHECK int yfile_name(struct yfile *f, int node, char out[64]);
BASE_MUST_CHECK int yfile_number(struct yfile *f, int node, uint64_t min, uint64_t max,
				 uint64_t *out);

#endif
