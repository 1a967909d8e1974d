/* spawn: its many options, and the job that catches the output. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/console/console.h"

enum { COUNT_MAX = 65536 };

struct spawn_args {
	int count, flags;
	char where[1024];
	bool catch_output, append;
	const char *path;
};

static bool is_arch(const char *name)
{
	struct pvmhostinfo *hosts;
	int n = 0, narch = 0;

	if (pvm_config(&n, &narch, &hosts))
		return false;
	for (int i = 0; i < n; i++)
		if (!strcmp(hosts[i].hi_arch, name))
			return true;
	return false;
}

/* "name", "name:dir", ":dir": where pvm_spawn looks for it. */
static void parse_where(struct spawn_args *a, const char *opt)
{
	char name[sizeof(a->where)];

	if (!strncmp(opt, "-host=", 6))
		opt += 6;
	snprintf(a->where, sizeof(a->where), "%s", opt);
	snprintf(name, sizeof(name), "%s", opt);
	name[strcspn(name, ":")] = 0;
	a->flags &= ~(PvmTaskHost | PvmTaskArch);
	if (name[0])
		a->flags |= is_arch(name) ? PvmTaskArch : PvmTaskHost;
	else
		a->flags |= PvmTaskHost;
	/* A directory alone: on this host, as the original does it. */
	if (!name[0])
		snprintf(a->where, sizeof(a->where), ".%s", opt);
}

/* "->", "->file", "->>file" */
static void parse_output(struct spawn_args *a, const char *opt)
{
	a->catch_output = true;
	a->append = *opt == '>';
	opt += a->append;
	a->path = *opt ? opt : NULL;
}

static void parse_option(struct spawn_args *a, const char *opt)
{
	char *end;
	long n;

	switch (*opt) {
	case '>': parse_output(a, opt + 1); return;
	case '?': a->flags |= PvmTaskDebug; return;
	case '@':
		a->flags |= PvmTaskTrace;
		parse_output(a, opt + 1);
		return;
	default: break;
	}
	n = strtol(opt, &end, 10);
	if (*opt && !*end)
		a->count = n > COUNT_MAX ? COUNT_MAX : (int)n;
	else
		parse_where(a, opt);
}

static void report(int rc, const int *tids, int count)
{
	if (rc < 0)
		return;
	printf("%d successful\n", rc);
	for (int i = 0; i < count; i++) {
		if (tids[i] > 0)
			printf("t%x\n", (unsigned)tids[i]);
		else
			printf("%s\n", con_error(tids[i]));
	}
}

static void start(const struct spawn_args *a, char **argv)
{
	int *tids = calloc((size_t)(a->count > 0 ? a->count : 1), sizeof(int));
	struct con_job *j = NULL;
	int rc;

	if (!tids)
		return;
	if (a->catch_output) {
		j = con_job_new(a->path, a->append);
		if (!j) {
			free(tids);
			return;
		}
		printf("[%d]\n", con_job_number(j));
		con_job_select(j);
	}
	rc = pvm_spawn(argv[0], argv + 1, a->flags, (char *)(uintptr_t)a->where, a->count, tids);
	if (j)
		con_job_select(NULL);
	report(rc, tids, a->count);
	if (j)
		con_job_started(j, tids, rc < 0 ? 0 : a->count);
	free(tids);
}

void con_cmd_spawn(int argc, char **argv)
{
	struct spawn_args a = {.count = 1, .flags = PvmNoSpawnParent};
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++)
		parse_option(&a, argv[i] + 1);
	if (i == argc) {
		printf("spawn: wrong #args\n");
		return;
	}
	start(&a, argv + i);
}
