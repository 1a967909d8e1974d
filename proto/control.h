/*
 * Requests and replies of the control channel as plain structs: the bodies that proto/chan.h
 * carries between `pangaea` and the agents, and among the agents.
 *
 *   NODE_LS       every node, from the agent's point of view           -> nodes
 *   NODE_INFO     one node                                             -> nodes[0]
 *   NODE_DOCTOR   checks of `node`, or of all                          -> checks
 *   VM_RUN        spec; a stream: progress items                       -> vms[0]
 *   VM_LS                                                              -> vms
 *   VM_INFO       vm                                -> vms[0], spec, items: devices
 *   VM_CONSOLE    vm, cols, rows; a stream: data both ways
 *   VM_STOP       vm, timeout_ms: the power button, then waits for the end
 *   VM_KILL, VM_PAUSE, VM_RESUME, VM_RESET   vm
 *   VM_STATS      vm                                                   -> items
 *   VM_REGISTERS  vm                                                   -> text
 *   EVENTS        vm or node to narrow; follow: a stream               -> events
 *   VM_MIGRATE    vm, migrate; a stream: progress in text and items    -> text, items
 *   VM_MIGRATE_CANCEL   vm
 *   VM_MIGRATE_RESUME   vm: what waits, after a broken link or another node's death, goes on
 *   VM_START      vm: a libvirt domain that is off
 *   VM_CHANNEL    vm; a stream: data both ways, of the guest channel (guest_line.h)
 *   VM_PAGEMAP    vm, node: of one slice; cols: how many parts of its memory -> data
 *   VM_PEEK       vm, node: of one slice; address, cols: so many pages of its memory, if it has
 *                 them (VMMCTL_PEEK)                                   -> data
 *   VM_SPREAD     vm, places: a=1,b=1; a stream, as VM_MIGRATE: vCPUs of a spanning guest move
 *   VM_CONSOLIDATE  vm, migrate: target, places: the node to leave (""): all others; a stream
 * Between agents:
 *   MIGRATE_PREPARE  spec, migrate: makes the empty VM                 -> items: port
 *   MIGRATE_VERDICT  vm, migrate.id: what became of it                 -> text: enum as a word
 *   MIGRATE_RELINK   vm, migrate {id, port}: connect there; answered when the connections are made
 *   SLICE_PREPARE    spec, slice {index, group}: room is kept, a port bound -> items: port, warning
 *   SLICE_START      vm, slice {group, key, peers; links_group, homes, places: the guest runs already}:
 *                    answered when it has found the others             -> vms[0]
 *   SLICE_STOP       vm, slice {group, reason}: the guest is over, or is not to start
 */
#ifndef PROTO_CONTROL_H
#define PROTO_CONTROL_H

#include "proto/chan.h"
#include "proto/vmspec.h"

/* The exit codes of `pangaea` as well. */
enum control_code {
	CONTROL_OK = 0,
	CONTROL_FAILED = 1,
	CONTROL_USAGE = 2, /* what was asked for makes no sense */
	CONTROL_NOT_FOUND = 3,
	CONTROL_UNREACHABLE = 4,
	CONTROL_TIMEOUT = 5,
	CONTROL_DENIED = 6,
	CONTROL_EXISTS = 7,
	CONTROL_NO_ROOM = 8, /* beyond the host's CPUs or memory */
	CONTROL_BUSY = 9,
	CONTROL_CODE_END,
};

/* The numbers are those of the wire. */
enum control_op {
	CONTROL_NODE_LS = 1,
	CONTROL_NODE_INFO,
	CONTROL_NODE_DOCTOR,
	CONTROL_VM_RUN,
	CONTROL_VM_LS,
	CONTROL_VM_CONSOLE,
	CONTROL_VM_STOP,
	CONTROL_VM_KILL,
	CONTROL_VM_STATS,
	CONTROL_EVENTS,
	CONTROL_VM_INFO,
	CONTROL_VM_PAUSE,
	CONTROL_VM_RESUME,
	CONTROL_VM_RESET,
	CONTROL_VM_REGISTERS,
	CONTROL_VM_MIGRATE,
	CONTROL_VM_MIGRATE_CANCEL,
	CONTROL_MIGRATE_PREPARE,
	CONTROL_MIGRATE_VERDICT,
	CONTROL_VM_CHECKPOINT, /* of `vm` to `path`, on its node */
	CONTROL_VM_RESTORE,    /* from `path` on `node` */
	CONTROL_VM_MIGRATE_RESUME,
	CONTROL_MIGRATE_RELINK,
	CONTROL_VM_START = 32,
	CONTROL_VM_CHANNEL,
	CONTROL_SLICE_PREPARE = 48,
	CONTROL_SLICE_START,
	CONTROL_SLICE_STOP,
	CONTROL_VM_PAGEMAP,
	CONTROL_VM_SPREAD,
	CONTROL_VM_CONSOLIDATE,
	CONTROL_VM_PEEK = 56,
	CONTROL_OP_END,
};

enum {
	CONTROL_MAX_VMS = 4096,
	CONTROL_MAX_EVENTS = 4096,
	CONTROL_MAX_ITEMS = 2048,
	CONTROL_MAX_CHECKS = 4096,
	CONTROL_MAX_NODES = 64,
	CONTROL_DATA_MAX = 16384, /* bytes of a console or of memory in one message */
};

enum { CONTROL_MIGRATE_ID = 16, CONTROL_MIGRATE_KEY = 32, CONTROL_MIGRATE_CHANNELS = 16 };

