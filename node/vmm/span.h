/*
 * The other slices of a guest that spans hosts: its memory through the DSM, interrupts and device
 * accesses as messages, and the orders by which the lead (slice 0) starts and stops all of them.
 *
 *   vmm_span_new     before devices and vCPUs are used: hooks the interrupt router
 *   vmm_span_open    the loader has written into guest memory (lead): from now on it is shared
 *   vmm_span_start   connects; `linked` comes when all slices are there
 *
 * Threads: the DSM's service thread receives, and never waits; a thread of ours (lead only) does
 * what vCPUs elsewhere ask of devices, because a device may touch guest memory and wait for a page.
 * The callbacks come on the main loop's thread. Nothing here is held while guest memory is touched.
 */
#ifndef VMM_SPAN_H
#define VMM_SPAN_H

#include "base/loop.h"
#include "node/vmm/clock.h"
#include "node/vmm/config.h"
#include "node/vmm/irqchip.h"
#include "node/vmm/mem.h"
#include "node/vmm/vcpu.h"

struct vmm_span;

enum {
	/* A lost link is waited for so long; then the guest ends, everywhere within 2 s more. */
	VMM_SPAN_WINDOW_MS = 10000,
	/* Until all slices have found each other at the start. */
	VMM_SPAN_LINK_MS = 60000,
	/* Until all vCPUs of all slices stand, or all go. */
	VMM_SPAN_HALT_MS = 10000,
	/* Until a slice that is to join has answered, once its links are there; the guest may stand. */
	VMM_SPAN_READY_MS = 3000,
};

enum vmm_span_order {
	VMM_SPAN_LINKED = 1, /* all slices are there and agree */
	VMM_SPAN_GO,	     /* follower: run */
	VMM_SPAN_HALT,	     /* follower: stand still, then vmm_span_halted() */
	VMM_SPAN_RESET,	     /* follower, halted: vCPUs to power-up state */
	VMM_SPAN_SAVE,	     /* follower, halted: vmm_span_save_part() */
	VMM_SPAN_LOOK,	     /* follower: vmm_span_look_part() */
	VMM_SPAN_LOAD,	     /* follower, halted: vmm_span_load_part() */
	VMM_SPAN_STOPPED,    /* the guest has ended (lead: a follower wants it to); reason */
	VMM_SPAN_FAILED,     /* the same, and it failed */
	VMM_SPAN_LOST,	     /* the links are gone: memory is not to be touched any more; reason */
	VMM_SPAN_WISH_RESET, /* lead: a vCPU elsewhere asks for a reset */
	VMM_SPAN_EMPTIED,    /* lead: vmm_span_evict() is over; reason: it failed, or "" */
	VMM_SPAN_DISMISSED,  /* lead: a slice will end; reason: it will not, or "" */
	VMM_SPAN_ADMITTED,   /* lead: a slice is there to join; reason: it is not, or "" */
	VMM_SPAN_PLACES,     /* a vCPU or a home is elsewhere now, or a slice has left or joined */
	VMM_SPAN_LEFT,	     /* follower: the guest needs it no more */
	VMM_SPAN_MOVED, /* lead: vmm_span_move() is over; reason: why it is where it was, or "" */
};

struct vmm_span_config {
	const struct vmm_slice_config *slices;
	struct vmm_mem *mem;
	struct vmm_irqchip *irq;
	struct vmm_bus *pio, *mmio;
	struct vmm_vcpus *vcpus;
	/* Of this slice; read by the lead, set by followers at GO and while the guest runs. */
	struct vmm_clock *clock;
	/* A follower's clock->offset has changed while the guest runs; any thread, must not block. */
	void (*clock_stepped)(void *arg);
	struct base_loop *main_loop;
	void (*order)(void *arg, enum vmm_span_order order, const char *reason);
	void *arg;
};

