/*
 * The compressions of a bzImage's payload. The payload of all but gzip ends with the unpacked size
 * in 4 bytes, put there by the kernel's build.
 */
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "node/vmm/boot_internal.h"

enum { LZ4_BLOCK = 8 << 20, SIZE_TRAILER = 4, ZSTD_WINDOW_LOG = 27 };
#define XZ_MEMORY_MAX (UINT64_C(256) << 20)

enum boot_packing boot_unpack_kind(const uint8_t magic[6])
{
	if (memcmp(magic, "\x02\x21\x4c\x18", 4) == 0)
		return BOOT_PACK_LZ4;
	if (memcmp(magic,
		   "\xfd"
		   "7zXZ",
		   6) == 0)
		return BOOT_PACK_XZ;
	if (memcmp(magic, "\x28\xb5\x2f\xfd", 4) == 0)
		return BOOT_PACK_ZSTD;
	if (memcmp(magic, "\x1f\x8b\x08", 3) == 0)
		return BOOT_PACK_GZIP;
	return BOOT_PACK_UNKNOWN;
}

static int unpack_corrupt(struct boot_elf *elf)
{
	return boot_refuse(elf->why, -ENOEXEC, "its compressed kernel is damaged");
}

static int unpack_feed(struct boot_elf *elf, const uint8_t *data, size_t len, uint64_t *total)
{
	*total += len;
	if (*total > BOOT_UNPACKED_MAX)
		return boot_refuse(elf->why, -ENOEXEC, "its kernel unpacks to more than 1 GiB");
	return boot_elf_feed(elf, data, len);
}

/* Fills buf; a file that ends early or fails to read is a refusal. */
static int unpack_read(struct boot_src *src, struct boot_elf *elf, void *buf, size_t len)
{
	ssize_t n = boot_src_read(src, buf, len);

	if (n < 0)
		return boot_refuse(elf->why, (int)n, "cannot be read: %s", strerror((int)-n));
	return (size_t)n == len ? 0 : unpack_corrupt(elf);
}

static int unpack_lz4_block(struct boot_src *src, struct boot_elf *elf, char *in, char *out,
			    uint64_t *total)
{
	uint32_t len;
	int n, err = unpack_read(src, elf, &len, sizeof(len));

	if (err)
		return err;
	if (len == 0 || len > (uint32_t)LZ4_COMPRESSBOUND(LZ4_BLOCK))
		return unpack_corrupt(elf);
	err = unpack_read(src, elf, in, len);
	if (err)
		return err;
	n = LZ4_decompress_safe(in, out, (int)len, LZ4_BLOCK);
	if (n <= 0)
		return unpack_corrupt(elf);
	return unpack_feed(elf, (uint8_t *)out, (size_t)n, total);
}

static int unpack_lz4(struct boot_src *src, struct boot_elf *elf)
{
	BASE_AUTO_FREE char *in = malloc(LZ4_COMPRESSBOUND(LZ4_BLOCK));
	BASE_AUTO_FREE char *out = malloc(LZ4_BLOCK);
	uint64_t total = 0;
	uint32_t word;
	int err;

	if (!in || !out)
		return boot_refuse(elf->why, -ENOMEM, "no memory to unpack it");
	err = unpack_read(src, elf, &word, sizeof(word)); /* the magic */
	while (!err && src->end - src->pos > SIZE_TRAILER)
		err = unpack_lz4_block(src, elf, in, out, &total);
	if (!err)
		err = unpack_read(src, elf, &word, sizeof(word));
	if (!err && word != (uint32_t)total)
		err = unpack_corrupt(elf);
	return err;
}

/*
 * The three stream decoders have one shape: `step` turns input into output and says when the
 * stream is over. It returns 0, 1 at the end, or -1 for damage.
 */
struct unpack_stream {
	const uint8_t *in;
	size_t in_len;
	uint8_t *out;
	size_t out_len; /* room before, bytes filled after */
	void *state;
};