struct control_migrate {
	char target[TEXT_NAME_MAX]; /* the node where it goes; PREPARE: where it comes from */
	uint8_t id[CONTROL_MIGRATE_ID], key[CONTROL_MIGRATE_KEY];
	uint32_t channels;	  /* 0: the default */
	uint32_t max_downtime_ms; /* 0: the default */
	uint64_t bandwidth;	  /* bytes/s, 0: no limit */
	bool encrypt;
	uint32_t mode;		  /* 0 pre-copy, 1 post-copy, 2 auto */
	uint32_t postcopy_rounds; /* auto; 0: the default */
	uint32_t port;		  /* RELINK */
	bool with_disk, force;
	/* PREPARE with disks: of each of the spec. Size, 0: it does not move; and what it takes up. */
	uint64_t disk_bytes[VMSPEC_MAX_DISKS], disk_used[VMSPEC_MAX_DISKS];
	/* PREPARE: what the guest may be spread over again, the destination first; of which the spec, that has
	 * one part, says nothing. 0: it has no parts. */
	size_t part_count;
	struct vmspec_part parts[VMSPEC_MAX_PARTS];
	bool parts_encrypt;
	char parts_transport[8];
};

enum { CONTROL_MIGRATE_MODE_MAX = 2 };

enum { CONTROL_SLICE_KEY = 32, CONTROL_PEER_MAX = 80, CONTROL_PLACES_MAX = 64 };

struct control_slice {
	uint32_t index; /* of the spec's parts */
	uint64_t group; /* tells guests of the same name apart */
	uint8_t key[CONTROL_SLICE_KEY];
	uint32_t peer_count;
	char peers[VMSPEC_MAX_PARTS][CONTROL_PEER_MAX];
	char reason[VMSPEC_WHY_MAX];
	/* To join a guest that runs, else 0: the group of its links; then the slice of each part's memory
	 * and of each vCPU, and "-" as the peer of a slice that has left. */
	uint64_t links_group;
	uint8_t homes[VMSPEC_MAX_PARTS], places[CONTROL_PLACES_MAX];
	uint32_t home_count, place_count;
};

struct control_request {
	enum control_op op;
	char node[TEXT_NAME_MAX], vm[TEXT_NAME_MAX]; /* valid names, or "" */
	bool local;
	struct vmspec *spec; /* VM_RUN and the _PREPAREs, always: checked */
	struct control_migrate migrate;
	struct control_slice slice;
	char path[VMSPEC_PATH_MAX]; /* absolute, or "" */
	char places[VMSPEC_WHY_MAX];
	bool live;
	uint64_t timeout_ms;
	bool follow, overcommit;
	bool together; /* VM_RUN of parts: begins with all of it on the first node */
	uint16_t cols, rows;
	uint64_t address;
};

/*
 * Strings are borrowed when encoding, and belong to the decoded message otherwise; they are never
 * NULL then. They may hold anything: clean them before a terminal sees them.
 */
struct control_node {
	const char *name, *address, *state, *reason, *software, *kernel, *cpu;
	uint64_t cpus, memory_bytes, available_bytes, load_milli;
	uint64_t vms, vm_vcpus, vm_memory_bytes;
	uint64_t uptime_ns, agent_uptime_ns, rtt_ns, pid;
};

struct control_vm {
	const char *name, *node, *state, *reason, *kernel;
	uint64_t vcpus, memory_bytes, uptime_ns, pid;
	const char *kind;	/* "libvirt": a domain of libvirt; "": a VM of ours */
	uint64_t slice, slices; /* of a guest that spans nodes; slices 0: an ordinary one */
	uint64_t slice_vcpus, slice_memory_bytes;
	uint64_t ended_ns;    /* how long ago; 0: it has not */
	uint64_t group;	      /* of its slices; 0: an ordinary one */
	uint64_t slices_gone; /* bits */
};

struct control_event {
	uint64_t seq, time_ns;
	const char *node, *vm, *kind, *text;
};

struct control_item {
	const char *name, *text;
	uint64_t value;
};

struct control_check {
	const char *node, *name, *level, *text, *mend;
};

struct control_reply {
	enum control_code code;
	const char *text;
	const struct control_node *nodes;
	const struct control_vm *vms;
	const struct control_event *events;
	const struct control_item *items;
	const struct control_check *checks;
	size_t node_count, vm_count, event_count, item_count, check_count;
	const struct vmspec *spec;
	const void *data;
	size_t data_len;
	void *backing; /* of all that, after decoding */
};

struct control_input {
	const void *data;
	size_t len;
	uint16_t cols, rows;
	void *backing;
};

/* For -errno of the channel (proto/chan.h) and of requests to a VM's process. */
enum control_code control_code_of(int error);
/* What an error of the channel means, and what to do. */
const char *control_error_text(int error);

/* Encoders: a buffer for free(3). -EMSGSIZE beyond CHAN_MAX_BODY, -ENOMEM. */
BASE_MUST_CHECK int control_request_encode(const struct control_request *r, uint8_t **out,
					   size_t *len);
BASE_MUST_CHECK int control_reply_encode(const struct control_reply *r, uint8_t **out, size_t *len);
BASE_MUST_CHECK int control_input_encode(const struct control_input *i, uint8_t **out, size_t *len);

/*
 * Decoders. -EBADMSG: not such a message, or beyond its bounds; for a request `why` then says what
 * a person can do about it. -ENOMEM. Free with the _fini functions.
 */
BASE_MUST_CHECK int control_request_decode(const void *data, size_t len,
					   struct control_request *out, char why[VMSPEC_WHY_MAX]);
BASE_MUST_CHECK int control_reply_decode(const void *data, size_t len, struct control_reply *out);
BASE_MUST_CHECK int control_input_decode(const void *data, size_t len, struct control_input *out);
void control_request_fini(struct control_request *r);
void control_reply_fini(struct control_reply *r);
void control_input_fini(struct control_input *i);

#endif
