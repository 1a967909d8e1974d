/*
 * The Fortran interface: routines with a trailing underscore, every argument by reference, and for
 * each character argument its length (size_t) behind the others, as gfortran and flang call them.
 * What stands in pvmfpack and its like may be of any type, so its hidden length is not looked at.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pvm/fortran/fpvm.h"

/* A Fortran string as a C one, without the blanks at its end; NULL without memory. */
static char *to_c(const char *s, size_t len)
{
	while (len && (s[len - 1] == ' ' || s[len - 1] == 0))
		len--;
	return strndup(s, len);
}

/* Padded with blanks. */
static void to_fortran(char *out, size_t cap, const char *s)
{
	size_t len = strlen(s);

	if (len > cap)
		len = cap;
	memcpy(out, s, len);
	memset(out + len, ' ', cap - len);
}

/* "*" as a name means none. */
static char *to_c_or_none(const char *s, size_t len)
{
	char *c = to_c(s, len);

	if (c && !strcmp(c, "*"))
		*c = 0;
	return c;
}

#define WITH_STRING(name, len, c, out, call)                                                       \
	do {                                                                                       \
		char *c = to_c(name, len);                                                         \
		*(out) = c ? (call) : PvmNoMem;                                                    \
		free(c);                                                                           \
	} while (0)

/* Hosts and tasks */

void pvmfaddhost_(const char *host, int *info, size_t len)
{
	char *c = to_c(host, len);
	int rc = PvmNoMem;

	if (c) {
		int one = pvm_addhosts(&c, 1, &rc);

		if (one < 0)
			rc = one;
	}
	*info = rc;
	free(c);
}

void pvmfdelhost_(const char *host, int *info, size_t len)
{
	char *c = to_c(host, len);
	int rc = PvmNoMem;

	if (c) {
		int one = pvm_delhosts(&c, 1, &rc);

		if (one < 0)
			rc = one;
	}
	*info = rc;
	free(c);
}

void pvmfarchcode_(const char *arch, int *code, size_t len)
{
	WITH_STRING(arch, len, c, code, pvm_archcode(c));
}

void pvmfcatchout_(const int *on, int *info)
{
	*info = pvm_catchout(*on ? stdout : NULL);
}

/* One host a call, from the first on; the last brings the walk to its begin. */
void pvmfconfig_(int *nhost, int *narch, int *dtid, char *name, char *arch, int *speed, int *info,
		 size_t name_len, size_t arch_len)
{
	static struct pvmhostinfo *hosts;
	static int count, formats, next;
	int rc = PvmOk;

	if (!next)
		rc = pvm_config(&count, &formats, &hosts);
	*info = rc;
	if (rc < 0)
		return;
	*nhost = count;
	*narch = formats;
	if (next < count) {
		*dtid = hosts[next].hi_tid;
		to_fortran(name, name_len, hosts[next].hi_name);
		to_fortran(arch, arch_len, hosts[next].hi_arch);
		*speed = hosts[next].hi_speed;
		next++;
	}
	if (next >= count)
		next = 0;
}

void pvmfexit_(int *info)
{
	*info = pvm_exit();
}

void pvmfhalt_(int *info)
{
	*info = pvm_halt();
}

void pvmfhostsync_(const int *host, int *clk_sec, int *clk_usec, int *d_sec, int *d_usec, int *info)
{
	struct timeval clk = {0}, delta = {0};

	*info = pvm_hostsync(*host, &clk, &delta);
	*clk_sec = (int)clk.tv_sec;
	*clk_usec = (int)clk.tv_usec;
	*d_sec = (int)delta.tv_sec;
	*d_usec = (int)delta.tv_usec;
}

void pvmfkill_(const int *tid, int *info)
{
	*info = pvm_kill(*tid);
}

void pvmfmstat_(const char *host, int *status, size_t len)
{
	WITH_STRING(host, len, c, status, pvm_mstat(c));
}

void pvmfmytid_(int *tid)
{
	*tid = pvm_mytid();
}

void pvmfnotify_(const int *what, const int *tag, const int *count, int *tids, int *info)
{
	*info = pvm_notify(*what, *tag, *count, tids);
}

void pvmfparent_(int *tid)
{
	*tid = pvm_parent();
}

void pvmfperror_(const char *text, int *info, size_t len)
{
	WITH_STRING(text, len, c, info, pvm_perror(c));
}

void pvmfpstat_(const int *tid, int *status)
{
	*status = pvm_pstat(*tid);
}

