/*
 * The cluster file, and the VM file when the first byte is 'v': what is read must be written and
 * read again as the same.
 * libs: pg_proto
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/cluster.h"
#include "proto/vmspec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void cluster(const uint8_t *data, size_t size)
{
	char why[CLUSTER_WHY_MAX], *text;
	struct cluster *c, *again;
	size_t len;
	FILE *f;

	if (cluster_parse("fuzz", data, size, false, &c, why))
		return;
	f = open_memstream(&text, &len);
	if (!f || cluster_write(c, f) || fclose(f) ||
	    cluster_parse("again", text, len, false, &again, why) || memcmp(c, again, sizeof(*c)))
		abort();
	free(c);
	free(again);
	free(text);
}

static void vmspec(const uint8_t *data, size_t size)
{
	char why[VMSPEC_WHY_MAX], *text;
	struct vmspec *s, *again;
	size_t len;
	FILE *f;

	if (vmspec_parse("fuzz", data, size, &s, why))
		return;
	if (vmspec_check(s, why)) {
		f = open_memstream(&text, &len);
		if (!f || vmspec_write(s, f) || fclose(f) ||
		    vmspec_parse("again", text, len, &again, why) || !vmspec_check(again, why))
			abort();
		free(again);
		free(text);
	}
	free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size && data[0] == 'v')
		vmspec(data + 1, size - 1);
	else
		cluster(data, size);
	return 0;
}
