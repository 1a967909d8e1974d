/* What this host lacks, and how to mend it. Each check is one line: ok, warn or fail. */
#include <cpuid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "node/agent/agent.h"

/* KVM_GET_API_VERSION; the header of KVM belongs to the VMM alone. */
#define KVM_API_IOCTL _IO(0xae, 0x00)

enum { KVM_API_WANTED = 12, NOFILE_WANTED = 4096 };

struct doctor {
	struct agent *agent;
	struct agent_check *out;
	size_t count;
	struct agent_host host;
	char flags[4096]; /* of the first CPU, spaces around each */
};

static void note(struct doctor *d, const char *name, const char *level, const char *mend,
		 const char *fmt, ...) BASE_PRINTF(5, 6);
static void note(struct doctor *d, const char *name, const char *level, const char *mend,
		 const char *fmt, ...)
{
	struct agent_check *c = &d->out[d->count];
	va_list ap;

	if (d->count >= AGENT_CHECK_MAX)
		return;
	d->count++;
	snprintf(c->name, sizeof(c->name), "%s", name);
	snprintf(c->level, sizeof(c->level), "%s", level);
	snprintf(c->mend, sizeof(c->mend), "%s", mend);
	va_start(ap, fmt);
	vsnprintf(c->text, sizeof(c->text), fmt, ap);
	va_end(ap);
}

/* The first line of a file, or "". */
static const char *first_line(const char *path, char *out, size_t cap)
{
	BASE_AUTO_FILE FILE *f = fopen(path, "re");

	if (!f || !fgets(out, (int)cap, f))
		out[0] = 0;
	out[strcspn(out, "\n")] = 0;
	return out;
}

static void read_flags(struct doctor *d)
{
	BASE_AUTO_FILE FILE *f = fopen("/proc/cpuinfo", "re");
	char line[4000];

	while (f && fgets(line, sizeof(line), f)) {
		const char *colon = strchr(line, ':');

		if (strncmp(line, "flags", 5) != 0 || !colon)
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(d->flags, sizeof(d->flags), "%s ", colon + 1);
		return;
	}
}

static bool has_flag(const struct doctor *d, const char *flag)
{
	char text[40];

	snprintf(text, sizeof(text), " %s ", flag);
	return strstr(d->flags, text) != NULL;
}

static void check_kvm(struct doctor *d)
{
	BASE_AUTO_FD int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0) {
		note(d, "kvm", "fail",
		     errno == ENOENT
			     ? "modprobe kvm_amd or kvm_intel; switch virtualisation on in the "
			       "firmware, or nesting on in the outer hypervisor"
			     : "run pangaead as root or in the group kvm",
		     "/dev/kvm: %s", strerror(errno));
		return;
	}
	version = ioctl(fd, KVM_API_IOCTL, 0);
	if (version != KVM_API_WANTED)
		note(d, "kvm", "fail", "use a Linux kernel from 6.1", "KVM API version %d, not %d",
		     version, KVM_API_WANTED);
	else
		note(d, "kvm", "ok", "", "/dev/kvm, API version %d", version);
	if (has_flag(d, "svm") || has_flag(d, "vmx"))
		note(d, "virtualisation", "ok", "", "the CPU has %s",
		     has_flag(d, "svm") ? "AMD-V (svm)" : "VT-x (vmx)");
	else
		note(d, "virtualisation", "warn",
		     "switch it on in the firmware, or nesting on in the outer hypervisor",
		     "the CPU shows no VT-x and no AMD-V: guest kernels run slowly, if at all");
}

