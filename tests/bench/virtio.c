/*
 * Throughput of disk and network of a Debian guest, under pangaea-vmm and under QEMU (-M microvm,
 * virtio over MMIO too), in turn; the peer qemu has its interrupt controllers in the kernel, the peer
 * qemu_user in user space, as ours are. That one can have no clock of KVM, and its guest is told the rate of
 * its TSC where this host was told (tsc_early_khz, as in the lab). Runs as root where /dev/kvm can run Linux, for example in a lab host:
 *   lab up 1 --with qemu-system-x86 --with seabios && lab exec h1 /build/tests/bench/virtio
 * GUEST_KERNEL and GUEST_INITRD name the files (/guest/cloud/vmlinuz and initrd of the lab). The disk is a
 * file of 64 MiB in /tmp, read and written past the guest's cache; the network is a TAP whose other end
 * is this program.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/bench.h"
#include "tests/bench/process.h"

#define HOST  "10.89.0.1"
#define GUEST "10.89.0.2"
#define TAP   "ptap-bench"
#define MAC   "52:54:00:89:00:02"
#define CMDLINE                                                                                    \
	"console=ttyS0 quiet mitigations=off pangaea.ip=" GUEST "/24 pangaea.run=\"sh /dev/vdb\""

enum {
	RUNS = 5,
	RUNS_QUICK = 3,
	TIMEOUT_MS = 300000,
	CASES = 4,
	PEERS = 2,
	MIB = 32,
	DISK_MIB = 64,
	SCRIPT_BYTES = 4096,
	/* Places in QEMU's command line. */
	QEMU_MACHINE = 6,
	QEMU_CPU = 8,
	PORT_SINK = 5001,
	PORT_SOURCE = 5002,
	CHUNK = 1 << 16,
};

static const char *const cases[CASES] = {"blk_read", "blk_write", "net_tx", "net_rx"};

/* Prints the case and how many MiB a second it moves; then a line for each case. */
static const char script_head[] =
	"t() { n=$1; shift; read -r a x </proc/uptime; eval \"$@\" >/dev/null 2>&1; read -r b x </proc/uptime\n"
	"  awk \"BEGIN { print \\\"bench: $n\\\", 32 / ($b - $a) }\"; }\n";
static const char *const script_lines[CASES] = {
	"t blk_read dd if=/dev/vda of=/dev/null bs=1M count=32 iflag=direct\n",
	"t blk_write dd if=/dev/zero of=/dev/vda bs=1M count=32 seek=32 oflag=direct\n",
	"t net_tx 'dd if=/dev/zero bs=64k count=512 | nc " HOST " 5001'\n",
	"t net_rx 'nc " HOST " 5002 </dev/null'\n",
};

static const struct {
	const char *machine, *cpu, *append;
} machines[PEERS] = {{"microvm,accel=kvm", "host", ""},
		     {"microvm,accel=kvm,kernel-irqchip=off", "host,kvm=off", " no_timer_check"}};
static const char *const peer_names[PEERS] = {"qemu", "qemu_user"};
static struct bench_samples ours[CASES], peers[PEERS][CASES];
static struct bench_output output;
static char disk[] = "/tmp/bench-disk.XXXXXX", script_disk[] = "/tmp/bench-script.XXXXXX";

/* ---- the other end of the network: takes all that comes, or sends MIB and closes ---- */

static void serve_one(int fd, bool sink)
{
	static const char zeros[CHUNK];
	char buf[CHUNK];
	ssize_t n = 1;

	if (sink) {
		while (n > 0)
			n = read(fd, buf, sizeof(buf));
	} else {
		for (size_t left = (size_t)MIB << 20; left > 0 && n > 0; left -= (size_t)n)
			n = send(fd, zeros, left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);
	}
	close(fd);
}

static int listen_at(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	inet_pton(AF_INET, HOST, &a.sin_addr);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 4) < 0) {
		bench_note(HOST ":%d: %s", port, strerror(errno));
		return -1;
	}
	return fd;
}

