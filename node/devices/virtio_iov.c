#include <string.h>

#include "node/devices/virtio_queue.h"

/* Copies with `put` true from memory into the list, else out of it. */
static size_t iov_copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *mem,
		       size_t len, bool put)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = BASE_MIN(iov[i].iov_len - offset, len - done);
		if (put)
			memcpy((uint8_t *)iov[i].iov_base + offset, mem + done, n);
		else
			memcpy(mem + done, (uint8_t *)iov[i].iov_base + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t virtio_iov_read(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t len)
{
	return iov_copy(iov, count, offset, to, len, false);
}

size_t virtio_iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *from,
			size_t len)
{
	return iov_copy(iov, count, offset, (uint8_t *)from, len, true);
}

unsigned virtio_iov_slice(const struct iovec *iov, unsigned count, size_t offset, size_t len,
			  struct iovec *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count && len; i++) {
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		part = BASE_MIN(iov[i].iov_len - offset, len);
		out[n++] = (struct iovec){(uint8_t *)iov[i].iov_base + offset, part};
		len -= part;
		offset = 0;
	}
	return n;
}
