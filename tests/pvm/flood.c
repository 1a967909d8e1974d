/*
 * A child sends 10,000 messages to a parent that takes none until the child stands still: it must wait,
 * not hoard, and none is lost or overtakes another. Prints what it cost; 1 when something does not hold.
 */
#include <fcntl.h>
#include <poll.h>
#include <pvm3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TAG = 1, TAG_COST = 2, COUNT = 10000, BYTES = 20000, COST_MAX_MIB = 100 };

enum { LOOK_MS = 20, STILL_LOOKS = 50, LOOKS_MAX = 3000 };

static char body[BYTES];

/* How many messages the child has sent, in a file that both map. */
static atomic_int *map_sent(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *p;

	if (fd < 0)
		return NULL;
	p = mmap(NULL, sizeof(atomic_int), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

/* Until a second passes in which nothing is sent: how many were. */
static int stands_at(atomic_int *sent)
{
	int last = -1, still = 0;

	for (int k = 0; k < LOOKS_MAX && still < STILL_LOOKS; k++) {
		int now = atomic_load(sent);

		still = now > 0 && now == last ? still + 1 : 0;
		last = now;
		(void)poll(NULL, 0, LOOK_MS);
	}
	return last;
}

static int child(int parent, atomic_int *sent)
{
	struct rusage u;
	int mib;

	for (int i = 0; i < COUNT; i++) {
		pvm_initsend(PvmDataRaw);
		pvm_pkint(&i, 1, 1);
		pvm_pkbyte(body, BYTES, 1);
		if (pvm_send(parent, TAG) < 0)
			return 1;
		atomic_store(sent, i + 1);
	}
	getrusage(RUSAGE_SELF, &u);
	mib = (int)(u.ru_maxrss / 1024);
	pvm_initsend(PvmDataRaw);
	pvm_pkint(&mib, 1, 1);
	pvm_send(parent, TAG_COST);
	pvm_exit();
	return 0;
}

int main(int argc, char **argv)
{
	char self[4096] = "", path[] = "/tmp/pvmflood.XXXXXX", *args[] = {path, NULL};
	int tid, mib = -1, number, failures = 0, held, fd;
	atomic_int *sent;

	if (pvm_mytid() < 0 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	if (pvm_parent() > 0) {
		sent = argc == 2 ? map_sent(argv[1]) : NULL;
		return sent ? child(pvm_parent(), sent) : 1;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, sizeof(*sent)))
		return 1;
	close(fd);
	sent = map_sent(path);
	if (!sent || pvm_spawn(self, args, PvmTaskDefault, NULL, 1, &tid) != 1) {
		unlink(path);
		return 1;
	}
	held = stands_at(sent);
	unlink(path);
	for (int i = 0; i < COUNT; i++) {
		number = -1;
		pvm_recv(tid, TAG);
		pvm_upkint(&number, 1, 1);
		failures += number != i;
	}
	pvm_recv(tid, TAG_COST);
	pvm_upkint(&mib, 1, 1);
	printf("%d messages of %d bytes, %d out of order; the sender stood after %d and took %d MiB\n",
	       COUNT, BYTES, failures, held, mib);
	pvm_exit();
	return failures || held <= 0 || held >= COUNT || mib < 0 || mib > COST_MAX_MIB;
}
