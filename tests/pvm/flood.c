/*
 * A child sends 10,000 messages to a parent that sleeps: it must wait, not hoard, and none is lost or
 * overtakes another. Prints what it cost; 1 when something does not hold.
 */
#include <pvm3.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TAG = 1, TAG_COST = 2, COUNT = 10000, BYTES = 20000, COST_MAX_MIB = 100 };

static char body[BYTES];

static int child(int parent)
{
	struct rusage u;
	int mib;

	for (int i = 0; i < COUNT; i++) {
		pvm_initsend(PvmDataRaw);
		pvm_pkint(&i, 1, 1);
		pvm_pkbyte(body, BYTES, 1);
		if (pvm_send(parent, TAG) < 0)
			return 1;
	}
	getrusage(RUSAGE_SELF, &u);
	mib = (int)(u.ru_maxrss / 1024);
	pvm_initsend(PvmDataRaw);
	pvm_pkint(&mib, 1, 1);
	pvm_send(parent, TAG_COST);
	pvm_exit();
	return 0;
}

int main(void)
{
	char self[4096] = "";
	int tid, mib = -1, number, failures = 0;

	if (pvm_mytid() < 0 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	if (pvm_parent() > 0)
		return child(pvm_parent());
	if (pvm_spawn(self, NULL, PvmTaskDefault, NULL, 1, &tid) != 1)
		return 1;
	/* The child meets a receiver that takes nothing. */
	sleep(2);
	for (int i = 0; i < COUNT; i++) {
		number = -1;
		pvm_recv(tid, TAG);
		pvm_upkint(&number, 1, 1);
		failures += number != i;
	}
	pvm_recv(tid, TAG_COST);
	pvm_upkint(&mib, 1, 1);
	printf("%d messages of %d bytes, %d out of order; the sender took %d MiB\n", COUNT, BYTES,
	       failures, mib);
	pvm_exit();
	return failures || mib < 0 || mib > COST_MAX_MIB;
}
