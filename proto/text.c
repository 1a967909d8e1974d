#include "proto/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool text_name_valid(const char *s)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t len = strlen(s);

	if (len == 0 || len >= TEXT_NAME_MAX || !strchr(letters, s[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!strchr(letters, s[i]) && !strchr("-_.", s[i]))
			return false;
	return true;
}

bool text_number_parse(const char *s, uint64_t min, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || __builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return false;
	}
	if (v < min || v > max)
		return false;
	*out = v;
	return true;
}

bool text_size_parse(const char *s, uint64_t *out)
{
	static const char units[] = "KMGT";
	size_t digits = strspn(s, "0123456789");
	char number[24];
	const char *unit, *rest = s + digits;
	uint64_t v;
	int shift = 0;

	if (digits >= sizeof(number))
		return false;
	memcpy(number, s, digits);
	number[digits] = 0;
	if (!text_number_parse(number, 0, UINT64_MAX, &v))
		return false;
	unit = *rest ? strchr(units, toupper((unsigned char)*rest)) : NULL;
	if (unit) {
		shift = 10 * (int)(unit - units + 1);
		rest++;
		if (!strcmp(rest, "iB") || !strcmp(rest, "B"))
			rest += strlen(rest);
	}
	if (*rest || v > UINT64_MAX >> shift)
		return false;
	*out = v << shift;
	return true;
}

char *text_size_print(uint64_t bytes, char *out, size_t cap)
{
	static const char units[] = "BKMGTPE";
	unsigned u = 0;
	double v = (double)bytes;

	while (v >= 1024 && u < 6) {
		v /= 1024;
		u++;
	}
	if (u == 0)
		snprintf(out, cap, "%" PRIu64, bytes);
	else if (v < 9.95 && (uint64_t)(v * 10 + 0.5) % 10)
		snprintf(out, cap, "%.1f%c", v, units[u]);
	else
		snprintf(out, cap, "%.0f%c", v, units[u]);
	return out;
}

char *text_duration_print(uint64_t ns, char *out, size_t cap)
{
	uint64_t s = ns / 1000000000;

	if (s < 60)
		snprintf(out, cap, "%" PRIu64 "s", s);
	else if (s < 3600)
		snprintf(out, cap, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, cap, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(out, cap, "%" PRIu64 "d%" PRIu64 "h", s / 86400, s / 3600 % 24);
	return out;
}

bool text_mac_parse(const char *s, uint8_t mac[6])
{
	unsigned v[6];
	int end = 0;

	if (strlen(s) != 17 || strspn(s, "0123456789abcdefABCDEF:") != 17 ||
	    sscanf(s, "%2x:%2x:%2x:%2x:%2x:%2x%n", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5],
		   &end) != 6 ||
	    end != 17 || (v[0] & 1))
		return false;
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)v[i];
	return true;
}

void text_mac_print(const uint8_t mac[6], char out[18])
{
	snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
		 mac[5]);
}

/* FNV-1a, 64 bits: spread well enough for a cluster of VMs, and the same on every host. */
void text_mac_derive(const char *name, unsigned index, uint8_t mac[6])
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
	h = (h ^ (0x100 + index)) * UINT64_C(0x100000001b3);
	h ^= h >> 40;
	mac[0] = 0x52;
	for (int i = 1; i < 6; i++)
		mac[i] = (uint8_t)(h >> (8 * (i - 1)));
}

/* One character; returns its length or 0. */
static size_t utf8_take(const unsigned char *p, uint32_t *out)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t len = *p < 0x80 ? 1 : *p >> 5 == 6 ? 2 : *p >> 4 == 14 ? 3 : *p >> 3 == 30 ? 4 : 0;
	uint32_t c = len == 1 ? *p : *p & (0x7fu >> len);

	for (size_t i = 1; i < len; i++) {
		if (p[i] >> 6 != 2)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (!len || c < least[len])
		return 0;
	*out = c;
	return len;
}

bool text_printable(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;

	while (*p) {
		uint32_t c;
		size_t len = utf8_take(p, &c);

		if (!len || c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
		    (c >= 0xd800 && c < 0xe000) || c == 0xfeff || c == 0xfffe || c == 0xffff ||
		    c > 0x10ffff)
			return false;
		p += len;
	}
	return true;
}

void text_clean(char *s)
{
	for (unsigned char *p = (unsigned char *)s; *p; p++) {
		if (*p < ' ' || *p == 0x7f)
			*p = '?';
		/* C1 controls are U+0080 to U+009F: c2 80 to c2 9f in UTF-8. */
		else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
			p[0] = p[1] = '?';
	}
}
