#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/vmmctl.h"

_Static_assert(sizeof(struct vmmctl_output) == VMMCTL_OUTPUT_AT + VMMCTL_OUTPUT_BYTES,
	       "no padding");

struct vmmctl_output *vmmctl_output_map(int fd)
{
	const size_t len = sizeof(struct vmmctl_output);
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *p;

	/* Reserved, because a full file system would end us by SIGBUS. */
	if (fd >= 0 && (errno = posix_fallocate(fd, 0, (off_t)len)))
		return NULL;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

void vmmctl_output_unmap(struct vmmctl_output *o)
{
	if (o)
		munmap(o, sizeof(*o));
}

static bool read_at(int fd, uint8_t *out, size_t len, uint64_t at)
{
	return pread(fd, out, len, (off_t)at) == (ssize_t)len;
}

size_t vmmctl_output_read(const char *dir, uint8_t *out, size_t cap)
{
	BASE_AUTO_FD int fd = -1;
	char path[4096];
	struct stat st;
	uint64_t head;
	size_t n, at, first;

	if ((size_t)snprintf(path, sizeof(path), "%s/" VMMCTL_OUTPUT, dir) >= sizeof(path))
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) ||
	    !read_at(fd, (uint8_t *)&head, sizeof(head), 0))
		return 0;
	n = BASE_MIN(BASE_MIN(head, (uint64_t)VMMCTL_OUTPUT_BYTES), (uint64_t)cap);
	at = (head - n) % VMMCTL_OUTPUT_BYTES;
	first = BASE_MIN(n, (size_t)VMMCTL_OUTPUT_BYTES - at);
	if (!read_at(fd, out, first, VMMCTL_OUTPUT_AT + at) ||
	    !read_at(fd, out + first, n - first, VMMCTL_OUTPUT_AT))
		return 0;
	return n;
}
