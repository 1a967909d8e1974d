/*
 * A tracer: starts `tracer BUFFER OPTIONS PROGRAM [ARG...]` with all events traced to it (BUFFER "registered": runs a
 * program that PVM did not start, and gets its events because it has registered as tracer) and prints
 * them, one a line, without what differs from run to run: times, addresses, tids.
 * tests/integration/pvm_trace.sh compares the lines under PVM 3.4.6 and under ours.
 */
#include <pvm3.h>
#include <pvmtev.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The result of pvm_probe: a buffer, too. */
#define TEV_DID_PROBED 1000

enum { TAG_TRACE = 666, TAG_OUTPUT = 667, ITEMS = 32, TEXT = 4096, QUIET_S = 5 };

struct item {
	int did, type;
};

struct desc {
	int known, count;
	struct item items[ITEMS];
	char name[64];
};

static struct desc descs[2][TEV_MAX + 1]; /* at the start, at the end */
static char did_names[TEV_DID_MAX + 1][64];
static int tids[64], tid_count, child;

static int word(void)
{
	int v = 0;

	if (pvm_upkint(&v, 1, 1) < 0) {
		printf("the message ends too early\n");
		exit(1);
	}
	return v;
}

static void text(char *s, int size)
{
	static char all[TEXT];

	if (pvm_upkstr(all) < 0) {
		printf("a text is missing\n");
		exit(1);
	}
	snprintf(s, (size_t)size, "%s", all);
}

static void print_tid(int v)
{
	for (int i = 0; i < tid_count; i++)
		if (tids[i] == v) {
			printf(" T%d", i);
			return;
		}
	if (tid_count < 64)
		tids[tid_count++] = v;
	printf(" T%d", tid_count - 1);
}

static void print_int(int did, int v)
{
	switch (did) {
	case TEV_DID_TS:
	case TEV_DID_TU:
	case TEV_DID_PID:
	case TEV_DID_TUS:
	case TEV_DID_TUU:
	case TEV_DID_TSS:
	case TEV_DID_TSU:
	case TEV_DID_HCS:
	case TEV_DID_HCU:
	case TEV_DID_HDS:
	case TEV_DID_HDU:
	case TEV_DID_TIS:
	case TEV_DID_FDS: printf(" *"); break;
	case TEV_DID_MB:
	case TEV_DID_MSB:
	case TEV_DID_MRB:
	case TEV_DID_CD:
	case TEV_DID_PROBED:
		if (v > 0)
			printf(" buffer");
		else
			printf(" %d", v);
		break;
	default:
		if (v > 0x3ffff && v < 0x20000000 && (v & 0x3ffff) < 4096)
			print_tid(v);
		else
			printf(" %d", v);
	}
}

static void print_value(const struct item *it)
{
	int type = it->type & ~TEV_DATA_ARRAY, n = it->type & TEV_DATA_ARRAY ? word() : 1;
	static char s[TEXT];

	if (type == TEV_DATA_BYTE) {
		pvm_upkbyte(s, n < TEXT ? n : TEXT, 1);
		printf(" %.*s", n, s);
		return;
	}
	for (int i = 0; i < n; i++) {
		long l = 0;
		double d = 0;
		float f = 0;

		switch (type) {
		case TEV_DATA_INT:
		case TEV_DATA_UINT: print_int(it->did, word()); break;
		case TEV_DATA_LONG:
		case TEV_DATA_ULONG:
			pvm_upklong(&l, 1, 1);
			printf(l ? " address" : " null");
			break;
		case TEV_DATA_DOUBLE:
			pvm_upkdouble(&d, 1, 1);
			printf(" %g", d);
			break;
		case TEV_DATA_FLOAT:
			pvm_upkfloat(&f, 1, 1);
			printf(" %g", (double)f);
			break;
		case TEV_DATA_STRING:
			text(s, sizeof(s));
			printf(" \"%s\"",
			       it->did == TEV_DID_TN && strrchr(s, '/') ? strrchr(s, '/') + 1 : s);
			break;
		default: printf(" type %d?", type); exit(1);
		}
	}
}

static void print_item(const struct desc *d, struct item *it)
{
	if (it->did == TEV_DID_CC && !strcmp(d->name, "probe"))
		it->did = TEV_DID_PROBED;
	printf(" %s", it->did >= 0 && it->did <= TEV_DID_MAX ? did_names[it->did] : "MB");
	printf("%s:", it->type & TEV_DATA_ARRAY ? "[]" : "");
	print_value(it);
}

static struct desc *desc_of(int event)
{
	int kind = event & ~(TEV_EVENT_ENTRY | TEV_EVENT_EXIT);

