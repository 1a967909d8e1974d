/* Reduce, gather, scatter. They report errors, as in the original. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "pvm/group/group.h"

size_t gs_type_size(int type)
{
	static const size_t sizes[] = {
		[PVM_STR] = 1,
		[PVM_BYTE] = 1,
		[PVM_SHORT] = sizeof(short),
		[PVM_INT] = sizeof(int),
		[PVM_FLOAT] = sizeof(float),
		[PVM_CPLX] = 2 * sizeof(float),
		[PVM_DOUBLE] = sizeof(double),
		[PVM_DCPLX] = 2 * sizeof(double),
		[PVM_LONG] = sizeof(long),
		[PVM_USHORT] = sizeof(short),
		[PVM_UINT] = sizeof(int),
		[PVM_ULONG] = sizeof(long),
	};

	return type >= 0 && (size_t)type < BASE_ARRAY_LEN(sizes) ? sizes[type] : 0;
}

/* A call in progress: the members in the order of their instances, without gaps. */
struct op {
	struct gs_aside aside;
	int *tids;
	int n, me, root; /* indices in tids */
	int tag, type, count;
	size_t bytes;
};

static int op_ranks(struct op *op, const struct gs_members *m, int root)
{
	int mine = gs_members_inst(m, pvm_mytid());

	if (mine < 0)
		return mine;
	if (root < 0 || root >= m->slots || m->tids[root] <= 0)
		return PvmNoInst;
	op->tids = calloc((size_t)m->slots + 1, sizeof(int));
	if (!op->tids)
		return PvmNoMem;
	for (int i = 0; i < m->slots; i++) {
		if (i == mine)
			op->me = op->n;
		if (i == root)
			op->root = op->n;
		if (m->tids[i] > 0)
			op->tids[op->n++] = m->tids[i];
	}
	return PvmOk;
}

static int op_begin(struct op *op, const char *group, int root, int tag, int count, int type)
{
	const struct gs_members *m;
	int rc = gs_name_check(group);

	*op = (struct op){.tag = tag, .type = type, .count = count};
	if (rc)
		return rc;
	if (count < 1 || !gs_type_size(type))
		return PvmBadParam;
	op->bytes = gs_type_size(type) * (size_t)count;
	/* Characters travel as bytes: they have no length in front. */
	if (type == PVM_STR)
		op->type = PVM_BYTE;
	rc = gs_members_get(group, &m);
	if (!rc)
		rc = op_ranks(op, m, root);
	if (rc)
		return rc;
	gs_aside_begin(&op->aside, GS_DATA_CTX);
	return PvmOk;
}

static int op_end(const char *name, struct op *op, int rc)
{
	if (op->tids)
		gs_aside_end(&op->aside);
	free(op->tids);
	return rc < 0 ? lpvmerr(name, rc) : PvmOk;
}

static int put(const struct op *op, int to, const void *data)
{
	return pvm_psend(op->tids[to], op->tag, (void *)(uintptr_t)data, op->count, op->type);
}

static int get(const struct op *op, int from, void *data)
{
	int tid = 0, tag = 0, count = 0;
	int rc = pvm_precv(op->tids[from], op->tag, data, op->count, op->type, &tid, &tag, &count);

	if (rc < 0)
		return rc;
	return (size_t)count == op->bytes ? PvmOk : PvmMismatch;
}

/* A reduce by messages. */
struct reduction {
	struct gs_tree tree;
	struct op *op;
	gs_reduce_fn fn;
	void *data, *incoming;
	int type;
};

static int op_index(const struct reduction *r, int rank)
{
	return (rank + r->op->root) % r->op->n;
}

/* An empty message where it has failed: the other one waits. */
static int send_to(struct gs_tree *t, int rank, int error)
{
	struct reduction *r = base_container_of(t, struct reduction, tree);
	struct op *op = r->op;

	return error ? pvm_psend(op->tids[op_index(r, rank)], op->tag, r->data, 0, op->type)
		     : put(op, op_index(r, rank), r->data);
}

static int take_from(struct gs_tree *t, int rank, int error)
{
	struct reduction *r = base_container_of(t, struct reduction, tree);
	int rc = get(r->op, op_index(r, rank), r->incoming), info = 0;

	if (rc < 0 || error)
		return rc;
	r->fn(&r->type, r->data, r->incoming, &r->op->count, &info);
	return BASE_MIN(info, 0);
}

static int by_messages(struct op *op, gs_reduce_fn fn, void *data, int type)
{
	struct reduction r = {
		.tree = {.n = op->n,
			 .rank = (op->me - op->root + op->n) % op->n,
			 .width = 1,
			 .send = send_to,
			 .take = take_from},
		.op = op,
		.fn = fn,
		.data = malloc(op->bytes),
		.incoming = malloc(op->bytes),
		.type = type,
	};
	int rc = r.data && r.incoming ? PvmOk : PvmNoMem;

	/* Only the root's data may change. */
	if (!rc) {
		memcpy(r.data, data, op->bytes);
		rc = gs_tree_run(&r.tree);
	}
	if (!rc && op->me == op->root)
		memcpy(data, r.data, op->bytes);
	free(r.data);
	free(r.incoming);
	return rc;
}

int gs_do_reduce(gs_reduce_fn fn, void *data, int count, int type, int tag, char *group, int root)
{
	struct gs_members *m = gs_name_check(group) ? NULL : gs_members_static(group);
	struct op op;
	int rc;

	if (m && gs_shared_can_reduce(m)) {
		struct gs_call c = {
			.fn = fn, .tag = tag, .type = type, .count = count, .root = root};

		rc = gs_shared_reduce(m, &c, data);
		return rc < 0 ? lpvmerr("pvm_reduce", rc) : PvmOk;
	}
	rc = op_begin(&op, group, root, tag, count, type);
	if (rc)
		return op_end("pvm_reduce", &op, rc);
	rc = data && (fn || op.n == 1) ? PvmOk : PvmBadParam;
	if (!rc && op.n > 1)
		rc = by_messages(&op, fn, data, type);
	return op_end("pvm_reduce", &op, rc);
}

static int gather(struct op *op, char *result, const void *data)
{
	int rc = PvmOk;

	if (op->me != op->root)
		return put(op, op->root, data);
	if (!result)
		return PvmBadParam;
	for (int i = 0; i < op->n && rc >= 0; i++) {
		char *to = result + (size_t)i * op->bytes;

		if (i == op->me)
			memmove(to, data, op->bytes);
		else
			rc = get(op, i, to);
	}
	return rc;
}

int gs_do_gather(void *result, void *data, int count, int type, int tag, char *group, int root)
{
	struct op op;
	int rc = op_begin(&op, group, root, tag, count, type);

	if (!rc)
		rc = data ? gather(&op, result, data) : PvmBadParam;
	return op_end("pvm_gather", &op, rc);
}

static int scatter(struct op *op, void *result, const char *data)
{
	int rc = PvmOk;

	if (op->me != op->root)
		return get(op, op->root, result);
	if (!data)
		return PvmBadParam;
	for (int i = 0; i < op->n && rc >= 0; i++) {
		const char *from = data + (size_t)i * op->bytes;

		if (i == op->me)
			memmove(result, from, op->bytes);
		else
			rc = put(op, i, from);
	}
	return rc;
}

int gs_do_scatter(void *result, void *data, int count, int type, int tag, char *group, int root)
{
	struct op op;
	int rc = op_begin(&op, group, root, tag, count, type);

	if (!rc)
		rc = result ? scatter(&op, result, data) : PvmBadParam;
	return op_end("pvm_scatter", &op, rc);
}
