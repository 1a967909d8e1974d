#include "node/vmm/gdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "node/vmm/gdb_packet.h"

enum {
	BREAKS_MAX = 256,
	WATCH_MAX = 4, /* debug registers */
	PAGE = 4096,
	SIGNAL_INT = 2,
	SIGNAL_TRAP = 5,
	CORE_REGS = 24,
	FPU_BYTES = 8 * 10 + 8 * 4, /* st0-7 and the control registers, which we do not give */
	INT3 = 0xcc,
};

struct soft_break {
	uint64_t addr; /* linear */
	uint8_t saved;
};

struct watch_point {
	uint64_t addr;
	uint8_t type; /* of DR7: 0 execute, 1 write, 3 access */
	uint8_t len;
};

struct vmm_gdb {
	struct base_loop *loop;
	struct vmm_vcpus *vcpus;
	const struct vmm_gdb_ops *ops;
	void *arg;
	struct base_watch listener, client;
	bool attached, running, no_ack;
	unsigned cpu; /* the thread that H chose */
	struct soft_break breaks[BREAKS_MAX];
	unsigned break_count;
	struct watch_point watches[WATCH_MAX];
	unsigned watch_count;
	struct vmm_gdb_reader in;
	struct vmm_gdb_reply out;
};

static void gdb_detach(struct vmm_gdb *g);

static struct vmm_vcpu *gdb_cpu(const struct vmm_gdb *g)
{
	return g->vcpus->vcpu[g->cpu < g->vcpus->count ? g->cpu : 0];
}

/* ---- replies ---- */

