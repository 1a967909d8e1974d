/*
 * Time from the start of the process to the guest's init, for the same kernel, initrd and command
 * line: pangaea-vmm, QEMU -M microvm and QEMU -M pc, in turn. Runs where /dev/kvm can run Linux, for
 * example in a lab host:
 *   lab up 1 --with qemu-system-x86 --with seabios && lab exec h1 /build/tests/bench/boot
 * GUEST_KERNEL and GUEST_INITRD name the files (/guest/vmlinuz, /guest/initrd of the lab).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/process.h"

#define CMDLINE "console=ttyS0 quiet"
#define MARKER	"guest: Linux"

enum { RUNS = 5, RUNS_QUICK = 3, TIMEOUT_MS = 180000, VMMS = 3 };

static const char *env_or(const char *name, const char *fallback)
{
	const char *v = getenv(name);

	return v ? v : fallback;
}

struct vmm {
	const char *name;
	const char *const *argv;
	bool works;
	struct bench_samples ms;
};

static struct bench_output output;

static void measure(struct vmm *v)
{
	int err = bench_spawn(v->argv, MARKER, TIMEOUT_MS, &output);

	if (err) {
		bench_note("%s: %s\n%s", v->name, strerror(-err), output.text);
		v->works = false;
		return;
	}
	bench_add(&v->ms, output.marker_us / 1000);
}

int main(int argc, char **argv)
{
	const char *kernel = env_or("GUEST_KERNEL", "/guest/vmlinuz");
	const char *initrd = env_or("GUEST_INITRD", "/guest/initrd");
	const char *program = env_or("PANGAEA_VMM", "pangaea-vmm");
	const char *const ours[] = {program, "--name",	  "bench", "--kernel", kernel, "--initrd",
				    initrd,  "--cmdline", CMDLINE, "--vcpus",  "1",    "--memory",
				    "256M",  "--console", "stdio", NULL};
#define QEMU(machine)                                                                              \
	{                                                                                          \
		"qemu-system-x86_64", "-L", "/usr/share/seabios", "-L", "/usr/share/qemu", "-M",   \
			machine, "-cpu", "host", "-m", "256", "-kernel", kernel, "-initrd",        \
			initrd, "-append", CMDLINE, "-nodefaults", "-no-user-config", "-display",  \
			"none", "-serial", "stdio", NULL                                           \
	}
	const char *const microvm[] = QEMU("microvm,accel=kvm");
	const char *const pc[] = QEMU("pc,accel=kvm");
	static struct vmm vmms[VMMS];
	struct bench b;
	int runs, best = 0;

	bench_init(&b, argc, argv, "boot");
	vmms[0] = (struct vmm){"pangaea-vmm", ours, true, {.n = 0}};
	vmms[1] = (struct vmm){"qemu microvm", microvm, true, {.n = 0}};
	vmms[2] = (struct vmm){"qemu pc", pc, true, {.n = 0}};
	runs = b.quick ? RUNS_QUICK : RUNS;
	for (int i = 0; i < runs; i++)
		for (int k = 0; k < VMMS; k++)
			if (vmms[k].works)
				measure(&vmms[k]);
	if (!vmms[0].works)
		return 1;
	/* The quicker of QEMU's machines is the peer. */
	for (int k = 1; k < VMMS; k++)
		if (vmms[k].works && (!best || bench_quantile(&vmms[k].ms, 0.5) <
						       bench_quantile(&vmms[best].ms, 0.5)))
			best = k;
	bench_report(&b, "boot", "ms", &vmms[0].ms, best ? "qemu" : NULL,
		     best ? &vmms[best].ms : NULL);
	if (best)
		bench_note("the peer is %s", vmms[best].name);
	return 0;
}
