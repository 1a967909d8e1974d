/*
 * Calls of libpvm3 and libgpvm3 for tests/integration/pvm_trace.sh: this program runs under a tracer,
 * which sees each of them. `traced [PART]`.
 */
#include <pvm3.h>
#include <pvmtev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int me;

static void packing(void)
{
	char b[4] = "abc", s[16] = "text";
	float f[4] = {1, 2};
	double d[4] = {3, 4};
	int i[4] = {5, 6};
	unsigned u[4] = {7, 8};
	long l[4] = {9, 10};
	unsigned long ul[4] = {11, 12};
	short h[4] = {13, 14};
	unsigned short uh[4] = {15, 16};
	int to[1] = {me};

	pvm_initsend(PvmDataRaw);
	pvm_pkbyte(b, 4, 1);
	pvm_pkcplx(f, 2, 1);
	pvm_pkdcplx(d, 2, 1);
	pvm_pkdouble(d, 2, 2);
	pvm_pkfloat(f, 2, 1);
	pvm_pkint(i, 4, 1);
	pvm_pkuint(u, 4, 1);
	pvm_pklong(l, 4, 1);
	pvm_pkulong(ul, 4, 1);
	pvm_pkshort(h, 4, 1);
	pvm_pkushort(uh, 4, 1);
	pvm_pkstr(s);
	pvm_packf("%d %s", 1, s);
	pvm_pkint(i, -1, 1);
	pvm_mcast(to, 1, 3);
	pvm_send(me, 4);
	pvm_send(me, 5);
	pvm_recv(-1, 5);
	pvm_probe(-1, 4);
	pvm_recv(-1, 4);
	pvm_upkbyte(b, 4, 1);
	pvm_upkcplx(f, 2, 1);
	pvm_upkdcplx(d, 2, 1);
	pvm_upkdouble(d, 2, 2);
	pvm_upkfloat(f, 2, 1);
	pvm_upkint(i, 4, 1);
	pvm_upkuint(u, 4, 1);
	pvm_upklong(l, 4, 1);
	pvm_upkulong(ul, 4, 1);
	pvm_upkshort(h, 4, 1);
	pvm_upkushort(uh, 4, 1);
	pvm_upkstr(s);
	pvm_unpackf("%d %s", i, s);
	pvm_upkint(i, 1, 1);
	pvm_probe(-1, 12345);
}

static void buffers(void)
{
	struct pvmminfo info;
	int mid = pvm_mkbuf(PvmDataDefault), other, x[3] = {1, 2, 3}, a, b, c;

	other = pvm_setsbuf(mid);
	pvm_pkint(x, 3, 1);
	pvm_bufinfo(mid, &a, &b, &c);
	pvm_bufinfo(mid, NULL, NULL, NULL);
	pvm_getsbuf();
	pvm_getrbuf();
	pvm_getminfo(mid, &info);
	pvm_setminfo(mid, &info);
	pvm_pkmesg(mid);
	pvm_setsbuf(other);
	pvm_pkint(x, 3, 1);
	pvm_initsend(PvmDataDefault);
	pvm_pkmesg(mid);
	pvm_pkmesgbody(mid);
	pvm_send(me, 12);
	pvm_recv(me, 12);
	pvm_setrbuf(0);
	pvm_freebuf(mid);
	pvm_freebuf(mid);
	pvm_initsend(PvmDataInPlace);
	pvm_pkint(x, 3, 1);
	pvm_send(me, 13);
	pvm_recv(me, 13);
	pvm_initsend(99);
}

static int handled(int mid)
{
	int x = 0;

	(void)mid;
	pvm_upkint(&x, 1, 1);
	return 0;
}

static void messages(void)
{
	struct timeval soon = {0, 1000};
	double d[3] = {1, 2, 3};
	int x[3] = {1, 2, 3}, rtid, rtag, rlen, ctx;

	pvm_psend(me, 5, d, 3, PVM_DOUBLE);
	pvm_precv(-1, 5, d, 3, PVM_DOUBLE, &rtid, &rtag, &rlen);
	pvm_psend(me, 5, x, 3, PVM_INT);
	pvm_precv(-1, 5, x, 3, PVM_INT, NULL, NULL, NULL);
	pvm_initsend(PvmDataDefault);
	pvm_pkint(x, 3, 1);
	pvm_send(me, 6);
	pvm_recv(-1, 6);
	pvm_nrecv(-1, 6);
	pvm_trecv(-1, 7, &soon);
	pvm_send(me, 7);
	pvm_trecv(me, 7, NULL);
	pvm_send(0, 7);
	pvm_send(me, -7);
	pvm_recvf(NULL);
	ctx = pvm_newcontext();
	pvm_setcontext(ctx);
	pvm_getcontext();
	pvm_setcontext(0);
	pvm_freecontext(ctx);
	pvm_freecontext(ctx);
	pvm_freecontext(12345);
}

static void handlers(void)
{
	int mh = pvm_addmhf(-1, 9, 0, handled), x = 1;

	pvm_initsend(PvmDataDefault);
	pvm_pkint(&x, 1, 1);
	pvm_send(me, 9);
	pvm_send(me, 10);
	pvm_recv(-1, 10);
	pvm_delmhf(mh);
	pvm_delmhf(mh);
}

