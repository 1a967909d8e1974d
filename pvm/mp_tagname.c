/* Names of the tags that PVM 3.4 uses inside: for programs that print what arrives. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "pvm/mp_compat.h"

static const char *const task_daemon[] = {
	"TM_CONNECT",  "TM_CONN2",   "TM_EXIT",	  "TM_ADDHOST", "TM_DELHOST",
	"TM_CONFIG",   "TM_MSTAT",   "TM_HALT",	  "TM_TICKLE",	"TM_SPAWN",
	"TM_PSTAT",    "TM_SENDSIG", "TM_TASK",	  "TM_MCA",	"TM_NOTIFY",
	"TM_DB",       "TM_SCHED",   "TM_TASKER", "TM_HOSTER",	"TM_TRACER",
	"TM_HOSTSYNC", "TM_SETOPT",  "TM_GETOPT", "TM_CONTEXT", "TM_SHMCONN",
};

static const char *const daemon_daemon[] = {
	"DM_ADD",      "DM_ADDACK",    "DM_EXEC",     "DM_EXECACK",	"DM_SENDSIG",
	"DM_HTUPD",    "DM_HTUPDACK",  "DM_HTCOMMIT", "DM_SLCONF",	"DM_STARTACK",
	"DM_TASK",     "DM_TASKACK",   "DM_DELHOST",  "DM_DELHOSTACK",	"DM_NULL",
	"DM_TASKOUT",  "DM_PSTAT",     "DM_PSTATACK", "DM_HALT",	"DM_MCA",
	"DM_NOTIFY",   "DM_NOTIFYACK", "DM_DB",	      "DM_DBACK",	"DM_RESET",
	"DM_RESETACK", "DM_HTDEL",     "DM_HOSTSYNC", "DM_HOSTSYNCACK",
};

static const char *const task_task[] = {
	"TC_CONREQ",   "TC_CONACK",    "TC_TASKEXIT",  "TC_NOOP",  "TC_OUTPUT",	 "TC_SETTRACE",
	"TC_SETTMASK", "TC_SETTRCBUF", "TC_SETTRCOPT", "TC_SHMAT", "TC_OUTPUTX", "TC_SIBLINGS",
};

static const char *const server_daemon[] = {
	"SM_SPAWN",   "SM_EXEC",  "SM_EXECACK", "SM_TASK",	"SM_CONFIG", "SM_ADDHOST",
	"SM_DELHOST", "SM_ADD",	  "SM_ADDACK",	"SM_NOTIFY",	"SM_TASKX",  "SM_HOSTX",
	"SM_HANDOFF", "SM_SCHED", "SM_STHOST",	"SM_STHOSTACK", "SM_STTASK",
};

static const struct {
	const char *const *names;
	unsigned count;
} families[] = {
	{task_daemon, BASE_ARRAY_LEN(task_daemon)},
	{daemon_daemon, BASE_ARRAY_LEN(daemon_daemon)},
	{task_task, BASE_ARRAY_LEN(task_task)},
	{server_daemon, BASE_ARRAY_LEN(server_daemon)},
};

/* Families are numbered from 0x8001 on in the upper half, their tags from 1 on in the lower. */
char *pvmnametag(int tag, int *found)
{
	static char text[16];
	unsigned family = ((unsigned)tag >> 16) - 0x8001, at = ((unsigned)tag & 0xffff) - 1;
	bool known = family < BASE_ARRAY_LEN(families) && at < families[family].count;

	if (found)
		*found = known;
	if (known)
		return (char *)(uintptr_t)families[family].names[at];
	snprintf(text, sizeof(text), "%d", tag);
	return text;
}
