/*
 * What tasks and the daemon of one host share: the head of a task's segment (a memfd that the task
 * makes at enrolment) and the host page (one, made by the daemon). All of one user; still, whoever
 * reads treats every value as hostile. The rest of a segment is libpvm3's own (mp_chan.c).
 */
#ifndef PVM_WIRE_MP_SEG_H
#define PVM_WIRE_MP_SEG_H

#include <stdatomic.h>
#include <stdint.h>
#include <linux/futex.h>
#include <limits.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	MP_SEG_MAGIC = 0x4d50534d,
	MP_SEG_LAYOUT = 4,
	MP_SEG_HEAD = 4096,
	MP_SLOTS = 1024,
	MP_SLOT_WORDS = MP_SLOTS / 32,
	MP_QUICK_MAX = 2048,
	MP_QUICK_ASKERS = 512,
	MP_QUICK_GROUP = 16, /* of them to a bit of asked_any */
};

/*
 * A small call while the daemon is awake: the task writes it here and itself into the host page, the
 * daemon writes the answer over it and rings the bell. No system call on either side.
 */
enum mp_quick_state { MP_QUICK_FREE, MP_QUICK_ASKED, MP_QUICK_TAKEN, MP_QUICK_ANSWERED };

struct mp_quick {
	_Atomic uint32_t state;
	uint32_t req; /* an answer that is too large comes by the socket */
	uint32_t len;
	uint8_t data[MP_QUICK_MAX]; /* as in a frame: u16 op and arguments; u32 result and body */
};

struct mp_seg_head {
	uint32_t magic, layout;
	int32_t tid;
	uint32_t pid;
	uint64_t key; /* of its rings */
	/* The owner sleeps on `bell`; who has news adds 1 and wakes it if `asleep`. */
	_Alignas(64) _Atomic uint32_t bell;
	_Atomic uint32_t asleep;
	/* The owner selects on its descriptors: also poke it through the daemon. */
	_Atomic uint32_t want_poke;
	/* So many times the daemon has written to the socket; it rings the bell after that. */
	_Atomic uint32_t mail;
	/* Bit w: dirty[w] may have a bit set. Bit s of dirty: the ring of slot s has news. */
	_Alignas(64) _Atomic uint32_t summary;
	_Alignas(64) _Atomic uint32_t dirty[MP_SLOT_WORDS];
	/* Leases that receivers gave back since the owner last looked. */
	_Alignas(64) _Atomic uint32_t returned;
	_Alignas(64) struct mp_quick quick;
};

_Static_assert(sizeof(struct mp_seg_head) <= MP_SEG_HEAD, "head of a segment is one page");

struct mp_host_page {
	uint32_t magic, cores;
	/* Tasks that are not asleep in libpvm3: above `cores` nobody spins. Advisory. */
	_Alignas(64) _Atomic int32_t awake;
	/* The daemon looks at asked_any all the time. It clears this, then looks once more. */
	_Alignas(64) _Atomic uint32_t looking;
	/* Bit i: there may be a tid in asked[i * MP_QUICK_GROUP] or in those that follow. */
	_Alignas(64) _Atomic uint32_t asked_any;
	_Alignas(64) _Atomic int32_t asked[MP_QUICK_ASKERS];
};

_Static_assert(sizeof(struct mp_host_page) <= MP_SEG_HEAD, "the host page is one page");
_Static_assert(MP_QUICK_ASKERS == 32 * MP_QUICK_GROUP, "a bit for each group");

static inline void mp_futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static inline int mp_futex_wait(_Atomic uint32_t *word, uint32_t seen, const struct timespec *rel)
{
	return (int)syscall(SYS_futex, word, FUTEX_WAIT, seen, rel, NULL, 0);
}

static inline void mp_seg_ring_bell(struct mp_seg_head *h)
{
	atomic_fetch_add(&h->bell, 1);
	if (atomic_load(&h->asleep))
		mp_futex_wake(&h->bell);
}

#endif