static void check_paging(struct doctor *d)
{
	char npt[8], ept[8], eptad[8];

	first_line("/sys/module/kvm_amd/parameters/npt", npt, sizeof(npt));
	first_line("/sys/module/kvm_intel/parameters/ept", ept, sizeof(ept));
	first_line("/sys/module/kvm_intel/parameters/eptad", eptad, sizeof(eptad));
	if (npt[0] == 'Y' || npt[0] == '1')
		note(d, "paging", "warn",
		     "for spanning guests: echo 'options kvm_amd npt=0' > "
		     "/etc/modprobe.d/pangaea.conf; then, with no VM on the host, "
		     "modprobe -r kvm_amd && modprobe kvm_amd",
		     "kvm_amd npt=1: good for ordinary guests, but each page-table walk counts as a "
		     "write");
	else if (ept[0] == 'Y' && (eptad[0] == 'Y' || eptad[0] == '1'))
		note(d, "paging", "warn",
		     "for spanning guests: echo 'options kvm_intel eptad=0' > "
		     "/etc/modprobe.d/pangaea.conf; then, with no VM on the host, "
		     "modprobe -r kvm_intel && modprobe kvm_intel",
		     "kvm_intel eptad=1: good for ordinary guests, but page-table walks write");
	else if (npt[0] || ept[0])
		note(d, "paging", "ok", "", "%s", npt[0] ? "kvm_amd npt=0" : "kvm_intel eptad=0");
	else
		note(d, "paging", "ok", "", "no kvm_amd or kvm_intel module with settings");
}

static void check_kernel(struct doctor *d)
{
	unsigned major = 0, minor = 0;

	if (sscanf(d->host.kernel, "%u.%u", &major, &minor) != 2)
		note(d, "kernel", "warn", "", "release '%s' is not understood", d->host.kernel);
	else if (major < 6 || (major == 6 && minor < 1))
		note(d, "kernel", "fail", "install Debian 12's kernel or a newer one",
		     "%s is older than 6.1", d->host.kernel);
	else if (major == 6 && minor < 4)
		note(d, "kernel", "ok", "",
		     "%s; from 6.4 on, pages of spanning guests are installed with one copy less",
		     d->host.kernel);
	else
		note(d, "kernel", "ok", "", "%s", d->host.kernel);
}

static int open_uffd(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

static void check_userfaultfd(struct doctor *d)
{
	static const struct {
		uint64_t bit;
		const char *name;
	} wanted[] = {
		{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "wp"},
		{UFFD_FEATURE_MISSING_SHMEM, "missing_shmem"},
		{UFFD_FEATURE_MINOR_SHMEM, "minor_shmem"},
		{UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "wp_shmem"},
	};
	BASE_AUTO_FD int fd = open_uffd();
	struct uffdio_api api = {.api = UFFD_API};
	char missing[100] = "";
	size_t used = 0;

	if (fd < 0) {
		note(d, "userfaultfd", "fail",
		     "run pangaead as root, or give its user /dev/userfaultfd (chgrp, chmod 660), or: "
		     "sysctl vm.unprivileged_userfaultfd=1",
		     "faults of the kernel itself cannot be handled: %s", strerror(errno));
		return;
	}
	if (ioctl(fd, UFFDIO_API, &api)) {
		note(d, "userfaultfd", "fail", "use a Linux kernel from 6.1", "%s",
		     strerror(errno));
		return;
	}
	for (size_t i = 0; i < BASE_ARRAY_LEN(wanted); i++)
		if (!(api.features & wanted[i].bit) && used < sizeof(missing))
			used += (size_t)snprintf(missing + used, sizeof(missing) - used, " %s",
						 wanted[i].name);
	if (missing[0])
		note(d, "userfaultfd", "fail",
		     "use a Linux kernel from 6.1 with CONFIG_USERFAULTFD",
		     "features are missing:%s", missing);
	else
		note(d, "userfaultfd", "ok", "", "missing, minor and write-protect faults, by %s",
		     access("/dev/userfaultfd", R_OK | W_OK) ? "its system call"
							     : "/dev/userfaultfd");
}

/* By CPUID where it says so, or else counted over ten milliseconds. */
static uint64_t tsc_khz(void)
{
	unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
	struct timespec pause = {.tv_nsec = 10 * BASE_NS_PER_MS};
	int64_t ns;
	uint64_t tsc;

	if (__get_cpuid(0x15, &eax, &ebx, &ecx, &edx) && eax && ebx && ecx)
		return (uint64_t)ecx * ebx / eax / 1000;
	ns = base_clock_ns();
	tsc = __rdtsc();
	nanosleep(&pause, NULL);
	tsc = __rdtsc() - tsc;
	ns = base_clock_ns() - ns;
	return tsc * 1000000 / (uint64_t)ns;
}

static void check_tsc(struct doctor *d)
{
	bool steady = has_flag(d, "constant_tsc") && has_flag(d, "nonstop_tsc");
	uint64_t khz = tsc_khz();
	char source[32];

	first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
		   sizeof(source));
	note(d, "tsc", steady ? "ok" : "warn",
	     steady ? "" : "spanning guests and migration want hosts with an invariant TSC",
	     "%s, %" PRIu64 ".%03" PRIu64 " GHz, clock source %s",
	     steady ? "invariant" : "not invariant", khz / 1000000, khz / 1000 % 1000, source);
}

