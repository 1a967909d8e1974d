/*
 * A task that holds received messages forks children that touch PVM and end: the parent's messages
 * stay whole, and it goes on. Exit 0 when all is well.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pvm3.h>

enum { BYTES = 200000, ROUNDS = 20 };

static char buf[BYTES];

static int echo(int parent)
{
	for (int i = 0; i < ROUNDS; i++) {
		pvm_recv(parent, 1);
		pvm_upkbyte(buf, BYTES, 1);
		pvm_initsend(PvmDataRaw);
		pvm_pkbyte(buf, BYTES, 1);
		pvm_send(parent, 2);
	}
	pvm_exit();
	return 0;
}

int main(void)
{
	char self[512] = "";
	int tid, me = pvm_mytid(), bad = 0, status;

	if (me < 0)
		return 2;
	if (pvm_parent() > 0)
		return echo(pvm_parent());
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 ||
	    pvm_spawn(self, NULL, PvmTaskDefault, NULL, 1, &tid) != 1)
		return 3;
	for (int i = 0; i < ROUNDS; i++) {
		memset(buf, i + 1, BYTES);
		pvm_initsend(PvmDataRaw);
		pvm_pkbyte(buf, BYTES, 1);
		pvm_send(tid, 1);
		pvm_recv(tid, 2);
		if (fork() == 0) {
			/* A task of its own, if it wants to be one. */
			status = i % 2 ? 0 : pvm_mytid() == me;
			pvm_exit();
			_exit(status);
		}
		wait(&status);
		bad += status != 0;
		memset(buf, 0, BYTES);
		pvm_upkbyte(buf, BYTES, 1);
		for (int k = 0; k < BYTES; k++)
			bad += buf[k] != i + 1;
	}
	printf("forks: %d failures\n", bad);
	pvm_exit();
	return bad != 0;
}
