/*
 * What exits cost: the bare-metal guest `exits` under pangaea-vmm and under QEMU with its interrupt
 * controllers in user space (CPU model kvm64, which every KVM can set up). Runs on any /dev/kvm. PANGAEA_BUILD names the build.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/process.h"

enum {
	RUNS = 5,
	RUNS_QUICK = 3,
	ROUNDS = 20000,
	ROUNDS_QUICK = 2000, /* in an emulated host exits are slow */
	TIMEOUT_MS = 120000,
	KINDS = 3,
};

static const struct {
	const char *name, *key;
} kinds[KINDS] = {
	{"exit_pio", "exits: pio "},
	{"exit_mmio", "exits: mmio "},
	{"ipi_hlt", "exits: ipi_hlt "},
};

static struct bench_samples ours[KINDS], peers[KINDS];
static struct bench_output output;

static int measure(const char *const argv[], struct bench_samples *to)
{
	int err = bench_spawn(argv, "exits: PASS", TIMEOUT_MS, &output);

	for (int i = 0; i < KINDS && !err; i++) {
		double v = bench_output_number(&output, kinds[i].key);

		if (v > 0)
			bench_add(&to[i], v);
	}
	return err;
}

int main(int argc, char **argv)
{
	const char *build = getenv("PANGAEA_BUILD");
	char program[512], guest[512], rounds[32];
	const char *const our_argv[] = {program,   "--name",	"bench",    "--kernel", guest,
					"--vcpus", "1",		"--memory", "64M",	"--cmdline",
					rounds,	   "--console", "stdio",    NULL};
	const char *const qemu_argv[] = {"qemu-system-x86_64",
					 "-M",
					 "microvm,accel=kvm,kernel-irqchip=off,rtc=off",
					 "-cpu",
					 "kvm64",
					 "-m",
					 "64",
					 "-kernel",
					 guest,
					 "-append",
					 rounds,
					 "-nodefaults",
					 "-no-user-config",
					 "-display",
					 "none",
					 "-serial",
					 "stdio",
					 NULL};
	bool peer = true;
	struct bench b;
	int err, runs;

	bench_init(&b, argc, argv, "exit_pio exit_mmio ipi_hlt");
	snprintf(program, sizeof(program), "%s/node/vmm/pangaea-vmm",
		 build ? build : "build/release");
	snprintf(guest, sizeof(guest), "%s/tests/guests/exits", build ? build : "build/release");
	snprintf(rounds, sizeof(rounds), "rounds=%d", b.quick ? ROUNDS_QUICK : ROUNDS);
	runs = b.quick ? RUNS_QUICK : RUNS;
	for (int i = 0; i < runs; i++) {
		err = measure(our_argv, ours);
		if (err) {
			bench_note("%s: %s\n%s", program, strerror(-err), output.text);
			return 1;
		}
		err = peer ? measure(qemu_argv, peers) : 0;
		if (err) {
			bench_note("no peer: qemu-system-x86_64: %s", strerror(-err));
			peer = false;
		}
	}
	for (int i = 0; i < KINDS; i++)
		if (bench_wants(&b, kinds[i].name))
			bench_report(&b, kinds[i].name, "1/s", &ours[i], peer ? "qemu" : NULL,
				     peer ? &peers[i] : NULL);
	return 0;
}