static void *serve(void *arg)
{
	int *listener = arg;

	for (;;) {
		int fd = accept4(*listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			serve_one(fd, listener[1]);
	}
	return NULL;
}

static bool network_up(void)
{
	static int listeners[2][2] = {{-1, 1}, {-1, 0}};
	pthread_t thread;

	if (system("ip link del " TAP " 2>/dev/null; ip tuntap add " TAP
		   " mode tap vnet_hdr && ip addr add " HOST "/24 dev " TAP " && ip link set " TAP
		   " up") != 0)
		return false;
	listeners[0][0] = listen_at(PORT_SINK);
	listeners[1][0] = listen_at(PORT_SOURCE);
	for (int i = 0; i < 2; i++)
		if (listeners[i][0] < 0 || pthread_create(&thread, NULL, serve, listeners[i]))
			return false;
	return true;
}

/* ---- the disks ---- */

static void script_write(const struct bench *b, char text[SCRIPT_BYTES])
{
	size_t n = (size_t)snprintf(text, SCRIPT_BYTES, "%s", script_head);

	for (int i = 0; i < CASES; i++)
		if (bench_wants(b, cases[i]))
			n += (size_t)snprintf(text + n, SCRIPT_BYTES - n, "%s", script_lines[i]);
	n += (size_t)snprintf(text + n, SCRIPT_BYTES - n, "echo bench: end\n");
	memset(text + n, '\n', SCRIPT_BYTES - n);
}

static bool disks_make(const struct bench *b)
{
	char text[SCRIPT_BYTES];
	int fd = mkostemp(disk, O_CLOEXEC), script_fd = mkostemp(script_disk, O_CLOEXEC);
	bool ok = fd >= 0 && script_fd >= 0;

	script_write(b, text);
	ok = ok && posix_fallocate(fd, 0, (off_t)DISK_MIB << 20) == 0;
	ok = ok && write(script_fd, text, sizeof(text)) == sizeof(text);
	close(fd);
	close(script_fd);
	return ok;
}

static int measure(const char *const argv[], struct bench_samples *to)
{
	int err = bench_spawn(argv, "bench: end", TIMEOUT_MS, &output);

	for (int i = 0; i < CASES && !err; i++) {
		char key[32];
		double v;

		snprintf(key, sizeof(key), "bench: %s ", cases[i]);
		v = bench_output_number(&output, key);
		if (v > 0)
			bench_add(&to[i], v);
	}
	return err;
}

static const char *env_or(const char *name, const char *fallback)
{
	const char *v = getenv(name);

	return v ? v : fallback;
}

/* " tsc_early_khz=N" as this host's kernel was told, or "". */
static const char *tsc_rate(void)
{
	static char text[64];
	char line[4096] = "";
	FILE *f = fopen("/proc/cmdline", "re");
	const char *at = f && fgets(line, sizeof(line), f) ? strstr(line, "tsc_early_khz=") : NULL;
	unsigned khz;

	if (at && sscanf(at, "tsc_early_khz=%u", &khz) == 1)
		snprintf(text, sizeof(text), " tsc_early_khz=%u", khz);
	if (f)
		fclose(f);
	return text;
}

static int compare(struct bench *b)
{
	const char *kernel = env_or("GUEST_KERNEL", "/guest/cloud/vmlinuz");
	const char *initrd = env_or("GUEST_INITRD", "/guest/cloud/initrd");
	char drive0[128], drive1[128], append[512];
	const char *const our_argv[] = {env_or("PANGAEA_VMM", "pangaea-vmm"),
					"--name",
					"bench",
					"--kernel",
					kernel,
					"--initrd",
					initrd,
					"--cmdline",
					CMDLINE,
					"--vcpus",
					"1",
					"--memory",
					"256M",
					"--console",
					"stdio",
					"--disk",
					disk,
					"--disk",
					script_disk,
					"--nic",
					"tap=" TAP ",mac=" MAC,
					NULL};
	const char *qemu_argv[] = {"qemu-system-x86_64",
				   "-L",
				   "/usr/share/seabios",
				   "-L",
				   "/usr/share/qemu",
				   "-M",
				   NULL, /* the machine */
				   "-cpu",
				   NULL,
				   "-m",
				   "256",
				   "-kernel",
				   kernel,
				   "-initrd",
				   initrd,
				   "-append",
				   append,
				   "-nodefaults",
				   "-no-user-config",
				   "-display",
				   "none",
				   "-serial",
				   "stdio",
				   "-drive",
				   drive0,
				   "-device",
				   "virtio-blk-device,drive=d0",
				   "-drive",
				   drive1,
				   "-device",
				   "virtio-blk-device,drive=d1",
				   "-netdev",
				   "tap,id=n,ifname=" TAP ",script=no,downscript=no,vhost=off",
				   "-device",
				   "virtio-net-device,netdev=n,mac=" MAC,
				   NULL};
	bool works[PEERS] = {true, true};
	int runs = b->quick ? RUNS_QUICK : RUNS;

	snprintf(drive0, sizeof(drive0), "if=none,id=d0,format=raw,file=%s", disk);
	snprintf(drive1, sizeof(drive1), "if=none,id=d1,format=raw,file=%s", script_disk);
	for (int i = 0; i < runs; i++) {
		int err = measure(our_argv, ours);

		if (err) {
			bench_note("pangaea-vmm: %s\n%s", strerror(-err), output.text);
			return 1;
		}
		for (int k = 0; k < PEERS; k++) {
			qemu_argv[QEMU_MACHINE] = machines[k].machine;
			qemu_argv[QEMU_CPU] = machines[k].cpu;
			snprintf(append, sizeof(append), "%s%s%s", CMDLINE, machines[k].append,
				 machines[k].append[0] ? tsc_rate() : "");
			err = works[k] ? measure(qemu_argv, peers[k]) : 0;
			if (err) {
				bench_note("no peer %s: %s\n%s", peer_names[k], strerror(-err),
					   output.text);
				works[k] = false;
			}
		}
	}
	for (int i = 0; i < CASES; i++)
		for (int k = 0; k < PEERS && bench_wants(b, cases[i]); k++)
			bench_report(b, cases[i], "MiB/s", &ours[i],
				     works[k] ? peer_names[k] : NULL,
				     works[k] ? &peers[k][i] : NULL);
	return 0;
}

int main(int argc, char **argv)
{
	struct bench b;
	int rc = 1;

	bench_init(&b, argc, argv, "blk_read blk_write net_tx net_rx");
	if (network_up() && disks_make(&b))
		rc = compare(&b);
	else
		bench_note("the network or the disks could not be made (root? the program ip?)");
	unlink(disk);
	unlink(script_disk);
	return system("ip link del " TAP " 2>/dev/null") == 0 ? rc : 1;
}
