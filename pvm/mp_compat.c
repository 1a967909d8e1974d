/* Functions that libpvm3 of PVM 3.4 exports without documenting them and that programs import. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_compat.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"

char *pvmgettmp(void)
{
	return (char *)(uintptr_t)mp_path_tmp();
}

char *pvmgetrsh(void)
{
	char *rsh = getenv("PVM_RSH");

	return rsh && *rsh ? rsh : (char *)(uintptr_t) "ssh";
}

char *pvmgetroot(void)
{
	char *root = getenv("PVM_ROOT");

	return root && *root ? root : (char *)(uintptr_t) "/usr/lib/pvm3";
}

char *pvmgethome(void)
{
	char *home = getenv("HOME");

	return home && *home ? home : (char *)(uintptr_t) "/";
}

char *pvmgetpvmd(void)
{
	char *path = getenv("PVM_DPATH");

	return path && *path ? path : (char *)(uintptr_t) "pvmd3";
}

char *pvmdsockfile(void)
{
	static char path[256];

	return mp_path_socket(path, sizeof(path)) ? NULL : path;
}

char *pvmtmpnam(char *name)
{
	static char own[PVMTMPNAMLEN + 128];
	int fd;

	if (!name)
		name = own;
	snprintf(name, 128, "%s/pvmXXXXXX", mp_path_tmp());
	fd = mkstemp(name);
	if (fd < 0)
		return NULL;
	close(fd);
	unlink(name);
	return name;
}

int pvmgetdsig(void)
{
	return mp_enc_native();
}

void pvmgetclock(struct timeval *tv)
{
	gettimeofday(tv, NULL);
}

void pvmsleep(int seconds)
{
	struct timespec t = {.tv_sec = seconds};

	nanosleep(&t, NULL);
}

int pvmxtoi(char *text)
{
	return (int)strtoul(text, NULL, 16);
}

int pvmstrtoi(char *text)
{
	return (int)strtoul(text, NULL, 0);
}

/* The string stays the environment's, as with putenv. */
int pvmputenv(char *text)
{
	return putenv(text);
}

int pvmendtask(void)
{
	if (mp_rt.fd >= 0)
		mp_rt_lost();
	return PvmOk;
}

int pvmdisplaymhfinfo(void)
{
	int n = 0;

	if (mp_rt.handlers.next)
		for (struct base_list *l = mp_rt.handlers.next; l != &mp_rt.handlers; l = l->next)
			n++;
	printf("Message Handler Functions: %d\n", n);
	fflush(stdout);
	return n;
}

static bool spared(int tid, const int *tids, int count)
{
	for (int i = 0; i < count; i++)
		if (tids[i] == tid)
			return true;
	return false;
}

static void reset_mailbox(const int *keep, int kept, const char *mbox_class, int mbox_index)
{
	struct base_wbuf args;

	base_wbuf_init(&args, 1 << 20);
	base_wbuf_u32(&args, (uint32_t)kept);
	for (int i = 0; i < kept; i++)
		base_wbuf_u32(&args, (uint32_t)keep[i]);
	if (mbox_class) {
		base_wbuf_str(&args, mbox_class);
		base_wbuf_u32(&args, (uint32_t)mbox_index);
	}
	mp_rt_call(MP_OP_MBOX_RESET, &args, NULL, NULL);
	base_wbuf_fini(&args);
}

/*
 * Ends all tasks but the caller and those that asked to be left alone, and empties the mailbox; or with a
 * class ("*": all) only takes out of that what tasks that have ended left (at an index, -1: all).
 */
void pvmreset(int mytid, int kill_tasks, char *mbox_class, int mbox_index)
{
	struct pvmtaskinfo *t;
	int *keep = NULL, kept = 0, n = 0;

	if (mbox_class && *mbox_class) {
		if (!pvmbeatask())
			reset_mailbox(NULL, 0, mbox_class, mbox_index);
		return;
	}
	if (pvm_getnoresets(&keep, &kept) < 0 || mp_api_tasks(0, &n, &t) < 0)
		return;
	for (int i = 0; kill_tasks && i < n; i++)
		if (t[i].ti_tid != mytid && !spared(t[i].ti_tid, keep, kept))
			mp_api_kill(t[i].ti_tid);
	reset_mailbox(keep, kept, NULL, -1);
}
