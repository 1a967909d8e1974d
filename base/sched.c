#include "base/sched.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define SLICE_NS    (100 * BASE_NS_PER_US)
#define BETTER_NICE -10

struct sched_attr_v0 {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static bool slice_is_honoured(void)
{
	struct sched_attr_v0 attr = {0};

	return syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) == 0 &&
	       attr.runtime == SLICE_NS;
}

void base_sched_wake_soon(void)
{
	int nice = getpriority(PRIO_PROCESS, 0);
	struct sched_attr_v0 attr = {.size = sizeof(attr), .nice = nice, .runtime = SLICE_NS};

	if (sched_getscheduler(0) != SCHED_OTHER)
		return;
	if (syscall(SYS_sched_setattr, 0, &attr, 0) == 0 && slice_is_honoured())
		return;
	attr.nice = BASE_MIN(nice, BETTER_NICE);
	if (syscall(SYS_sched_setattr, 0, &attr, 0) < 0)
		log_debug("no short time slice, no better nice value: %s", strerror(errno));
}
