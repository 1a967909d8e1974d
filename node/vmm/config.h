/* What one VM is: from the command line of pangaea-vmm. Strings are borrowed from argv. */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

enum {
	VMM_VCPU_MAX = 64,
	VMM_DISK_MAX = 8,
	VMM_NIC_MAX = 8,
	VMM_NAME_MAX = 64, /* with the final 0 */
	VMM_PATH_MAX = 1024,
	VMM_WHY_MAX = 256,
	VMM_SLICE_MAX = 16,
	VMM_SLICE_KEY_LEN = 32,
};

enum vmm_disk_format { VMM_DISK_RAW = 1, VMM_DISK_QCOW2 };

struct vmm_disk_config {
	char path[VMM_PATH_MAX];
	bool read_only;
	enum vmm_disk_format format;
};

enum vmm_nic_kind { VMM_NIC_TAP = 1, VMM_NIC_FD, VMM_NIC_PORT };

struct vmm_nic_config {
	enum vmm_nic_kind kind;
	char target[VMM_PATH_MAX]; /* interface name, or socket path */
	int fd;
	uint8_t mac[6];
};

enum vmm_console_kind { VMM_CONSOLE_NONE = 1, VMM_CONSOLE_STDIO };

/* The share of one slice of a guest that spans hosts. */
struct vmm_part {
	unsigned vcpus;
	uint64_t memory_bytes;
};

/*
 * Slice k runs part k: APIC ids and guest memory count up over the parts in order. Slice 0 leads: it
 * has the devices, the IOAPIC and the boot vCPU.
 */
struct vmm_slice_config {
	unsigned count; /* parts; 0: the guest is on one host, and nothing of this counts */
	unsigned self;
	struct vmm_part part[VMM_SLICE_MAX];
	/* ADDRESS:PORT of each slice, our own included; "-": it is not there (any more). */
	const char *peer[VMM_SLICE_MAX];
	unsigned peer_count;
	int listen_fd;	/* -1: bind peer[self] */
	uint64_t group; /* only slices of one group accept each other */
	uint8_t key[VMM_SLICE_KEY_LEN];
	bool encrypt;
	const char *transport;
	/* Slice 0 begins alone: the others may join later. Else the next. */
	bool alone;
	/* It joins a guest that runs, whose memory and vCPUs are on these slices; it has neither. */
	bool joins;
	uint8_t home[VMM_SLICE_MAX]; /* of each part's pages */
	uint8_t place[VMM_VCPU_MAX]; /* of each vCPU */
	unsigned home_count, place_count;
};
#define VMM_SLICE_NO_PEER "-"

struct vmm_config {
	char name[VMM_NAME_MAX];
	const char *kernel, *initrd, *cmdline, *run_dir, *restore;
	unsigned vcpus; /* of the whole guest */
	uint64_t memory_bytes;
	struct vmm_slice_config slices;
	struct vmm_disk_config disk[VMM_DISK_MAX];
	unsigned disk_count;
	struct vmm_nic_config nic[VMM_NIC_MAX];
	unsigned nic_count;
	enum vmm_console_kind console;
	unsigned gdb_port;	 /* 0: none */
	bool paused;		 /* starts paused */
	bool incoming;		 /* the machine comes by migration */
	uint64_t populate_bytes; /* of memory that the incoming machine will use */
	bool no_balloon;
	bool sandbox;
	bool help, version;
};

/*
 * 0, or -EINVAL with one line in why[VMM_WHY_MAX]. With --help or --version nothing else is
 * checked.
 */
BASE_MUST_CHECK int vmm_config_parse(struct vmm_config *c, int argc, char **argv, char *why);
/* "512M", "1G", "65536K", or bytes. -EINVAL, -ERANGE. */
BASE_MUST_CHECK int vmm_config_size(const char *text, uint64_t *bytes);

/* A slice of a spanning guest that does not lead. */
static inline bool vmm_config_follows(const struct vmm_config *c)
{
	return c->slices.count > 0 && c->slices.self > 0;
}

extern const char vmm_config_usage[];

#endif
