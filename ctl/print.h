/* Output for people (tables, colours on a terminal only) and for programs (JSON). */
#ifndef CTL_PRINT_H
#define CTL_PRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/cleanup.h"

/* ---- JSON ---- */

/* Compact, commas by itself. Text that is not UTF-8 is made so. */
struct print_json {
	FILE *f;
	bool comma;
};

void print_json_open(struct print_json *j, const char *key, char bracket);
void print_json_close(struct print_json *j, char bracket);
/* key NULL: an element of an array. */
void print_json_text(struct print_json *j, const char *key, const char *value);
void print_json_number(struct print_json *j, const char *key, uint64_t value);
void print_json_bool(struct print_json *j, const char *key, bool value);

/* ---- tables ---- */

enum { PRINT_MAX_COLUMNS = 12, PRINT_CELL_MAX = 512 };

struct print_table {
	size_t columns, rows, cap;
	bool colour;
	bool right[PRINT_MAX_COLUMNS];
	char **cells;
	bool failed; /* out of memory */
};

/* Column headings; one that starts with '>' is aligned to the right. */
void print_table_init(struct print_table *t, bool colour, const char *const *headings,
		      size_t columns);
/* Cells are cleaned of control characters. */
void print_table_row(struct print_table *t, const char *const *cells);
/* Prints and frees. */
void print_table_end(struct print_table *t, FILE *f);

/* The escape sequence of a state or level word, or "" without colour. */
const char *print_colour(bool colour, const char *word);
const char *print_plain(bool colour);

#endif
