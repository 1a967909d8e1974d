/*
 * The cluster file: which nodes there are, where they listen and what their keys are.
 *
 *   cluster: lab
 *   admin: [ HEX ]              # public keys that may command the agents
 *   nodes:
 *     - name: a
 *       address: 10.0.0.1       # an IP address; the agent listens there
 *       port: 7400              # optional
 *       key: HEX                # public; made by `pangaea init`
 *       ssh: {host: a.lan, user: root, port: 22, identity: /path}   # optional; for deploy/cluster
 */
#ifndef PROTO_CLUSTER_H
#define PROTO_CLUSTER_H

#include <stdio.h>

#include "proto/keys.h"
#include "proto/text.h"

enum {
	CLUSTER_MAX_NODES = 64,
	CLUSTER_MAX_ADMINS = 16,
	CLUSTER_DEFAULT_PORT = 7400,
	CLUSTER_ADDRESS_MAX = 64,
	CLUSTER_WHY_MAX = 512,
};

struct cluster_ssh {
	char host[256], user[64], identity[512]; /* "": not given */
	uint16_t port;				 /* 0: not given */
};

struct cluster_node {
	char name[TEXT_NAME_MAX];
	char address[CLUSTER_ADDRESS_MAX];
	uint16_t port;
	bool has_key;
	struct keys_key key;
	struct cluster_ssh ssh;
};

struct cluster {
	char name[TEXT_NAME_MAX];
	size_t admin_count, node_count;
	struct keys_key admins[CLUSTER_MAX_ADMINS];
	struct cluster_node nodes[CLUSTER_MAX_NODES];
};

/*
 * Reads the file at `path`, or a text that errors call `name`. The result is for free(3). With
 * `keys`, every node must have one. -EBADMSG and others; `why` then holds one line with file and
 * line number.
 */
BASE_MUST_CHECK int cluster_read(const char *path, bool keys, struct cluster **out,
				 char why[CLUSTER_WHY_MAX]);
BASE_MUST_CHECK int cluster_parse(const char *name, const void *text, size_t len, bool keys,
				  struct cluster **out, char why[CLUSTER_WHY_MAX]);
/* Writes what cluster_read() reads. -errno of the stream. */
BASE_MUST_CHECK int cluster_write(const struct cluster *c, FILE *f);

const struct cluster_node *cluster_find(const struct cluster *c, const char *name);
/* "10.0.0.1:7400"-like or "[::1]:7400" or without a port; false: not an address. */
bool cluster_address_parse(const char *s, char address[CLUSTER_ADDRESS_MAX], uint16_t *port);

#endif
