/*
 * What the slices of a spanning guest say to each other, besides pages: short messages on the links
 * of the DSM (dsm_message()), ordered with the page traffic of the same link. Little-endian, the
 * first byte is the type; a length that is not exactly the type's is a broken peer.
 *
 *   HELLO   follower -> lead, once         who I am, what I believe the guest to be
 *   GO      lead -> followers              run; the guest's clock; answered by GOING when they do
 *   HALT    lead -> followers              stop; answered by HALTED when all vCPUs stand
 *   RESET   lead -> followers, halted      vCPUs to their power-up state
 *   END     lead -> followers              the guest has ended; follower -> lead: end it, please
 *   WISH    follower -> lead               a vCPU asks for a reset
 *   TIME    follower -> lead -> follower   one sample of the guest's TSC
 *   IRQ, IDS, EOI                          interrupts (irqchip.h)
 *   IO      follower -> lead -> follower   one access of a vCPU to a port or to MMIO
 *   SAVE, LOOK, FLUSH, PART, LOADED       what a saved machine has of followers (span_save.c)
 *   MOVE, STATE, PLACE                     a vCPU changes its slice (span_move.c)
 *   TASK    lead -> followers              a slice leaves or joins (span_task.c, span_join.c); answered by
 *                                          DONE
 */
#ifndef VMM_SPAN_WIRE_H
#define VMM_SPAN_WIRE_H

#include "node/vmm/config.h"
#include "node/vmm/irq.h"
#include "node/vmm/vcpu.h"

enum {
	SPAN_VERSION = 6,
	SPAN_TEXT_MAX = 200,
	SPAN_WIRE_MAX = 240,
	SPAN_STATE_MAX = 220,
	SPAN_ADDRESS_MAX = 80
};

enum span_type {
	SPAN_HELLO = 1,
	SPAN_GO,
	SPAN_HALT,
	SPAN_HALTED,
	SPAN_RESET,
	SPAN_END,
	SPAN_WISH,
	SPAN_TIME_ASK,
	SPAN_TIME_TELL,
	SPAN_IRQ,
	SPAN_IDS,
	SPAN_EOI,
	SPAN_IO_ASK,
	SPAN_IO_DONE,
	SPAN_MOVE,
	SPAN_STATE,
	SPAN_PLACE,
	SPAN_GOING,
	SPAN_TASK,
	SPAN_DONE,
	SPAN_SAVE,
	SPAN_FLUSH,
	SPAN_PART,
	SPAN_LOADED,
	SPAN_LOOK,
	SPAN_TYPE_END,
};

/* Of MOVE. */
enum span_step {
	SPAN_STEP_PREPARE = 1, /* lead -> target: peer is the source */
	SPAN_STEP_READY,       /* target -> lead */
	SPAN_STEP_LEAVE,       /* lead -> source: peer is the target */
	SPAN_STEP_LOADED,      /* target -> source: it can run here */
	SPAN_STEP_REFUSED,     /* target -> source: it cannot; text */
	SPAN_STEP_COMMIT,      /* source -> target: it is yours */
	SPAN_STEP_FAILED,      /* source or target -> lead: it is where it was; text */
	SPAN_STEP_END,
};

enum span_task {
	SPAN_TASK_NONE,
	SPAN_TASK_QUIET,
	SPAN_TASK_REHOME,
	SPAN_TASK_EVICT,
	SPAN_TASK_FORGET,
	SPAN_TASK_LEAVE,
	SPAN_TASK_ADMIT,
	SPAN_TASK_WELCOME,
	SPAN_TASK_DROP,
	SPAN_TASK_END,
};

struct span_msg {
	enum span_type type;
	/* GO to HALTED, TIME, TASK, DONE, SAVE to LOOK: which; EOI: vector; else: APIC id */
	uint32_t number;
	union {
		struct {
			uint16_t version, slice;
			uint32_t vcpus;
			uint64_t memory_bytes, tsc_hz;
		} hello;
		struct {
			uint64_t base, tsc_hz;
		} go;
		struct {
			bool failed;
			char text[SPAN_TEXT_MAX];
		} end;	      /* LOADED as well */
		uint64_t tsc; /* TIME_TELL: the guest's */
		uint64_t ids;
		uint8_t round; /* FLUSH */
		struct vmm_irq_msg irq;
		struct vmm_entry entry; /* RESET: of the boot vCPU */
		struct {
			uint32_t move; /* which one */
			enum span_step step;
			uint8_t peer;
			char text[SPAN_TEXT_MAX];
		} move;
		struct {
			uint32_t move, offset, total;
			uint8_t len; /* bytes, 1 to SPAN_STATE_MAX */
			uint8_t data[SPAN_STATE_MAX];
		} state; /* PART as well, without move */
		struct {
			uint32_t move;
			uint64_t ids; /* as IDS */
		} place;
		struct {
			enum span_task op;
			uint8_t slice;
			uint64_t rate;			/* EVICT: pages/s, 0: no limit */
			uint8_t home[VMM_SLICE_MAX];	/* REHOME: the slice of each part's pages */
			uint64_t group;			/* ADMIT: of the links to the slice */
			char address[SPAN_ADDRESS_MAX]; /* ADMIT: where it listens */
		} task;
		struct {
			enum span_task op;
			uint8_t error; /* errno; EINPROGRESS: more will come */
			uint64_t done, total;
		} done;
		struct {
			bool pio, write;
			uint8_t len; /* bytes, 1 to 8 */
			uint64_t addr;
			uint8_t data[8];
		} io;
	};
};

/* Returns the number of bytes. */
size_t span_msg_put(uint8_t out[SPAN_WIRE_MAX], const struct span_msg *m);
/* -EPROTO: not such a message. */
BASE_MUST_CHECK int span_msg_get(const void *data, size_t len, struct span_msg *m);

#endif
