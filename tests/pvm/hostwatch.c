/* Waits for the end of the host given by its tid (hex), says how long that took, and lists who is
 * left; then uses the mailbox, which needs a coordinator. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

#include <pvm3.h>

int main(int argc, char **argv)
{
	struct pvmhostinfo *list;
	char name[] = "after";
	int tid, gone = 0, n = 0, arches, mail;

	if (argc != 2 || pvm_mytid() < 0)
		return 2;
	tid = (int)strtoul(argv[1], NULL, 16);
	pvm_notify(PvmHostDelete, 5, 1, &tid);
	printf("waiting\n");
	fflush(stdout);
	pvm_recv(-1, 5);
	pvm_upkint(&gone, 1, 1);
	pvm_config(&n, &arches, &list);
	pvm_initsend(PvmDataDefault);
	mail = pvm_putinfo(name, pvm_getsbuf(), PvmMboxDefault);
	printf("host %x is gone; %d left; mailbox %d\n", (unsigned)gone, n, mail);
	pvm_exit();
	return gone == tid && mail == 0 ? 0 : 1;
}
