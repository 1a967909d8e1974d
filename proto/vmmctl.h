/*
 * The local control protocol between pangaead (client) and one pangaea-vmm (server): a Unix
 * SOCK_SEQPACKET socket <run-dir>/control.sock, one protobuf message a packet (proto/vmmctl.proto),
 * at most VMMCTL_MAX_BYTES. Requests carry an id and get exactly one reply; events come unasked to
 * every client. SAVE and MIGRATE_* are accompanied by one open descriptor (SCM_RIGHTS).
 *
 * The console is another socket, <run-dir>/console.sock (SOCK_STREAM): raw bytes both ways; a new
 * connection first receives the scrollback (64 KiB); several may be attached. <run-dir>/channel.sock
 * is the same for the guest channel (proto/guest_line.h).
 *
 * What the guest wrote to its console also stands in <run-dir>/console.out, for when the process is
 * no more, however it ended.
 *
 * Everything here belongs to the thread of the event loop that it was given.
 */
#ifndef PROTO_VMMCTL_H
#define PROTO_VMMCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/loop.h"

#define VMMCTL_SOCKET  "control.sock"
#define VMMCTL_CONSOLE "console.sock"
#define VMMCTL_CHANNEL "channel.sock"
#define VMMCTL_OUTPUT  "console.out"

enum {
	VMMCTL_VERSION = 1,
	VMMCTL_MAX_BYTES = 65536,
	VMMCTL_NAME_MAX = 64,	 /* names, with the final 0 */
	VMMCTL_REASON_MAX = 512, /* one line, with the final 0 */
	VMMCTL_ADDRESS_MAX = 80, /* ADDRESS:PORT, with the final 0 */
	VMMCTL_TEXT_MAX = 49152, /* register dumps and the like, with the final 0 */
	VMMCTL_MAX_DEVICES = 64,
	VMMCTL_MAX_STATS = 768,
	VMMCTL_SCROLLBACK_BYTES = 65536,
	VMMCTL_OUTPUT_BYTES = 262144, /* of a console's output, the last of it */
	VMMCTL_OUTPUT_AT = 4096,
	VMMCTL_PAGEMAP_MAX = 4096, /* parts */
	/* Of each part: the slice that owns most (255: none), and what share of it, 0 to 255. */
	VMMCTL_PAGEMAP_STEP = 2,
	VMMCTL_PEEK_MAX = 4, /* pages of 4 KiB */
	VMMCTL_DATA_MAX = VMMCTL_PEEK_MAX * 4096,
};

/* The numbers are those of the wire. */
enum vmmctl_op {
	VMMCTL_STATUS = 1,
	VMMCTL_PAUSE,
	VMMCTL_RESUME,
	VMMCTL_POWERDOWN, /* the ACPI power button */
	VMMCTL_KILL,	  /* replies, then exits at once */
	VMMCTL_RESET,
	VMMCTL_SAVE, /* to the descriptor that comes along */
	VMMCTL_STATS,
	VMMCTL_CONSOLE_RESIZE,
	VMMCTL_REGISTERS,
	/* The descriptor is a socket of proto/migctl.h; answered when it is taken over. */
	VMMCTL_MIGRATE_OUT = 32,
	VMMCTL_MIGRATE_IN,
	VMMCTL_SAVE_LIVE, /* SAVE, and the guest runs on for most of it */
	/* A new session for the last migration, running or over. -ENOENT: there was none. */
	VMMCTL_MIGRATE_ATTACH,
	/*
	 * Who owns the memory of a guest that spans nodes, as its homes here know: `cols` even parts
	 * of all of it, VMMCTL_PAGEMAP_STEP bytes each. -EOPNOTSUPP: it does not span.
	 */
	VMMCTL_PAGEMAP = 48,
	/*
	 * Lead of a spanning guest: vCPU `cols` goes on on slice `rows` while the guest runs. Answered
	 * when it does, or when it stays where it was (-EIO, the reason).
	 */
	VMMCTL_MOVE_VCPU,
	/*
	 * The same of all that slice `cols` has: its vCPUs and its memory go to slice `rows`, at most
	 * `rate` pages a second (0: no limit), and it leaves the guest.
	 */
	VMMCTL_EMPTY,
	VMMCTL_PLACES, /* stats: vcpuN.slice, sliceN.gone, partN.home, and how far EMPTY is */
	/*
	 * Lead: slice `cols`, which has left, joins again with neither vCPUs nor pages: it listens at the
	 * address `text`, and its links have the group `rate`, which none had before.
	 */
	VMMCTL_JOIN,
	/* Lead, for a slice that is to join: data, the key of the links; text, each slice's address a line. */
	VMMCTL_LINKS,
	VMMCTL_JOIN_CANCEL, /* lead: slice `cols` is not to join; -EALREADY: none is joining */
	/*
	 * `cols` pages of guest memory from physical `address` on, as far as this slice has them: it asks
	 * nobody for one, so the guest does not notice. Data may be short, or empty. They may be half of
	 * one write and half of another. -EFAULT: no memory there.
	 */
	VMMCTL_PEEK = 56,
};

