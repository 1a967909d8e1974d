/*
 * What exits cost, and how fast memory is: the bare-metal guests `exits` and `dirty` under pangaea-vmm and under QEMU
 * with its interrupt controllers in user space (CPU model kvm64, which every KVM can set up). Runs on any /dev/kvm.
 * PANGAEA_BUILD names the build.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/bench/bench.h"
#include "tests/bench/process.h"

enum {
	RUNS = 5,
	RUNS_QUICK = 3,
	ROUNDS = 20000,
	ROUNDS_QUICK = 2000, /* in an emulated host exits are slow */
	TIMEOUT_MS = 120000,
	KINDS = 4,
};

static const struct {
	const char *name, *unit, *key;
} kinds[KINDS] = {
	{"exit_pio", "1/s", "exits: pio "},
	{"exit_mmio", "1/s", "exits: mmio "},
	{"ipi_hlt", "1/s", "exits: ipi_hlt "},
	{"memory", "MiB/s", "dirty: rate "},
};

/* What one program is asked to do: KINDS of it are found in its output. */
struct guest {
	char file[512], cmdline[64];
	const char *done;
};

static struct bench_samples ours[KINDS], peers[KINDS];
static struct bench_output output;

static int measure(const char *const argv[], const char *done, struct bench_samples *to)
{
	int err = bench_spawn(argv, done, TIMEOUT_MS, &output);

	for (int i = 0; i < KINDS && !err; i++) {
		double v = bench_output_number(&output, kinds[i].key);

		if (v > 0)
			bench_add(&to[i], v);
	}
	return err;
}

static int measure_ours(const char *program, const struct guest *g)
{
	const char *const argv[] = {program,	"--name",    "bench",	 "--kernel", g->file,
				    "--vcpus",	"1",	     "--memory", "256M",     "--cmdline",
				    g->cmdline, "--console", "stdio",	 NULL};
	int err = measure(argv, g->done, ours);

	if (err)
		bench_note("%s: %s\n%s", program, strerror(-err), output.text);
	return err;
}

static int measure_peer(const struct guest *g)
{
	const char *const argv[] = {"qemu-system-x86_64",
				    "-M",
				    "microvm,accel=kvm,kernel-irqchip=off,rtc=off",
				    "-cpu",
				    "kvm64",
				    "-m",
				    "256",
				    "-kernel",
				    g->file,
				    "-append",
				    g->cmdline,
				    "-nodefaults",
				    "-no-user-config",
				    "-display",
				    "none",
				    "-serial",
				    "stdio",
				    NULL};
	int err = measure(argv, g->done, peers);

	if (err)
		bench_note("no peer: qemu-system-x86_64: %s", strerror(-err));
	return err;
}

int main(int argc, char **argv)
{
	const char *build = getenv("PANGAEA_BUILD");
	char program[512];
	struct guest guests[] = {{.done = "exits: PASS"}, {.done = "dirty: PASS"}};
	bool peer = true;
	struct bench b;
	int runs;

	bench_init(&b, argc, argv, "exit_pio exit_mmio ipi_hlt memory");
	if (!build)
		build = "build/release";
	snprintf(program, sizeof(program), "%s/node/vmm/pangaea-vmm", build);
	snprintf(guests[0].file, sizeof(guests[0].file), "%s/tests/guests/exits", build);
	snprintf(guests[0].cmdline, sizeof(guests[0].cmdline), "rounds=%d",
		 b.quick ? ROUNDS_QUICK : ROUNDS);
	snprintf(guests[1].file, sizeof(guests[1].file), "%s/tests/guests/dirty", build);
	snprintf(guests[1].cmdline, sizeof(guests[1].cmdline), "mib=128 seconds=2");
	runs = b.quick ? RUNS_QUICK : RUNS;
	for (int i = 0; i < runs; i++)
		for (size_t g = 0; g < BASE_ARRAY_LEN(guests); g++) {
			if (measure_ours(program, &guests[g]))
				return 1;
			peer = peer && !measure_peer(&guests[g]);
		}
	for (int i = 0; i < KINDS; i++)
		if (bench_wants(&b, kinds[i].name))
			bench_report(&b, kinds[i].name, kinds[i].unit, &ours[i],
				     peer ? "qemu" : NULL, peer ? &peers[i] : NULL);
	return 0;
}
