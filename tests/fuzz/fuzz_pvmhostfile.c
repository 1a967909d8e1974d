/* libs: pg_pvmd */
/* Lines of a PVM host file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/pvmd/mpd_hostfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mpd_hostline base = {0}, out;
	char *text = malloc(size + 1), why[160], *save = NULL;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		if (mpd_hostline_parse(l, &base, &out, why, sizeof(why)))
			continue;
		/* A name goes to a command line. */
		if (out.name[0] == '-' || strpbrk(out.name, " ;|&$`'\"\\<>()"))
			abort();
		if (out.defaults)
			base = out;
	}
	free(text);
	return 0;
}
