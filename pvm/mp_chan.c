/*
 * Messages between tasks of one host by shared memory. A sender gets a slot in the receiver's
 * segment (by its daemon): a ring of 64 KiB that only these two use, so that the death of either
 * harms nobody else. Small bodies go through the ring; larger ones stay in the sender's heap and
 * are read there (see mp_heap.h).
 *
 * A record says itself that it is there, by its stamp, so a small message is one cache line that
 * travels from core to core. The receiver tells rarely how far it is.
 *
 * News: the sender writes the stamp, sets the dirty bit of its slot, then looks whether the receiver
 * sleeps; the receiver says that it sleeps, then looks at the bits. All with sequential consistency,
 * so one of them always sees the other. A ring whose messages come one after another is hot: the
 * receiver looks for its next stamp and leaves its bit set. It clears the bit and looks once more
 * before it sleeps.
 *
 * What is read from a ring or from another's segment is checked: a task that writes nonsense there
 * loses its messages, nothing else.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_chan.h"
#include "pvm/mp_net.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_task.h"

struct mp_chan mp_chan = {.hot = -1, .warm = -1};
struct mp_peer *mp_chan_by_slot[MP_SLOTS];

enum {
	LOOK = 100, /* looks before the clock is read: a few microseconds */
	LOOK_NET = 4,
	PAUSES_STREAM = 8,
	TAKEN_NS = 50000, /* others had the processor: */
	CALM_MIN = 8,	  /* for so many waits nobody spins */
	CALM_MAX = 4096,
	CROWD_FAILS = 4, /* waits in vain, after which so many more do without: */
	CROWD_CALM_SHIFT_MAX = 10,
	TOGETHER_MIN = 8,
	TOGETHER_MAX = 8192,
	TOGETHER_SPREAD = 8, /* so that of two one is the first */
	TOGETHER_LOOKS = 4,
};

struct mp_seg_head *mp_chan_self(void)
{
	return mp_heap_seg();
}

static struct mp_peer **bucket(int tid)
{
	return &mp_chan.peers[(unsigned)tid % MP_CHAN_PEER_BUCKETS];
}

struct mp_peer *mp_peer_find(int tid)
{
	struct mp_peer *p = *bucket(tid);

	while (p && p->tid != tid)
		p = p->next;
	return p;
}

struct mp_peer *mp_peer_get(int tid)
{
	struct mp_peer *p = mp_peer_find(tid);

	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->tid = tid;
	p->refs = 1;
	p->slot = p->in_slot = -1;
	p->next = *bucket(tid);
	*bucket(tid) = p;
	return p;
}

void mp_peer_unref(struct mp_peer *p)
{
	if (--p->refs)
		return;
	if (p->seg)
		munmap(p->seg, MP_SEG_BYTES);
	free(p);
}

void mp_peer_drop(struct mp_peer *p)
{
	struct mp_peer **at = bucket(p->tid);

	mp_msg_unref(p->partial);
	p->partial = NULL;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	if (p->in_slot >= 0)
		mp_chan_by_slot[p->in_slot] = NULL;
	p->gone = true;
	mp_peer_unref(p);
}

