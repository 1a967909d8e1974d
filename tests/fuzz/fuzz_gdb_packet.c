/* libs: pg_vmm */
#include <assert.h>
#include <string.h>

#include "node/vmm/gdb_packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vmm_gdb_reader r;

	memset(&r, 0, sizeof(r));
	for (size_t i = 0; i < size; i++) {
		const char *s = r.text;
		uint8_t bytes[64];
		uint64_t v;

		if (vmm_gdb_reader_put(&r, data[i]) != VMM_GDB_PACKET)
			continue;
		assert(strlen(r.text) <= VMM_GDB_PACKET_MAX);
		while (*s && vmm_gdb_hex(&s, &v) && vmm_gdb_skip(&s, ','))
			;
		s = r.text;
		if (vmm_gdb_unhex(&s, bytes, sizeof(bytes)))
			assert(s == r.text + 2 * sizeof(bytes));
	}
	return 0;
}
