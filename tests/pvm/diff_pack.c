/*
 * Random calls on message buffers, from a seed, with a transcript on standard output. Run once with
 * PVM 3.4.6 and once with ours: the transcripts must be the same. It uses nothing but pvm3.h.
 * usage: diff_pack FIRST_SEED COUNT
 *
 * Message numbers are shown by the order in which they were made. Left out is what the original
 * leaves to chance (padding bytes) or does wrong (docs/pvm-compat.md).
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pvm3.h"

extern int pvmautoerr, pvmmytid;

enum { SLOTS = 6, ITEMS = 64, STEPS = 60 };

static uint64_t rng;
static int mids[SLOTS];
static int nesting; /* messages inside messages occur */
static const int encodings[] = {PvmDataDefault, PvmDataRaw, PvmDataInPlace, PvmDataTrace};

/* What is packed from: numbers whose bytes never look like a negative length. */
static char bytes[ITEMS * 4 + 1];
static short shorts[ITEMS * 4];
static int ints[ITEMS * 4];
static long longs[ITEMS * 4];
static float floats[ITEMS * 8];
static double doubles[ITEMS * 8];
static char out[ITEMS * 4 * 16 + 4096];

static unsigned below(unsigned bound)
{
	uint64_t z = (rng += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return (unsigned)(z % bound);
}

static void fill(void)
{
	for (int i = 0; i < ITEMS * 4; i++) {
		bytes[i] = (char)('a' + i % 26);
		shorts[i] = (short)(i * 100);
		ints[i] = i % 7 ? i * 100003 : i;
		longs[i] = i * 70001;
		floats[i] = floats[i + ITEMS * 4] = (float)i * 1.5f;
		doubles[i] = doubles[i + ITEMS * 4] = i * 2.0;
	}
}

static const char *slot_name(int mid)
{
	static char name[16];

	for (int i = 0; i < SLOTS; i++) {
		if (mid > 0 && mids[i] == mid) {
			snprintf(name, sizeof(name), "#%d", i);
			return name;
		}
	}
	snprintf(name, sizeof(name), mid > 0 ? "#?" : "%d", mid);
	return name;
}

static int any_slot(void)
{
	return (int)below(SLOTS);
}

/* A message, or now and then a number that is none. */
static int any_mid(void)
{
	switch (below(20)) {
	case 0: return 0;
	case 1: return -1;
	case 2: return 999999;
	default: return mids[any_slot()];
	}
}

static void show_len(const char *what, int mid)
{
	int len = -1, tag = -1, src = -1;

	if (mid > 0 && pvm_bufinfo(mid, &len, &tag, &src) == 0)
		printf(" %s%s:%d/%d/%s", what, slot_name(mid), len, tag,
		       src == pvmmytid ? "me"
		       : src	       ? "other"
				       : "0");
}

static void show(const char *op, int rc)
{
	printf("%s=%d", op, rc);
	show_len("s", pvm_getsbuf());
	show_len("r", pvm_getrbuf());
	putchar('\n');
}

enum { PvmInPlaceEnc = 0x20000000, PvmTraceEnc = 0x40000000 };

static int enc_of(int mid)
{
	struct pvmminfo mi;

	return mid > 0 && pvm_getminfo(mid, &mi) == 0 ? mi.enc : 0;
}

/* A trace event begins with the time of day. */
static int has_time(int mid)
{
	return enc_of(mid) == PvmTraceEnc;
}

static void show_out(const char *op, int rc, int size)
{
	unsigned sum = 0;

	/* What a string leaves behind that is not all there is nobody's business. */
	if (rc < 0 && size < 0)
		size = 0;
	for (int i = 0; i < abs(size) && !has_time(pvm_getrbuf()); i++)
		sum = sum * 31 + (unsigned char)out[i];
	printf("%08x ", sum);
	show(op, rc);
}

static int count(void)
{
	return below(15) ? (int)below(ITEMS / 4) : below(2) ? 0 : -1;
}

static int stride(void)
{
	return below(3) ? 1 : (int)below(4);
}

/* PVM_BYTE .. PVM_ULONG */
static int pack_any(int type, int n, int step)
{
	switch (type) {
	case 0: return pvm_pkbyte(bytes, n > 0 ? (n + 3) & ~3 : n, step);
	case 1: return pvm_pkshort(shorts, n, step);
	case 2: return pvm_pkushort((unsigned short *)shorts, n, step);
	case 3: return pvm_pkint(ints, n, step);
	case 4: return pvm_pkuint((unsigned *)ints, n, step);
	case 5: return pvm_pklong(longs, n, step);
	case 6: return pvm_pkulong((unsigned long *)longs, n, step);
	case 7: return pvm_pkfloat(floats, n, step);
	case 8: return pvm_pkcplx(floats, n, step);
	case 9: return pvm_pkdouble(doubles, n, step);
	case 10: return pvm_pkdcplx(doubles, n, step);
	default: return pvm_pkstr(below(2) ? "abc" : "abcdefg");
	}
}

static int unpack_any(int type, int n, int step)
{
	switch (type) {
	case 0: return pvm_upkbyte(out, n, step);
	case 1: return pvm_upkshort((short *)out, n, step);
	case 2: return pvm_upkushort((unsigned short *)out, n, step);
	case 3: return pvm_upkint((int *)out, n, step);
	case 4: return pvm_upkuint((unsigned *)out, n, step);
	/* In XDR ours has a mark for big longs, which the length of a message inside can look like.
	 */
	case 5: return nesting ? 0 : pvm_upklong((long *)out, n, step);
	case 6: return nesting ? 0 : pvm_upkulong((unsigned long *)out, n, step);
	case 7: return pvm_upkfloat((float *)out, n, step);
	case 8: return pvm_upkcplx((float *)out, n, step);
	case 9: return pvm_upkdouble((double *)out, n, step);
	case 10: return pvm_upkdcplx((double *)out, n, step);
	default: return pvm_upkstr(out);
	}
}

static int packf_any(void)
{
	switch (below(10)) {
	case 0: return pvm_packf("%d %hd", 5, 6);
	case 1: return pvm_packf("%s", "abc");
	case 2: return pvm_packf("%4c %.2d", bytes, ints);
	case 3: return pvm_packf("%*.*lf", 1 + (int)below(9), 2, doubles);
	case 4: return pvm_packf("%lf%f", 2.5, 1.5);
	case 5: return pvm_packf("%x %lx", floats, doubles);
	case 6: return pvm_packf("%q");
	case 7: return pvm_packf("%ld %uld %ud %uhd", 5L, 6L, 7, 8);
	case 8: return pvm_packf("%3d %z", ints);
	default: return pvm_packf("no items");
	}
}

static int unpackf_any(void)
{
	switch (below(6)) {
	case 0: return pvm_unpackf("%d %hd", (int *)out, (short *)(out + 8));
	case 1: return pvm_unpackf("%s", out);
	case 2: return pvm_unpackf("%4c %3.2d", out, (int *)(out + 8));
	case 3: return pvm_unpackf("%*lf", 3, (double *)out);
	case 4: return pvm_unpackf("%+ %d", 0, (int *)out);
	default: return pvm_unpackf("%q %d", (int *)out);
	}
}

static void info_step(void)
{
	struct pvmminfo mi;
	int mid = any_mid(), rc;

	memset(&mi, 0, sizeof(mi));
	if (below(3) == 0) {
		mi.tag = (int)below(100);
		mi.ctx = (int)below(5);
		mi.src = pvmmytid;
		mi.wid = 3;
		mi.len = 77;
		mi.enc = 0;
		show("setminfo", pvm_setminfo(mid, &mi));
	}
	rc = pvm_getminfo(mid, &mi);
	printf("len %d ctx %d tag %d wid %d enc %x crc %d src %d dst %d ", mi.len, mi.ctx, mi.tag,
	       mi.wid, mi.enc, mi.crc, mi.src == pvmmytid, mi.dst);
	show("getminfo", rc);
}

/* A new message takes a slot; the one that was there is freed. */
static void keep(int mid)
{
	int at = any_slot();

	if (mid <= 0)
		return;
	for (int i = 0; i < SLOTS; i++)
		if (mids[i] == mid)
			mids[i] = 0;
	if (mids[at])
		pvm_freebuf(mids[at]);
	mids[at] = mid;
}

static void forget_freed(void)
{
	for (int i = 0; i < SLOTS; i++)
		if (mids[i] && pvm_bufinfo(mids[i], NULL, NULL, NULL) < 0)
			mids[i] = 0;
}

static void table_step(void)
{
	int mid, rc;

	switch (below(8)) {
	case 0:
		mid = pvm_mkbuf(below(12) ? encodings[below(4)] : 3);
		keep(mid);
		show("mkbuf", mid > 0 ? 1 : mid);
		break;
	case 1:
	case 2:
		mid = pvm_initsend(below(12) ? encodings[below(4)] : 77);
		forget_freed();
		keep(mid);
		show("initsend", mid > 0 ? 1 : mid);
		break;
	case 3:
		rc = pvm_freebuf(any_mid());
		forget_freed();
		show("freebuf", rc);
		break;
	case 4:
	case 5: printf("was %s ", slot_name(pvm_setsbuf(any_mid()))), show("setsbuf", 0); break;
	default:
		mid = any_mid();
		if (!has_time(mid))
			printf("was %s ", slot_name(pvm_setrbuf(mid))), show("setrbuf", 0);
	}
}

static int len_of(int mid)
{
	int len = -1;

	return mid > 0 && pvm_bufinfo(mid, &len, NULL, NULL) == 0 ? len : -1;
}

static void nest_step(void)
{
	int mid;

	switch (below(4)) {
	/* Not both: after a body was added the original counts its pieces too. */
	case 0:
	case 1:
		mid = any_mid();
		if (nesting == 3 && (enc_of(mid) == PvmInPlaceEnc || len_of(mid) == 0))
			break; /* its pieces are counted, too; an empty one may have one or none */
		if (nesting == 3)
			show("pkmesg", pvm_pkmesg(mid));
		else if (!has_time(pvm_getsbuf()))
			show("pkmesgbody", pvm_pkmesgbody(mid));
		break;
	default:
		mid = pvm_upkmesg();
		keep(mid);
		show("upkmesg", mid > 0 ? 1 : mid);
		if (mid < 0)
			pvm_setrbuf(0); /* how much of it was read differs */
	}
}

static void step(void)
{
	int type = (int)below(12), n = count(), s = stride();
	char name[32];

	memset(out, 0x55, sizeof(out));
	switch (below(12)) {
	case 0:
	case 1:
	case 2:
	case 3:
		snprintf(name, sizeof(name), "pk%d(%d,%d)", type, n, s);
		show(name, pack_any(type, n, s));
		break;
	case 4:
	case 5:
	case 6:
		snprintf(name, sizeof(name), "upk%d(%d,%d)", type, n, s);
		n = unpack_any(type, n, s);
		show_out(name, n, type == 11 ? -64 : ITEMS * 16);
		if (type == 11 && n < 0)
			pvm_setrbuf(0); /* how much was read differs */
		break;
	case 7: show("packf", packf_any()); break;
	case 8: show_out("unpackf", unpackf_any(), -64); break;
	case 9: info_step(); break;
	case 10:
		if (nesting)
			nest_step();
		break;
	default: table_step();
	}
}

int main(int argc, char **argv)
{
	unsigned long first = argc > 1 ? strtoul(argv[1], NULL, 0) : 1;
	unsigned long many = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;

	pvmautoerr = 0;
	fill();
	pvm_getsbuf(); /* enrols, so that pvmmytid is known */
	for (unsigned long seed = first; seed < first + many; seed++) {
		printf("== seed %lu\n", seed);
		rng = seed;
		nesting = seed & 1 ? (int)(seed & 3) : 0;
		memset(mids, 0, sizeof(mids));
		for (int i = 0; i < STEPS; i++)
			step();
		for (int i = 0; i < SLOTS; i++)
			if (mids[i])
				pvm_freebuf(mids[i]);
	}
	return 0;
}
