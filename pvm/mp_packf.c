/* pvm_packf, pvm_unpackf: packing by a format. "%[count][.stride][h|l|u...]c|d|f|x|s", "%+" first.
 */
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_pack.h"

struct item {
	int count, stride;
	bool array; /* count or stride was given: the argument is an address */
	bool h, l, u;
	char what;
};

int pvm_vpackf(const char *format, va_list ap);
int pvm_vunpackf(const char *format, va_list ap);

/* Digits or '*', which takes an argument. */
static const char *parse_number(const char *p, int *out, va_list *ap)
{
	long v = 0;

	if (*p == '*') {
		*out = va_arg(*ap, int);
		return p + 1;
	}
	for (; *p >= '0' && *p <= '9'; p++)
		v = BASE_MIN(v * 10 + (*p - '0'), (long)INT_MAX);
	*out = (int)v;
	return p;
}

static bool number_starts(char c)
{
	return c == '*' || (c >= '0' && c <= '9');
}

/* `p` is behind the '%'; returns what is behind the item. */
static const char *parse_item(const char *p, struct item *it, va_list *ap)
{
	*it = (struct item){.count = 1, .stride = 1};
	if (number_starts(*p)) {
		it->array = true;
		p = parse_number(p, &it->count, ap);
	}
	if (*p == '.') {
		it->array = true;
		p++;
		if (number_starts(*p))
			p = parse_number(p, &it->stride, ap);
	}
	for (; *p == 'h' || *p == 'l' || *p == 'u'; p++) {
		it->h |= *p == 'h';
		it->l |= *p == 'l';
		it->u |= *p == 'u';
	}
	it->what = *p;
	return *p ? p + 1 : p;
}

static int item_kind(const struct item *it, enum mp_kind *kind)
{
	switch (it->what) {
	case 'c': *kind = MP_K_BYTE; return PvmOk;
	case 'd':
		if (it->h)
			*kind = it->u ? MP_K_USHORT : MP_K_SHORT;
		else if (it->l)
			*kind = it->u ? MP_K_ULONG : MP_K_LONG;
		else
			*kind = it->u ? MP_K_UINT : MP_K_INT;
		return PvmOk;
	case 'f': *kind = it->l ? MP_K_DOUBLE : MP_K_FLOAT; return PvmOk;
	case 'x': *kind = it->l ? MP_K_DCPLX : MP_K_CPLX; return PvmOk;
	default: return PvmBadParam;
	}
}

static int pack_scalar(struct mp_msg *m, enum mp_kind kind, va_list *ap)
{
	union {
		char c;
		short s;
		int i;
		long l;
		float f;
		double d;
	} v;

	switch (kind) {
	case MP_K_BYTE: v.c = (char)va_arg(*ap, int); break;
	case MP_K_SHORT:
	case MP_K_USHORT: v.s = (short)va_arg(*ap, int); break;
	case MP_K_LONG:
	case MP_K_ULONG: v.l = va_arg(*ap, long); break;
	case MP_K_FLOAT: v.f = (float)va_arg(*ap, double); break;
	case MP_K_DOUBLE: v.d = va_arg(*ap, double); break;
	case MP_K_CPLX:
	case MP_K_DCPLX: return mp_pack(m, kind, va_arg(*ap, void *), 1, 1);
	default: v.i = va_arg(*ap, int);
	}
	return mp_pack_value(m, kind, &v);
}

/* Unlike pvm_pkstr, also in place and in a trace event: a length and an array of bytes. */
static int pack_string(struct mp_msg *m, const char *s)
{
	size_t len = s ? strlen(s) + 1 : 0;
	int count = (int)len, rc;

	if (!s)
		return PvmBadParam;
	if (len > INT_MAX)
		return PvmOverflow;
	rc = mp_pack_value(m, MP_K_INT, &count);
	return rc ? rc : mp_pack(m, MP_K_BYTE, s, count, 1);
}

static int pack_item(const struct item *it, va_list *ap)
{
	struct mp_msg *m = mp_sbuf();
	enum mp_kind kind;
	int rc;

	if (!m)
		return PvmNoBuf;
	if (it->what == 's')
		return pack_string(m, va_arg(*ap, char *));
	rc = item_kind(it, &kind);
	if (rc)
		return rc;
	if (!it->array)
		return pack_scalar(m, kind, ap);
	return mp_pack(m, kind, va_arg(*ap, void *), BASE_MAX(it->count, 0), it->stride);
}

static int unpack_item(const struct item *it, va_list *ap)
{
	struct mp_msg *m = mp_rbuf();
	enum mp_kind kind;
	int rc;

	if (!m)
		return PvmNoBuf;
	if (it->what == 's')
		return mp_unpack_string(m, va_arg(*ap, char *));
	rc = item_kind(it, &kind);
	if (rc)
		return rc;
	return mp_unpack(m, kind, va_arg(*ap, void *), BASE_MAX(it->count, 0), it->stride);
}

static int run(const char *p, va_list *ap, int (*each)(const struct item *, va_list *))
{
	int rc = PvmOk;

	while (!rc && *p) {
		struct item it;

		if (*p++ != '%')
			continue;
		p = parse_item(p, &it, ap);
		rc = each(&it, ap);
	}
	return rc;
}

int pvm_vpackf(const char *format, va_list ap)
{
	va_list args;
	int rc = PvmOk;

	va_copy(args, ap);
	if (!strncmp(format, "%+", 2)) {
		rc = mp_api_initsend(va_arg(args, int));
		format += 2;
	}
	if (rc >= 0 && !mp_sbuf())
		rc = PvmNoBuf;
	if (rc >= 0) {
		/* Unlike the calls per type this appends to what was read. */
		mp_sbuf()->mode = MP_MODE_PACK;
		rc = run(format, &args, pack_item);
	}
	va_end(args);
	return rc;
}

int pvm_vunpackf(const char *format, va_list ap)
{
	va_list args;
	int rc;

	va_copy(args, ap);
	rc = mp_rbuf() ? run(format, &args, unpack_item) : PvmNoBuf;
	va_end(args);
	return rc;
}

int mp_api_packf(const char *format, va_list ap)
{
	int rc = pvmbeatask();

	if (rc >= 0)
		rc = pvm_vpackf(format, ap);
	return rc < 0 ? lpvmerr("pvm_packf", rc) : PvmOk;
}

int mp_api_unpackf(const char *format, va_list ap)
{
	int rc = pvmbeatask();

	if (rc >= 0)
		rc = pvm_vunpackf(format, ap);
	return rc < 0 ? lpvmerr("pvm_unpackf", rc) : PvmOk;
}
