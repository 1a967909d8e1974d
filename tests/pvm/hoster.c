/*
 * A hoster as of PVM 3.4's manual: starts daemons by the command of $HOSTER_RSH, all at once. It ends
 * when the file of its argument is there, and says what it was asked without the keys.
 */
#include <pvm3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { HOSTS_MAX = 64, TEXT = 8192, SM_STHOST = (int)0x8004000f };

static void run(const char *login, const char *command, char *line, int size)
{
	const char *rsh = getenv("HOSTER_RSH");
	char *all = NULL;
	FILE *p = NULL;

	if (asprintf(&all, "%s %s '%s' </dev/null", rsh, login, command) > 0)
		p = popen(all, "r");
	if (!p || !fgets(line, size, p))
		snprintf(line, (size_t)size, "PvmCantStart");
	line[strcspn(line, "\n")] = 0;
	if (p)
		pclose(p);
	free(all);
}

static void serve(int request)
{
	static char options[TEXT], login[TEXT], command[TEXT], line[1024];
	struct pvmminfo asked, answer;
	int n = 0, tid;

	pvm_getminfo(request, &asked);
	pvm_upkint(&n, 1, 1);
	pvm_initsend(PvmDataDefault);
	for (int i = 0; i < n; i++) {
		pvm_upkint(&tid, 1, 1);
		pvm_upkstr(options);
		pvm_upkstr(login);
		pvm_upkstr(command);
		run(login, command, line, sizeof(line));
		printf("host %d %s: %.5s\n", tid >> 18, login, line);
		pvm_pkint(&tid, 1, 1);
		pvm_pkstr(line);
	}
	pvm_getminfo(pvm_getsbuf(), &answer);
	answer.wid = asked.wid;
	pvm_setminfo(pvm_getsbuf(), &answer);
	pvm_send(asked.src, asked.tag + 1);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 2 || pvm_mytid() < 0)
		return 1;
	pvm_setopt(PvmResvTids, 1);
	if (pvm_reg_hoster() < 0)
		return 1;
	printf("registered\n");
	fflush(stdout);
	while (access(argv[1], F_OK)) {
		struct timeval soon = {0, 100000};
		int mid = pvm_trecv(-1, SM_STHOST, &soon);

		if (mid < 0)
			return 1;
		if (mid > 0)
			serve(mid);
	}
	pvm_exit();
	return 0;
}
