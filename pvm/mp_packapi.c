/* pvm_pk* and pvm_upk*, one pair per type. */
#include <stdlib.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_pack.h"
#include "pvm/mp_rt.h"

static int pk(const char *name, enum mp_kind kind, const void *data, int count, int stride)
{
	int rc = mp_rt_need();

	if (rc >= 0 && count < 0)
		rc = PvmBadParam;
	if (rc >= 0)
		rc = mp_sbuf() ? mp_pack(mp_sbuf(), kind, data, count, stride) : PvmNoBuf;
	return rc < 0 ? lpvmerr(name, rc) : PvmOk;
}

static int upk(const char *name, enum mp_kind kind, void *data, int count, int stride)
{
	int rc = mp_rt_need();

	if (rc >= 0 && count < 0)
		rc = PvmBadParam;
	if (rc >= 0)
		rc = mp_rbuf() ? mp_unpack(mp_rbuf(), kind, data, count, stride) : PvmNoBuf;
	return rc < 0 ? lpvmerr(name, rc) : PvmOk;
}

#define PK_PAIR(name, type, kind)                                                                  \
	int mp_api_pk##name(type *data, int count, int stride)                                     \
	{                                                                                          \
		return pk("pvm_pk" #name, kind, data, count, stride);                              \
	}                                                                                          \
	int mp_api_upk##name(type *data, int count, int stride)                                    \
	{                                                                                          \
		return upk("pvm_upk" #name, kind, data, count, stride);                            \
	}

PK_PAIR(byte, char, MP_K_BYTE)
PK_PAIR(cplx, float, MP_K_CPLX)
PK_PAIR(dcplx, double, MP_K_DCPLX)
PK_PAIR(double, double, MP_K_DOUBLE)
PK_PAIR(float, float, MP_K_FLOAT)
PK_PAIR(int, int, MP_K_INT)
PK_PAIR(long, long, MP_K_LONG)
PK_PAIR(short, short, MP_K_SHORT)
PK_PAIR(uint, unsigned int, MP_K_UINT)
PK_PAIR(ulong, unsigned long, MP_K_ULONG)
PK_PAIR(ushort, unsigned short, MP_K_USHORT)

int mp_api_pkstr(char *string)
{
	int rc = mp_rt_need();

	if (rc >= 0 && !mp_sbuf())
		rc = PvmNoBuf;
	else if (rc >= 0 && !string)
		rc = PvmBadParam;
	else if (rc >= 0 && mp_sbuf()->head.enc == MP_ENC_INPLACE)
		rc = PvmNotImpl;
	else if (rc >= 0)
		rc = mp_pack_string(mp_sbuf(), string);
	return rc < 0 ? lpvmerr("pvm_pkstr", rc) : PvmOk;
}

int mp_api_upkstr(char *string)
{
	int rc = mp_rt_need();

	if (rc >= 0)
		rc = mp_rbuf() ? mp_unpack_string(mp_rbuf(), string) : PvmNoBuf;
	return rc < 0 ? lpvmerr("pvm_upkstr", rc) : PvmOk;
}

int pvmupkstralloc(char **out);

/* The string in memory of its own, which the caller frees. */
int pvmupkstralloc(char **out)
{
	int len = 0, rc = mp_rbuf() ? mp_unpack_string_len(mp_rbuf(), &len) : PvmNoBuf;
	char *s;

	if (rc)
		return rc;
	if ((size_t)len > mp_rbuf()->read_left)
		return PvmNoData;
	s = malloc((size_t)len + 1);
	if (!s)
		return PvmNoMem;
	rc = mp_unpack_bytes(mp_rbuf(), s, len);
	if (rc) {
		free(s);
		return rc;
	}
	s[len] = 0;
	*out = s;
	return PvmOk;
}