static void gdb_write(struct vmm_gdb *g, const void *p, size_t len)
{
	const char *at = p;

	while (len) {
		/* The client waits for each answer, so the socket's buffer is empty. */
		ssize_t n = send(g->client.fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* the loop reports the hang-up */
		at += n;
		len -= n;
	}
}

static void gdb_send(struct vmm_gdb *g)
{
	vmm_gdb_reply_end(&g->out);
	gdb_write(g, g->out.text, g->out.len);
}

static void gdb_say(struct vmm_gdb *g, const char *text)
{
	vmm_gdb_reply_start(&g->out);
	vmm_gdb_reply_text(&g->out, text);
	gdb_send(g);
}

static void gdb_result(struct vmm_gdb *g, int rc)
{
	char text[8];

	snprintf(text, sizeof(text), "E%02x", -rc & 0xff);
	gdb_say(g, rc ? text : "OK");
}

static void gdb_say_stop(struct vmm_gdb *g, int signal)
{
	vmm_gdb_reply_start(&g->out);
	vmm_gdb_reply_format(&g->out, "T%02xthread:%x;", signal, g->cpu + 1);
	gdb_send(g);
}

/* ---- registers ---- */

/* In the order of target.xml. */
struct regs {
	uint64_t r[16], rip;
	uint32_t eflags, seg[6];
};

static void regs_from_kvm(struct regs *out, const struct kvm_regs *k, const struct kvm_sregs *s)
{
	*out = (struct regs){
		.r = {k->rax, k->rbx, k->rcx, k->rdx, k->rsi, k->rdi, k->rbp, k->rsp, k->r8, k->r9,
		      k->r10, k->r11, k->r12, k->r13, k->r14, k->r15},
		.rip = k->rip,
		.eflags = (uint32_t)k->rflags,
		.seg = {s->cs.selector, s->ss.selector, s->ds.selector, s->es.selector,
			s->fs.selector, s->gs.selector},
	};
}

static void regs_to_kvm(const struct regs *in, struct kvm_regs *k)
{
	*k = (struct kvm_regs){
		.rax = in->r[0],
		.rbx = in->r[1],
		.rcx = in->r[2],
		.rdx = in->r[3],
		.rsi = in->r[4],
		.rdi = in->r[5],
		.rbp = in->r[6],
		.rsp = in->r[7],
		.r8 = in->r[8],
		.r9 = in->r[9],
		.r10 = in->r[10],
		.r11 = in->r[11],
		.r12 = in->r[12],
		.r13 = in->r[13],
		.r14 = in->r[14],
		.r15 = in->r[15],
		.rip = in->rip,
		.rflags = in->eflags,
	};
}

static void gdb_read_regs(struct vmm_gdb *g)
{
	struct kvm_sregs s;
	struct kvm_regs k;
	struct regs r;
	uint64_t control[7];
	int rc = vmm_vcpu_get_regs(gdb_cpu(g), &k, &s);

	if (rc) {
		gdb_result(g, rc);
		return;
	}
	regs_from_kvm(&r, &k, &s);
	memcpy(control, (uint64_t[]){s.fs.base, s.gs.base, s.cr0, s.cr2, s.cr3, s.cr4, s.efer},
	       sizeof(control));
	vmm_gdb_reply_start(&g->out);
	vmm_gdb_reply_hex(&g->out, r.r, sizeof(r.r));
	vmm_gdb_reply_hex(&g->out, &r.rip, sizeof(r.rip));
	vmm_gdb_reply_hex(&g->out, &r.eflags, sizeof(r.eflags));
	vmm_gdb_reply_hex(&g->out, r.seg, sizeof(r.seg));
	vmm_gdb_reply_unknown(&g->out, FPU_BYTES);
	vmm_gdb_reply_hex(&g->out, control, sizeof(control));
	gdb_send(g);
}

static int gdb_set_regs(struct vmm_gdb *g, const struct regs *r)
{
	struct kvm_regs k;

	regs_to_kvm(r, &k);
	return vmm_vcpu_set_regs(gdb_cpu(g), &k);
}

/* Segments and what follows are read-only: GDB sends them back as it got them. */
static void gdb_write_regs(struct vmm_gdb *g, const char *s)
{
	struct regs r = {0};

	if (!vmm_gdb_unhex(&s, r.r, sizeof(r.r)) || !vmm_gdb_unhex(&s, &r.rip, sizeof(r.rip)) ||
	    !vmm_gdb_unhex(&s, &r.eflags, sizeof(r.eflags)))
		gdb_result(g, -EINVAL);
	else
		gdb_result(g, gdb_set_regs(g, &r));
}

static void gdb_write_reg(struct vmm_gdb *g, const char *s)
{
	struct kvm_sregs sregs;
	struct kvm_regs k;
	struct regs r;
	uint64_t n;
	int rc = -EINVAL;

	if (vmm_gdb_hex(&s, &n) && vmm_gdb_skip(&s, '='))
		rc = vmm_vcpu_get_regs(gdb_cpu(g), &k, &sregs);
	if (!rc) {
		bool ok;

		regs_from_kvm(&r, &k, &sregs);
		if (n < 16)
			ok = vmm_gdb_unhex(&s, &r.r[n], 8);
		else if (n == 16)
			ok = vmm_gdb_unhex(&s, &r.rip, 8);
		else if (n == 17)
			ok = vmm_gdb_unhex(&s, &r.eflags, 4);
		else
			ok = false;
		rc = ok ? gdb_set_regs(g, &r) : -EINVAL;
	}
	gdb_result(g, rc);
}

/* ---- memory ---- */

/* Copies between `buf` and the vCPU's linear addresses, page by page. */
static int gdb_copy(struct vmm_gdb *g, uint64_t addr, uint8_t *buf, size_t len, bool write)
{
	while (len) {
		size_t n = BASE_MIN(len, PAGE - (size_t)(addr % PAGE));
		uint64_t gpa;
		int rc = vmm_vcpu_translate(gdb_cpu(g), addr, &gpa);

		if (!rc)
			rc = write ? vmm_mem_write(g->vcpus->mem, gpa, buf, n)
				   : vmm_mem_read(g->vcpus->mem, gpa, buf, n);
		if (rc)
			return rc;
		addr += n;
		buf += n;
		len -= n;
	}
	return 0;
}

/* The client must not see our breakpoint instructions. */
static void gdb_hide_breaks(struct vmm_gdb *g, uint64_t addr, uint8_t *buf, size_t len)
{
	for (unsigned i = 0; i < g->break_count; i++)
		if (g->breaks[i].addr - addr < len)
			buf[g->breaks[i].addr - addr] = g->breaks[i].saved;
}

static void gdb_read_memory(struct vmm_gdb *g, const char *s)
{
	uint8_t buf[VMM_GDB_PACKET_MAX / 2 - 16];
	uint64_t addr, len;
	int rc;

	if (!vmm_gdb_hex(&s, &addr) || !vmm_gdb_skip(&s, ',') || !vmm_gdb_hex(&s, &len)) {
		gdb_result(g, -EINVAL);
		return;
	}
	len = BASE_MIN(len, sizeof(buf));
	/* Less than asked for is a valid answer: up to the first page that is not there. */
	rc = gdb_copy(g, addr, buf, len, false);
	if (rc && len > PAGE - addr % PAGE) {
		len = PAGE - addr % PAGE;
		rc = gdb_copy(g, addr, buf, len, false);
	}
	if (rc) {
		gdb_result(g, rc);
		return;
	}
	gdb_hide_breaks(g, addr, buf, len);
	vmm_gdb_reply_start(&g->out);
	vmm_gdb_reply_hex(&g->out, buf, len);
	gdb_send(g);
}

static void gdb_write_memory(struct vmm_gdb *g, const char *s)
{
	uint8_t buf[VMM_GDB_PACKET_MAX / 2];
	uint64_t addr, len;

	if (!vmm_gdb_hex(&s, &addr) || !vmm_gdb_skip(&s, ',') || !vmm_gdb_hex(&s, &len) ||
	    !vmm_gdb_skip(&s, ':') || len > sizeof(buf) || !vmm_gdb_unhex(&s, buf, len))
		gdb_result(g, -EINVAL);
	else
		gdb_result(g, gdb_copy(g, addr, buf, len, true));
}

/* ---- breakpoints ---- */

static int gdb_apply_debug(struct vmm_gdb *g, const struct vmm_vcpu *step,
			   const struct vmm_vcpu *inject)
{
	for (unsigned i = 0; i < g->vcpus->count; i++) {
		struct vmm_vcpu *v = g->vcpus->vcpu[i];
		struct kvm_guest_debug d = {0};
		int rc;

		if (g->attached)
			d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
		if (g->attached && v == step)
			d.control |= KVM_GUESTDBG_SINGLESTEP;
		if (g->attached && v == inject)
			d.control |= KVM_GUESTDBG_INJECT_BP;
		for (unsigned w = 0; g->attached && w < g->watch_count; w++) {
			const struct watch_point *p = &g->watches[w];
			uint64_t size = p->len == 8 ? 2 : p->len - 1;

			d.control |= KVM_GUESTDBG_USE_HW_BP;
			d.arch.debugreg[w] = p->addr;
			d.arch.debugreg[7] |= UINT64_C(2) << (w * 2);
			d.arch.debugreg[7] |= (uint64_t)p->type << (16 + w * 4);
			d.arch.debugreg[7] |= size << (18 + w * 4);
		}
		if (d.control & KVM_GUESTDBG_USE_HW_BP)
			d.arch.debugreg[7] |= 0x600;
		rc = vmm_vcpu_set_debug(v, &d);
		if (rc)
			return rc;
	}
	return 0;
}

static struct soft_break *gdb_find_break(struct vmm_gdb *g, uint64_t addr)
{
	for (unsigned i = 0; i < g->break_count; i++)
		if (g->breaks[i].addr == addr)
			return &g->breaks[i];
	return NULL;
}

static int gdb_insert_soft(struct vmm_gdb *g, uint64_t addr)
{
	struct soft_break b = {.addr = addr};
	uint8_t int3 = INT3;
	int rc;

	if (gdb_find_break(g, addr))
		return 0;
	if (g->break_count == BREAKS_MAX)
		return -ENOSPC;
	rc = gdb_copy(g, addr, &b.saved, 1, false);
	if (!rc)
		rc = gdb_copy(g, addr, &int3, 1, true);
	if (!rc)
		g->breaks[g->break_count++] = b;
	return rc;
}

static int gdb_remove_soft(struct vmm_gdb *g, uint64_t addr)
{
	struct soft_break *b = gdb_find_break(g, addr);
	uint8_t now;
	int rc;

	if (!b)
		return 0;
	/* The guest may have put something else there (a module that was unloaded). */
	rc = gdb_copy(g, addr, &now, 1, false);
	if (!rc && now == INT3)
		rc = gdb_copy(g, addr, &b->saved, 1, true);
	*b = g->breaks[--g->break_count];
	return rc;
}

static int gdb_insert_watch(struct vmm_gdb *g, struct watch_point w)
{
	if ((w.len != 1 && w.len != 2 && w.len != 4 && w.len != 8) || w.addr % w.len)
		return -EINVAL;
	if (g->watch_count == WATCH_MAX)
		return -ENOSPC;
	g->watches[g->watch_count++] = w;
	return gdb_apply_debug(g, NULL, NULL);
}

static int gdb_remove_watch(struct vmm_gdb *g, struct watch_point w)
{
	for (unsigned i = 0; i < g->watch_count; i++) {
		struct watch_point *p = &g->watches[i];

		if (p->addr == w.addr && p->type == w.type && p->len == w.len) {
			*p = g->watches[--g->watch_count];
			break;
		}
	}
	return gdb_apply_debug(g, NULL, NULL);
}

static void gdb_breakpoint(struct vmm_gdb *g, const char *s, bool insert)
{
	static const int8_t dr7_type[] = {-1, 0, 1, 3,
					  3}; /* by Z's digit; 0 is the software kind */
	uint64_t kind, addr, len;
	int rc;

	if (!vmm_gdb_hex(&s, &kind) || !vmm_gdb_skip(&s, ',') || !vmm_gdb_hex(&s, &addr) ||
	    !vmm_gdb_skip(&s, ',') || !vmm_gdb_hex(&s, &len) || kind > 4) {
		gdb_result(g, -EINVAL);
		return;
	}
	if (kind == 0) {
		rc = insert ? gdb_insert_soft(g, addr) : gdb_remove_soft(g, addr);
	} else {
		struct watch_point w = {.addr = addr,
					.type = (uint8_t)dr7_type[kind],
					.len = kind == 1 ? 1
							 : (uint8_t)BASE_MIN(len, UINT64_C(255))};

		rc = insert ? gdb_insert_watch(g, w) : gdb_remove_watch(g, w);
	}
	gdb_result(g, rc);
}

/* ---- running ---- */

static void gdb_go(struct vmm_gdb *g, struct vmm_vcpu *step, const struct vmm_vcpu *inject)
{
	int rc = gdb_apply_debug(g, step, inject);

	if (rc) {
		gdb_result(g, rc);
		return;
	}
	vmm_vcpus_run_only(g->vcpus, step);
	g->running = true;
	g->ops->resume(g->arg);
}

void vmm_gdb_stopped(struct vmm_gdb *g, struct vmm_vcpu *v)
{
	const struct kvm_debug_exit_arch *why = vmm_vcpu_debug_exit(v);

	for (unsigned i = 0; i < g->vcpus->count; i++)
		if (g->vcpus->vcpu[i] == v)
			g->cpu = i;
	if (!g->attached || !g->running)
		return;
	/* The guest's own int3 is the guest's business. */
	if (why->exception == 3 && !gdb_find_break(g, why->pc)) {
		gdb_go(g, NULL, v);
		return;
	}
	g->running = false;
	vmm_vcpus_run_only(g->vcpus, NULL);
	gdb_say_stop(g, SIGNAL_TRAP);
}

static void gdb_interrupt(struct vmm_gdb *g)
{
	if (!g->running)
		return;
	g->ops->pause(g->arg);
	g->running = false;
	vmm_vcpus_run_only(g->vcpus, NULL);
	gdb_say_stop(g, SIGNAL_INT);
}

/* "c", "s:2;c": the first action that names a step decides; all else continues. */
static void gdb_vcont(struct vmm_gdb *g, const char *s)
{
	struct vmm_vcpu *step = NULL;

	while (vmm_gdb_skip(&s, ';')) {
		char action = *s;
		uint64_t thread = g->cpu + 1;

		while (*s && *s != ':' && *s != ';')
			s++;
		if (vmm_gdb_skip(&s, ':') && !vmm_gdb_hex(&s, &thread))
			thread = g->cpu + 1;
		if ((action == 's' || action == 'S') && !step && thread >= 1 &&
		    thread <= g->vcpus->count)
			step = g->vcpus->vcpu[thread - 1];
	}
	gdb_go(g, step, NULL);
}

/* ---- queries ---- */

static void gdb_threads(struct vmm_gdb *g)
{
	vmm_gdb_reply_start(&g->out);
	vmm_gdb_reply_text(&g->out, "m");
	for (unsigned i = 0; i < g->vcpus->count; i++)
		vmm_gdb_reply_format(&g->out, "%s%x", i ? "," : "", i + 1);
	gdb_send(g);
}

static void gdb_thread_info(struct vmm_gdb *g, const char *s)
{
	char text[32];
	uint64_t n;

	if (!vmm_gdb_hex(&s, &n) || !n || n > g->vcpus->count) {
		gdb_result(g, -EINVAL);
		return;
	}
	snprintf(text, sizeof(text), "vCPU %u", vmm_vcpu_apic_id(g->vcpus->vcpu[n - 1]));
	vmm_gdb_reply_start(&g->out);
	vmm_gdb_reply_hex(&g->out, text, strlen(text));
	gdb_send(g);
}

static const char target_xml[] =
	"<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
	"<target><architecture>i386:x86-64</architecture>"
	"<feature name=\"org.gnu.gdb.i386.core\">"
#define R64(n) "<reg name=\"" n "\" bitsize=\"64\" type=\"int64\"/>"
#define R32(n) "<reg name=\"" n "\" bitsize=\"32\" type=\"int32\"/>"
#define RST(n) "<reg name=\"" n "\" bitsize=\"80\" type=\"i387_ext\"/>"
	R64("rax") R64("rbx") R64("rcx") R64("rdx") R64("rsi") R64(
		"rdi") "<reg name=\"rbp\" bitsize=\"64\" type=\"data_ptr\"/>"
		       "<reg name=\"rsp\" bitsize=\"64\" type=\"data_ptr\"/>" R64("r8") R64(
			       "r9") R64("r10") R64("r11") R64("r12") R64("r13") R64("r14")
			       R64("r15") "<reg name=\"rip\" bitsize=\"64\" type=\"code_ptr\"/>" R32(
				       "eflags") R32("cs") R32("ss") R32("ds") R32("es") R32("fs")
				       R32("gs") RST("st0") RST("st1") RST("st2") RST("st3") RST(
					       "st4") RST("st5") RST("st6") RST("st7") R32("fctrl")
					       R32("fstat") R32("ftag") R32("fiseg") R32(
						       "fioff") R32("foseg") R32("fooff")
						       R32("fop") "</feature><feature name=\"org.gnu.gdb.i386.segments\">" R64(
							       "fs_base")
							       R64("gs_base") "</feature><feature name=\"org.pangaea.control\">" R64(
								       "cr0") R64("cr2") R64("cr3")
								       R64("cr4") R64(
									       "efer") "</feature></target>";

static void gdb_features(struct vmm_gdb *g, const char *s)
{
	uint64_t at, len;

	if (!vmm_gdb_hex(&s, &at) || !vmm_gdb_skip(&s, ',') || !vmm_gdb_hex(&s, &len) ||
	    at >= sizeof(target_xml)) {
		gdb_result(g, -EINVAL);
		return;
	}
	len = BASE_MIN(len, (uint64_t)VMM_GDB_PACKET_MAX / 2);
	vmm_gdb_reply_start(&g->out);
	vmm_gdb_reply_text(&g->out, at + len < sizeof(target_xml) - 1 ? "m" : "l");
	for (uint64_t i = at; i < at + len && i < sizeof(target_xml) - 1; i++)
		vmm_gdb_reply_text(&g->out, (char[]){target_xml[i], 0});
	gdb_send(g);
}

static bool starts(const char *s, const char *with, const char **rest)
{
	size_t n = strlen(with);

	if (strncmp(s, with, n))
		return false;
	*rest = s + n;
	return true;
}

static void gdb_query(struct vmm_gdb *g, const char *s)
{
	const char *rest;

	if (starts(s, "qSupported", &rest)) {
		vmm_gdb_reply_start(&g->out);
		vmm_gdb_reply_format(&g->out,
				     "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;"
				     "vContSupported+;hwbreak+;swbreak+",
				     VMM_GDB_PACKET_MAX - 8);
		gdb_send(g);
	} else if (starts(s, "qXfer:features:read:target.xml:", &rest)) {
		gdb_features(g, rest);
	} else if (starts(s, "qfThreadInfo", &rest)) {
		gdb_threads(g);
	} else if (starts(s, "qsThreadInfo", &rest)) {
		gdb_say(g, "l");
	} else if (starts(s, "qThreadExtraInfo,", &rest)) {
		gdb_thread_info(g, rest);
	} else if (starts(s, "qAttached", &rest)) {
		gdb_say(g, "1");
	} else if (!strcmp(s, "qC")) {
		vmm_gdb_reply_start(&g->out);
		vmm_gdb_reply_format(&g->out, "QC%x", g->cpu + 1);
		gdb_send(g);
	} else {
		gdb_say(g, "");
	}
}

static void gdb_choose(struct vmm_gdb *g, const char *s)
{
	uint64_t n;

	s++; /* 'g' or 'c' */
	/* -1 is all, 0 any. */
	if (*s == '-' || !vmm_gdb_hex(&s, &n) || !n) {
		gdb_say(g, "OK");
		return;
	}
	if (n > g->vcpus->count) {
		gdb_result(g, -EINVAL);
		return;
	}
	g->cpu = (unsigned)n - 1;
	gdb_say(g, "OK");
}

static void gdb_packet(struct vmm_gdb *g, const char *s)
{
	const char *rest;
	uint64_t n;

	switch (*s) {
	case '?': gdb_say_stop(g, SIGNAL_TRAP); return;
	case 'g': gdb_read_regs(g); return;
	case 'G': gdb_write_regs(g, s + 1); return;
	case 'P': gdb_write_reg(g, s + 1); return;
	case 'm': gdb_read_memory(g, s + 1); return;
	case 'M': gdb_write_memory(g, s + 1); return;
	case 'Z': gdb_breakpoint(g, s + 1, true); return;
	case 'z': gdb_breakpoint(g, s + 1, false); return;
	case 'H': gdb_choose(g, s + 1); return;
	case 'c': gdb_go(g, NULL, NULL); return;
	case 's': gdb_go(g, gdb_cpu(g), NULL); return;
	case 'q': gdb_query(g, s); return;
	case 'k': gdb_detach(g); return;
	case 'D':
		gdb_say(g, "OK");
		gdb_detach(g);
		return;
	case 'T':
		s++;
		gdb_result(g, vmm_gdb_hex(&s, &n) && n && n <= g->vcpus->count ? 0 : -ESRCH);
		return;
	default: break;
	}
	if (!strcmp(s, "vCont?"))
		gdb_say(g, "vCont;c;C;s;S");
	else if (starts(s, "vCont", &rest))
		gdb_vcont(g, rest);
	else if (!strcmp(s, "QStartNoAckMode")) {
		gdb_say(g, "OK");
		g->no_ack = true;
	} else
		gdb_say(g, "");
}

/* ---- connection ---- */

static void gdb_input(struct vmm_gdb *g, uint8_t byte)
{
	switch (vmm_gdb_reader_put(&g->in, byte)) {
	case VMM_GDB_MORE: return;
	case VMM_GDB_INTERRUPT: gdb_interrupt(g); return;
	case VMM_GDB_BAD: gdb_write(g, "-", 1); return;
	case VMM_GDB_PACKET: break;
	}
	if (!g->no_ack)
		gdb_write(g, "+", 1);
	/* While the guest runs, the only thing to say is Ctrl-C. */
	if (!g->running)
		gdb_packet(g, g->in.text);
}

static void gdb_client_ready(struct base_watch *w, uint32_t events)
{
	struct vmm_gdb *g = base_container_of(w, struct vmm_gdb, client);
	uint8_t buf[4096];
	ssize_t n = recv(w->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		gdb_detach(g);
		return;
	}
	for (ssize_t i = 0; i < n && g->attached; i++)
		gdb_input(g, buf[i]);
}

static void gdb_detach(struct vmm_gdb *g)
{
	if (!g->attached)
		return;
	if (g->running)
		g->ops->pause(g->arg);
	while (g->break_count)
		if (gdb_remove_soft(g, g->breaks[0].addr))
			log_warn("gdb: a breakpoint could not be taken out");
	g->watch_count = 0;
	g->attached = g->running = false;
	vmm_vcpus_run_only(g->vcpus, NULL);
	if (gdb_apply_debug(g, NULL, NULL))
		log_warn("gdb: debugging could not be switched off");
	base_loop_remove(&g->client);
	close(g->client.fd);
	g->client.fd = -1;
	log_info("gdb: detached");
	g->ops->resume(g->arg);
}

static void gdb_accept(struct base_watch *w, uint32_t events)
{
	struct vmm_gdb *g = base_container_of(w, struct vmm_gdb, listener);
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC), one = 1;

	if (fd < 0)
		return;
	if (g->attached) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	g->client = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = gdb_client_ready};
	if (base_loop_add(g->loop, &g->client)) {
		close(fd);
		g->client.fd = -1;
		return;
	}
	g->attached = true;
	g->running = g->no_ack = false;
	g->in = (struct vmm_gdb_reader){0};
	g->ops->pause(g->arg);
	if (gdb_apply_debug(g, NULL, NULL))
		log_warn("gdb: this KVM cannot debug guests");
	log_info("gdb: attached");
}

static int gdb_listen(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, rc;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

int vmm_gdb_new(struct base_loop *loop, uint16_t port, struct vmm_vcpus *vcpus,
		const struct vmm_gdb_ops *ops, void *arg, struct vmm_gdb **out)
{
	struct vmm_gdb *g = calloc(1, sizeof(*g));
	int fd, rc;

	if (!g)
		return -ENOMEM;
	fd = gdb_listen(port);
	if (fd < 0) {
		free(g);
		return fd;
	}
	g->loop = loop;
	g->vcpus = vcpus;
	g->ops = ops;
	g->arg = arg;
	g->client.fd = -1;
	g->listener = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = gdb_accept};
	rc = base_loop_add(loop, &g->listener);
	if (rc) {
		close(fd);
		free(g);
		return rc;
	}
	*out = g;
	return 0;
}

uint16_t vmm_gdb_port(const struct vmm_gdb *g)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);

	return getsockname(g->listener.fd, (struct sockaddr *)&a, &len) ? 0 : ntohs(a.sin_port);
}

void vmm_gdb_free(struct vmm_gdb *g)
{
	if (!g)
		return;
	gdb_detach(g);
	base_loop_remove(&g->listener);
	close(g->listener.fd);
	free(g);
}
