#include "node/net/fdb.h"

#include <string.h>

static unsigned fdb_bucket(uint32_t network, const uint8_t mac[6])
{
	uint64_t h = network;

	for (int i = 0; i < 6; i++)
		h = (h ^ mac[i]) * UINT64_C(0x100000001b3);
	return (h ^ (h >> 29)) % NODE_FDB_BUCKETS;
}

static int fdb_match(const struct node_fdb_entry *e, uint32_t network, const uint8_t mac[6])
{
	return e->seen_ns && e->network == network && !memcmp(e->mac, mac, 6);
}

void node_fdb_learn(struct node_fdb *f, uint32_t network, const uint8_t mac[6], int32_t where,
		    int64_t now_ns)
{
	struct node_fdb_entry *bucket, *oldest;

	if (mac[0] & 1)
		return;
	bucket = f->e[fdb_bucket(network, mac)];
	oldest = &bucket[0];
	for (int i = 0; i < NODE_FDB_WAYS; i++) {
		if (fdb_match(&bucket[i], network, mac)) {
			oldest = &bucket[i];
			break;
		}
		if (bucket[i].seen_ns < oldest->seen_ns)
			oldest = &bucket[i];
	}
	*oldest = (struct node_fdb_entry){.network = network, .where = where, .seen_ns = now_ns};
	memcpy(oldest->mac, mac, 6);
}

int32_t node_fdb_find(const struct node_fdb *f, uint32_t network, const uint8_t mac[6],
		      int64_t now_ns)
{
	const struct node_fdb_entry *bucket;

	if (mac[0] & 1)
		return -1;
	bucket = f->e[fdb_bucket(network, mac)];
	for (int i = 0; i < NODE_FDB_WAYS; i++)
		if (fdb_match(&bucket[i], network, mac))
			return now_ns - bucket[i].seen_ns < NODE_FDB_AGE_NS ? bucket[i].where : -1;
	return -1;
}

void node_fdb_forget(struct node_fdb *f, int32_t where)
{
	for (unsigned b = 0; b < NODE_FDB_BUCKETS; b++)
		for (unsigned i = 0; i < NODE_FDB_WAYS; i++)
			if (f->e[b][i].where == where)
				f->e[b][i].seen_ns = 0;
}