static void check_rdma(struct doctor *d)
{
	char names[120] = "";
	DIR *dir = opendir("/sys/class/infiniband");
	struct dirent *e;
	size_t used = 0;

	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.' && used < sizeof(names))
			used += (size_t)snprintf(names + used, sizeof(names) - used, " %.40s",
						 e->d_name);
	if (dir)
		closedir(dir);
	note(d, "rdma", "ok", "", "%s%s", names[0] ? "devices:" : "no devices: TCP is used", names);
}

static void check_memory(struct doctor *d)
{
	char total[32], free_text[32], overcommit[8], thp[64];

	text_size_print(d->host.memory_bytes, total, sizeof(total));
	text_size_print(d->host.available_bytes, free_text, sizeof(free_text));
	first_line("/proc/sys/vm/overcommit_memory", overcommit, sizeof(overcommit));
	first_line("/sys/kernel/mm/transparent_hugepage/enabled", thp, sizeof(thp));
	if (overcommit[0] == '2')
		note(d, "memory", "warn", "sysctl vm.overcommit_memory=0",
		     "%s, %s available, strict accounting: a guest's whole memory is charged at once",
		     total, free_text);
	else
		note(d, "memory", d->host.available_bytes < (256u << 20) ? "warn" : "ok",
		     d->host.available_bytes < (256u << 20) ? "end what is not needed" : "",
		     "%s, %s available; huge pages: %s", total, free_text, thp[0] ? thp : "none");
}

static void check_limits(struct doctor *d)
{
	struct rlimit files = {0}, lock = {0};
	bool rdma = !access("/sys/class/infiniband", F_OK);

	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_MEMLOCK, &lock);
	if (files.rlim_max < NOFILE_WANTED)
		note(d, "limits", "warn", "LimitNOFILE=65536 in the unit, or ulimit -n 65536",
		     "at most %" PRIu64 " open files", (uint64_t)files.rlim_max);
	else if (rdma && lock.rlim_cur != RLIM_INFINITY)
		note(d, "limits", "warn",
		     "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited",
		     "%" PRIu64 " KiB of memory may be locked; RDMA needs more",
		     (uint64_t)lock.rlim_cur / 1024);
	else
		note(d, "limits", "ok", "", "%" PRIu64 " open files", (uint64_t)files.rlim_max);
}

static void check_time(struct doctor *d)
{
	struct timex t = {0};
	int state = adjtimex(&t);

	if (state == TIME_ERROR || (t.status & STA_UNSYNC))
		note(d, "time", "warn", "apt-get install chrony",
		     "the clock is not synchronised: times of events differ between hosts");
	else
		note(d, "time", "ok", "", "synchronised, within %ld us", t.esterror);
}

