/* getopt, setopt, trace. */
#include <stdlib.h>
#include <string.h>

#include "pvm/console/console.h"
#include "pvm/include/pvmtev.h"

extern struct Pvmtevinfo pvmtevinfo[];

static const struct {
	const char *name;
	int what;
} options[] = {
	{"PvmRoute", PvmRoute},
	{"PvmDebugMask", PvmDebugMask},
	{"PvmAutoErr", PvmAutoErr},
	{"PvmOutputTid", PvmOutputTid},
	{"PvmOutputCode", PvmOutputCode},
	{"PvmTraceTid", PvmTraceTid},
	{"PvmTraceCode", PvmTraceCode},
	{"PvmTraceBuffer", PvmTraceBuffer},
	{"PvmTraceOptions", PvmTraceOptions},
	{"PvmFragSize", PvmFragSize},
	{"PvmResvTids", PvmResvTids},
	{"PvmSelfOutputTid", PvmSelfOutputTid},
	{"PvmSelfOutputCode", PvmSelfOutputCode},
	{"PvmSelfTraceTid", PvmSelfTraceTid},
	{"PvmSelfTraceCode", PvmSelfTraceCode},
	{"PvmSelfTraceBuffer", PvmSelfTraceBuffer},
	{"PvmSelfTraceOptions", PvmSelfTraceOptions},
	{"PvmShowTids", PvmShowTids},
	{"PvmOutputContext", PvmOutputContext},
	{"PvmTraceContext", PvmTraceContext},
	{"PvmSelfOutputContext", PvmSelfOutputContext},
	{"PvmSelfTraceContext", PvmSelfTraceContext},
	{"PvmNoReset", PvmNoReset},
};

static int option_find(const char *name)
{
	for (size_t i = 0; i < BASE_ARRAY_LEN(options); i++)
		if (!strcmp(options[i].name, name))
			return options[i].what;
	printf("PVM Option \"%s\" Unknown.\n", name);
	return -1;
}

void con_cmd_getopt(int argc, char **argv)
{
	if (argc == 2) {
		int what = option_find(argv[1]);

		if (what >= 0)
			printf("%s Currently Set to %d\n", argv[1], pvm_getopt(what));
		return;
	}
	for (size_t i = 0; i < BASE_ARRAY_LEN(options); i++)
		printf("%s Currently Set to %d\n", options[i].name, pvm_getopt(options[i].what));
}

void con_cmd_setopt(int argc, char **argv)
{
	int what = option_find(argv[1]), value = (int)strtol(argv[2], NULL, 0);

	if (what >= 0)
		printf("%s Changed from %d to %d\n", argv[1], pvm_setopt(what, value), value);
}

/* Trace masks: of the tasks that are spawned from here. */

static const char *const xpvm_events[] = {"addmhf",   "barrier",    "bcast", "delmhf",
					  "exit",     "joingroup",  "kill",  "lvgroup",
					  "mcast",    "mhf_invoke", "mytid", "nrecv",
					  "parent",   "precv",	    "probe", "psend",
					  "recv",     "recvf",	    "send",  "sendsig",
					  "siblings", "spawn",	    "trecv", "user_defined"};

static int event_find(const char *name)
{
	for (int i = TEV_FIRST; i <= TEV_MAX; i++)
		if (!strcmp(pvmtevinfo[i].name, name))
			return i;
	return -1;
}

static void mask_get(Pvmtmask mask)
{
	TEV_MASK_INIT(mask);
	pvm_gettmask(PvmTaskChild, mask);
}

static void mask_xpvm(Pvmtmask mask)
{
	TEV_MASK_INIT(mask);
	for (size_t i = 0; i < BASE_ARRAY_LEN(xpvm_events); i++) {
		int at = event_find(xpvm_events[i]);

		if (at >= 0)
			TEV_MASK_SET(mask, at);
	}
}