enum vmmctl_state {
	VMMCTL_STARTING = 1,
	VMMCTL_RUNNING,
	VMMCTL_PAUSED,
	VMMCTL_STOPPED,
	VMMCTL_FAILED,
};

enum vmmctl_event_kind {
	VMMCTL_EVENT_STATE = 1, /* state is new, text the reason */
	VMMCTL_EVENT_CONSOLE,	/* the guest opened its console */
	VMMCTL_EVENT_PANIC,
	VMMCTL_EVENT_ERROR,
	VMMCTL_EVENT_PLACES, /* what VMMCTL_PLACES says has changed */
};

enum vmmctl_kind { VMMCTL_REQUEST = 1, VMMCTL_REPLY, VMMCTL_EVENT };

struct vmmctl_device {
	char kind[VMMCTL_NAME_MAX];
	char name[VMMCTL_NAME_MAX];
};

struct vmmctl_status {
	enum vmmctl_state state;
	char reason[VMMCTL_REASON_MAX];
	char name[VMMCTL_NAME_MAX];
	uint32_t vcpus;
	uint64_t memory_bytes;
	uint64_t uptime_ns;
	uint32_t pid;
	uint32_t device_count;
	struct vmmctl_device devices[VMMCTL_MAX_DEVICES];
};

struct vmmctl_stat {
	char name[VMMCTL_NAME_MAX];
	uint64_t value;
};

struct vmmctl_request {
	enum vmmctl_op op;
	uint16_t cols, rows; /* CONSOLE_RESIZE, MOVE_VCPU, EMPTY; PAGEMAP, PEEK: cols */
	uint64_t rate, address;
	char text[VMMCTL_ADDRESS_MAX]; /* JOIN */
};

/* What is not there is NULL. In a message to encode everything is borrowed. */
struct vmmctl_reply {
	int error;	  /* 0 or -errno */
	const char *text; /* the reason of an error; REGISTERS: the dump; LINKS */
	const struct vmmctl_status *status;
	const struct vmmctl_stat *stats;
	size_t stat_count;
	const uint8_t *data; /* PAGEMAP, PEEK, LINKS */
	size_t data_len;
};

struct vmmctl_event {
	enum vmmctl_event_kind kind;
	enum vmmctl_state state;
	const char *text;
};

struct vmmctl_msg {
	enum vmmctl_kind kind;
	uint64_t id;
	union {
		struct vmmctl_request request;
		struct vmmctl_reply reply;
		struct vmmctl_event event;
	};
};

/* The file of a console's output: byte number n is ring[n % VMMCTL_OUTPUT_BYTES]. */
struct vmmctl_output {
	uint64_t head; /* bytes ever written */
	uint8_t unused[VMMCTL_OUTPUT_AT - sizeof(uint64_t)];
	uint8_t ring[VMMCTL_OUTPUT_BYTES];
};

/* For the process: the file, made as long as that, or memory that is nobody's (-1). NULL: errno. */
struct vmmctl_output *vmmctl_output_map(int fd);
void vmmctl_output_unmap(struct vmmctl_output *o);
/* For the agent, when the process has ended: the last bytes, at most cap. 0: there are none. */
size_t vmmctl_output_read(const char *dir, uint8_t *out, size_t cap);

