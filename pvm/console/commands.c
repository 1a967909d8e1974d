/* The table of commands, the small ones, and help. */
#include <stdlib.h>
#include <string.h>

#include "pvm/console/console.h"
#include "pvm/wire/mp_ops.h"
#include "pvm/wire/mp_wire.h"

extern char **environ;

bool con_quitting, con_halted;

static void cmd_add_delete(int argc, char **argv, bool add)
{
	int *infos = calloc((size_t)argc, sizeof(int)), n = argc - 1, rc;

	if (!infos)
		return;
	rc = add ? pvm_addhosts(argv + 1, n, infos) : pvm_delhosts(argv + 1, n, infos);
	if (rc >= 0) {
		printf("%d successful\n", rc);
		printf(add ? "%24s %8s\n" : "%24s  %s\n", "HOST", add ? "DTID" : "STATUS");
	}
	for (int i = 0; i < n && rc >= 0; i++) {
		if (add && infos[i] > 0)
			printf("%24s %8x\n", argv[i + 1], (unsigned)infos[i]);
		else
			printf(add ? "%24s %s\n" : "%24s  %s\n", argv[i + 1],
			       infos[i] < 0 ? con_error(infos[i]) : "deleted");
	}
	free(infos);
}

static void cmd_add(int argc, char **argv)
{
	cmd_add_delete(argc, argv, true);
}

static void cmd_delete(int argc, char **argv)
{
	cmd_add_delete(argc, argv, false);
}

static void cmd_alias(int argc, char **argv)
{
	if (argc < 3)
		con_alias_print(argc > 1 ? argv[1] : NULL);
	else if (con_alias_set(argv + 1, argc - 1))
		printf("alias: no memory\n");
}

static void cmd_unalias(int argc, char **argv)
{
	con_alias_unset(argv[1]);
}

/* What the daemon places new tasks by. */
void con_load_print(int dtid)
{
	char class[] = MP_LOAD_CLASS;
	int v[3] = {0}, mid = pvm_recvinfo(class, mp_tid_host(dtid), PvmMboxDefault);
	int old = mid > 0 ? pvm_setrbuf(mid) : 0;

	if (mid > 0 && !pvm_upkint(v, 3, 1))
		printf(" %5d %6.2f %5d", v[0], v[1] / 1000.0, v[2]);
	if (mid > 0) {
		pvm_setrbuf(old);
		pvm_freebuf(mid);
	}
}

static void cmd_conf(int argc, char **argv)
{
	struct pvmhostinfo *hosts;
	bool load = argc > 1 && !strcmp(argv[1], "-l");
	int n = 0, narch = 0;

	if (argc > 1 && !load) {
		printf("conf: wrong #args\n");
		return;
	}
	if (pvm_config(&n, &narch, &hosts))
		return;
	printf("%d host%s, %d data format%s\n", n, n == 1 ? "" : "s", narch, narch == 1 ? "" : "s");
	printf("%24s %8s %8s %7s %10s%s\n", "HOST", "DTID", "ARCH", "SPEED", "DSIG",
	       load ? CON_LOAD_HEAD : "");
	for (int i = 0; i < n; i++) {
		printf("%24s %8x %8s %7d 0x%08x", hosts[i].hi_name, (unsigned)hosts[i].hi_tid,
		       hosts[i].hi_arch, hosts[i].hi_speed, (unsigned)hosts[i].hi_dsig);
		if (load)
			con_load_print(hosts[i].hi_tid);
		putchar('\n');
	}
}

static void cmd_echo(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		printf("%s%s", i > 1 ? " " : "", argv[i]);
	putchar('\n');
}

static void cmd_export(int argc, char **argv)
{
	const char *now = getenv("PVM_EXPORT");

	if (argc == 1)
		printf("PVM_EXPORT=%s\n", now ? now : "");
	for (int i = 1; i < argc; i++)
		pvm_export(argv[i]);
}

static void cmd_unexport(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		pvm_unexport(argv[i]);
}

static void cmd_halt(int argc, char **argv)
{
	fflush(stdout);
	con_halted = con_quitting = true;
	pvm_halt();
}

static void cmd_id(int argc, char **argv)
{
	printf("t%x\n", (unsigned)pvm_mytid());
}

static void cmd_jobs(int argc, char **argv)
{
	con_jobs_print(argc > 1 && !strcmp(argv[1], "-l"));
}

