#include "dsm/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "dsm/page_fsm.h"

/* Linux 6.4; older headers lack it. */
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP ((__u64)1 << 1)
#endif

#define FEATURES                                                                                   \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |  \
	 UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define READ_MAX 64

struct dsm_uffd {
	int fd, memory_fd;
	enum dsm_install install;
	uint8_t *alias;
	uint64_t len;
	unsigned view_count;
	struct dsm_view views[DSM_VIEW_MAX];
};

static int open_fd(int *out)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		BASE_AUTO_FD int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

		if (dev < 0)
			return -EPERM;
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			return -errno;
	}
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};

	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return -EOPNOTSUPP;
	}
	*out = fd;
	return 0;
}

static int register_view(int fd, const struct dsm_view *v)
{
	struct uffdio_register r = {.range = {.start = (uintptr_t)v->guest, .len = v->len},
				    .mode = UFFDIO_REGISTER_MODE_MISSING |
					    UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP};

	if (ioctl(fd, UFFDIO_REGISTER, &r) < 0)
		return errno == EINVAL ? -EOPNOTSUPP : -errno;
	/* A huge page would tie 512 pages together. */
	if (madvise(v->guest, v->len, MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
		return -errno;
	return 0;
}

static int uffd_continue(int fd, uint64_t start, uint64_t len, uint64_t mode, uint64_t *mapped)
{
	struct uffdio_continue c = {.range = {.start = start, .len = len}, .mode = mode};

	*mapped = 0;
	if (!ioctl(fd, UFFDIO_CONTINUE, &c)) {
		*mapped = len;
		return 0;
	}
	int err = -errno;

	if (c.mapped > 0)
		*mapped = (uint64_t)c.mapped;
	else if (c.mapped < 0)
		err = (int)c.mapped;
	return err;
}

/* Nothing tells whether CONTINUE can write-protect, except trying it. */
static int probe_page(int fd, int memory_fd, enum dsm_install *install)
{
	uint8_t *alias =
		mmap(NULL, DSM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	uint8_t *guest =
		mmap(NULL, DSM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	int err = -ENOMEM;
	uint64_t mapped;

	if (alias != MAP_FAILED && guest != MAP_FAILED) {
		alias[0] = 1;
		err = register_view(fd, &(struct dsm_view){.guest = guest, .len = DSM_PAGE_SIZE});
		if (!err)
			*install = uffd_continue(fd, (uintptr_t)guest, DSM_PAGE_SIZE,
						 UFFDIO_CONTINUE_MODE_WP, &mapped)
					   ? DSM_INSTALL_COPY
					   : DSM_INSTALL_CONTINUE;
	}
	if (alias != MAP_FAILED)
		munmap(alias, DSM_PAGE_SIZE);
	if (guest != MAP_FAILED)
		munmap(guest, DSM_PAGE_SIZE);
	return err;
}

int dsm_uffd_probe(enum dsm_install *install)
{
	BASE_AUTO_FD int fd = -1;
	BASE_AUTO_FD int memory_fd = memfd_create("probe", MFD_CLOEXEC);
	int err = open_fd(&fd);

	if (err)
		return err;
	if (memory_fd < 0 || ftruncate(memory_fd, DSM_PAGE_SIZE) < 0)
		return -errno;
	return probe_page(fd, memory_fd, install);
}

static bool views_fit(uint64_t len, const struct dsm_view *views, unsigned count)
{
	if (!count || count > DSM_VIEW_MAX || !len || len % DSM_PAGE_SIZE)
		return false;
	for (unsigned i = 0; i < count; i++) {
		const struct dsm_view *v = &views[i];

		if (((uintptr_t)v->guest | v->file_offset | v->len) % DSM_PAGE_SIZE || !v->len ||
		    v->file_offset >= len || v->len > len - v->file_offset)
			return false;
	}
	return true;
}

static int choose_install(enum dsm_install wanted, enum dsm_install *out)
{
	enum dsm_install best;
	int err = dsm_uffd_probe(&best);

	if (err)
		return err;
	if (wanted == DSM_INSTALL_CONTINUE && best != DSM_INSTALL_CONTINUE)
		return -EOPNOTSUPP;
	*out = wanted == DSM_INSTALL_AUTO ? best : wanted;
	return 0;
}

int dsm_uffd_new(int memory_fd, uint64_t len, const struct dsm_view *views, unsigned view_count,
		 enum dsm_install install, struct dsm_uffd **out)
{
	if (!views_fit(len, views, view_count))
		return -EINVAL;
	int err = choose_install(install, &install);

	if (err)
		return err;
	struct dsm_uffd *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	*u = (struct dsm_uffd){.fd = -1, .memory_fd = memory_fd, .install = install, .len = len};
	u->alias =
		mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory_fd, 0);
	if (u->alias == MAP_FAILED) {
		err = -errno;
		u->alias = NULL;
	}
	if (!err)
		err = open_fd(&u->fd);
	for (unsigned i = 0; i < view_count && !err; i++) {
		/* Whatever is mapped so far would not fault. */
		if (madvise(views[i].guest, views[i].len, MADV_DONTNEED) < 0)
			err = -errno;
		if (!err)
			err = register_view(u->fd, &views[i]);
		u->views[u->view_count++] = views[i];
	}
	if (err) {
		dsm_uffd_free(u);
		return err;
	}
	*out = u;
	return 0;
}

void dsm_uffd_free(struct dsm_uffd *u)
{
	if (!u)
		return;
	for (unsigned i = 0; i < u->view_count && u->fd >= 0; i++) {
		struct uffdio_range r = {.start = (uintptr_t)u->views[i].guest,
					 .len = u->views[i].len};

		/* Fails only where it never was registered. */
		(void)ioctl(u->fd, UFFDIO_UNREGISTER, &r);
	}
	if (u->fd >= 0)
		close(u->fd);
	if (u->alias)
		munmap(u->alias, u->len);
	free(u);
}

static int write_protect(const struct dsm_uffd *u, const uint8_t *guest, uint64_t count, bool on)
{
	struct uffdio_writeprotect w = {.range = {.start = (uintptr_t)guest,
						  .len = count * DSM_PAGE_SIZE},
					.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};

	while (ioctl(u->fd, UFFDIO_WRITEPROTECT, &w) < 0)
		if (errno != EAGAIN) /* EAGAIN: the address space is changing right now */
			return -errno;
	return 0;
}

static int release_view(const struct dsm_uffd *u, const struct dsm_view *v)
{
	struct uffdio_range r = {.start = (uintptr_t)v->guest, .len = v->len};
	/* Not every kernel does this with the next. */
	int err = write_protect(u, v->guest, v->len / DSM_PAGE_SIZE, false);

	if (err)
		return err;
	/* The kernel wakes before it unregisters; a fault in between would sleep for ever. */
	if (ioctl(u->fd, UFFDIO_UNREGISTER, &r) < 0 || ioctl(u->fd, UFFDIO_WAKE, &r) < 0)
		return -errno;
	return 0;
}

int dsm_uffd_release(struct dsm_uffd *u)
{
	int err = 0;

	for (unsigned i = 0; i < u->view_count && !err; i++)
		err = release_view(u, &u->views[i]);
	return err;
}

int dsm_uffd_share(struct dsm_uffd *u)
{
	int err = 0;

	for (unsigned i = 0; i < u->view_count && !err; i++) {
		err = register_view(u->fd, &u->views[i]);
		/* What is mapped would not fault. */
		if (!err && madvise(u->views[i].guest, u->views[i].len, MADV_DONTNEED) < 0)
			err = -errno;
	}
	return err;
}

int dsm_uffd_data(const struct dsm_uffd *u, uint64_t gfn, uint64_t *first, uint64_t *count)
{
	off_t start = lseek(u->memory_fd, (off_t)(gfn * DSM_PAGE_SIZE), SEEK_DATA);
	off_t end = start < 0 ? -1 : lseek(u->memory_fd, start, SEEK_HOLE);

	if (start < 0 || end < 0)
		return -errno;
	*first = (uint64_t)start / DSM_PAGE_SIZE;
	*count = ((uint64_t)end - (uint64_t)start) / DSM_PAGE_SIZE;
	return 0;
}

int dsm_uffd_fd(const struct dsm_uffd *u)
{
	return u->fd;
}

uint8_t *dsm_uffd_alias(const struct dsm_uffd *u)
{
	return u->alias;
}

enum dsm_install dsm_uffd_install(const struct dsm_uffd *u)
{
	return u->install;
}

/* ---- faults ---- */

static bool fault_of(const struct dsm_uffd *u, const struct uffd_msg *m, struct dsm_uffd_fault *out)
{
	uint64_t addr = m->arg.pagefault.address, flags = m->arg.pagefault.flags;

	if (m->event != UFFD_EVENT_PAGEFAULT)
		return false;
	for (unsigned i = 0; i < u->view_count; i++) {
		uint64_t at = addr - (uintptr_t)u->views[i].guest;

		if (at >= u->views[i].len)
			continue;
		out->gfn = (u->views[i].file_offset + at) / DSM_PAGE_SIZE;
		out->write = flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
		return true;
	}
	return false;
}

int dsm_uffd_read(struct dsm_uffd *u, struct dsm_uffd_fault *out, unsigned max)
{
	struct uffd_msg m[READ_MAX];
	int count = 0;
	ssize_t n = read(u->fd, m, BASE_MIN(max, (unsigned)READ_MAX) * sizeof(m[0]));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < (size_t)n / sizeof(m[0]); i++)
		count += fault_of(u, &m[i], &out[count]);
	return count;
}

/* ---- changing the view ---- */

/* The guest's addresses of a run, as far as one view goes. */
static uint8_t *guest_of(const struct dsm_uffd *u, uint64_t gfn, uint64_t *count)
{
	uint64_t at = gfn * DSM_PAGE_SIZE;

	for (unsigned i = 0; i < u->view_count; i++) {
		const struct dsm_view *v = &u->views[i];

		if (at - v->file_offset >= v->len)
			continue;
		*count = BASE_MIN(*count, (v->len - (at - v->file_offset)) / DSM_PAGE_SIZE);
		return v->guest + (at - v->file_offset);
	}
	return NULL;
}

static int wake(const struct dsm_uffd *u, const uint8_t *guest, uint64_t count)
{
	struct uffdio_range r = {.start = (uintptr_t)guest, .len = count * DSM_PAGE_SIZE};

	return ioctl(u->fd, UFFDIO_WAKE, &r) < 0 ? -errno : 0;
}

/*
 * What CONTINUE could not map: 1 when the page is there already, 0 when the file had a hole and it
 * is worth another try, or -errno.
 */
static int install_odd_page(struct dsm_uffd *u, const uint8_t *guest, uint64_t gfn, uint8_t access,
			    int err)
{
	if (err == -EFAULT) {
		volatile uint8_t *p = u->alias + gfn * DSM_PAGE_SIZE;

		*p = *p; /* allocates; nobody else writes a page that is not mapped */
		return 0;
	}
	if (err != -EEXIST)
		return err;
	err = write_protect(u, guest, 1, access == DSM_S);
	if (!err)
		err = wake(u, guest, 1);
	return err ? err : 1;
}

static int install_continue(struct dsm_uffd *u, const uint8_t *guest, uint64_t gfn, uint64_t count,
			    uint8_t access)
{
	uint64_t mode = access == DSM_S ? UFFDIO_CONTINUE_MODE_WP : 0, mapped;

	for (uint64_t at = 0; at < count;) {
		const uint8_t *g = guest + at * DSM_PAGE_SIZE;
		int err = uffd_continue(u->fd, (uintptr_t)g, (count - at) * DSM_PAGE_SIZE, mode,
					&mapped);

		at += mapped / DSM_PAGE_SIZE;
		if (!err || err == -EAGAIN || mapped)
			continue;
		int done = install_odd_page(u, g, gfn + at, access, err);

		if (done < 0)
			return done;
		at += (uint64_t)done;
	}
	return 0;
}

/* Read-only without CONTINUE: the page leaves the file and comes back write-protected. */
static int install_copy(struct dsm_uffd *u, const uint8_t *guest, uint64_t gfn)
{
	uint8_t bytes[DSM_PAGE_SIZE];
	struct uffdio_copy c = {.dst = (uintptr_t)guest,
				.src = (uintptr_t)bytes,
				.len = DSM_PAGE_SIZE,
				.mode = UFFDIO_COPY_MODE_WP};

	memcpy(bytes, u->alias + gfn * DSM_PAGE_SIZE, sizeof(bytes));
	if (fallocate(u->memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(gfn * DSM_PAGE_SIZE), DSM_PAGE_SIZE) < 0)
		return -errno;
	while (ioctl(u->fd, UFFDIO_COPY, &c) < 0)
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

static int map_run(struct dsm_uffd *u, const uint8_t *guest, uint64_t gfn, uint64_t count,
		   uint8_t access, uint8_t had)
{
	int err = 0;

	if (had == DSM_S && access == DSM_X)
		return write_protect(u, guest, count, false);
	if (had == DSM_S && u->install == DSM_INSTALL_COPY)
		return wake(u, guest, count);
	if (access == DSM_X || u->install == DSM_INSTALL_CONTINUE)
		return install_continue(u, guest, gfn, count, access);
	for (uint64_t i = 0; i < count && !err; i++)
		err = install_copy(u, guest + i * DSM_PAGE_SIZE, gfn + i);
	return err;
}

int dsm_uffd_map(struct dsm_uffd *u, uint64_t gfn, uint64_t count, uint8_t access, uint8_t had)
{
	int err = 0;

	while (count && !err) {
		uint64_t n = count;
		const uint8_t *guest = guest_of(u, gfn, &n);

		if (!guest)
			return -EINVAL;
		err = map_run(u, guest, gfn, n, access, had);
		gfn += n;
		count -= n;
	}
	return err;
}

int dsm_uffd_protect(struct dsm_uffd *u, uint64_t gfn, uint64_t count)
{
	int err = 0;

	while (count && !err) {
		uint64_t n = count;
		const uint8_t *guest = guest_of(u, gfn, &n);

		if (!guest)
			return -EINVAL;
		err = write_protect(u, guest, n, true);
		gfn += n;
		count -= n;
	}
	return err;
}

/* Takes the page out of the guest's view (and so out of KVM's tables); it stays in the file. */
int dsm_uffd_unmap(struct dsm_uffd *u, uint64_t gfn, uint64_t count)
{
	while (count) {
		uint64_t n = count;
		uint8_t *guest = guest_of(u, gfn, &n);

		if (!guest)
			return -EINVAL;
		if (madvise(guest, n * DSM_PAGE_SIZE, MADV_DONTNEED) < 0)
			return -errno;
		gfn += n;
		count -= n;
	}
	return 0;
}

int dsm_uffd_store(struct dsm_uffd *u, uint64_t gfn, const void *bytes)
{
	uint8_t *to = u->alias + gfn * DSM_PAGE_SIZE;

	if (bytes != to) /* else the network has put them there */
		memcpy(to, bytes, DSM_PAGE_SIZE);
	return 0;
}

int dsm_uffd_zero(struct dsm_uffd *u, uint64_t gfn)
{
	memset(u->alias + gfn * DSM_PAGE_SIZE, 0, DSM_PAGE_SIZE);
	return 0;
}