const char *vmmctl_state_name(enum vmmctl_state state);
/* Requests that come with a descriptor, always. */
bool vmmctl_op_has_fd(enum vmmctl_op op);

/* -E2BIG: does not fit VMMCTL_MAX_BYTES or the counts above. -ENOMEM. */
BASE_MUST_CHECK int vmmctl_encode(const struct vmmctl_msg *m, uint8_t out[VMMCTL_MAX_BYTES],
				  size_t *len);
/*
 * One allocation, for free(3). -EBADMSG: not a message of this protocol, or beyond its bounds;
 * -EPROTONOSUPPORT: of another version; -ENOMEM.
 */
BASE_MUST_CHECK int vmmctl_decode(const void *data, size_t len, struct vmmctl_msg **out);

/* ---- server: the VMM ---- */

struct vmmctl_server;
struct vmmctl_call;

struct vmmctl_server_ops {
	/*
	 * A valid request. Answer each call once, at once or later, by vmmctl_call_*(). `fd` is the
	 * handler's to close (-1: none; see vmmctl_op_has_fd()).
	 */
	void (*request)(void *ctx, struct vmmctl_call *call, const struct vmmctl_request *req,
			int fd);
};

/*
 * A listening non-blocking socket of this type (SOCK_SEQPACKET, SOCK_STREAM) at dir/name, mode
 * 0600; a left-over socket there is replaced. Returns the descriptor or -errno (-ENAMETOOLONG: the
 * path does not fit a socket address).
 */
BASE_MUST_CHECK int vmmctl_listen(const char *dir, const char *name, int type);
/* Connects to dir/name; the descriptor (non-blocking) or -errno. */
BASE_MUST_CHECK int vmmctl_connect(const char *dir, const char *name, int type);

/* Takes listen_fd over, on success only. Only root and our own user are let in. */
BASE_MUST_CHECK int vmmctl_server_new(struct base_loop *loop, int listen_fd,
				      const struct vmmctl_server_ops *ops, void *ctx,
				      struct vmmctl_server **out);
/* Calls that are still open may be answered after this; the answers go nowhere. */
void vmmctl_server_free(struct vmmctl_server *s);
/* To all clients; one that does not read is dropped. */
void vmmctl_server_event(struct vmmctl_server *s, const struct vmmctl_event *event);

void vmmctl_call_ok(struct vmmctl_call *call);
/* error is -errno. */
void vmmctl_call_fail(struct vmmctl_call *call, int error, const char *fmt, ...) BASE_PRINTF(3, 4);
void vmmctl_call_reply(struct vmmctl_call *call, const struct vmmctl_reply *reply);

/* ---- client: the agent ---- */

struct vmmctl_client;

struct vmmctl_client_ops {
	void (*event)(void *ctx, const struct vmmctl_event *event);
	/* The server went away (or broke the protocol: -EBADMSG). Open calls have failed already.
	 * May free the client. */
	void (*closed)(void *ctx, int error);
};

/*
 * `reply` is valid during the call. A lost server: error -ECONNRESET; no answer: -ETIMEDOUT. Must
 * not free the client; `closed` may.
 */
typedef void vmmctl_done(void *arg, const struct vmmctl_reply *reply);

/* Connects to <dir>/control.sock. -ENOENT or -ECONNREFUSED: nobody listens there (yet). */
BASE_MUST_CHECK int vmmctl_client_new(struct base_loop *loop, const char *dir,
				      const struct vmmctl_client_ops *ops, void *ctx,
				      struct vmmctl_client **out);
/* Open calls end with -ECANCELED. */
void vmmctl_client_free(struct vmmctl_client *c);
/*
 * Sends a request and later calls done once, never from inside this function. `fd` (or -1) stays
 * the caller's. -EAGAIN: too many are open, -ENOTCONN, -ENOMEM.
 */
BASE_MUST_CHECK int vmmctl_client_call(struct vmmctl_client *c, const struct vmmctl_request *req,
				       int fd, int timeout_ms, vmmctl_done *done, void *arg);

#endif