void con_trace_defaults(void)
{
	Pvmtmask mask;

	mask_xpvm(mask);
	pvm_settmask(PvmTaskChild, mask);
	pvm_setopt(PvmTraceOptions, PvmTraceFull);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(pvmtevinfo[*(const int *)a].name, pvmtevinfo[*(const int *)b].name);
}

/* What only daemons and the tracing itself report cannot be chosen. */
static bool event_is_call(int at)
{
	static const char *const others[] = {"timing", "profiling", "newtask", "spntask",
					     "endtask"};

	for (size_t i = 0; i < BASE_ARRAY_LEN(others); i++)
		if (!strcmp(pvmtevinfo[at].name, others[i]))
			return false;
	return true;
}

/* Four columns, sorted downwards. */
static void mask_print(void)
{
	enum { COLUMNS = 4 };
	int order[TEV_MAX + 1], n = 0, rows;
	Pvmtmask mask;

	mask_get(mask);
	for (int i = TEV_FIRST; i <= TEV_MAX; i++)
		if (event_is_call(i))
			order[n++] = i;
	qsort(order, (size_t)n, sizeof(order[0]), by_name);
	rows = (n + COLUMNS - 1) / COLUMNS;
	for (int r = 0; r < rows; r++) {
		for (int c = 0; c < COLUMNS && r + c * rows < n; c++) {
			int at = order[r + c * rows];

			printf("%s %c %-15s", c ? " " : "", TEV_MASK_CHECK(mask, at) ? '*' : ' ',
			       pvmtevinfo[at].name);
		}
		putchar('\n');
	}
}

static void mask_change(int argc, char **argv)
{
	int i = 1;
	bool on = true;
	Pvmtmask mask;

	mask_get(mask);
	if (!strcmp(argv[1], "+") || !strcmp(argv[1], "-"))
		on = argv[i++][0] == '+';
	for (; i < argc; i++) {
		int at = event_find(argv[i]);

		if (!strcmp(argv[i], "*")) {
			for (int k = TEV_FIRST; k <= TEV_MAX; k++)
				on ? TEV_MASK_SET(mask, k) : TEV_MASK_UNSET(mask, k);
		} else if (at < 0) {
			printf("no such event \"%s\"\n", argv[i]);
		} else {
			on ? TEV_MASK_SET(mask, at) : TEV_MASK_UNSET(mask, at);
		}
	}
	pvm_settmask(PvmTaskChild, mask);
}

static void trace_buffer(int argc, char **argv)
{
	if (argc > 2)
		pvm_setopt(PvmTraceBuffer, (int)strtol(argv[2], NULL, 0));
	else
		printf("\nTrace Buffering set to %d bytes\n\n", pvm_getopt(PvmTraceBuffer));
}

static void trace_kind(int argc, char **argv)
{
	static const char *const kinds[] = {"full", "time", "count"};
	int now = pvm_getopt(PvmTraceOptions);

	if (argc <= 2) {
		printf("\nTrace Options set to \"%s\"\n\n",
		       now >= 1 && now <= 3 ? kinds[now - 1] : "unknown");
		return;
	}
	for (int i = 0; i < 3; i++) {
		if (!strcmp(kinds[i], argv[2])) {
			pvm_setopt(PvmTraceOptions, i + 1);
			return;
		}
	}
	printf("no such trace option \"%s\"\n", argv[2]);
}

void con_cmd_trace(int argc, char **argv)
{
	Pvmtmask mask;

	if (argc == 1) {
		mask_print();
	} else if (!strcmp(argv[1], "buf")) {
		trace_buffer(argc, argv);
	} else if (!strcmp(argv[1], "opt")) {
		trace_kind(argc, argv);
	} else if (!strcmp(argv[1], "xpvm")) {
		mask_xpvm(mask);
		pvm_settmask(PvmTaskChild, mask);
	} else {
		mask_change(argc, argv);
	}
}
