/* How busy this host is, and where a new task goes. */
#include <endian.h>
#include <pvm3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sched.h>

#include "pvm/pvmd/mpd.h"

uint32_t mpd_load_cores(void)
{
	cpu_set_t set;

	/* What this process may use, which in a container is less than what there is. */
	if (sched_getaffinity(0, sizeof(set), &set))
		return 1;
	return (uint32_t)BASE_MAX(CPU_COUNT(&set), 1);
}

void mpd_load_sample(struct mpd *pd)
{
	BASE_AUTO_FILE FILE *f = fopen("/proc/stat", "re");
	unsigned long long v[8] = {0};
	uint64_t busy, all;

	if (!f || fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2],
			 &v[3], &v[4], &v[5], &v[6], &v[7]) != 8)
		return;
	busy = v[0] + v[1] + v[2] + v[5] + v[6] + v[7];
	all = busy + v[3] + v[4];
	if (pd->cpu_all && all > pd->cpu_all) {
		double part = (double)(busy - pd->cpu_busy) / (double)(all - pd->cpu_all);

		/* Half the new second, half the past: calm, yet followed within a few seconds. */
		pd->busy = (pd->busy + part * sysconf(_SC_NPROCESSORS_ONLN)) / 2;
	}
	pd->cpu_busy = busy;
	pd->cpu_all = all;
	pd->hosts[pd->self]->busy = pd->busy;
	pd->hosts[pd->self]->tasks = pd->task_count;
	pd->hosts[pd->self]->fresh /= 2;
}

void mpd_load_reply(struct mpd *pd, const struct mpd_from *from, int host)
{
	const struct mpd_host *h = mpd_host_get(pd, host);
	struct base_wbuf b;

	base_wbuf_init(&b, 64);
	base_wbuf_u32(&b, MPD_ENC_XDR);
	base_wbuf_u32(&b, 0);
	base_wbuf_u32(&b, 3 * sizeof(uint32_t));
	if (h) {
		base_wbuf_u32(&b, htobe32(h->cores));
		base_wbuf_u32(&b, htobe32((uint32_t)(h->busy * 1000)));
		base_wbuf_u32(&b, htobe32(h->tasks));
	}
	mpd_call_reply(pd, from, h ? host : PvmNotFound, &b, -1);
	base_wbuf_fini(&b);
}

/* The share of the host's power that is taken once one more task runs there. */
static double load_after(const struct mpd_host *h)
{
	double power = BASE_MAX(h->cores, 1u) * (BASE_MAX(h->speed, 1) / 1000.0);

	return (h->busy + h->fresh + 1) / power;
}

int mpd_load_place(struct mpd *pd, const bool *ok)
{
	double best_load = 0;
	int best = 0;

	/* Equal hosts take turns. */
	for (int k = 1; k <= pd->host_last; k++) {
		int i = (pd->next_rr + k - 1) % pd->host_last + 1;
		struct mpd_host *h = mpd_host_get(pd, i);
		double load;

		if (!h || !ok[i] || h->suspect)
			continue;
		load = load_after(h);
		if (!best || load < best_load - 0.3 / BASE_MAX(h->cores, 1u)) {
			best = i;
			best_load = load;
		}
	}
	if (best) {
		pd->hosts[best]->fresh += 1;
		pd->next_rr = best;
	}
	return best;
}
