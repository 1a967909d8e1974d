/*
 * Forwarding database of a learning switch: (network, MAC) -> where it was last seen. Bounded: when
 * full, the entry that was unseen longest in the probed bucket gives way, so that a guest that
 * invents addresses can only push out other entries, never grow memory. One thread.
 */
#ifndef NODE_NET_FDB_H
#define NODE_NET_FDB_H

#include <stdint.h>

enum { NODE_FDB_BUCKETS = 1024, NODE_FDB_WAYS = 4 };

#define NODE_FDB_AGE_NS (INT64_C(300) * 1000000000)

struct node_fdb_entry {
	uint8_t mac[6];
	uint32_t network;
	int32_t where;	 /* the switch's port index */
	int64_t seen_ns; /* 0: free */
};

struct node_fdb {
	struct node_fdb_entry e[NODE_FDB_BUCKETS][NODE_FDB_WAYS];
};

/* Group addresses (bit 0 of the first byte) are ignored. */
void node_fdb_learn(struct node_fdb *f, uint32_t network, const uint8_t mac[6], int32_t where,
		    int64_t now_ns);
/* The place, or -1: unknown, too old, or a group address. */
int32_t node_fdb_find(const struct node_fdb *f, uint32_t network, const uint8_t mac[6],
		      int64_t now_ns);
/* Forgets all that points to `where` (a port that went away). */
void node_fdb_forget(struct node_fdb *f, int32_t where);

#endif
