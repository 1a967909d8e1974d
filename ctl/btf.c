#include "ctl/btf.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum {
	MAGIC = 0xeb9f,
	VERSION = 1,
	HEAD_BYTES = 24,
	TYPE_BYTES = 12, /* name, info, size or type */
	/* More types than any kernel has. */
	TYPES_MAX = 1 << 20,
	/* Of qualifiers before a struct, and of unnamed structs in each other. */
	DEPTH_MAX = 16,
	NAME_MAX_BYTES = 128,
	/* Members looked at for one: unnamed structs may hold each other many times over. */
	LOOKS_MAX = 1 << 16,
};

enum kind {
	KIND_INT = 1,
	KIND_PTR,
	KIND_ARRAY,
	KIND_STRUCT,
	KIND_UNION,
	KIND_ENUM,
	KIND_FWD,
	KIND_TYPEDEF,
	KIND_VOLATILE,
	KIND_CONST,
	KIND_RESTRICT,
	KIND_FUNC,
	KIND_FUNC_PROTO,
	KIND_VAR,
	KIND_DATASEC,
	KIND_FLOAT,
	KIND_DECL_TAG,
	KIND_TYPE_TAG,
	KIND_ENUM64,
	KIND_END
};

/* Behind each type: so many bytes, and so many for each of its parts. */
static const struct {
	uint8_t once, each;
} tails[KIND_END] = {
	[KIND_INT] = {4, 0},	 [KIND_ARRAY] = {12, 0},   [KIND_STRUCT] = {0, 12},
	[KIND_UNION] = {0, 12},	 [KIND_ENUM] = {0, 8},	   [KIND_FUNC_PROTO] = {0, 8},
	[KIND_VAR] = {4, 0},	 [KIND_DATASEC] = {0, 12}, [KIND_DECL_TAG] = {4, 0},
	[KIND_ENUM64] = {0, 12},
};

struct btf {
	const uint8_t *types; /* each is inside, with its tail */
	const char *strings;
	uint32_t strings_len;
	uint32_t count; /* types are numbered from 1 */
	uint32_t at[];	/* [number - 1] */
};

struct type {
	const char *name;
	enum kind kind;
	uint32_t parts, size; /* size, or number of another type */
	bool bits;	      /* members say how many bits they have */
	const uint8_t *tail;
};

static uint32_t get_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* The strings end with a 0; what is not among them has no name. */
static const char *name_at(const struct btf *b, uint32_t offset)
{
	return offset < b->strings_len ? b->strings + offset : "";
}

static enum kind kind_of(uint32_t info)
{
	return (enum kind)(info >> 24 & 0x1f);
}

static uint32_t parts_of(uint32_t info)
{
	return info & 0xffff;
}

/* False: there is no type of this number. */
static bool type_get(const struct btf *b, uint32_t number, struct type *out)
{
	const uint8_t *p;
	uint32_t info;

	if (number == 0 || number > b->count)
		return false;
	p = b->types + b->at[number - 1];
	info = get_u32(p + 4);
	*out = (struct type){.name = name_at(b, get_u32(p)),
			     .kind = kind_of(info),
			     .parts = parts_of(info),
			     .size = get_u32(p + 8),
			     .bits = info >> 31,
			     .tail = p + TYPE_BYTES};
	return true;
}

/* ---- making ---- */

/* The length of the type at p, or 0: it does not fit. */
static size_t type_len(const uint8_t *p, size_t left)
{
	uint32_t info;
	size_t len;

	if (left < TYPE_BYTES)
		return 0;
	info = get_u32(p + 4);
	if (kind_of(info) == 0 || kind_of(info) >= KIND_END)
		return 0;
	len = TYPE_BYTES + tails[kind_of(info)].once +
	      (size_t)parts_of(info) * tails[kind_of(info)].each;
	return len <= left ? len : 0;
}

/* Finds where each type is; `b` may be NULL, to count. -EBADMSG. */
static int64_t index_types(const uint8_t *types, size_t len, struct btf *b)
{
	int64_t count = 0;
	size_t at = 0;

	while (at < len) {
		size_t one = type_len(types + at, len - at);

		if (!one || count == TYPES_MAX)
			return -EBADMSG;
		if (b)
			b->at[count] = (uint32_t)at;
		count++;
		at += one;
	}
	return count;
}