/* Takes the descriptor. */
bool mp_peer_map(struct mp_peer *p, int fd)
{
	struct stat st;
	void *m;

	if (fd < 0 || p->seg) {
		if (fd >= 0)
			close(fd);
		return p->seg != NULL;
	}
	if (fstat(fd, &st) || (uint64_t)st.st_size < MP_SEG_BYTES) {
		close(fd);
		return false;
	}
	m = mmap(NULL, MP_SEG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	close(fd);
	if (m == MAP_FAILED)
		return false;
	/* Of a program with another libpvm3: what is between us goes through the daemon. */
	if (((struct mp_seg_head *)m)->layout != MP_SEG_LAYOUT) {
		munmap(m, MP_SEG_BYTES);
		return false;
	}
	madvise(m, MP_SEG_BYTES, MADV_DONTDUMP);
	p->seg = m;
	return true;
}

int mp_chan_open(void)
{
	const char *off = getenv("PVM_NOSHM");

	return off && *off ? -1 : mp_heap_open();
}

void mp_chan_enrolled(int tid, int page_fd, bool accepted)
{
	const char *us = getenv("PVM_SPIN_US");
	void *p;

	if (!accepted) {
		if (page_fd >= 0)
			close(page_fd);
		mp_heap_close();
		return;
	}
	if (page_fd >= 0) {
		p = mmap(NULL, MP_SEG_HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0);
		mp_chan.page = p == MAP_FAILED ? NULL : p;
		close(page_fd);
	}
	if (!mp_rt.poll_type) {
		mp_rt.poll_type = PvmPollSleep;
		mp_rt.poll_us = us && *us ? (int)strtol(us, NULL, 10) : MP_CHAN_SPIN_US;
	}
	mp_chan_self()->tid = tid;
	mp_chan.key = mp_chan_self()->key;
	if (mp_chan.page)
		atomic_fetch_add(&mp_chan.page->awake, 1);
	mp_chan.together_max = TOGETHER_MIN;
	mp_chan.open = true;
}

void mp_chan_close(void)
{
	if (mp_chan.open) {
		for (int i = 0; i < MP_CHAN_PEER_BUCKETS; i++)
			while (mp_chan.peers[i])
				mp_peer_drop(mp_chan.peers[i]);
		if (mp_chan.page) {
			atomic_fetch_sub(&mp_chan.page->awake, 1);
			munmap(mp_chan.page, MP_SEG_HEAD);
		}
		mp_chan = (struct mp_chan){.hot = -1, .warm = -1};
	}
	mp_heap_close();
}

/* Sleeping */

bool mp_chan_active(void)
{
	return mp_chan.open;
}

uint32_t mp_chan_bell(void)
{
	return mp_chan.open ? atomic_load_explicit(&mp_chan_self()->bell, memory_order_acquire) : 0;
}

uint32_t mp_chan_mail(void)
{
	return mp_chan.open ? atomic_load_explicit(&mp_chan_self()->mail, memory_order_acquire) : 0;
}

static bool word_changed(void)
{
	const struct mp_chan_word *w = &mp_chan.word;

	return w->at && atomic_load(&w->at->value) != w->seen;
}

static bool news(uint32_t bell)
{
	if (!mp_chan.open)
		return false;
	return mp_chan_hot_news() || word_changed() ||
	       atomic_load_explicit(&mp_chan_self()->summary, memory_order_acquire) ||
	       atomic_load_explicit(&mp_chan_self()->bell, memory_order_acquire) != bell;
}

bool mp_chan_crowded(void)
{
	return mp_rt.poll_type != PvmPollConstant && mp_chan.page &&
	       atomic_load_explicit(&mp_chan.page->awake, memory_order_relaxed) >
		       (int32_t)mp_chan.page->cores;
}

/* In a crowd, or where it was in vain lately, nobody spins for long. */
static int64_t spin_ns(void)
{
	if (mp_rt.poll_type == PvmPollConstant)
		return MP_CHAN_SLEEP_MAX_MS * BASE_NS_PER_MS;
	if (mp_chan_crowded())
		return 0;
	return (int64_t)mp_rt.poll_us * BASE_NS_PER_US >> BASE_MIN(mp_chan.spin_fails / 4, 3u);
}

static bool look(uint32_t bell, bool net)
{
	int pauses = mp_chan.sent == mp_chan.sent_at_take ? PAUSES_STREAM : 1;

	for (int i = 0; i < (net ? LOOK_NET : LOOK); i += pauses) {
		if (news(bell))
			return true;
		for (int k = 0; k < pauses; k++)
			__builtin_ia32_pause();
	}
	return net && mp_net_ready();
}

static bool may_spin(void)
{
	if (!spin_ns())
		return false;
	if (!mp_chan.calm)
		return true;
	mp_chan.calm--;
	return false;
}

/* Soon after the last message the clock is not read at all. */
static bool look_first(uint32_t bell, bool active)
{
	if (!news(bell) && !(active && look(bell, mp_net_active())))
		return false;
	if (active) {
		mp_chan.spin_fails = 0;
		mp_chan.calm_last -= mp_chan.calm_last > 0;
	}
	return true;
}

static void together(bool so)
{
	mp_chan.together = so;
	mp_chan.together_run = so ? mp_chan.together_run + 1 : 0;
	if (!so)
		mp_chan.together_max = TOGETHER_MIN + (unsigned)pvmmytid % TOGETHER_SPREAD;
}

/* To another core of those that we may use; false: there is none. */
static bool change_core(void)
{
	int core = sched_getcpu();
	cpu_set_t all, others;

	if (core < 0 || sched_getaffinity(0, sizeof(all), &all) || !CPU_ISSET((size_t)core, &all) ||
	    CPU_COUNT(&all) < 2)
		return false;
	others = all;
	CPU_CLR((size_t)core, &others);
	return !sched_setaffinity(0, sizeof(others), &others) &&
	       !sched_setaffinity(0, sizeof(all), &all);
}

/*
 * Two that share a core while another one is free stay so for many milliseconds, whether they yield or
 * sleep. After some such waits in turn one of them goes to another core; where that does not help it is
 * tried ever more rarely. What comes while we do not yield is from another core already: a yield takes
 * long enough for that. True: there is news.
 */
static bool part(uint32_t bell)
{
	if (mp_chan.together_run < mp_chan.together_max)
		return false;
	for (int i = 0; i < TOGETHER_LOOKS; i++)
		if (look_first(bell, true)) {
			together(false);
			return true;
		}
	mp_chan.together_run = 0;
	mp_chan.together_max = BASE_MIN(mp_chan.together_max * 2, (unsigned)TOGETHER_MAX) +
			       mp_chan.sent % TOGETHER_SPREAD;
	if (change_core())
		mp_chan.together = false;
	return false;
}

/*
 * Between looks the processor is offered to others: the one that we wait for may be on it. Where
 * they keep it for long it is not ours to burn.
 */
static bool spin(uint32_t bell, int64_t now, int64_t deadline_ns)
{
	int64_t end = now + spin_ns();
	bool taken;

	if (deadline_ns >= 0)
		end = BASE_MIN(end, deadline_ns);
	do {
		int64_t before = now;

		sched_yield();
		together(news(bell));
		if (look_first(bell, true))
			return true;
		now = base_clock_ns();
		taken = now - before > TAKEN_NS;
	} while (now < end && !taken);
	if (taken) {
		/* Who sleeps gets the processor at once when he is woken, who yields last. */
		mp_chan.calm = BASE_MIN(BASE_MAX(mp_chan.calm_last * 2, CALM_MIN), CALM_MAX);
		mp_chan.calm_last = mp_chan.calm;
	}
	mp_chan.spin_fails++;
	return news(bell);
}

/*
 * More tasks than cores, and they come and go: those that we wait for are mostly runnable themselves, and
 * to offer them the processor costs a fraction of sleeping and being woken. As long as spinning would be
 * allowed, and not where it has been in vain.
 */
static bool crowd(uint32_t bell, int64_t now, int64_t deadline_ns)
{
	int64_t end = now + (int64_t)mp_rt.poll_us * BASE_NS_PER_US;
	bool net = mp_net_active();

	if (deadline_ns >= 0)
		end = BASE_MIN(end, deadline_ns);
	if (mp_chan.crowd_calm) {
		mp_chan.crowd_calm--;
		return false;
	}
	while (now < end) {
		sched_yield();
		if (news(bell) || (net && mp_net_ready())) {
			mp_chan.crowd_fails = 0;
			return true;
		}
		now = base_clock_ns();
	}
	if (++mp_chan.crowd_fails >= CROWD_FAILS)
		mp_chan.crowd_calm = 1u << BASE_MIN(mp_chan.crowd_fails, CROWD_CALM_SHIFT_MAX);
	return false;
}

static void awake_add(int n)
{
	if (mp_chan.page)
		atomic_fetch_add_explicit(&mp_chan.page->awake, n, memory_order_relaxed);
}

/* Waiting for two words at once is newer than the rest (Linux 5.16), and some sandboxes refuse it. */
static bool have_waitv(void)
{
	static int have = -1;

	if (have < 0)
		have = syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) < 0 && errno == EINVAL;
	return have;
}

