/*
 * What an agent and a VM process say to each other while the VM migrates. The agent makes a
 * SOCK_SEQPACKET pair, hands one end to the process by the request MIGRATE_OUT or MIGRATE_IN of
 * proto/vmmctl.h, and sends START with the connections of the migration. Then orders go one way,
 * progress and results the other. A process whose agent went away migrates on; the next agent hands it
 * a new session by MIGRATE_ATTACH, in which the process says how things stand.
 *
 * One packet a message, at most MIGCTL_MAX_BYTES. Any thread; nothing is shared.
 */
#ifndef PROTO_MIGCTL_H
#define PROTO_MIGCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

enum {
	MIGCTL_VERSION = 1,
	MIGCTL_MAX_BYTES = 4096,
	MIGCTL_ID_LEN = 16,
	MIGCTL_KEY_LEN = 32,
	MIGCTL_MAX_FDS = 17, /* the control connection and 16 for data */
	MIGCTL_STATE_MAX = 16,
	MIGCTL_TEXT_MAX = 256,
	MIGCTL_MODE_MAX = 2,
};

enum migctl_kind { MIGCTL_START = 1, MIGCTL_ORDER, MIGCTL_PROGRESS, MIGCTL_RESULT };

/* The numbers are those of the wire. */
enum migctl_order {
	MIGCTL_CANCEL = 1,
	MIGCTL_VERDICT_COMMITTED,
	MIGCTL_VERDICT_ABORTED,
	MIGCTL_VERDICT_COMMITTING,
	MIGCTL_VERDICT_GONE,
	MIGCTL_VERDICT_UNKNOWN,
	MIGCTL_FORCE,
	MIGCTL_VERDICT_COMPLETE,
	MIGCTL_DISKS_HERE, /* the answer to the state MIGCTL_STATE_DISKS */
};

/* A destination whose disks have all come, before it is ready: it waits for their names. */
#define MIGCTL_STATE_DISKS "disks"

enum migctl_end {
	MIGCTL_DONE = 1, /* the guest runs at the destination */
	MIGCTL_FAILED,	 /* the guest is the source's */
	MIGCTL_DOUBT,	 /* paused until a verdict; another result follows */
	MIGCTL_CUT,  /* post-copy lost its link; goes on after another START with new connections */
	MIGCTL_LOST, /* post-copy: the other side is gone, and the guest with it */
};

struct migctl_start {
	uint8_t id[MIGCTL_ID_LEN], key[MIGCTL_KEY_LEN];
	bool encrypt, auto_converge;
	uint32_t channels, max_downtime_ms, stall_ms, max_rounds;
	uint32_t mode; /* enum mig_mode */
	uint32_t postcopy_rounds;
	uint64_t bandwidth;
	bool with_disk;
};

struct migctl_progress {
	char state[MIGCTL_STATE_MAX];
	uint32_t round, throttle;
	uint64_t pages_total, pages_left, bytes_sent, pages_sent, pages_zero, pages_unchanged,
		pages_resent, rate, dirty_rate, total_ns, downtime_ns;
};

struct migctl_result {
	enum migctl_end end;
	char text[MIGCTL_TEXT_MAX];
};

struct migctl_msg {
	enum migctl_kind kind;
	union {
		struct migctl_start start;
		enum migctl_order order;
		struct migctl_progress progress; /* also of a result */
	};
	struct migctl_result result;
	/* START: received descriptors are the receiver's; to send they are borrowed. */
	int fds[MIGCTL_MAX_FDS];
	unsigned fd_count;
};

/* -EAGAIN: the other side does not read (drop progress then); -EPIPE... */
BASE_MUST_CHECK int migctl_send(int fd, const struct migctl_msg *m);
/*
 * -EAGAIN: nothing there (on a non-blocking socket); -ECONNRESET: closed; -EBADMSG: not a message of
 * this protocol. A START has exactly 1 + channels descriptors. On failure no descriptor is left over.
 */
BASE_MUST_CHECK int migctl_recv(int fd, struct migctl_msg *m);
/* Closes it (-1: nothing). What was sent is still read by the other side, whatever that sends meanwhile. */
void migctl_hang_up(int fd);

/* The codec alone, for tests. */
BASE_MUST_CHECK int migctl_encode(const struct migctl_msg *m, uint8_t out[MIGCTL_MAX_BYTES],
				  size_t *len);
BASE_MUST_CHECK int migctl_decode(const void *data, size_t len, struct migctl_msg *m);

#endif
