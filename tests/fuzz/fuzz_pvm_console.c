/* libs: pg_pvm_console */
/* Lines of the console: splitting into words, and aliases that refer to one another. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/console/console.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void one_line(struct con_words *w, const char *line)
{
	char quote = 0;

	if (con_words_split(w, line, &quote) != CON_SPLIT_OK || !w->argc)
		return;
	if (w->argc > 2 && !strcmp(w->argv[0], "alias")) {
		if (con_alias_set(w->argv + 1, w->argc - 1))
			abort();
		return;
	}
	con_alias_expand(w);
	if (w->argc < 1 || w->argc > CON_WORDS_MAX || w->argv[w->argc])
		abort();
	if (!strcmp(w->argv[0], "unalias") && w->argc == 2)
		con_alias_unset(w->argv[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct con_words *w = malloc(sizeof(*w));
	char *text = malloc(size + 1), *save = NULL;

	if (!w || !text)
		abort();
	memcpy(text, data, size);
	text[size] = 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		one_line(w, line);
	free(text);
	free(w);
	return 0;
}