static void sleep_on(_Atomic uint32_t *bell, uint32_t seen, int64_t ns)
{
	struct timespec ts = base_clock_timespec(ns);
	struct futex_waitv both[2] = {
		{.val = seen, .uaddr = (uintptr_t)bell, .flags = FUTEX_32},
		{.val = mp_chan.word.seen, .flags = FUTEX_32},
	};

	if (!mp_chan.word.at || !have_waitv()) {
		mp_futex_wait(bell, seen, &ts);
		return;
	}
	ts = base_clock_timespec(base_clock_ns() + ns);
	both[1].uaddr = (uintptr_t)&mp_chan.word.at->value;
	syscall(SYS_futex_waitv, both, 2, 0, &ts, CLOCK_MONOTONIC);
}

/* How who changes the word wakes us. */
static void word_sleeper(bool net, uint32_t n)
{
	struct mp_shared_word *w = mp_chan.word.at;

	if (w)
		atomic_fetch_add(net || !have_waitv() ? &w->by_message : &w->asleep, n);
}

/* `asleep` says how to wake us: 1 the futex, 2 the bell of mp_net.c. */
static void block(uint32_t bell, int64_t ns, int out_fd)
{
	struct mp_seg_head *h = mp_chan_self();
	bool net = mp_net_active() || out_fd >= 0;

	awake_add(-1);
	word_sleeper(net, 1);
	atomic_store(&h->asleep, net ? 2 : 1);
	if (net && !news(bell))
		mp_net_block(ns, out_fd);
	else if (!net && !atomic_load(&h->summary) && !word_changed())
		sleep_on(&h->bell, bell, ns);
	atomic_store(&h->asleep, 0);
	word_sleeper(net, -1u);
	awake_add(1);
}