	if (kind < 0 || kind > TEV_MAX) {
		printf("event %x?\n", event);
		exit(1);
	}
	return &descs[!!(event & TEV_EVENT_EXIT)][kind];
}

static void print_head(int event, const struct desc *d)
{
	printf("%s%s:", d->name,
	       event & TEV_EVENT_ENTRY	? " begins"
	       : event & TEV_EVENT_EXIT ? " ends"
					: "");
}

/* The first of its kind: with a description of its data. */
static void described(void)
{
	int event = word();
	struct desc *d = desc_of(event);

	d->known = 1;
	d->count = 0;
	text(d->name, sizeof(d->name));
	print_head(event, d);
	printf(" (described)");
	for (int did = word(); did != TEV_MARK_EVENT_DESC_END; did = word()) {
		struct item *it = &d->items[d->count++];

		if (d->count == ITEMS)
			exit(1);
		*it = (struct item){did, word()};
		print_item(d, it);
	}
	putchar('\n');
}

static void recorded(void)
{
	int event = word();
	struct desc *d = desc_of(event);

	if (!d->known) {
		printf("event %x was not described\n", event);
		exit(1);
	}
	print_head(event, d);
	for (int i = 0; i < d->count; i++)
		print_item(d, &d->items[i]);
	if (word() != TEV_MARK_EVENT_RECORD_END) {
		printf(" does not end\n");
		exit(1);
	}
	putchar('\n');
}

static void names(void)
{
	for (int did = word(); did != TEV_MARK_DATA_ID_END; did = word()) {
		static char what[TEXT];

		if (did < 0 || did > TEV_DID_MAX)
			exit(1);
		text(did_names[did], sizeof(did_names[did]));
		text(what, sizeof(what));
		printf("datum %d %s %d\n", did, did_names[did], *what != 0);
	}
}

/* Written by the program itself, in its own words. */
static void own(void)
{
	static char name[64];

	printf("own event %d", word());
	text(name, sizeof(name));
	printf(" %s", name);
	word();
	word();
	for (int type = word(); type != TEV_MARK_USER_EVENT_RECORD_END; type = word()) {
		printf(" %d:", type);
		print_value(&(struct item){TEV_DID_OPV, type});
	}
	putchar('\n');
}

static void message(void)
{
	bool many = false;

	do {
		int mark = word();

		switch (mark) {
		case TEV_MARK_EVENT_BUFFER:
			printf("buffer of several\n");
			many = true;
			break;
		case TEV_MARK_EVENT_BUFFER_END:
			printf("end of the buffer\n");
			many = false;
			break;
		case TEV_MARK_DATA_ID: names(); break;
		case TEV_MARK_EVENT_DESC: described(); break;
		case TEV_MARK_EVENT_RECORD: recorded(); break;
		case TEV_MARK_USER_EVENT_RECORD: own(); break;
		default: printf("mark %d?\n", mark); exit(1);
		}
	} while (many);
}

static int start_traced(int me, Pvmtmask mask, char **argv)
{
	pvm_setopt(PvmTraceTid, me);
	pvm_setopt(PvmTraceCode, TAG_TRACE);
	pvm_setopt(PvmTraceBuffer, atoi(argv[1]));
	pvm_setopt(PvmTraceOptions, atoi(argv[2]));
	pvm_settmask(PvmTaskChild, mask);
	return pvm_spawn(argv[3], argv + 4, 0, "", 1, &child);
}

int main(int argc, char **argv)
{
	int me = pvm_mytid();
	Pvmtmask mask;

	if (argc < 4 || me < 0)
		return 1;
	TEV_MASK_INIT(mask);
	for (int i = 0; i <= TEV_MAX; i++)
		TEV_MASK_SET(mask, i);
	if (!strcmp(argv[1], "registered")) {
		if (pvm_reg_tracer(0, TAG_TRACE, 0, TAG_OUTPUT, mask, 0, atoi(argv[2])) < 0)
			return 1;
		if (!fork()) {
			execv(argv[3], argv + 3);
			_exit(127);
		}
	} else if (start_traced(me, mask, argv) != 1) {
		return 1;
	}
	for (;;) {
		struct timeval quiet = {QUIET_S, 0};
		int mid = pvm_trecv(-1, -1, &quiet), len, tag, src;

		if (mid <= 0) {
			printf("nothing more comes\n");
			break;
		}
		pvm_bufinfo(mid, &len, &tag, &src);
		if (tag != TAG_TRACE)
			printf("message %d of %d bytes\n", tag, len);
		else
			message();
		fflush(stdout);
		if (descs[0][TEV_ENDTASK].known)
			break;
	}
	pvm_exit();
	return 0;
}
