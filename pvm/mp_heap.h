/*
 * The task's shared segment and the allocator for message bodies in it. The owner alone allocates;
 * a body that a receiver still reads is held by a *lease*: an entry in the segment that the receiver
 * clears when it is done. A block is free when the program has freed it and no lease is left.
 *
 *	0        struct mp_seg_head
 *	4 KiB    leases
 *	256 KiB  rings, one for each sender (mp_chan.c)
 *	128 MiB  the heap
 */
#ifndef PVM_MP_HEAP_H
#define PVM_MP_HEAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pvm/wire/mp_seg.h"

#define MP_LEASE_AT UINT64_C(0x1000)
#define MP_RING_AT  UINT64_C(0x40000)
#define MP_HEAP_AT  UINT64_C(0x8000000)
#ifdef __SANITIZE_ADDRESS__
/* The sanitizer touches shadow memory for all that is mapped. */
#define MP_HEAP_BYTES UINT64_C(0x10000000)
#else
#define MP_HEAP_BYTES UINT64_C(0x1000000000)
#endif
#define MP_SEG_BYTES (MP_HEAP_AT + MP_HEAP_BYTES)

enum { MP_LEASES = 4096, MP_RING_DATA = 64 * 1024, MP_RING_STRIDE = MP_RING_DATA + 4096 };

struct mp_lease {
	_Atomic uint32_t held;
	uint32_t spare;
	_Atomic uint64_t filled; /* bytes that are there; the sender may still copy */
};

struct mp_ring {
	/* The sender's, and told before the record: only to go on behind one that makes no sense. */
	_Alignas(64) _Atomic uint64_t head;
	_Alignas(64) _Atomic uint64_t tail; /* the receiver's, told late */
	_Atomic uint64_t taken;		    /* bytes of bodies by reference that it has taken in */
	_Atomic uint32_t ready; /* the sender's segment is mapped: references are fine */
	_Alignas(64) _Atomic uint32_t want; /* the sender sleeps until there is room */
	_Alignas(4096) uint8_t data[MP_RING_DATA];
};

_Static_assert(sizeof(struct mp_ring) == MP_RING_STRIDE, "a ring fills its place");
_Static_assert(MP_RING_AT + (uint64_t)MP_SLOTS * MP_RING_STRIDE <= MP_HEAP_AT, "rings fit");
_Static_assert(MP_LEASE_AT + sizeof(struct mp_lease) * MP_LEASES <= MP_RING_AT, "leases fit");

static inline struct mp_lease *mp_seg_lease(void *seg, uint32_t i)
{
	return (struct mp_lease *)((uint8_t *)seg + MP_LEASE_AT) + i;
}

static inline struct mp_ring *mp_seg_ring(void *seg, uint32_t slot)
{
	return (struct mp_ring *)((uint8_t *)seg + MP_RING_AT + (uint64_t)slot * MP_RING_STRIDE);
}

/* Makes the segment; its descriptor (which stays the heap's) or -1. */
int mp_heap_open(void);
/* The segment of a task that is no longer one: what is allocated in it stays readable. */
void mp_heap_close(void);
void *mp_heap_seg(void);

/* True: [p, p + len) lies in the heap; *off is where in the segment. */
bool mp_heap_offset(const void *p, size_t len, uint64_t *off);
/* A lease on the block at `off` for a receiver: its index, or -1 (none left). */
int mp_heap_lease(uint64_t off, int tid, uint64_t filled);
/* The receiver is dead: what it held is free. */
void mp_heap_peer_gone(int tid);

#endif