static int unpack_stream_run(struct boot_src *src, struct boot_elf *elf, struct unpack_stream *s,
			     int (*step)(struct unpack_stream *s))
{
	BASE_AUTO_FREE uint8_t *in = malloc(BOOT_CHUNK);
	BASE_AUTO_FREE uint8_t *out = malloc(BOOT_CHUNK);
	uint64_t total = 0;
	bool eof = false;

	if (!in || !out)
		return boot_refuse(elf->why, -ENOMEM, "no memory to unpack it");
	for (;;) {
		int err, got;

		if (s->in_len == 0 && !eof) {
			ssize_t n = boot_src_read(src, in, BOOT_CHUNK);

			if (n < 0)
				return boot_refuse(elf->why, (int)n, "cannot be read: %s",
						   strerror((int)-n));
			s->in = in;
			s->in_len = (size_t)n;
			eof = n == 0;
		}
		s->out = out;
		s->out_len = BOOT_CHUNK;
		got = step(s);
		if (got < 0 || (got == 0 && eof && s->out_len == 0))
			return unpack_corrupt(elf);
		err = unpack_feed(elf, out, s->out_len, &total);
		if (err || got == 1)
			return err;
	}
}

static int step_xz(struct unpack_stream *s)
{
	lzma_stream *z = s->state;
	size_t room = s->out_len;
	lzma_ret ret;

	z->next_in = s->in;
	z->avail_in = s->in_len;
	z->next_out = s->out;
	z->avail_out = room;
	ret = lzma_code(z, LZMA_RUN);
	s->in = z->next_in;
	s->in_len = z->avail_in;
	s->out_len = room - z->avail_out;
	if (ret == LZMA_STREAM_END)
		return 1;
	return ret == LZMA_OK || ret == LZMA_BUF_ERROR ? 0 : -1;
}

static int unpack_xz(struct boot_src *src, struct boot_elf *elf)
{
	lzma_stream z = LZMA_STREAM_INIT;
	struct unpack_stream s = {.state = &z};
	int err;

	if (lzma_stream_decoder(&z, XZ_MEMORY_MAX, 0) != LZMA_OK)
		return boot_refuse(elf->why, -ENOMEM, "no memory to unpack it");
	err = unpack_stream_run(src, elf, &s, step_xz);
	lzma_end(&z);
	return err;
}

static int step_zstd(struct unpack_stream *s)
{
	ZSTD_inBuffer in = {s->in, s->in_len, 0};
	ZSTD_outBuffer out = {s->out, s->out_len, 0};
	size_t ret = ZSTD_decompressStream(s->state, &out, &in);

	s->in += in.pos;
	s->in_len -= in.pos;
	s->out_len = out.pos;
	if (ZSTD_isError(ret))
		return -1;
	return ret == 0 ? 1 : 0;
}

static int unpack_zstd(struct boot_src *src, struct boot_elf *elf)
{
	struct unpack_stream s = {.state = ZSTD_createDStream()};
	int err;

	if (!s.state)
		return boot_refuse(elf->why, -ENOMEM, "no memory to unpack it");
	ZSTD_DCtx_setParameter(s.state, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
	err = unpack_stream_run(src, elf, &s, step_zstd);
	ZSTD_freeDStream(s.state);
	return err;
}

static int step_gzip(struct unpack_stream *s)
{
	z_stream *z = s->state;
	uInt room = (uInt)s->out_len;
	int ret;

	z->next_in = (Bytef *)s->in;
	z->avail_in = (uInt)s->in_len;
	z->next_out = s->out;
	z->avail_out = room;
	ret = inflate(z, Z_NO_FLUSH);
	s->in = z->next_in;
	s->in_len = z->avail_in;
	s->out_len = room - z->avail_out;
	if (ret == Z_STREAM_END)
		return 1;
	return ret == Z_OK || ret == Z_BUF_ERROR ? 0 : -1;
}

static int unpack_gzip(struct boot_src *src, struct boot_elf *elf)
{
	z_stream z = {0};
	struct unpack_stream s = {.state = &z};
	int err;

	if (inflateInit2(&z, MAX_WBITS + 16) != Z_OK)
		return boot_refuse(elf->why, -ENOMEM, "no memory to unpack it");
	err = unpack_stream_run(src, elf, &s, step_gzip);
	inflateEnd(&z);
	return err;
}

int boot_unpack(enum boot_packing kind, struct boot_src *src, struct boot_elf *elf)
{
	switch (kind) {
	case BOOT_PACK_LZ4: return unpack_lz4(src, elf);
	case BOOT_PACK_XZ: return unpack_xz(src, elf);
	case BOOT_PACK_ZSTD: return unpack_zstd(src, elf);
	case BOOT_PACK_GZIP: return unpack_gzip(src, elf);
	case BOOT_PACK_UNKNOWN: break;
	}
	return boot_refuse(elf->why, -ENOEXEC, "its kernel is packed in a way that is not known");
}