/* -errno. The config's objects outlive it. */
BASE_MUST_CHECK int vmm_span_new(const struct vmm_span_config *config, struct vmm_span **out);
/* -errno with one line in why[VMM_WHY_MAX]. Takes listen_fd over. */
BASE_MUST_CHECK int vmm_span_open(struct vmm_span *s, char *why);
/* The links' device serves only the user that opened it. */
bool vmm_span_keeps_user(const struct vmm_span *s);
BASE_MUST_CHECK int vmm_span_start(struct vmm_span *s);
/* Says goodbye; who waits for a page sleeps on. */
void vmm_span_leave(struct vmm_span *s);
/* Says goodbye. No callback comes after it. */
void vmm_span_free(struct vmm_span *s);

/*
 * Main thread, lead: all followers run; all stand; all reset their vCPUs. The first two wait until
 * they do: 0, -ETIMEDOUT, or -ECANCELED: an order that says why is on its way to the main loop.
 */
BASE_MUST_CHECK int vmm_span_go(struct vmm_span *s);
BASE_MUST_CHECK int vmm_span_halt(struct vmm_span *s);
/* entry: of the boot vCPU, wherever it is now. */
void vmm_span_reset(struct vmm_span *s, const struct vmm_entry *entry);
/* Lead: tells all that the guest has ended. Follower: asks the lead to end it. */
void vmm_span_end(struct vmm_span *s, bool failed, const char *reason);
/* Follower, main thread: all vCPUs stand; all run. */
void vmm_span_halted(struct vmm_span *s);
void vmm_span_going(struct vmm_span *s);
/* Follower, at RESET. */
struct vmm_entry vmm_span_entry(struct vmm_span *s);
/*
 * Lead, main thread, the guest runs: has a vCPU go on on another slice. VMM_SPAN_MOVED ends it;
 * until then -EBUSY. -EINVAL: no such vCPU or slice. -EALREADY: it is there.
 */
BASE_MUST_CHECK int vmm_span_move(struct vmm_span *s, uint32_t apic_id, unsigned slice);
bool vmm_span_moves(struct vmm_span *s);
/* The slice of a vCPU, as far as is known here. */
unsigned vmm_span_where(const struct vmm_span *s, uint32_t apic_id);
/*
 * Lead, main thread: a slice whose vCPUs have gone leaves, in these steps; see span_task.c. rehome,
 * while all stand: its pages' homes are the slice `to` from now on; -EAGAIN: they are not, since
 * memory does not come to rest; others: the guest cannot go on. evict: its pages go to the others, until VMM_SPAN_EMPTIED. dismiss: it ends; the
 * others go on without it after VMM_SPAN_DISMISSED.
 */
BASE_MUST_CHECK int vmm_span_rehome(struct vmm_span *s, unsigned from, unsigned to);
void vmm_span_evict(struct vmm_span *s, unsigned slice, uint64_t pages_per_s);
/* Pages that were asked for, of those that were there; total 0: not known yet. */
void vmm_span_evicted(struct vmm_span *s, uint64_t *done, uint64_t *total);
void vmm_span_dismiss(struct vmm_span *s, unsigned slice);
/*
 * Lead, main thread: a slice joins in the place of one that has left, in these steps; see span_join.c.
 * share, while all stand, where all others have left. admit: until VMM_SPAN_ADMITTED; address: where it
 * listens, group: of its links, never used before. is_there: it still is. welcome, while all stand: nothing
 * has changed where it fails. Then take_in: it is a member; where that fails the guest cannot go on. In
 * any other case of failure: drop.
 */
/* What the new one is to be started with: the key, and each slice's address a line. -E2BIG. */
BASE_MUST_CHECK int vmm_span_links(const struct vmm_span *s, uint8_t key[VMM_SLICE_KEY_LEN],
				   char *addresses, size_t cap);
