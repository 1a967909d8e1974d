/* The Fortran interface: groups. An object of its own, so that programs without groups need no
 * libgpvm3. */
#include <stdlib.h>
#include <string.h>

#include "pvm/fortran/fpvm.h"

static char *name_of(const char *s, size_t len)
{
	while (len && (s[len - 1] == ' ' || s[len - 1] == 0))
		len--;
	return strndup(s, len);
}

#define GROUP(out, call)                                                                           \
	do {                                                                                       \
		char *g = name_of(group, len);                                                     \
		*(out) = g ? (call) : PvmNoMem;                                                    \
		free(g);                                                                           \
	} while (0)

void pvmfjoingroup_(const char *group, int *inst, size_t len)
{
	GROUP(inst, pvm_joingroup(g));
}

void pvmflvgroup_(const char *group, int *info, size_t len)
{
	GROUP(info, pvm_lvgroup(g));
}

void pvmfgetinst_(const char *group, const int *tid, int *inst, size_t len)
{
	GROUP(inst, pvm_getinst(g, *tid));
}

void pvmfgettid_(const char *group, const int *inst, int *tid, size_t len)
{
	GROUP(tid, pvm_gettid(g, *inst));
}

void pvmfgsize_(const char *group, int *size, size_t len)
{
	GROUP(size, pvm_gsize(g));
}

void pvmfbarrier_(const char *group, const int *count, int *info, size_t len)
{
	GROUP(info, pvm_barrier(g, *count));
}

void pvmfbcast_(const char *group, const int *tag, int *info, size_t len)
{
	GROUP(info, pvm_bcast(g, *tag));
}

void pvmffreezegroup_(const char *group, const int *size, int *info, size_t len)
{
	GROUP(info, pvm_freezegroup(g, *size));
}

void pvmfgather_(void *result, void *data, const int *count, const int *type, const int *tag,
		 const char *group, const int *root, int *info, size_t len)
{
	GROUP(info, pvm_gather(result, data, *count, *type, *tag, g, *root));
}

void pvmfscatter_(void *result, void *data, const int *count, const int *type, const int *tag,
		  const char *group, const int *root, int *info, size_t len)
{
	GROUP(info, pvm_scatter(result, data, *count, *type, *tag, g, *root));
}

void pvmfreduce_(void (*op)(int *, void *, void *, int *, int *), void *data, const int *count,
		 const int *type, const int *tag, const char *group, const int *root, int *info,
		 size_t len)
{
	GROUP(info, pvm_reduce(op, data, *count, *type, *tag, g, *root));
}

void pvmmax_(int *type, void *x, void *y, int *count, int *info)
{
	PvmMax(type, x, y, count, info);
}

void pvmmin_(int *type, void *x, void *y, int *count, int *info)
{
	PvmMin(type, x, y, count, info);
}

void pvmsum_(int *type, void *x, void *y, int *count, int *info)
{
	PvmSum(type, x, y, count, info);
}

void pvmproduct_(int *type, void *x, void *y, int *count, int *info)
{
	PvmProduct(type, x, y, count, info);
}
