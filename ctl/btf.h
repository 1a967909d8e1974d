/*
 * BTF: how a Linux kernel describes its own structs, in a few megabytes of its image. The bytes come
 * from a guest and may be anything: every offset, number and depth in them is bounded.
 */
#ifndef CTL_BTF_H
#define CTL_BTF_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct btf;

/* Copies nothing: the bytes stay the caller's and must stay. -EBADMSG: no BTF of version 1; -ENOMEM. */
BASE_MUST_CHECK int btf_new(const void *data, size_t len, struct btf **out);
void btf_free(struct btf *b);
/*
 * Where a member lies in a struct, in bytes. `path`: names with dots between them; unnamed structs and
 * unions on the way are looked through. -ENOENT: no such struct or member, or one of single bits.
 */
BASE_MUST_CHECK int btf_member(const struct btf *b, const char *type, const char *path,
			       uint32_t *offset);
/* Bytes of a struct. -ENOENT. */
BASE_MUST_CHECK int btf_struct_size(const struct btf *b, const char *type, uint32_t *size);
/* The value of this name in any enum. -ENOENT. */
BASE_MUST_CHECK int btf_enum_value(const struct btf *b, const char *name, uint32_t *value);

#endif