/* Children of `tid`, not it itself. */
static void kill_children(int tid)
{
	struct pvmtaskinfo *tasks;
	int n = 0;

	if (pvm_tasks(0, &n, &tasks))
		return;
	for (int i = 0; i < n; i++)
		if (tasks[i].ti_ptid == tid)
			pvm_kill(tasks[i].ti_tid);
}

static void cmd_kill(int argc, char **argv)
{
	bool children = !strcmp(argv[1], "-c");

	if (children && argc == 2) {
		printf("kill: wrong #args\n");
		return;
	}
	for (int i = 1 + children; i < argc; i++) {
		int tid = con_tid_parse(argv[i]);

		if (children)
			kill_children(tid);
		else
			pvm_kill(tid);
	}
}

static void cmd_mstat(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int rc = pvm_mstat(argv[i]);

		printf("%24s  %s\n", argv[i], rc < 0 ? con_error(rc) : "ok");
	}
}

static void cmd_pstat(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int tid = con_tid_parse(argv[i]);
		int err = pvm_setopt(PvmAutoErr, 0), rc = pvm_pstat(tid);

		pvm_setopt(PvmAutoErr, err);
		printf("t%8x  %s\n", (unsigned)tid, rc < 0 ? con_error(rc) : "ok");
	}
}

static void cmd_quit(int argc, char **argv)
{
	con_quitting = true;
}

static void cmd_setenv(int argc, char **argv)
{
	if (argc > 2) {
		if (setenv(argv[1], argv[2], 1))
			perror("setenv");
	} else if (argc == 2) {
		const char *value = getenv(argv[1]);

		if (value)
			printf("%s\n", value);
	} else {
		for (char **e = environ; *e; e++)
			printf("%s\n", *e);
	}
}

static void cmd_sig(int argc, char **argv)
{
	int sig = (int)strtol(argv[1], NULL, 10);

	for (int i = 2; i < argc; i++)
		pvm_sendsig(con_tid_parse(argv[i]), sig);
}

static void cmd_version(int argc, char **argv)
{
	printf("%s\n", pvm_version());
}

