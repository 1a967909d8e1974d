#include "node/vmm/aml.h"

#include <assert.h>
#include <string.h>

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_EXT = 0x5b,
	OP_LOCAL0 = 0x60,
	OP_STORE = 0x70,
	OP_AND = 0x7b,
	OP_NOTIFY = 0x86,
	OP_IF = 0xa0,
	EXT_REGION = 0x80,
	EXT_FIELD = 0x81,
	EXT_DEVICE = 0x82,

	SPACE_IO = 1,
	FIELD_DWORD_PRESERVE = 0x03,

	RES_PORT = 0x47,
	RES_END = 0x79,
	RES_MEMORY32 = 0x86,
	RES_IRQ = 0x89,
};

static void aml_seg(struct base_wbuf *b, const char *name)
{
	if (name[0] == '\\') {
		base_wbuf_u8(b, '\\');
		name++;
	}
	assert(strlen(name) == 4);
	base_wbuf_bytes(b, name, 4);
}

/* PkgLength of what follows `at`, put in front of it: the fewest of 1 to 4 bytes. */
void aml_close(struct base_wbuf *b, size_t at)
{
	size_t len = b->len - at, extra = len + 1 < 0x40 ? 0 : len + 2 < 0x1000 ? 1 : 2;
	uint8_t *p;

	if (b->error || !base_wbuf_reserve(b, extra + 1))
		return;
	p = b->data + at;
	memmove(p + extra + 1, p, len);
	len += extra + 1;
	assert(len < 0x100000);
	if (extra == 0) {
		p[0] = (uint8_t)len;
		return;
	}
	p[0] = (uint8_t)(extra << 6 | (len & 15));
	p[1] = (uint8_t)(len >> 4);
	if (extra == 2)
		p[2] = (uint8_t)(len >> 12);
}

size_t aml_scope(struct base_wbuf *b, const char *name)
{
	size_t at;

	base_wbuf_u8(b, OP_SCOPE);
	at = b->len;
	aml_seg(b, name);
	return at;
}

size_t aml_device(struct base_wbuf *b, const char *name)
{
	size_t at;

	base_wbuf_u8(b, OP_EXT);
	base_wbuf_u8(b, EXT_DEVICE);
	at = b->len;
	aml_seg(b, name);
	return at;
}

size_t aml_method(struct base_wbuf *b, const char *name, unsigned arg_count, bool serialized)
{
	size_t at;

	base_wbuf_u8(b, OP_METHOD);
	at = b->len;
	aml_seg(b, name);
	base_wbuf_u8(b, (uint8_t)(arg_count | (serialized ? 8 : 0)));
	return at;
}

size_t aml_if(struct base_wbuf *b)
{
	base_wbuf_u8(b, OP_IF);
	return b->len;
}

void aml_int(struct base_wbuf *b, uint64_t v)
{
	if (v == 0) {
		base_wbuf_u8(b, OP_ZERO);
	} else if (v == 1) {
		base_wbuf_u8(b, OP_ONE);
	} else if (v <= 0xff) {
		base_wbuf_u8(b, OP_BYTE);
		base_wbuf_u8(b, (uint8_t)v);
	} else if (v <= 0xffff) {
		base_wbuf_u8(b, OP_WORD);
		base_wbuf_u16(b, (uint16_t)v);
	} else if (v <= UINT32_MAX) {
		base_wbuf_u8(b, OP_DWORD);
		base_wbuf_u32(b, (uint32_t)v);
	} else {
		base_wbuf_u8(b, OP_QWORD);
		base_wbuf_u64(b, v);
	}
}

static void aml_name(struct base_wbuf *b, const char *name)
{
	base_wbuf_u8(b, OP_NAME);
	aml_seg(b, name);
}

void aml_name_int(struct base_wbuf *b, const char *name, uint64_t v)
{
	aml_name(b, name);
	aml_int(b, v);
}

void aml_name_str(struct base_wbuf *b, const char *name, const char *v)
{
	aml_name(b, name);
	base_wbuf_u8(b, OP_STRING);
	base_wbuf_bytes(b, v, strlen(v) + 1);
}

static unsigned hex_digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

