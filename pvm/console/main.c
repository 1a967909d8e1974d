/* pvm [options of pvmd3] [hostfile]: starts the daemon when none runs, then reads commands. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pvm/console/console.h"

/* What the daemon says when it does not start comes from the library. */
static int connect_daemon(int argc, char **argv)
{
	int rc;

	pvm_setopt(PvmAutoErr, 0);
	rc = pvm_start_pvmd(argc - 1, argv + 1, 1);
	pvm_setopt(PvmAutoErr, 1);
	if (rc == PvmDupHost || rc == PvmAlready)
		printf("pvmd already running.\n");
	else if (rc < 0)
		return rc;
	return pvm_mytid();
}

static void read_rc(void)
{
	const char *home = getenv("HOME");
	char path[4096], line[CON_LINE_MAX];
	FILE *f;

	if (!home || snprintf(path, sizeof(path), "%s/.pvmrc", home) >= (int)sizeof(path))
		return;
	f = fopen(path, "re");
	if (!f)
		return;
	while (!con_quitting && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		con_run_line(line);
	}
	fclose(f);
}

int main(int argc, char **argv)
{
	int tid;

	if (argc > 1 && !strcmp(argv[1], "--help")) {
		printf("usage: pvm [-d<debug mask>] [-n<host name>] [hostfile]\n"
		       "The console of the Parallel Virtual Machine: starts the daemon of this host if none runs, with\n"
		       "these arguments (pvmd3(8)), and reads commands; `help` lists them, `quit` leaves the machine as\n"
		       "it is, `halt` ends it.\n");
		return 0;
	}
	tid = connect_daemon(argc, argv);
	if (tid < 0) {
		fprintf(stderr, "pvm: %s\n", con_error(tid));
		return 1;
	}
	pvm_setopt(PvmRoute, PvmDontRoute);
	pvm_setopt(PvmResvTids, 1);
	pvm_setopt(PvmNoReset, 1);
	/* Nobody's, not even our parent's. */
	pvm_setopt(PvmSelfOutputTid, -1);
	pvm_setopt(PvmSelfTraceTid, -1);
	pvm_setopt(PvmOutputTid, -1);
	pvm_setopt(PvmTraceTid, -1);
	con_trace_defaults();
	read_rc();
	if (isatty(STDIN_FILENO))
		con_read_terminal();
	else
		con_read_pipe();
	if (con_halted)
		return 0;
	printf("\nConsole: exit handler called\npvmd still running.\n");
	pvm_exit();
	return 0;
}
