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
	MP_SEG_LAYOUT = 2,
	MP_SEG_HEAD = 4096,
	MP_SLOTS = 1024,
	MP_SLOT_WORDS = MP_SLOTS / 32,
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
	/* Bit w: dirty[w] may have a bit set. Bit s of dirty: the ring of slot s has news. */
	_Alignas(64) _Atomic uint32_t summary;
	_Alignas(64) _Atomic uint32_t dirty[MP_SLOT_WORDS];
	/* Leases that receivers gave back since the owner last looked. */
	_Alignas(64) _Atomic uint32_t returned;
};

_Static_assert(sizeof(struct mp_seg_head) <= MP_SEG_HEAD, "head of a segment is one page");

struct mp_host_page {
	uint32_t magic, cores;
	/* Tasks that are not asleep in libpvm3: above `cores` nobody spins. Advisory. */
	_Alignas(64) _Atomic int32_t awake;
};

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