void pvmfsendsig_(const int *tid, const int *sig, int *info)
{
	*info = pvm_sendsig(*tid, *sig);
}

void pvmfgetopt_(const int *what, int *value)
{
	*value = pvm_getopt(*what);
}

void pvmfsetopt_(const int *what, const int *value, int *old)
{
	*old = pvm_setopt(*what, *value);
}

/* One sibling a call, -1: the number only. */
void pvmfsiblings_(int *count, const int *which, int *tid)
{
	static int *tids, n;

	n = pvm_siblings(&tids);
	*count = n;
	if (*which >= 0 && *which < n)
		*tid = tids[*which];
}

void pvmfsleep_(const int *seconds)
{
	if (*seconds > 0)
		sleep((unsigned)*seconds);
}

void pvmfspawn_(const char *task, const int *flag, const char *where, const int *count, int *tids,
		int *started, size_t task_len, size_t where_len)
{
	char *file = to_c(task, task_len), *place = to_c_or_none(where, where_len);

	*started = file && place ? pvm_spawn(file, NULL, *flag, place, *count, tids) : PvmNoMem;
	free(file);
	free(place);
}

/* The arguments of the daemon in one string, between blanks. */
void pvmfstartpvmd_(const char *args, const int *block, int *info, size_t len)
{
	enum { ARGS_MAX = 64 };
	char *c = to_c_or_none(args, len), *argv[ARGS_MAX + 1], *save = NULL;
	int argc = 0;

	if (!c) {
		*info = PvmNoMem;
		return;
	}
	for (char *p = strtok_r(c, " \t", &save); p && argc < ARGS_MAX;
	     p = strtok_r(NULL, " \t", &save))
		argv[argc++] = p;
	argv[argc] = NULL;
	*info = pvm_start_pvmd(argc, argv, *block);
	free(c);
}

/* One task a call, as pvmfconfig does with hosts. */
void pvmftasks_(const int *which, int *count, int *tid, int *parent, int *dtid, int *flag,
		char *name, int *info, size_t name_len)
{
	static struct pvmtaskinfo *tasks;
	static int n, next;
	int rc = PvmOk;

	if (!next)
		rc = pvm_tasks(*which, &n, &tasks);
	*info = rc;
	if (rc < 0)
		return;
	*count = n;
	if (next < n) {
		const struct pvmtaskinfo *t = &tasks[next++];

		*tid = t->ti_tid;
		*parent = t->ti_ptid;
		*dtid = t->ti_host;
		*flag = t->ti_flag;
		to_fortran(name, name_len, t->ti_a_out ? t->ti_a_out : "");
	}
	if (next >= n)
		next = 0;
}

void pvmftidtohost_(const int *tid, int *dtid)
{
	*dtid = pvm_tidtohost(*tid);
}

/* Groups stand in fgroup.c, buffers and messages in fmesg.c; these are the mailbox. */

void pvmfdelinfo_(const char *name, const int *index, const int *flags, int *info, size_t len)
{
	WITH_STRING(name, len, c, info, pvm_delinfo(c, *index, *flags));
}

void pvmfputinfo_(const char *name, const int *mid, const int *flags, int *index, size_t len)
{
	WITH_STRING(name, len, c, index, pvm_putinfo(c, *mid, *flags));
}

void pvmfrecvinfo_(const char *name, const int *index, const int *flags, int *mid, size_t len)
{
	WITH_STRING(name, len, c, mid, pvm_recvinfo(c, *index, *flags));
}

/* The classes one by one, each with its first entry. */
void pvmfgetmboxinfo_(const char *pattern, char *name, int *nclasses, int *nentries, int *index,
		      int *owner, int *flags, int *info, size_t pattern_len, size_t name_len)
{
	static struct pvmmboxinfo *classes;
	static int n, next;
	int rc = PvmOk;

	if (!next)
		WITH_STRING(pattern, pattern_len, c, &rc, pvm_getmboxinfo(c, &n, &classes));
	*info = rc;
	if (rc < 0)
		return;
	*nclasses = n;
	if (next < n) {
		const struct pvmmboxinfo *m = &classes[next++];

		to_fortran(name, name_len, m->mi_name);
		*nentries = m->mi_nentries;
		for (int i = 0; i < m->mi_nentries; i++) {
			index[i] = m->mi_indices[i];
			owner[i] = m->mi_owners[i];
			flags[i] = m->mi_flags[i];
		}
	}
	if (next >= n)
		next = 0;
}
