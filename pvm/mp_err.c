/* Error codes, their texts, and how they are told. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"

enum { ERROR_COUNT = 37 };

int pvm_errno;
int pvm_nerr = ERROR_COUNT;

/* By the negated code. */
const char *pvm_errlist[ERROR_COUNT] = {
	"Error 0",
	"Error 1",
	[-PvmBadParam] = "Bad parameter",
	[-PvmMismatch] = "Parameter mismatch",
	[-PvmOverflow] = "Value too large",
	[-PvmNoData] = "End of buffer",
	[-PvmNoHost] = "No such host",
	[-PvmNoFile] = "No such file",
	[-PvmDenied] = "Permission denied",
	[9] = "Error 9",
	[-PvmNoMem] = "Malloc failed",
	[11] = "Error 11",
	[-PvmBadMsg] = "Can't decode message",
	[13] = "Error 13",
	[-PvmSysErr] = "Can't contact local daemon",
	[-PvmNoBuf] = "No current buffer",
	[-PvmNoSuchBuf] = "No such buffer",
	[-PvmNullGroup] = "Null group name",
	[-PvmDupGroup] = "Already in group",
	[-PvmNoGroup] = "No such group",
	[-PvmNotInGroup] = "Not in group",
	[-PvmNoInst] = "No such instance",
	[-PvmHostFail] = "Host failed",
	[-PvmNoParent] = "No parent task",
	[-PvmNotImpl] = "Not implemented",
	[-PvmDSysErr] = "Pvmd system error",
	[-PvmBadVersion] = "Version mismatch",
	[-PvmOutOfRes] = "Out of resources",
	[-PvmDupHost] = "Duplicate host",
	[-PvmCantStart] = "Can't start pvmd",
	[-PvmAlready] = "Already in progress",
	[-PvmNoTask] = "No such task",
	[-PvmNotFound] = "Not Found",
	[-PvmExists] = "Already Exists",
	[-PvmHostrNMstr] = "Hoster must run on master host",
	[-PvmParentNotSet] = "Spawning parent set PvmNoParent",
	[-PvmIPLoopback] = "Master Host IP Address is Loopback! (See pvm3/Readme)",
};

char *pvm_strerror(void)
{
	static char unknown[] = "Unknown Error";

	if (pvm_errno <= 0 && pvm_errno > -ERROR_COUNT)
		return (char *)(uintptr_t)pvm_errlist[-pvm_errno];
	return unknown;
}

int pvm_perror(char *prefix)
{
	pvmlogprintf("%s: %s\n", prefix ? prefix : "(null)", pvm_strerror());
	return 0;
}

int lpvmerr(const char *function, int code)
{
	pvm_errno = code;
	if (!pvmautoerr)
		return code;
	pvmlogprintf("%s(): %s\n", function, pvm_strerror());
	if (pvmautoerr == 2) {
		mp_api_exit();
		exit(code);
	}
	if (pvmautoerr == 3)
		abort();
	return code;
}

void vpvmlogprintf(const char *fmt, va_list ap)
{
	char line[4096];
	int n;

	if (pvmmytid == -1)
		n = snprintf(line, sizeof(line), "libpvm [pid%d]: ", (int)getpid());
	else
		n = snprintf(line, sizeof(line), "libpvm [t%x]: ", pvmmytid);
	vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	fputs(line, stderr);
}

void pvmlogprintf(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vpvmlogprintf(fmt, ap);
	va_end(ap);
}

void pvmlogerror(const char *text)
{
	pvmlogprintf("%s", text);
}

void pvmlogperror(const char *text)
{
	pvmlogprintf("%s: %s\n", text, strerror(errno));
}
