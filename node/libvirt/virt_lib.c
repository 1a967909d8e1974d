#include "node/libvirt/virt_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int virt_lib_open(const char *name, struct virt_lib *out, char *why, size_t cap)
{
	struct virt_lib lib = {0};
	const struct {
		const char *name;
		void *slot;
	} wanted[] = {
#define VIRT_LIB_SLOT(f) {#f, &lib.f},
		VIRT_LIB_FUNCTIONS(VIRT_LIB_SLOT)
#undef VIRT_LIB_SLOT
	};

	lib.handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!lib.handle) {
		snprintf(why, cap, "%s", dlerror());
		return -ENOENT;
	}
	for (size_t i = 0; i < BASE_ARRAY_LEN(wanted); i++) {
		void *f = dlsym(lib.handle, wanted[i].name);

		if (!f) {
			snprintf(why, cap, "%s lacks %s", name, wanted[i].name);
			dlclose(lib.handle);
			return -ENOSYS;
		}
		memcpy(wanted[i].slot, &f, sizeof(f));
	}
	*out = lib;
	return 0;
}
