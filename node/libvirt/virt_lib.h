/* libvirt.so.0, opened at run time: a table of the functions that we call, by their own names. */
#ifndef NODE_LIBVIRT_VIRT_LIB_H
#define NODE_LIBVIRT_VIRT_LIB_H

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "base/cleanup.h"

/* clang-format off */
#define VIRT_LIB_FUNCTIONS(F) \
	F(virInitialize) F(virSetErrorFunc) F(virGetLastErrorMessage) F(virGetLastErrorCode) \
	F(virEventRegisterDefaultImpl) F(virEventRunDefaultImpl) \
	F(virEventAddHandle) F(virEventRemoveHandle) \
	F(virEventAddTimeout) F(virEventUpdateTimeout) F(virEventRemoveTimeout) \
	F(virConnectOpen) F(virConnectClose) F(virConnectRef) F(virConnectIsAlive) \
	F(virConnectSetKeepAlive) F(virConnectRegisterCloseCallback) \
	F(virConnectUnregisterCloseCallback) \
	F(virConnectGetType) F(virConnectGetVersion) F(virConnectGetLibVersion) \
	F(virConnectGetCapabilities) F(virNodeGetInfo) F(virConnectCompareCPU) \
	F(virConnectDomainEventRegisterAny) F(virConnectDomainEventDeregisterAny) \
	F(virConnectListAllDomains) F(virDomainListGetStats) F(virDomainStatsRecordListFree) \
	F(virDomainFree) F(virDomainGetName) F(virDomainGetUUIDString) F(virDomainGetInfo) \
	F(virDomainGetState) \
	F(virDomainIsPersistent) F(virDomainLookupByUUIDString) \
	F(virDomainCreate) F(virDomainShutdown) F(virDomainDestroy) F(virDomainSuspend) \
	F(virDomainResume) F(virDomainReset) \
	F(virDomainMigrateToURI3) F(virDomainMigrateSetMaxDowntime) \
	F(virDomainGetJobStats) F(virDomainAbortJob) \
	F(virTypedParamsAddString) F(virTypedParamsAddULLong) F(virTypedParamsAddInt) \
	F(virTypedParamsGetULLong) F(virTypedParamsGetInt) F(virTypedParamsFree)
/* clang-format on */

struct virt_lib {
	void *handle;
#define VIRT_LIB_MEMBER(f) __typeof__(f) *f;
	VIRT_LIB_FUNCTIONS(VIRT_LIB_MEMBER)
#undef VIRT_LIB_MEMBER
};

/* -ENOENT: no such library; -ENOSYS: one that lacks a function; `why` has the loader's words. */
BASE_MUST_CHECK int virt_lib_open(const char *name, struct virt_lib *out, char *why, size_t cap);

#endif
