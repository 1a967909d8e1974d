#include "ctl/print.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/text.h"

/* ---- JSON ---- */

static void put_string(FILE *f, const char *s)
{
	bool utf8;
	char *clean = strdup(s);

	if (!clean)
		return;
	/* Whatever is not printable UTF-8 becomes plain ASCII with '?'. */
	text_clean(clean);
	utf8 = text_printable(clean);
	fputc('"', f);
	for (size_t i = 0; s[i]; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c == '\n')
			fputs("\\n", f);
		else if (c < ' ' || c == 0x7f)
			fprintf(f, "\\u%04x", c);
		else if (c >= 0x80 && !utf8)
			fputc('?', f);
		else
			fputc(c, f);
	}
	fputc('"', f);
	free(clean);
}

static void put_key(struct print_json *j, const char *key)
{
	if (j->comma)
		fputc(',', j->f);
	j->comma = true;
	if (key) {
		put_string(j->f, key);
		fputc(':', j->f);
	}
}

void print_json_open(struct print_json *j, const char *key, char bracket)
{
	put_key(j, key);
	fputc(bracket, j->f);
	j->comma = false;
}

void print_json_close(struct print_json *j, char bracket)
{
	fputc(bracket, j->f);
	j->comma = true;
}

void print_json_text(struct print_json *j, const char *key, const char *value)
{
	put_key(j, key);
	put_string(j->f, value);
}

void print_json_number(struct print_json *j, const char *key, uint64_t value)
{
	put_key(j, key);
	fprintf(j->f, "%" PRIu64, value);
}

void print_json_bool(struct print_json *j, const char *key, bool value)
{
	put_key(j, key);
	fputs(value ? "true" : "false", j->f);
}

/* ---- tables ---- */

static const struct {
	const char *word, *code;
} colours[] = {
	{"ok", "\033[32m"},	{"up", "\033[32m"},	     {"running", "\033[32m"},
	{"warn", "\033[33m"},	{"paused", "\033[33m"},	     {"starting", "\033[33m"},
	{"fail", "\033[31;1m"}, {"unreachable", "\033[31m"}, {"failed", "\033[31m"},
	{"panic", "\033[31m"},	{"error", "\033[31m"},	     {"heading", "\033[1m"},
};

const char *print_colour(bool colour, const char *word)
{
	for (size_t i = 0; colour && i < BASE_ARRAY_LEN(colours); i++)
		if (!strcmp(colours[i].word, word))
			return colours[i].code;
	return "";
}

const char *print_plain(bool colour)
{
	return colour ? "\033[0m" : "";
}

static char *cell_copy(const char *s)
{
	char text[PRINT_CELL_MAX];

	snprintf(text, sizeof(text), "%s", s);
	text_clean(text);
	return strdup(text);
}

void print_table_row(struct print_table *t, const char *const *cells)
{
	size_t need = (t->rows + 1) * t->columns;

	if (need > t->cap) {
		size_t cap = need * 2;
		char **grown = realloc(t->cells, cap * sizeof(*grown));

		if (!grown) {
			t->failed = true;
			return;
		}
		t->cells = grown;
		t->cap = cap;
	}
	for (size_t i = 0; i < t->columns; i++) {
		char *copy = cell_copy(cells[i] ? cells[i] : "");

		t->failed |= !copy;
		t->cells[t->rows * t->columns + i] = copy;
	}
	t->rows++;
}

void print_table_init(struct print_table *t, bool colour, const char *const *headings,
		      size_t columns)
{
	const char *plain[PRINT_MAX_COLUMNS];

	*t = (struct print_table){.columns = columns, .colour = colour};
	for (size_t i = 0; i < columns; i++) {
		t->right[i] = headings[i][0] == '>';
		plain[i] = headings[i] + t->right[i];
	}
	print_table_row(t, plain);
}

/* Columns on a terminal: continuation bytes of UTF-8 take none. */
static int cell_width(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += (*s & 0xc0) != 0x80;
	return n;
}

static void print_cell(const struct print_table *t, FILE *f, size_t row, size_t column, int width)
{
	const char *s = t->cells[row * t->columns + column];
	const char *code = print_colour(t->colour, row ? s : "heading");
	bool last = column + 1 == t->columns;
	int pad = width - cell_width(s);

	if (t->right[column])
		fprintf(f, "%*s", pad, "");
	fprintf(f, "%s%s%s", code, s, *code ? print_plain(t->colour) : "");
	if (!t->right[column] && !last)
		fprintf(f, "%*s", pad, "");
	fputs(last ? "\n" : "  ", f);
}

void print_table_end(struct print_table *t, FILE *f)
{
	int width[PRINT_MAX_COLUMNS] = {0};

	for (size_t i = 0; !t->failed && i < t->rows * t->columns; i++)
		width[i % t->columns] = BASE_MAX(width[i % t->columns], cell_width(t->cells[i]));
	for (size_t i = 0; !t->failed && i < t->rows * t->columns; i++)
		print_cell(t, f, i / t->columns, i % t->columns, width[i % t->columns]);
	for (size_t i = 0; i < t->rows * t->columns; i++)
		free(t->cells[i]);
	free(t->cells);
	t->cells = NULL;
	t->rows = 0;
}