const struct con_command con_commands[] = {
	{"add", "Add hosts to virtual machine",
	 "add hostname ...\n  or     add 'hostname <option>=<value>...' ...\n"
	 "(See man page for 'pvmd3' for valid host (file) options.)",
	 1, -1, cmd_add},
	{"alias", "Define/list command aliases", "alias [name command args ...]", 0, -1, cmd_alias},
	{"conf", "List virtual machine configuration",
	 "conf\nOutput fields:\n  HOST    host name\n  DTID    tid base of pvmd\n"
	 "  ARCH    xhost architecture\n  SPEED   host relative speed",
	 0, 1, cmd_conf},
	{"delete", "Delete hosts from virtual machine", "delete hostname ...", 1, -1, cmd_delete},
	{"echo", "Echo arguments", "echo [ arg ... ]", 0, -1, cmd_echo},
	{"export", "Add environment variables to spawn export list", "export [ varname ... ]", 0,
	 -1, cmd_export},
	{"getopt", "Display PVM options for the console task", "getopt [ what ]", 0, 1,
	 con_cmd_getopt},
	{"halt", "Stop pvmds", "halt", 0, 0, cmd_halt},
	{"help", "Print helpful information about a command", "help [ command ]", 0, 1,
	 con_cmd_help},
	{"id", "Print console task id", "id", 0, 0, cmd_id},
	{"jobs", "Display list of running jobs",
	 "jobs [ options ]\nOptions:  -l   give long listing", 0, -1, cmd_jobs},
	{"kill", "Terminate tasks", "kill [ options ] tid ...\nOptions:  -c   kill children of tid",
	 1, -1, cmd_kill},
	{"mstat", "Show status of hosts", "mstat name ...", 1, -1, cmd_mstat},
	{"names", "List message mailbox names", "names [ pattern ]", 0, 1, con_cmd_names},
	{"ps", "List tasks",
	 "ps [ -axh ]\n"
	 "Options:  -a       all hosts (default is local), and what tasks are placed by\n"
	 "          -hhost   specific host tid\n"
	 "          -nhost   specific host name\n"
	 "          -l       long (show process id)\n"
	 "          -x       show all tasks (e.g. console and nulls)\n"
	 "Output fields:\n"
	 "  HOST    host name\n"
	 "  TID     task id\n"
	 "  PTID    parent task id\n"
	 "  PID     task process id\n"
	 "  FLAG    status\n"
	 "  COMMAND executable name\n"
	 "FLAG values:\n"
	 "  f   task process is child of pvmd\n"
	 "  c   task connected to pvmd\n"
	 "  a   task waiting authorization\n"
	 "  o   task connection being closed\n"
	 "  H   hoster task\n"
	 "  R   resource manager task\n"
	 "  T   tasker task",
	 0, -1, con_cmd_ps},
	{"pstat", "Show status of tasks", "pstat tid ...", 1, -1, cmd_pstat},
	{"put", "Add entry to message mailbox", "put name flags text", 3, 3, con_cmd_put},
	{"quit", "Exit console", "quit", 0, -1, cmd_quit},
	{"reset", "Kill all tasks, delete leftover mboxes",
	 "reset\n\nreset info    Delete orphaned persistent mbox entries\n"
	 "Syntax:  reset info [ class [ index ] ]",
	 0, 3, con_cmd_reset},
	{"setenv", "Display or set environment variables", "setenv [ name [ value ] ]", 0, -1,
	 cmd_setenv},
	{"setopt", "Set PVM options - for the console task *only*!", "setopt what value", 2, 2,
	 con_cmd_setopt},
	{"sig", "Send signal to task", "sig signum task ...", 2, -1, cmd_sig},
	{"spawn", "Spawn task",
	 "spawn [ options ] file [ arg ... ]\n"
	 "Options:  -(count)         number of tasks, default is 1\n"
	 "          -(host)          spawn on host, default is any\n"
	 "          -(host):(wd)     spawn on host, in directory 'wd'\n"
	 "          --host=(IP)      spawn on host with given IP addr\n"
	 "          --host=(IP):(wd) spawn on IP, in directory 'wd'\n"
	 "          -(ARCH)          spawn on hosts of ARCH\n"
	 "          -(ARCH):(wd)     spawn on hosts of ARCH, in 'wd'\n"
	 "          -:(wd)           spawn in working directory 'wd'\n"
	 "          -?               enable debugging\n"
	 "          ->               redirect job output to console\n"
	 "          ->(file)         redirect output of job to file\n"
	 "          ->>(file)        append output of job to file\n"
	 "          -@               trace job, output to terminal\n"
	 "          -@(file)         trace job, output to file",
	 1, -1, con_cmd_spawn},
	{"trace", "Set/display trace event mask",
	 "trace\n"
	 "         trace [+] name ...\n"
	 "         trace - name ...\n"
	 "         trace [+] *\n"
	 "         trace - *\n"
	 "         trace xpvm (default mask for XPVM display)\n"
	 "         trace buf nbytes\n"
	 "         trace buf\n"
	 "         trace opt < full | time | count >\n"
	 "         trace opt",
	 0, -1, con_cmd_trace},
	{"unalias", "Undefine command alias", "unalias name ...", 1, -1, cmd_unalias},
	{"unexport", "Remove environment variables from spawn export list",
	 "unexport [ varname ... ]", 0, -1, cmd_unexport},
	{"version", "Show libpvm version", "version", 0, 0, cmd_version},
};

const int con_command_count = (int)BASE_ARRAY_LEN(con_commands);

const struct con_command *con_command_find(const char *name)
{
	for (int i = 0; i < con_command_count; i++)
		if (!strcmp(con_commands[i].name, name))
			return &con_commands[i];
	return NULL;
}

void con_cmd_help(int argc, char **argv)
{
	const struct con_command *c = con_command_find(argc > 1 ? argv[1] : "help");

	if (!c)
		return;
	printf("%-11s %s\nSyntax:  %s\n", c->name, c->summary, c->syntax);
	if (strcmp(c->name, "help"))
		return;
	printf("Commands are:\n");
	for (int i = 0; i < con_command_count; i++)
		printf("  %-11s %s\n", con_commands[i].name, con_commands[i].summary);
}

static void run_words(struct con_words *w)
{
	const struct con_command *c;

	con_alias_expand(w);
	c = con_command_find(w->argv[0]);
	if (!c)
		printf("%s: not found\n", w->argv[0]);
	else if (w->argc - 1 < c->min_args || (c->max_args >= 0 && w->argc - 1 > c->max_args))
		printf("%s: wrong #args\n", c->name);
	else
		c->run(w->argc, w->argv);
}

void con_run_line(const char *line)
{
	struct con_words *w = malloc(sizeof(*w));
	char quote = 0;

	if (!w)
		return;
	switch (con_words_split(w, line, &quote)) {
	case CON_SPLIT_UNMATCHED: printf("unmatched %c\n", quote); break;
	case CON_SPLIT_LONG: printf("command too long\n"); break;
	default:
		if (w->argc)
			run_words(w);
	}
	free(w);
}