void aml_name_eisaid(struct base_wbuf *b, const char *name, const char *id)
{
	unsigned letters = (id[0] & 31u) << 10 | (id[1] & 31u) << 5 | (id[2] & 31u);

	assert(strlen(id) == 7);
	aml_name(b, name);
	base_wbuf_u8(b, OP_DWORD);
	base_wbuf_u8(b, (uint8_t)(letters >> 8));
	base_wbuf_u8(b, (uint8_t)letters);
	base_wbuf_u8(b, (uint8_t)(hex_digit(id[3]) << 4 | hex_digit(id[4])));
	base_wbuf_u8(b, (uint8_t)(hex_digit(id[5]) << 4 | hex_digit(id[6])));
}

void aml_name_package(struct base_wbuf *b, const char *name, const uint8_t *v, unsigned count)
{
	size_t at;

	aml_name(b, name);
	base_wbuf_u8(b, OP_PACKAGE);
	at = b->len;
	base_wbuf_u8(b, (uint8_t)count);
	for (unsigned i = 0; i < count; i++)
		aml_int(b, v[i]);
	aml_close(b, at);
}

void aml_port_field32(struct base_wbuf *b, const char *region, const char *field, uint16_t port)
{
	size_t at;

	base_wbuf_u8(b, OP_EXT);
	base_wbuf_u8(b, EXT_REGION);
	aml_seg(b, region);
	base_wbuf_u8(b, SPACE_IO);
	aml_int(b, port);
	aml_int(b, 4);
	base_wbuf_u8(b, OP_EXT);
	base_wbuf_u8(b, EXT_FIELD);
	at = b->len;
	aml_seg(b, region);
	base_wbuf_u8(b, FIELD_DWORD_PRESERVE);
	aml_seg(b, field);
	base_wbuf_u8(b, 32);
	aml_close(b, at);
}

/* ---- resources: the buffer's size is a word that is filled in when it is closed ---- */

size_t aml_crs(struct base_wbuf *b)
{
	size_t at;

	aml_name(b, "_CRS");
	base_wbuf_u8(b, OP_BUFFER);
	at = b->len;
	base_wbuf_u8(b, OP_WORD);
	base_wbuf_u16(b, 0);
	return at;
}

void aml_crs_close(struct base_wbuf *b, size_t at)
{
	size_t len;

	base_wbuf_u8(b, RES_END);
	base_wbuf_u8(b, 0); /* no checksum */
	if (b->error)
		return;
	len = b->len - at - 3;
	b->data[at + 1] = (uint8_t)len;
	b->data[at + 2] = (uint8_t)(len >> 8);
	aml_close(b, at);
}

void aml_crs_memory(struct base_wbuf *b, uint32_t base, uint32_t len)
{
	base_wbuf_u8(b, RES_MEMORY32);
	base_wbuf_u16(b, 9);
	base_wbuf_u8(b, 1); /* writable */
	base_wbuf_u32(b, base);
	base_wbuf_u32(b, len);
}

void aml_crs_port(struct base_wbuf *b, uint16_t base, uint8_t len)
{
	base_wbuf_u8(b, RES_PORT);
	base_wbuf_u8(b, 1); /* decodes 16 bits */
	base_wbuf_u16(b, base);
	base_wbuf_u16(b, base);
	base_wbuf_u8(b, 1);
	base_wbuf_u8(b, len);
}

void aml_crs_edge_irq(struct base_wbuf *b, uint32_t gsi)
{
	base_wbuf_u8(b, RES_IRQ);
	base_wbuf_u16(b, 6);
	base_wbuf_u8(b, 3); /* consumer, edge */
	base_wbuf_u8(b, 1);
	base_wbuf_u32(b, gsi);
}

/* ---- statements ---- */

void aml_store_local0(struct base_wbuf *b, const char *field)
{
	base_wbuf_u8(b, OP_STORE);
	aml_seg(b, field);
	base_wbuf_u8(b, OP_LOCAL0);
}

void aml_local0_and(struct base_wbuf *b, uint8_t mask)
{
	base_wbuf_u8(b, OP_AND);
	base_wbuf_u8(b, OP_LOCAL0);
	aml_int(b, mask);
	base_wbuf_u8(b, OP_ZERO); /* no target */
}

void aml_notify(struct base_wbuf *b, const char *device, uint8_t value)
{
	base_wbuf_u8(b, OP_NOTIFY);
	aml_seg(b, device);
	aml_int(b, value);
}