static void mailbox(void)
{
	struct pvmmboxinfo *classes;
	char name[] = "traced_class", old[] = "traced_old";
	int n = 0, value, mid = pvm_initsend(PvmDataDefault);

	pvm_pkint(&n, 1, 1);
	pvm_putinfo(name, mid, PvmMboxDefault);
	pvm_putinfo(name, mid, PvmMboxMultiInstance | 7 << PvmMboxDirectIndexShift);
	pvm_putinfo(name, mid, PvmMboxDefault);
	pvm_getmboxinfo(name, &n, &classes);
	pvm_recvinfo(name, 0, PvmMboxDefault);
	pvm_delinfo(name, 0, PvmMboxDefault);
	pvm_recvinfo(name, 0, PvmMboxDefault);
	pvm_insert(old, 1, 2);
	pvm_lookup(old, 1, &value);
	pvm_delete(old, 1);
}

static void tasks(void)
{
	struct pvmtaskinfo *t;
	int n, *list, child[2] = {0, 0};
	char prog[] = "/bin/true", none[] = "/no/such/program", where[] = "", arg[] = "one",
	     prefix[] = "traced";
	char *args[2] = {arg, NULL};
	Pvmtmask mask;

	pvm_mytid();
	pvm_parent();
	pvm_pstat(me);
	pvm_pstat(0x7654321);
	pvm_siblings(&list);
	pvm_tidtohost(me);
	pvm_tasks(me, &n, &t);
	pvm_setopt(PvmAutoErr, 0);
	pvm_getopt(PvmAutoErr);
	pvm_setopt(1234, 1);
	pvm_spawn(none, NULL, PvmTaskDefault, where, 1, child);
	TEV_MASK_INIT(mask);
	pvm_settmask(PvmTaskChild, mask);
	pvm_gettmask(PvmTaskChild, mask);
	pvm_gettmask(77, mask);
	pvm_setopt(PvmTraceTid, 0);
	pvm_spawn(prog, args, PvmTaskDefault, where, 1, child);
	pvm_notify(PvmTaskExit, 20, 1, child);
	pvm_recv(-1, 20);
	pvm_kill(0);
	pvm_sendsig(me, 0);
	pvm_perror(prefix);
	pvm_version();
	pvm_export("TRACED");
	pvm_unexport("TRACED");
}

static void hosts(void)
{
	struct pvmhostinfo *h;
	struct timeval clock, delta;
	int n, a, infos[1] = {0}, args[2] = {0, 0}, *fds;
	char name[] = "no.such.host.invalid", arch[] = "LINUX64";
	char *names[1] = {name};

	pvm_config(&n, &a, &h);
	pvm_config(NULL, NULL, NULL);
	pvm_archcode(arch);
	pvm_mstat(h[0].hi_name);
	pvm_mstat(name);
	pvm_hostsync(h[0].hi_tid, &clock, &delta);
	pvm_delhosts(names, 1, infos);
	pvm_addhosts(names, 1, infos);
	pvm_tickle(1, args, &n, args);
	pvm_getfds(&fds);
	pvm_notify(PvmHostAdd, 21, 0, NULL);
	pvm_notify(PvmHostAdd, 21, -1, NULL);
	pvm_reg_tasker();
	pvm_reg_tasker();
	pvm_reg_hoster();
	pvm_reg_tracer(0, 1, 0, 2, "", 0, 0);
}

static void groups(void)
{
	char name[] = "traced_group", none[] = "no_group";
	int data[2] = {1, 2}, result[2];

	pvm_joingroup(name);
	pvm_joingroup(name);
	pvm_gsize(name);
	pvm_gsize(none);
	pvm_getinst(name, me);
	pvm_gettid(name, 0);
	pvm_barrier(name, 1);
	pvm_initsend(PvmDataDefault);
	pvm_bcast(name, 31);
	pvm_reduce(PvmSum, data, 2, PVM_INT, 32, name, 0);
	pvm_gather(result, data, 2, PVM_INT, 33, name, 0);
	pvm_scatter(result, data, 2, PVM_INT, 34, name, 0);
	pvm_lvgroup(name);
	pvm_lvgroup(none);
}

/* Events of the program's own. */
static void own(void)
{
	int mid = pvm_initsend(PvmDataTrace), x[2] = {1, 2};
	char s[] = "mine";

	pvm_pkint(x, 1, 1);
	pvm_pkint(x, 2, 1);
	pvm_pkstr(s);
	pvm_send(PVM_TRACE_TID, PVM_TRACE_CODE);
	(void)mid;
}

/* The mask turned off and on. */
static void masked(void)
{
	Pvmtmask none, some;

	TEV_MASK_INIT(none);
	TEV_MASK_INIT(some);
	TEV_MASK_SET(some, TEV_GETSBUF);
	TEV_MASK_SET(some, TEV_SETTMASK);
	pvm_settmask(PvmTaskSelf, none);
	pvm_getsbuf();
	pvm_getrbuf();
	pvm_settmask(PvmTaskSelf, some);
	pvm_getsbuf();
	pvm_getrbuf();
	pvm_setopt(PvmSelfTraceTid, 0);
	pvm_getsbuf();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} parts[] = {{"packing", packing},   {"buffers", buffers}, {"messages", messages},
		     {"handlers", handlers}, {"mailbox", mailbox}, {"tasks", tasks},
		     {"hosts", hosts},	     {"groups", groups},   {"own", own},
		     {"masked", masked}};

	me = pvm_mytid();
	for (size_t i = 0; argc > 1 && i < sizeof(parts) / sizeof(parts[0]); i++)
		if (!strcmp(parts[i].name, argv[1]))
			parts[i].run();
	pvm_exit();
	return 0;
}
