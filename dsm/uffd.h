/*
 * Guest memory under userfaultfd: one memory file, mapped as the guest's view (whose faults we
 * handle) and as a private alias (where the network's bytes go). The guest's view is what
 * dsm_engine_ops map, protect and unmap change; any thread may fault on it and sleeps until then.
 *
 * Two ways to install a page: CONTINUE maps what lies in the file already (with write protection
 * from Linux 6.4 on); COPY puts the bytes in as it maps, for older kernels.
 */
#ifndef DSM_UFFD_H
#define DSM_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* A piece of the guest's view. The pieces together show each page of the file at most once. */
struct dsm_view {
	uint8_t *guest;	      /* page aligned */
	uint64_t file_offset; /* bytes, page aligned */
	uint64_t len;
};

#define DSM_VIEW_MAX 8

enum dsm_install { DSM_INSTALL_AUTO, DSM_INSTALL_CONTINUE, DSM_INSTALL_COPY };

struct dsm_uffd_fault {
	uint64_t gfn;
	bool write;
};

struct dsm_uffd;

/*
 * Maps the alias of the file and registers the views. Kernel-mode faults (KVM's own) need
 * /dev/userfaultfd or CAP_SYS_PTRACE. -EPERM without, -EOPNOTSUPP: the kernel lacks missing, minor
 * or write-protect faults on shared memory, or the asked way to install; -EINVAL, -ENOMEM.
 */
BASE_MUST_CHECK int dsm_uffd_new(int memory_fd, uint64_t len, const struct dsm_view *views,
				 unsigned view_count, enum dsm_install install,
				 struct dsm_uffd **out);
/* Unregisters (faulting threads go on with what is in the file) and unmaps the alias. */
void dsm_uffd_free(struct dsm_uffd *u);

/* 0 or why dsm_uffd_new() would fail here; `install` is set to the way that AUTO takes. */
BASE_MUST_CHECK int dsm_uffd_probe(enum dsm_install *install);

/* The views are ordinary memory from now on: nothing faults, all may be written. -errno. */
BASE_MUST_CHECK int dsm_uffd_release(struct dsm_uffd *u);
/* And back: they fault from now on, whatever is in the file. Nobody may touch them meanwhile. */
BASE_MUST_CHECK int dsm_uffd_share(struct dsm_uffd *u);
/* The next run of pages, from `gfn` on, that the file holds. -ENXIO: there is none. */
BASE_MUST_CHECK int dsm_uffd_data(const struct dsm_uffd *u, uint64_t gfn, uint64_t *first,
				  uint64_t *count);
int dsm_uffd_fd(const struct dsm_uffd *u);
uint8_t *dsm_uffd_alias(const struct dsm_uffd *u);
enum dsm_install dsm_uffd_install(const struct dsm_uffd *u);

/* Reads what is there without blocking: the number of faults, 0 to max, or -errno. */
BASE_MUST_CHECK int dsm_uffd_read(struct dsm_uffd *u, struct dsm_uffd_fault *out, unsigned max);

/* As dsm_engine_ops. */
BASE_MUST_CHECK int dsm_uffd_map(struct dsm_uffd *u, uint64_t gfn, uint64_t count, uint8_t access,
				 uint8_t had);
BASE_MUST_CHECK int dsm_uffd_protect(struct dsm_uffd *u, uint64_t gfn, uint64_t count);
BASE_MUST_CHECK int dsm_uffd_unmap(struct dsm_uffd *u, uint64_t gfn, uint64_t count);
BASE_MUST_CHECK int dsm_uffd_store(struct dsm_uffd *u, uint64_t gfn, const void *bytes);
BASE_MUST_CHECK int dsm_uffd_zero(struct dsm_uffd *u, uint64_t gfn);

#endif
