/* The stock operators of pvm_reduce: x = x op y, element by element. */
#include "pvm/include/pvm3.h"

/* One loop over `*count` elements of a C type. */
#define EACH(ctype, statement)                                                                     \
	do {                                                                                       \
		ctype *restrict a = x;                                                             \
		const ctype *restrict b = y;                                                       \
		for (int i = 0; i < n; i++) {                                                      \
			statement;                                                                 \
		}                                                                                  \
	} while (0)

#define REALS(statement)                                                                           \
	case PVM_SHORT: EACH(short, statement); break;                                             \
	case PVM_INT: EACH(int, statement); break;                                                 \
	case PVM_FLOAT: EACH(float, statement); break;                                             \
	case PVM_DOUBLE: EACH(double, statement); break;                                           \
	case PVM_LONG: EACH(long, statement); break;                                               \
	case PVM_USHORT: EACH(unsigned short, statement); break;                                   \
	case PVM_UINT: EACH(unsigned int, statement); break;                                       \
	case PVM_ULONG: EACH(unsigned long, statement); break

struct float_pair {
	float re, im;
};

struct double_pair {
	double re, im;
};

/* Complex numbers compare by their modulus. */
#define MODULUS(z) ((z).re * (z).re + (z).im * (z).im)

void PvmMax(int *type, void *x, void *y, int *count, int *info)
{
	int n = *count;

	*info = PvmOk;
	switch (*type) {
		REALS(a[i] = b[i] > a[i] ? b[i] : a[i]);
	case PVM_STR:
	case PVM_BYTE: EACH(char, a[i] = b[i] > a[i] ? b[i] : a[i]); break;
	case PVM_CPLX:
		EACH(struct float_pair, a[i] = MODULUS(b[i]) > MODULUS(a[i]) ? b[i] : a[i]);
		break;
	case PVM_DCPLX:
		EACH(struct double_pair, a[i] = MODULUS(b[i]) > MODULUS(a[i]) ? b[i] : a[i]);
		break;
	default: *info = PvmBadParam;
	}
}

void PvmMin(int *type, void *x, void *y, int *count, int *info)
{
	int n = *count;

	*info = PvmOk;
	switch (*type) {
		REALS(a[i] = b[i] < a[i] ? b[i] : a[i]);
	case PVM_STR:
	case PVM_BYTE: EACH(char, a[i] = b[i] < a[i] ? b[i] : a[i]); break;
	case PVM_CPLX:
		EACH(struct float_pair, a[i] = MODULUS(b[i]) < MODULUS(a[i]) ? b[i] : a[i]);
		break;
	case PVM_DCPLX:
		EACH(struct double_pair, a[i] = MODULUS(b[i]) < MODULUS(a[i]) ? b[i] : a[i]);
		break;
	default: *info = PvmBadParam;
	}
}

void PvmSum(int *type, void *x, void *y, int *count, int *info)
{
	int n = *count;

	*info = PvmOk;
	switch (*type) {
		REALS(a[i] = a[i] + b[i]);
	case PVM_CPLX: EACH(struct float_pair, a[i].re += b[i].re; a[i].im += b[i].im); break;
	case PVM_DCPLX: EACH(struct double_pair, a[i].re += b[i].re; a[i].im += b[i].im); break;
	default: *info = PvmBadParam;
	}
}

void PvmProduct(int *type, void *x, void *y, int *count, int *info)
{
	int n = *count;

	*info = PvmOk;
	switch (*type) {
		REALS(a[i] = a[i] * b[i]);
	case PVM_CPLX:
		EACH(struct float_pair, struct float_pair z = a[i];
		     a[i].re = z.re * b[i].re - z.im * b[i].im;
		     a[i].im = z.re * b[i].im + z.im * b[i].re);
		break;
	case PVM_DCPLX:
		EACH(struct double_pair, struct double_pair z = a[i];
		     a[i].re = z.re * b[i].re - z.im * b[i].im;
		     a[i].im = z.re * b[i].im + z.im * b[i].re);
		break;
	default: *info = PvmBadParam;
	}
}
