/*
 * What a VM is to be: from the command line, from a YAML file, in messages, and in the agent's
 * folder of the VM.
 *
 *   name: web
 *   kernel: /boot/vmlinuz
 *   initrd: /boot/initrd.img
 *   cmdline: console=ttyS0
 *   vcpus: 2                    # or a=2,b=2
 *   memory: 512M                # or a=512M,b=512M
 *   disks: ['/srv/web.img', '/srv/data.qcow2,ro,format=qcow2']
 *   nics: ['net', 'tap=tap0,mac=52:00:00:00:00:01']
 *   node: a                     # optional
 *   encrypt: on                 # of a guest that spans nodes: seal its page traffic
 *   transport: tcp              # or verbs (RDMA)
 */
#ifndef PROTO_VMSPEC_H
#define PROTO_VMSPEC_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "proto/text.h"

enum {
	VMSPEC_PATH_MAX = 1024,
	VMSPEC_CMDLINE_MAX = 2048, /* what Linux takes */
	VMSPEC_MAX_DISKS = 8,
	VMSPEC_MAX_NICS = 8,
	VMSPEC_MAX_PARTS = 16,
	VMSPEC_MAX_VCPUS = 64,
	VMSPEC_MIN_MEMORY = 1 << 20,
	VMSPEC_MIN_PART = 16 << 20, /* memory of a node's share of a guest */
	VMSPEC_MIN_SPAN = 64 << 20, /* of all shares together */
	VMSPEC_WHY_MAX = 512,
};

enum vmspec_nic_kind {
	VMSPEC_NIC_NET = 1, /* a port of the cluster's switch */
	VMSPEC_NIC_TAP,	    /* an interface of the host */
	VMSPEC_NIC_PORT,    /* a socket of another switch */
};

struct vmspec_disk {
	char path[VMSPEC_PATH_MAX];
	bool read_only;
	char format[8]; /* "raw", "qcow2"; "": raw */
};

struct vmspec_nic {
	enum vmspec_nic_kind kind;
	char target[VMSPEC_PATH_MAX]; /* interface or socket path */
	bool has_mac;
	uint8_t mac[6];
};

/* A share of a guest that spans nodes. The first is the lead: it has the devices. */
struct vmspec_part {
	char node[TEXT_NAME_MAX];
	uint32_t vcpus;
	uint64_t memory_bytes;
};

struct vmspec {
	char name[TEXT_NAME_MAX];
	char node[TEXT_NAME_MAX]; /* "": anywhere */
	char kernel[VMSPEC_PATH_MAX], initrd[VMSPEC_PATH_MAX], restore[VMSPEC_PATH_MAX];
	char cmdline[VMSPEC_CMDLINE_MAX];
	uint32_t vcpus;	       /* of all parts */
	uint64_t memory_bytes; /* of all parts */
	uint16_t gdb_port;     /* 0: none */
	size_t disk_count, nic_count, part_count;
	struct vmspec_disk disks[VMSPEC_MAX_DISKS];
	struct vmspec_nic nics[VMSPEC_MAX_NICS];
	struct vmspec_part parts[VMSPEC_MAX_PARTS];
	bool encrypt;	   /* page traffic between the parts */
	char transport[8]; /* "tcp", "verbs"; "": tcp */
};

/* All of these: false and one line in `why`; the spec may then be half changed. */
bool vmspec_add_disk(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX]);
bool vmspec_add_nic(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX]);
/* "4", or "a=2,b=2" which fills parts. */
bool vmspec_set_vcpus(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX]);
/* "1G", or "a=512M,b=512M". */
bool vmspec_set_memory(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX]);
/* "tcp" or "verbs". */
bool vmspec_set_transport(struct vmspec *s, const char *text, char why[VMSPEC_WHY_MAX]);
bool vmspec_set_text(char *out, size_t cap, const char *what, const char *text,
		     char why[VMSPEC_WHY_MAX]);
/* Everything that can be said without a host: names, bounds, absolute paths, what is missing. */
bool vmspec_check(const struct vmspec *s, char why[VMSPEC_WHY_MAX]);

/* Has parts on several nodes. */
static inline bool vmspec_spans(const struct vmspec *s)
{
	return s->part_count > 1;
}

void vmspec_disk_print(const struct vmspec_disk *d, char *out, size_t cap);
void vmspec_nic_print(const struct vmspec_nic *n, char *out, size_t cap);

/* The YAML form. 0, or -errno with a line of file and line number in `why`. For free(3). */
BASE_MUST_CHECK int vmspec_read(const char *path, struct vmspec **out, char why[VMSPEC_WHY_MAX]);
BASE_MUST_CHECK int vmspec_parse(const char *name, const void *text, size_t len,
				 struct vmspec **out, char why[VMSPEC_WHY_MAX]);
BASE_MUST_CHECK int vmspec_write(const struct vmspec *s, FILE *f);

#endif
