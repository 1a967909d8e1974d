#include "node/vmm/fill.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { READ_MAX = 64 };

struct vmm_fill {
	struct vmm_mem *mem;
	uint8_t *host; /* of page 0; all regions follow each other */
	int fd;
	uint64_t hole_from, hole_to; /* bytes of the file that are known to be a hole */
};

static int open_uffd(int *out)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		BASE_AUTO_FD int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

		if (dev < 0)
			return -EPERM;
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			return -errno;
	}
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return -EOPNOTSUPP;
	}
	*out = fd;
	return 0;
}

int vmm_fill_new(struct vmm_mem *mem, struct vmm_fill **out)
{
	struct vmm_fill *f = calloc(1, sizeof(*f));
	int err;

	if (!f)
		return -ENOMEM;
	f->mem = mem;
	f->host = vmm_mem_region_at(mem, 0)->host;
	err = open_uffd(&f->fd);
	if (err) {
		free(f);
		return err;
	}
	*out = f;
	return 0;
}

void vmm_fill_free(struct vmm_fill *f)
{
	if (!f)
		return;
	vmm_fill_stop(f);
	close(f->fd);
	free(f);
}

/* Whether nothing of [from, to) is in the file. */
static bool is_hole(struct vmm_fill *f, uint64_t from, uint64_t to)
{
	off_t data;

	if (from >= f->hole_from && to <= f->hole_to)
		return true;
	data = lseek(vmm_mem_fd(f->mem), (off_t)from, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return false;
	f->hole_from = from;
	f->hole_to = data < 0 ? vmm_mem_size(f->mem) : (uint64_t)data;
	return to <= f->hole_to;
}

int vmm_fill_discard(struct vmm_fill *f, uint64_t page, uint64_t count)
{
	uint64_t from = page * VMM_PAGE_SIZE, to = from + count * VMM_PAGE_SIZE;

	if (is_hole(f, from, to))
		return 0;
	if (fallocate(vmm_mem_fd(f->mem), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		      (off_t)(to - from)) < 0)
		return -errno;
	/* A huge page that cannot be split is zeroed and stays: nobody would wait for it. */
	return is_hole(f, from, to) ? 0 : -EIO;
}

int vmm_fill_start(struct vmm_fill *f)
{
	struct uffdio_register r = {.range = {(uintptr_t)f->host, vmm_mem_size(f->mem)},
				    .mode = UFFDIO_REGISTER_MODE_MISSING};

	/* A huge page would come at once for all its small ones. */
	if (madvise(f->host, vmm_mem_size(f->mem), MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
		return -errno;
	return ioctl(f->fd, UFFDIO_REGISTER, &r) < 0 ? -errno : 0;
}

int vmm_fill_fd(const struct vmm_fill *f)
{
	return f->fd;
}

int vmm_fill_faults(struct vmm_fill *f, uint64_t *pages, unsigned max)
{
	struct uffd_msg m[READ_MAX];
	ssize_t n = read(f->fd, m, BASE_MIN(max, (unsigned)READ_MAX) * sizeof(m[0]));
	int count = 0;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < (size_t)n / sizeof(m[0]); i++)
		if (m[i].event == UFFD_EVENT_PAGEFAULT)
			pages[count++] =
				(m[i].arg.pagefault.address - (uintptr_t)f->host) / VMM_PAGE_SIZE;
	return count;
}

static int fill_wake(const struct vmm_fill *f, uint64_t at)
{
	struct uffdio_range r = {at, VMM_PAGE_SIZE};

	return ioctl(f->fd, UFFDIO_WAKE, &r) < 0 ? -errno : 0;
}

int vmm_fill_page(struct vmm_fill *f, uint64_t page, const void *bytes)
{
	uint64_t at = (uintptr_t)f->host + page * VMM_PAGE_SIZE;
	struct uffdio_copy c = {.dst = at, .src = (uintptr_t)bytes, .len = VMM_PAGE_SIZE};
	struct uffdio_zeropage z = {.range = {at, VMM_PAGE_SIZE}};

	/* EAGAIN: the address space is changing right now. */
	while (bytes ? ioctl(f->fd, UFFDIO_COPY, &c) : ioctl(f->fd, UFFDIO_ZEROPAGE, &z))
		if (errno != EAGAIN)
			return errno == EEXIST ? fill_wake(f, at) : -errno;
	return 0;
}

void vmm_fill_stop(struct vmm_fill *f)
{
	struct uffdio_range r = {(uintptr_t)f->host, vmm_mem_size(f->mem)};

	/* Fails only where it was never registered. */
	(void)ioctl(f->fd, UFFDIO_UNREGISTER, &r);
	/* The kernel wakes before it unregisters; a fault in between would sleep for ever. */
	(void)ioctl(f->fd, UFFDIO_WAKE, &r);
}
