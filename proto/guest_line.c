#include "proto/guest_line.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const verbs[GUEST_VERB_END] = {
	[GUEST_OPEN] = "open", [GUEST_IN] = "in",	[GUEST_EOF] = "eof", [GUEST_KILL] = "kill",
	[GUEST_GOT] = "got",   [GUEST_CLOSE] = "close", [GUEST_ACK] = "ack", [GUEST_OUT] = "out",
	[GUEST_EXIT] = "exit", [GUEST_GONE] = "gone",
};

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static uint32_t crc32_of(const char *p, size_t len)
{
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < len; i++) {
		crc ^= (uint8_t)p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (UINT32_C(0xedb88320) & -(crc & 1));
	}
	return ~crc;
}

/* ---- base64, always padded ---- */

static size_t base64_print(const uint8_t *in, size_t len, char *out)
{
	size_t used = 0;

	for (size_t i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)in[i] << 16;

		v |= i + 1 < len ? (uint32_t)in[i + 1] << 8 : 0;
		v |= i + 2 < len ? in[i + 2] : 0;
		out[used++] = digits[v >> 18];
		out[used++] = digits[v >> 12 & 63];
		out[used++] = i + 1 < len ? digits[v >> 6 & 63] : '=';
		out[used++] = i + 2 < len ? digits[v & 63] : '=';
	}
	return used;
}

static int digit_of(char c)
{
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

static bool base64_parse(const char *in, size_t len, uint8_t *out, size_t *out_len)
{
	size_t used = 0;

	if (len % 4 || len / 4 * 3 > GUEST_DATA_MAX + 2)
		return false;
	for (size_t i = 0; i < len; i += 4) {
		bool last = i + 4 == len;
		size_t pad = !last ? 0 : in[i + 2] == '=' ? 2 : in[i + 3] == '=' ? 1 : 0;
		uint32_t v = 0;

		if (pad == 2 && in[i + 3] != '=')
			return false;
		for (size_t j = 0; j < 4; j++) {
			int d = j < 4 - pad ? digit_of(in[i + j]) : 0;

			if (d < 0)
				return false;
			v = v << 6 | (uint32_t)d;
		}
		for (size_t j = 0; j < 3 - pad; j++) {
			if (used == GUEST_DATA_MAX)
				return false;
			out[used++] = (uint8_t)(v >> (16 - 8 * j));
		}
	}
	*out_len = used;
	return true;
}

/* ---- lines ---- */

size_t guest_line_print(const struct guest_line *l, char *out)
{
	size_t n = (size_t)snprintf(out, GUEST_LINE_MAX, "%c %016" PRIx64 " %s %" PRIu64,
				    l->direction, l->session, verbs[l->verb], l->number);

	if (l->len) {
		out[n++] = ' ';
		n += base64_print(l->data, l->len, out + n);
	}
	return n +
	       (size_t)snprintf(out + n, GUEST_LINE_MAX - n, " %08" PRIx32 "\n", crc32_of(out, n));
}

static enum guest_verb verb_of(const char *word)
{
	for (int v = 1; v < GUEST_VERB_END; v++)
		if (!strcmp(word, verbs[v]))
			return (enum guest_verb)v;
	return 0;
}

/* The words of a line whose checksum is right. */
static bool parse_words(char *text, struct guest_line *out)
{
	char direction, verb[8], end;
	int used = 0;

	if (sscanf(text, "%c %16" SCNx64 " %7s %20" SCNu64 "%n", &direction, &out->session, verb,
		   &out->number, &used) != 4)
		return false;
	out->direction = direction;
	out->verb = verb_of(verb);
	out->len = 0;
	end = text[used];
	if (!out->verb || (direction != '<' && direction != '>'))
		return false;
	return !end || (end == ' ' && base64_parse(text + used + 1, strlen(text + used + 1),
						   out->data, &out->len));
}

bool guest_line_parse(const char *text, size_t len, struct guest_line *out)
{
	char copy[GUEST_LINE_MAX + 1];
	uint32_t crc;

	if (len < 10 || len > GUEST_LINE_MAX || memchr(text, 0, len))
		return false;
	memcpy(copy, text, len);
	copy[len] = 0;
	if (copy[len - 9] != ' ' || sscanf(copy + len - 8, "%8" SCNx32, &crc) != 1 ||
	    crc != crc32_of(copy, len - 9))
		return false;
	copy[len - 9] = 0;
	return parse_words(copy, out);
}

void guest_reader_feed(struct guest_reader *r, const void *data, size_t len,
		       void (*take)(void *ctx, const struct guest_line *l), void *ctx)
{
	const char *p = data;
	struct guest_line line;

	for (size_t i = 0; i < len; i++) {
		if (p[i] == '\n') {
			if (!r->skip && guest_line_parse(r->text, r->len, &line))
				take(ctx, &line);
			r->len = 0;
			r->skip = false;
		} else if (r->len == sizeof(r->text)) {
			r->skip = true;
		} else if (p[i] != '\r') {
			r->text[r->len++] = p[i];
		}
	}
}
