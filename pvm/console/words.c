/* Lines into words, and aliases. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/console/console.h"

enum { ALIAS_DEPTH = 10 };

struct alias {
	struct alias *next;
	int count;
	char **words; /* the name first */
};

static struct alias *aliases;

/* One word from *in to *out; both move on. */
static enum con_split take_word(const char **in, char **out, char *quote)
{
	const char *p = *in;
	char *to = *out, q = 0;

	for (; *p && (q || !isspace((unsigned char)*p)); p++) {
		if (*p == '\\' && p[1] && q != '\'')
			*to++ = *++p;
		else if (q && *p == q)
			q = 0;
		else if (!q && (*p == '"' || *p == '\''))
			q = *p;
		else
			*to++ = *p;
	}
	*to++ = 0;
	*in = p;
	*out = to;
	*quote = q;
	return q ? CON_SPLIT_UNMATCHED : CON_SPLIT_OK;
}

enum con_split con_words_split(struct con_words *w, const char *line, char *quote)
{
	char *to = w->text;

	w->argc = 0;
	/* A word takes no more than its source and one byte, which is the space behind it. */
	if (strlen(line) >= sizeof(w->text))
		return CON_SPLIT_LONG;
	for (;;) {
		enum con_split rc;

		while (isspace((unsigned char)*line))
			line++;
		if (!*line || *line == '#')
			break;
		if (w->argc == CON_WORDS_MAX)
			return CON_SPLIT_LONG;
		w->argv[w->argc++] = to;
		rc = take_word(&line, &to, quote);
		if (rc != CON_SPLIT_OK)
			return rc;
	}
	w->argv[w->argc] = NULL;
	return CON_SPLIT_OK;
}

static void alias_free(struct alias *a)
{
	for (int i = 0; i < a->count && a->words; i++)
		free(a->words[i]);
	free(a->words);
	free(a);
}

void con_alias_unset(const char *name)
{
	for (struct alias **at = &aliases; *at; at = &(*at)->next) {
		struct alias *a = *at;

		if (strcmp(a->words[0], name))
			continue;
		*at = a->next;
		alias_free(a);
		return;
	}
}

int con_alias_set(char *const *words, int count)
{
	struct alias *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->words = calloc((size_t)count, sizeof(char *));
	a->count = a->words ? count : 0;
	for (int i = 0; i < a->count; i++) {
		a->words[i] = strdup(words[i]);
		if (!a->words[i])
			a->count = -1;
	}
	if (a->count != count) {
		a->count = a->words ? count : 0;
		alias_free(a);
		return -ENOMEM;
	}
	con_alias_unset(words[0]);
	a->next = aliases;
	aliases = a;
	return 0;
}

static const struct alias *alias_find(const char *name)
{
	for (const struct alias *a = aliases; a; a = a->next)
		if (!strcmp(a->words[0], name))
			return a;
	return NULL;
}

void con_alias_expand(struct con_words *w)
{
	for (int depth = 0; depth < ALIAS_DEPTH && w->argc; depth++) {
		const struct alias *a = alias_find(w->argv[0]);
		int more;

		if (!a)
			return;
		more = a->count - 2;
		if (w->argc + more > CON_WORDS_MAX)
			return;
		memmove(w->argv + 1 + more, w->argv, (size_t)w->argc * sizeof(char *));
		memmove(w->argv + 1 + more, w->argv + 2 + more,
			(size_t)(w->argc - 1) * sizeof(char *));
		for (int i = 0; i <= more; i++)
			w->argv[i] = a->words[i + 1];
		w->argc += more;
		w->argv[w->argc] = NULL;
		if (!strcmp(w->argv[0], a->words[0]))
			return;
	}
}

void con_alias_print(const char *name)
{
	for (const struct alias *a = aliases; a; a = a->next) {
		if (name && strcmp(name, a->words[0]))
			continue;
		printf("%s\t", a->words[0]);
		for (int i = 1; i < a->count; i++)
			printf("%s%s", i > 1 ? " " : "", a->words[i]);
		putchar('\n');
	}
}
