/*
 * Who waits for whom in a reduce that goes by messages: a binomial tree over the ranks that are multiples of
 * `width`, each of which first takes from those up to the next one. So each core has one such group: members that
 * share a core do not wait for one another in turns, which costs a switch each.
 */
#include "pvm/group/group.h"

/* The first error stays; the others are heard nevertheless, or their parts would be taken for those of the next call. */
static void take(struct gs_tree *t, int rank, int *rc)
{
	int its = t->take(t, rank, *rc);

	*rc = *rc ? *rc : its;
}

int gs_tree_run(struct gs_tree *t)
{
	int n = t->n, width = t->width, first = t->rank - t->rank % width, rc = 0, sent;

	if (t->rank != first)
		return t->send(t, first, 0);
	for (int i = first + 1; i < first + width && i < n; i++)
		take(t, i, &rc);
	for (int step = 1; step * width < n; step <<= 1) {
		int other = (first / width ^ step) * width;

		if (first / width & step) {
			/* Who waits for us must hear of it. */
			sent = t->send(t, other, rc);
			return rc ? rc : sent;
		}
		if (other < n)
			take(t, other, &rc);
	}
	return rc;
}
