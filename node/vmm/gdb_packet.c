#include "node/vmm/gdb_packet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static void reader_start(struct vmm_gdb_reader *r)
{
	r->len = 0;
	r->sum = 0;
	r->overflow = false;
	r->state = GDB_BODY;
}

static enum vmm_gdb_item reader_end(struct vmm_gdb_reader *r, int low)
{
	r->state = GDB_IDLE;
	if (low < 0 || r->claimed < 0 || (r->claimed << 4 | low) != r->sum || r->overflow)
		return VMM_GDB_BAD;
	r->text[r->len] = 0;
	return VMM_GDB_PACKET;
}

enum vmm_gdb_item vmm_gdb_reader_put(struct vmm_gdb_reader *r, uint8_t byte)
{
	switch (r->state) {
	case GDB_IDLE:
		if (byte == 3)
			return VMM_GDB_INTERRUPT;
		/* Acknowledgements of a reliable connection say nothing. */
		if (byte == '$')
			reader_start(r);
		return VMM_GDB_MORE;
	case GDB_BODY:
		if (byte == '#') {
			r->state = GDB_SUM1;
		} else if (byte == '$') {
			reader_start(r);
		} else {
			r->sum += byte;
			if (r->len < VMM_GDB_PACKET_MAX)
				r->text[r->len++] = (char)byte;
			else
				r->overflow = true;
		}
		return VMM_GDB_MORE;
	case GDB_SUM1:
		r->claimed = digit((char)byte);
		r->state = GDB_SUM2;
		return VMM_GDB_MORE;
	case GDB_SUM2: return reader_end(r, digit((char)byte));
	}
	return VMM_GDB_MORE;
}

static void reply_byte(struct vmm_gdb_reply *r, char c)
{
	if (r->len < VMM_GDB_PACKET_MAX)
		r->text[r->len++] = c;
	else
		r->overflow = true;
}

void vmm_gdb_reply_start(struct vmm_gdb_reply *r)
{
	r->len = 0;
	r->overflow = false;
	reply_byte(r, '$');
}

void vmm_gdb_reply_text(struct vmm_gdb_reply *r, const char *s)
{
	while (*s)
		reply_byte(r, *s++);
}

void vmm_gdb_reply_hex(struct vmm_gdb_reply *r, const void *bytes, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len; i++) {
		reply_byte(r, digits[p[i] >> 4]);
		reply_byte(r, digits[p[i] & 15]);
	}
}

void vmm_gdb_reply_unknown(struct vmm_gdb_reply *r, size_t len)
{
	for (size_t i = 0; i < 2 * len; i++)
		reply_byte(r, 'x');
}

void vmm_gdb_reply_format(struct vmm_gdb_reply *r, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	vmm_gdb_reply_text(r, text);
}

void vmm_gdb_reply_end(struct vmm_gdb_reply *r)
{
	uint8_t sum = 0;

	if (r->overflow) {
		vmm_gdb_reply_start(r);
		vmm_gdb_reply_text(r, "E0b");
	}
	for (size_t i = 1; i < r->len; i++)
		sum += (uint8_t)r->text[i];
	r->len += snprintf(r->text + r->len, sizeof(r->text) - r->len, "#%02x", sum);
}

bool vmm_gdb_hex(const char **s, uint64_t *value)
{
	uint64_t v = 0;
	int n = 0;

	for (; digit(**s) >= 0; ++*s, n++)
		v = v << 4 | (uint64_t)digit(**s);
	if (!n || n > 16)
		return false;
	*value = v;
	return true;
}

bool vmm_gdb_unhex(const char **s, void *out, size_t len)
{
	uint8_t *p = out;

	for (size_t i = 0; i < len; i++, *s += 2) {
		int hi = digit((*s)[0]), lo = hi < 0 ? -1 : digit((*s)[1]);

		if (lo < 0)
			return false;
		p[i] = (uint8_t)(hi << 4 | lo);
	}
	return true;
}

bool vmm_gdb_skip(const char **s, char c)
{
	if (**s != c)
		return false;
	++*s;
	return true;
}
