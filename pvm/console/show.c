/* ps, names, put, reset: tasks and the mailbox. */
#include <stdlib.h>
#include <string.h>

#include "pvm/console/console.h"
#include "pvm/mp_compat.h"

int con_tid_parse(const char *s)
{
	char *end;
	unsigned long v;

	if (*s == 't')
		s++;
	v = strtoul(s, &end, 16);
	return *s && !*end && v <= 0xffffffffUL ? (int)(unsigned)v : 0;
}

const char *con_error(int code)
{
	extern int pvm_errno;

	pvm_errno = code;
	return pvm_strerror();
}

const char *con_host_name(int dtid)
{
	struct pvmhostinfo *hosts;
	int n = 0, narch = 0;

	if (pvm_config(&n, &narch, &hosts))
		return "?";
	for (int i = 0; i < n; i++)
		if (hosts[i].hi_tid == dtid)
			return hosts[i].hi_name;
	return "?";
}

void con_ps_head(bool is_long)
{
	printf("%24s %8s", "HOST", "TID");
	if (is_long)
		printf(" %8s %6s", "PTID", "PID");
	printf(" %9s COMMAND\n", "FLAG 0x");
}

/* The flags as a number and as letters, "6/c,f". */
static void flag_text(int flag, char *out, size_t cap)
{
	static const struct {
		int bit;
		char letter;
	} letters[] = {{1, 'a'},    {4, 'c'},	 {2, 'f'},    {0x10, 'o'},
		       {0x40, 'R'}, {0x80, 'H'}, {0x100, 'T'}};
	char sep = '/';
	size_t n = (size_t)snprintf(out, cap, "%x", (unsigned)flag);

	for (size_t i = 0; i < BASE_ARRAY_LEN(letters) && n + 3 < cap; i++) {
		if (!(flag & letters[i].bit))
			continue;
		n += (size_t)snprintf(out + n, cap - n, "%c%c", sep, letters[i].letter);
		sep = ',';
	}
}

void con_ps_row(const struct pvmtaskinfo *t, const char *host, bool is_long)
{
	char flags[32];

	flag_text(t->ti_flag, flags, sizeof(flags));
	printf("%24s", host);
	if (t->ti_tid == pvm_mytid())
		printf(" %8s", "(cons)");
	else
		printf(" %8x", (unsigned)t->ti_tid);
	if (is_long)
		printf(" %8x %6d", (unsigned)t->ti_ptid, t->ti_pid);
	printf(" %9s %-12s\n", flags, t->ti_a_out && *t->ti_a_out ? t->ti_a_out : "-");
}

struct ps_args {
	bool all, is_long, hidden;
	int host; /* daemon tid, 0: this host */
};

static int host_by_name(const char *name)
{
	struct pvmhostinfo *hosts;
	int n = 0, narch = 0;

	if (!pvm_config(&n, &narch, &hosts))
		for (int i = 0; i < n; i++)
			if (!strcmp(hosts[i].hi_name, name))
				return hosts[i].hi_tid;
	return -1;
}

static void ps_letters(struct ps_args *a, const char *p)
{
	p += *p == '-';
	for (; *p; p++) {
		switch (*p) {
		case 'a': a->all = true; break;
		case 'l': a->is_long = true; break;
		case 'x': a->hidden = true; break;
		case 'h': a->host = con_tid_parse(p + 1); return;
		case 'n': a->host = host_by_name(p + 1); return;
		default: printf("unknown flag -%c\n", *p);
		}
	}
}

static void hosts_load(void)
{
	struct pvmhostinfo *hosts;
	int n = 0, narch = 0;

	if (pvm_config(&n, &narch, &hosts))
		return;
	printf("%24s%s\n", "HOST", CON_LOAD_HEAD);
	for (int i = 0; i < n; i++) {
		printf("%24s", hosts[i].hi_name);
		con_load_print(hosts[i].hi_tid);
		putchar('\n');
	}
}

void con_cmd_ps(int argc, char **argv)
{
	struct ps_args a = {0};
	struct pvmtaskinfo *tasks;
	int n = 0, rc;

	for (int i = 1; i < argc; i++) {
		size_t len = strlen(argv[i]);

		if (argv[i][0] == '-' && len == 2 && (argv[i][1] == 'h' || argv[i][1] == 'n')) {
			printf("ps: wrong #args\n");
			return;
		}
		ps_letters(&a, argv[i]);
	}
	rc = pvm_tasks(a.all ? 0 : a.host ? a.host : pvm_tidtohost(pvm_mytid()), &n, &tasks);
	con_ps_head(a.is_long);
	for (int i = 0; i < n && !rc; i++)
		if (a.hidden || (tasks[i].ti_a_out && *tasks[i].ti_a_out))
			con_ps_row(&tasks[i], con_host_name(tasks[i].ti_host), a.is_long);
	if (a.all)
		hosts_load();
}

void con_cmd_names(int argc, char **argv)
{
	char all[] = "*";
	struct pvmmboxinfo *classes;
	int n = 0;

	if (pvm_getmboxinfo(argc > 1 ? argv[1] : all, &n, &classes) < 0)
		return;
	for (int i = 0; i < n; i++) {
		printf("<%s>:\n", classes[i].mi_name);
		for (int k = 0; k < classes[i].mi_nentries; k++)
			printf("\tindex=%d owner=0x%x/%d flags=0x%x\n", classes[i].mi_indices[k],
			       (unsigned)classes[i].mi_owners[k], classes[i].mi_owners[k],
			       (unsigned)classes[i].mi_flags[k]);
		putchar('\n');
	}
}

/* put name flags text */
void con_cmd_put(int argc, char **argv)
{
	int old = pvm_setsbuf(0), mid = pvm_initsend(PvmDataDefault);

	if (mid > 0) {
		pvm_pkstr(argv[3]);
		pvm_putinfo(argv[1], mid, (int)strtol(argv[2], NULL, 0));
		pvm_freebuf(pvm_getsbuf());
	}
	pvm_setsbuf(old);
}

static bool in_list(int tid, const int *list, int n)
{
	for (int i = 0; i < n; i++)
		if (list[i] == tid)
			return true;
	return false;
}

/* Tasks that asked not to be reset stay, and the console itself. */
static void reset_tasks(void)
{
	struct pvmtaskinfo *tasks;
	int *keep = NULL, nkeep = 0, n = 0;

	if (pvm_getnoresets(&keep, &nkeep) < 0)
		nkeep = 0;
	if (pvm_tasks(0, &n, &tasks))
		return;
	for (int i = 0; i < n; i++)
		if (tasks[i].ti_tid != pvm_mytid() && !in_list(tasks[i].ti_tid, keep, nkeep))
			pvm_kill(tasks[i].ti_tid);
}

void con_cmd_reset(int argc, char **argv)
{
	char all[] = "*";
	int err;

	if (argc > 1 && strcmp(argv[1], "info")) {
		printf("\"%s\" arg to reset not valid\n", argv[1]);
		return;
	}
	err = pvm_setopt(PvmAutoErr, 0);
	if (argc == 1)
		reset_tasks();
	/* What tasks that have ended left there. */
	pvmreset(pvm_mytid(), 0, argc > 2 && *argv[2] ? argv[2] : all,
		 argc > 3 ? (int)strtol(argv[3], NULL, 0) : -1);
	pvm_setopt(PvmAutoErr, err);
}
