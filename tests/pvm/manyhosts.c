/* Adds hosts n1..nN of this machine (see tests/integration/pvm_many.sh), spawns on all, counts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pvm3.h>

enum { HOSTS_MAX = 100 };

int main(int argc, char **argv)
{
	static char text[HOSTS_MAX][48];
	char *names[HOSTS_MAX], program[] = "/bin/true";
	int results[HOSTS_MAX], tids[2 * HOSTS_MAX], n, added, spawned, seen = 0, arches;
	struct pvmhostinfo *list;

	n = argc == 2 ? (int)strtol(argv[1], NULL, 10) : 0;
	if (n < 1 || n > HOSTS_MAX || pvm_mytid() < 0)
		return 2;
	for (int i = 0; i < n; i++) {
		snprintf(text[i], sizeof(text[i]), "n%d ip=127.0.0.1", i + 1);
		names[i] = text[i];
	}
	added = pvm_addhosts(names, n, results);
	pvm_config(&seen, &arches, &list);
	spawned = pvm_spawn(program, NULL, PvmTaskDefault, NULL, 2 * n, tids);
	printf("%d added, %d hosts, %d of %d tasks\n", added, seen, spawned, 2 * n);
	pvm_exit();
	return added == n && seen == n + 1 && spawned == 2 * n ? 0 : 1;
}