BASE_MUST_CHECK int vmm_span_share(struct vmm_span *s);
void vmm_span_admit(struct vmm_span *s, unsigned slice, const char *address, uint64_t group);
BASE_MUST_CHECK int vmm_span_is_there(struct vmm_span *s, unsigned slice);
BASE_MUST_CHECK int vmm_span_welcome(struct vmm_span *s, unsigned slice);
BASE_MUST_CHECK int vmm_span_take_in(struct vmm_span *s, unsigned slice);
void vmm_span_drop(struct vmm_span *s, unsigned slice);
/* All others have left, and memory is ordinary: so is this machine. */
bool vmm_span_is_over(const struct vmm_span *s);
bool vmm_span_is_gone(const struct vmm_span *s, unsigned slice);
/* The slice where the pages of a part are at home. Main thread. */
unsigned vmm_span_home(const struct vmm_span *s, unsigned part);

/* ---- a saved machine: the guest stands still; see span_save.c ---- */

/* A vCPU of a follower, as of vmm_vcpu_pack(). */
typedef int vmm_span_vcpu(void *arg, uint32_t apic_id, struct base_rbuf *pack);

/*
 * Lead, a thread of its own: has all followers save their vCPUs. Sets a bit in `pages` (in the order of
 * the memory file, zeroed) for each page that was ever used. -ETIMEDOUT, -EPROTO, -ECANCELED (lost).
 */
BASE_MUST_CHECK int vmm_span_collect(struct vmm_span *s, uint64_t *pages);
/* The same while the guest runs: only pages that were used before it was called are sure to be there. */
BASE_MUST_CHECK int vmm_span_look(struct vmm_span *s, uint64_t *pages);
/* As dsm_track_start(), _take() and _stop(): pages in the order of the memory file. */
BASE_MUST_CHECK int vmm_span_track_start(struct vmm_span *s);
void vmm_span_track_take(struct vmm_span *s, uint64_t *pages);
void vmm_span_track_stop(struct vmm_span *s);
/* Behind collect: what they saved, until fn says other than 0. */
BASE_MUST_CHECK int vmm_span_each_vcpu(struct vmm_span *s, vmm_span_vcpu *fn, void *arg);
/* Lead, a thread of its own: loads a vCPU where it is. -EINVAL with one line in why. */
BASE_MUST_CHECK int vmm_span_load_vcpu(struct vmm_span *s, uint32_t apic_id,
				       const struct base_wbuf *pack, char *why);
/* Follower, main thread. Where it fails the lead hears nothing, and gives up. */
BASE_MUST_CHECK int vmm_span_save_part(struct vmm_span *s);
BASE_MUST_CHECK int vmm_span_look_part(struct vmm_span *s);
void vmm_span_load_part(struct vmm_span *s);

/* Follower, any thread. */
void vmm_span_wish_reset(struct vmm_span *s);
/*
 * Follower, at GO: samples the lead's clock; *offset is then what makes a guest TSC of the host's,
 * and the clock's rate and base are the lead's. -ETIMEDOUT.
 */
BASE_MUST_CHECK int vmm_span_sync_clock(struct vmm_span *s, uint64_t *offset);

/*
 * How far to move a clock that is `off` ticks behind (negative: ahead), known to `half` ticks. Pure.
 */
int64_t vmm_span_clock_step(int64_t off, uint64_t half);

/* Follower, a vCPU's thread: one access to the lead's buses. Reads as all ones once links are lost. */
void vmm_span_io(struct vmm_span *s, uint32_t apic_id, bool pio, bool write, uint64_t addr,
		 unsigned len, uint8_t *data);

/* The first APIC id of a slice, or of none when slice == count: the number of vCPUs. */
unsigned vmm_span_first_vcpu(const struct vmm_slice_config *s, unsigned slice);
/* Bytes of guest memory, in the order of the memory file, before the slice's. */
uint64_t vmm_span_first_byte(const struct vmm_slice_config *s, unsigned slice);

/* Of `parts` even parts of guest memory, two bytes each: see VMMCTL_PAGEMAP. */
void vmm_span_pagemap(struct vmm_span *s, unsigned parts, uint8_t *out);
/* As dsm_has(). */
bool vmm_span_has(struct vmm_span *s, uint64_t gfn);

void vmm_span_stats(struct vmm_span *s, void (*put)(void *arg, const char *name, uint64_t value),
		    void *arg);

#endif