int btf_new(const void *data, size_t len, struct btf **out)
{
	const uint8_t *p = data;
	uint64_t head, type_off, types, str_off, strings;
	int64_t count;
	struct btf *b;

	if (len < HEAD_BYTES || len > UINT32_MAX || (p[0] | p[1] << 8) != MAGIC || p[2] != VERSION)
		return -EBADMSG;
	head = get_u32(p + 4);
	type_off = head + get_u32(p + 8);
	types = get_u32(p + 12);
	str_off = head + get_u32(p + 16);
	strings = get_u32(p + 20);
	if (head < HEAD_BYTES || type_off + types > len || str_off + strings > len || !strings ||
	    p[str_off + strings - 1] != 0)
		return -EBADMSG;
	count = index_types(p + type_off, types, NULL);
	if (count < 0)
		return (int)count;
	b = malloc(sizeof(*b) + (size_t)count * sizeof(b->at[0]));
	if (!b)
		return -ENOMEM;
	*b = (struct btf){.types = p + type_off,
			  .strings = (const char *)p + str_off,
			  .strings_len = (uint32_t)strings,
			  .count = (uint32_t)count};
	if (index_types(b->types, types, b) != count) {
		free(b);
		return -EBADMSG;
	}
	*out = b;
	return 0;
}

void btf_free(struct btf *b)
{
	free(b);
}

/* ---- finding ---- */

static bool has_members(const struct type *t)
{
	return t->kind == KIND_STRUCT || t->kind == KIND_UNION;
}

static bool find_struct(const struct btf *b, const char *name, struct type *out)
{
	for (uint32_t i = 1; i <= b->count; i++)
		if (type_get(b, i, out) && has_members(out) && !strcmp(out->name, name))
			return true;
	return false;
}

/* The struct behind typedefs and qualifiers. */
static bool struct_of(const struct btf *b, uint32_t number, struct type *out)
{
	for (int i = 0; i < DEPTH_MAX && type_get(b, number, out); i++) {
		if (has_members(out))
			return true;
		if (out->kind != KIND_TYPEDEF && out->kind != KIND_CONST &&
		    out->kind != KIND_VOLATILE && out->kind != KIND_TYPE_TAG)
			return false;
		number = out->size;
	}
	return false;
}

struct search {
	const struct btf *b;
	const char *name;
	unsigned looks;
	/* of what was found */
	uint64_t bits;
	uint32_t type;
};

static bool find_member(struct search *s, const struct type *t, uint64_t bits, int depth)
{
	const struct btf *b = s->b;

	for (uint32_t i = 0; i < t->parts && s->looks++ < LOOKS_MAX; i++) {
		const uint8_t *m = t->tail + (size_t)i * 12;
		const char *is = name_at(b, get_u32(m));
		uint32_t place = get_u32(m + 8);
		uint64_t from = bits + (t->bits ? place & 0xffffff : place);
		struct type inner;

		if (!strcmp(is, s->name)) {
			s->bits = from;
			s->type = get_u32(m + 4);
			return !t->bits || !(place >> 24);
		}
		if (!*is && depth < DEPTH_MAX && struct_of(b, get_u32(m + 4), &inner) &&
		    find_member(s, &inner, from, depth + 1))
			return true;
	}
	return false;
}

int btf_member(const struct btf *b, const char *type, const char *path, uint32_t *offset)
{
	char name[NAME_MAX_BYTES];
	struct search s = {.b = b, .name = name};
	struct type t;

	if (!find_struct(b, type, &t))
		return -ENOENT;
	for (;;) {
		size_t len = strcspn(path, ".");

		if (len == 0 || len >= sizeof(name))
			return -ENOENT;
		memcpy(name, path, len);
		name[len] = 0;
		if (!find_member(&s, &t, s.bits, 0))
			return -ENOENT;
		if (!path[len])
			break;
		path += len + 1;
		if (!struct_of(b, s.type, &t))
			return -ENOENT;
	}
	if (s.bits % 8 || s.bits / 8 > UINT32_MAX)
		return -ENOENT;
	*offset = (uint32_t)(s.bits / 8);
	return 0;
}

int btf_struct_size(const struct btf *b, const char *type, uint32_t *size)
{
	struct type t;

	if (!find_struct(b, type, &t))
		return -ENOENT;
	*size = t.size;
	return 0;
}

int btf_enum_value(const struct btf *b, const char *name, uint32_t *value)
{
	struct type t;

	for (uint32_t i = 1; i <= b->count; i++) {
		if (!type_get(b, i, &t) || t.kind != KIND_ENUM)
			continue;
		for (uint32_t k = 0; k < t.parts; k++) {
			const uint8_t *p = t.tail + (size_t)k * 8;

			if (strcmp(name_at(b, get_u32(p)), name) != 0)
				continue;
			*value = get_u32(p + 4);
			return 0;
		}
	}
	return -ENOENT;
}