bool mp_chan_sleep(uint32_t bell, int64_t deadline_ns)
{
	int64_t now, left = MP_CHAN_SLEEP_MAX_MS * BASE_NS_PER_MS, begun;
	bool active = may_spin();

	/* Whom we wait for may have been on this core the last time: then looking is of no use. */
	if (look_first(bell, active && !mp_chan.together))
		return true;
	begun = base_clock_ns();
	if (active && (part(bell) || spin(bell, begun, deadline_ns)))
		return true;
	if (!active && mp_chan_crowded() && crowd(bell, begun, deadline_ns))
		return true;
	now = base_clock_ns();
	if (deadline_ns >= 0) {
		if (now >= deadline_ns)
			return false;
		left = BASE_MIN(left, deadline_ns - now);
	}
	if (mp_rt.poll_type == PvmPollConstant || mp_chan_cool()) {
		mp_rt.look_due = true;
		return true;
	}
	if (mp_chan.open)
		block(bell, left, -1);
	else
		mp_net_block(left, -1);
	/* Slept for nothing: the daemon may have died. It rings for all else. */
	if (!news(bell))
		mp_rt.look_due = true;
	/* A full window would have been enough: try that again. */
	if (base_clock_ns() - begun < (int64_t)mp_rt.poll_us * BASE_NS_PER_US)
		mp_chan.spin_fails = 0;
	return true;
}

void mp_chan_sleep_out(int out_fd)
{
	int64_t left = MP_CHAN_SLEEP_MAX_MS * BASE_NS_PER_MS;

	if (mp_chan_cool())
		return;
	if (mp_chan.open)
		block(mp_chan_bell(), left, out_fd);
	else
		mp_net_block(left, out_fd);
}

void mp_peer_ring(struct mp_peer *p)
{
	struct mp_seg_head *h = (struct mp_seg_head *)p->seg;

	if (atomic_load(&h->asleep) == 2) {
		atomic_fetch_add(&h->bell, 1);
		mp_net_ring(p->tid);
	} else {
		mp_seg_ring_bell(h);
	}
}

void mp_chan_want_poke(void)
{
	if (mp_chan.open)
		atomic_store(&mp_chan_self()->want_poke, 1);
}