static void check_agent(struct doctor *d)
{
	struct agent *a = d->agent;
	char away[120] = "";
	size_t used = 0, count = 0;

	note(d, "channel", "ok", "", "listens at %s port %u, key and cluster file agree",
	     a->self->address, a->self->port);
	for (size_t i = 0; i < a->cluster->node_count; i++) {
		const struct agent_peer *p = &a->peers[i];

		if (!p->link || chan_link_up(p->link))
			continue;
		count++;
		if (used < sizeof(away))
			used += (size_t)snprintf(away + used, sizeof(away) - used, " %s",
						 p->node->name);
	}
	if (count)
		note(d, "peers", "warn",
		     "start pangaead there; let TCP and UDP pass to its port; compare the cluster "
		     "files",
		     "%zu of %zu not reached:%s", count, a->cluster->node_count - 1, away);
	else
		note(d, "peers", "ok", "", "all %zu reached", a->cluster->node_count - 1);
	if (a->net)
		note(d, "guest-network", "ok", "", "UDP port %u", a->self->port);
	else
		note(d, "guest-network", "fail",
		     "free the UDP port of the node, and give nodes IPv4 addresses",
		     "UDP port %u could not be had", a->self->port);
	if (access(a->vmm, X_OK))
		note(d, "vmm", "fail", "install the whole package, or give --vmm", "%.150s: %s",
		     a->vmm, strerror(errno));
	else
		note(d, "vmm", "ok", "", "%.150s", a->vmm);
	if (geteuid())
		note(d, "user", "warn", "run pangaead as root: it gives up what it does not need",
		     "runs as user %u", (unsigned)geteuid());
	else
		note(d, "user", "ok", "", "root");
}

static void check_libvirt(struct doctor *d)
{
	struct node_virt_status s;

	if (!d->agent->virt) {
		note(d, "libvirt", "ok", "", "left alone");
		return;
	}
	node_virt_status(d->agent->virt, &s);
	if (s.connected)
		note(d, "libvirt", "ok", "",
		     "%.60s, %" PRIu64 " domains, %" PRIu64 " active; host CPU %.40s", s.software,
		     s.domains, s.active, s.cpu_model[0] ? s.cpu_model : "unknown");
	else
		note(d, "libvirt", "ok", "", "no domains are shown: %.150s", s.why);
}

/* ---- for one guest that spans nodes ---- */

static void check_rdma_there(struct doctor *d)
{
	char path[] = "/sys/class/infiniband";
	DIR *dir = opendir(path);
	struct dirent *e;
	bool any = false;

	while (dir && (e = readdir(dir)))
		any |= e->d_name[0] != '.';
	if (dir)
		closedir(dir);
	if (!any)
		note(d, "rdma", "fail",
		     "use transport tcp, or: modprobe rdma_rxe; rdma link add r0 type rxe netdev eth0",
		     "there is no RDMA device");
}

bool agent_doctor_span(struct agent *a, bool rdma, char why[AGENT_WHY_MAX],
		       char warning[AGENT_WHY_MAX])
{
	struct agent_check checks[AGENT_CHECK_MAX];
	struct doctor d = {.agent = a, .out = checks, .flags = ""};
	size_t used = 0;

	warning[0] = 0;
	agent_host_read(&d.host);
	read_flags(&d);
	check_kvm(&d);
	check_paging(&d);
	check_kernel(&d);
	check_userfaultfd(&d);
	check_tsc(&d);
	if (rdma)
		check_rdma_there(&d);
	for (size_t i = 0; i < d.count; i++) {
		const struct agent_check *c = &checks[i];
		/* That a host's KVM is slow is no matter of spanning. */
		bool warn = !strcmp(c->level, "warn") && strcmp(c->name, "virtualisation") != 0;

		if (!strcmp(c->level, "fail")) {
			snprintf(why, AGENT_WHY_MAX, "%s: %s; %s", c->name, c->text, c->mend);
			text_clean(why);
			return false;
		}
		if (warn && used < AGENT_WHY_MAX)
			used += (size_t)snprintf(warning + used, AGENT_WHY_MAX - used,
						 "%s%s: %s; %s", used ? "; " : "", c->name, c->text,
						 c->mend);
	}
	text_clean(warning);
	return true;
}

size_t agent_doctor(struct agent *a, struct agent_check *out)
{
	struct doctor d = {.agent = a, .out = out, .flags = ""};

	agent_host_read(&d.host);
	read_flags(&d);
	check_kvm(&d);
	check_paging(&d);
	check_kernel(&d);
	check_userfaultfd(&d);
	check_tsc(&d);
	check_rdma(&d);
	check_memory(&d);
	check_limits(&d);
	check_time(&d);
	check_agent(&d);
	check_libvirt(&d);
	for (size_t i = 0; i < d.count; i++) {
		text_clean(out[i].text);
		text_clean(out[i].mend);
	}
	return d.count;
}
