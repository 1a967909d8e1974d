/* What this host is and how busy it is. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "base/clock.h"
#include "node/agent/agent.h"

static void read_cpu(char *out, size_t cap)
{
	BASE_AUTO_FILE FILE *f = fopen("/proc/cpuinfo", "re");
	char line[512];

	snprintf(out, cap, "unknown");
	while (f && fgets(line, sizeof(line), f)) {
		const char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) != 0 || !colon)
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(out, cap, "%.*s", (int)cap - 1, colon + 1 + strspn(colon + 1, " "));
		return;
	}
}

static void read_memory(struct agent_host *h)
{
	BASE_AUTO_FILE FILE *f = fopen("/proc/meminfo", "re");
	char line[256];
	uint64_t kib;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemTotal: %" SCNu64, &kib) == 1)
			h->memory_bytes = kib * 1024;
		else if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			h->available_bytes = kib * 1024;
	}
}

void agent_host_read(struct agent_host *h)
{
	double load[1] = {0};
	struct utsname u;
	struct sysinfo si;

	*h = (struct agent_host){0};
	if (!uname(&u))
		snprintf(h->kernel, sizeof(h->kernel), "%.64s", u.release);
	read_cpu(h->cpu, sizeof(h->cpu));
	read_memory(h);
	h->cpus = (uint64_t)BASE_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
	if (getloadavg(load, 1) == 1)
		h->load_milli = (uint64_t)(load[0] * 1000);
	if (!sysinfo(&si))
		h->uptime_ns = (uint64_t)si.uptime * (uint64_t)BASE_NS_PER_SEC;
}
