/*
 * BTF out of a guest's memory: nothing outside of it is read, and looking for a member ends.
 * libs: pg_ctl
 */
#include <stdint.h>

#include "ctl/btf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const members[][2] = {{"page", "mapping"},
						 {"page", "compound_head"},
						 {"vm_area_struct", "shared.rb"},
						 {"anon_vma", "rb_root.rb_root.rb_node"},
						 {"mm_struct", "owner"}};
	struct btf *b;
	uint32_t v;

	if (btf_new(data, size, &b))
		return 0;
	for (size_t i = 0; i < BASE_ARRAY_LEN(members); i++)
		if (!btf_member(b, members[i][0], members[i][1], &v))
			v = 0;
	if (!btf_struct_size(b, "page", &v) && !btf_enum_value(b, "PG_slab", &v))
		v = 0;
	btf_free(b);
	return 0;
}
