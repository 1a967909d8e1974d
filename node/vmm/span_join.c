/*
 * A slice joins a guest that runs: in the place of one that has left, with its number, its part of the
 * guest's memory and vCPUs as the guest sees it, and perhaps on another host.
 *
 *   lead                            other members                     the new slice (--joins)
 *     ADMIT ---------------------->  await its link ............. links to all members
 *                                    DONE when it is there            HELLO to the lead
 *     QUIET, to it alone ----------------------------------------->  DONE: it is still there
 *     all members stand
 *     WELCOME ------------------->  the ids of the vCPUs that are here: IDS ---->
 *     QUIET (span_task.c) ------->  DONE, where its link is still there  DONE
 *     REHOME -------------------->  it is a member: the end of its link is the guest's; its part's pages
 *                                    are at home with it
 *     all go, with it
 *
 * REHOME is the commit, and the lead sends it when all have answered QUIET. Until then nobody needs the
 * new slice, and DROP lets it go: whatever has failed, and whoever does not answer within VMM_SPAN_READY_MS,
 * the guest goes on as before. From then on it is a member as any other, and its end is the guest's. It was
 * told on its start which slice has what, and no vCPU moves meanwhile (vm_join.c). Its links have a group
 * of their own, so that nobody takes the slice that left for it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "node/vmm/span_internal.h"

static uint16_t bit(unsigned slice)
{
	return (uint16_t)(1u << slice);
}

/* ---- every member ---- */

/* Main thread: what the link has come to. */
static void link_told(void *arg)
{
	struct vmm_span *s = arg;
	bool says, ended;
	int err;

	pthread_mutex_lock(&s->lock);
	says = s->admitted && s->admit_told && !s->admit_said;
	err = s->admit_error;
	ended = s->admit_said && err && s->joining && s->joining == s->admitted;
	if (says)
		s->admit_said = true;
	pthread_mutex_unlock(&s->lock);
	if (says)
		span_task_answer(s, &s->task, err);
	else if (ended)
		span_join_admitted(s, err); /* the lead need not wait for the others' word */
}

void span_join_link(void *ctx, uint8_t peer, int err)
{
	struct vmm_span *s = ctx;

	pthread_mutex_lock(&s->lock);
	if (s->admitted == peer) {
		s->admit_told = true;
		s->admit_error = err;
	}
	pthread_mutex_unlock(&s->lock);
	if (base_loop_post(s->config.main_loop, link_told, s) < 0)
		log_error("span: the main loop takes no posts");
}

/* 0: the answer comes later. */
int span_join_admit(struct vmm_span *s, const struct span_msg *m)
{
	unsigned slice = m->task.slice;

	if (slice == s->self || !vmm_span_is_gone(s, slice))
		return -EBUSY;
	pthread_mutex_lock(&s->lock);
	s->admitted = (uint8_t)slice;
	s->admit_told = s->admit_said = false;
	s->admit_error = 0;
	memcpy(s->address[slice], m->task.address, sizeof(s->address[slice]));
	s->slices.peer[slice] = s->address[slice];
	pthread_mutex_unlock(&s->lock);
	return dsm_admit(s->dsm, (uint8_t)slice, m->task.address, m->task.group);
}

int span_join_there(struct vmm_span *s)
{
	int err;

	pthread_mutex_lock(&s->lock);
	err = s->admitted && !s->admit_told ? -ENOTCONN : s->admitted ? s->admit_error : 0;
	pthread_mutex_unlock(&s->lock);
	return err;
}

int span_join_keep(struct vmm_span *s)
{
	uint8_t slice;
	int err;

	pthread_mutex_lock(&s->lock);
	slice = s->admitted;
	s->admitted = 0;
	pthread_mutex_unlock(&s->lock);
	if (!slice)
		return 0;
	err = dsm_keep(s->dsm, slice);
	if (!err)
		atomic_fetch_and(&s->gone, (uint16_t)~bit(slice));
	return err;
}

static int drop(struct vmm_span *s, unsigned slice)
{
	pthread_mutex_lock(&s->lock);
	s->admitted = 0;
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_or(&s->gone, bit(slice));
	return dsm_drop(s->dsm, (uint8_t)slice);
}

/* All vCPUs stand, so their ids stay as they are until everybody sends changes to the new one too. */
static int welcome(struct vmm_span *s, unsigned slice)
{
	unsigned count = vmm_span_first_vcpu(&s->slices, s->slices.count);

	for (uint32_t id = 0; id < count; id++) {
		struct span_msg m = {.type = SPAN_IDS, .number = id};

		if (span_where(s, id) != s->self)
			continue;
		m.ids = vmm_irqchip_ids(s->config.irq, id);
		span_send(s, slice, &m);
	}
	return 0;
}

int span_join_task(struct vmm_span *s, const struct span_msg *m)
{
	return m->task.op == SPAN_TASK_WELCOME ? welcome(s, m->task.slice) : drop(s, m->task.slice);
}

/* ---- the new slice, and a lead that begins alone ---- */

void span_join_init(struct vmm_span *s)
{
	const struct vmm_slice_config *c = &s->slices;
	unsigned vcpus = vmm_span_first_vcpu(c, c->count);

	for (unsigned i = 0; i < c->count; i++) {
		s->home[i] = c->home[i];
		if (!strcmp(c->peer[i], VMM_SLICE_NO_PEER))
			atomic_fetch_or(&s->gone, bit(i));
	}
	for (unsigned i = 0; i < vcpus; i++)
		atomic_store(&s->where[i], c->place[i]);
}

/* ---- the lead ---- */

/* It is there for the lead when all have its link and it has said hello. */
static void look_if_there(void *arg)
{
	struct vmm_span *s = arg;
	char why[SPAN_TEXT_MAX] = "";
	bool over;

	pthread_mutex_lock(&s->lock);
	over = s->joining && (s->join_why[0] || (s->join_linked && s->hello & bit(s->joining)));
	memcpy(why, s->join_why, sizeof(why));
	if (over)
		s->joining = 0;
	pthread_mutex_unlock(&s->lock);
	if (over)
		span_tell(s, VMM_SPAN_ADMITTED, why);
}

void span_join_hello(struct vmm_span *s, uint8_t peer, const char *why)
{
	pthread_mutex_lock(&s->lock);
	if (why[0])
		snprintf(s->join_why, sizeof(s->join_why), "%s", why);
	else
		s->hello |= bit(peer);
	pthread_mutex_unlock(&s->lock);
	if (base_loop_post(s->config.main_loop, look_if_there, s) < 0)
		log_error("span: the main loop takes no posts");
}

/* All have answered ADMIT. Main thread. */
void span_join_admitted(struct vmm_span *s, int err)
{
	pthread_mutex_lock(&s->lock);
	s->join_linked = !err;
	if (err && !s->join_why[0])
		snprintf(s->join_why, sizeof(s->join_why), "no link to it: %s", strerror(-err));
	pthread_mutex_unlock(&s->lock);
	look_if_there(s);
}

int vmm_span_links(const struct vmm_span *s, uint8_t key[VMM_SLICE_KEY_LEN], char *addresses,
		   size_t cap)
{
	size_t len = 0;

	for (unsigned i = 0; i < s->slices.count && len < cap; i++)
		len += (size_t)snprintf(addresses + len, cap - len, "%s\n", s->slices.peer[i]);
	if (len >= cap)
		return -E2BIG;
	memcpy(key, s->slices.key, VMM_SLICE_KEY_LEN);
	return 0;
}

int vmm_span_share(struct vmm_span *s)
{
	return dsm_share(s->dsm, VMM_SPAN_HALT_MS);
}

void vmm_span_admit(struct vmm_span *s, unsigned slice, const char *address, uint64_t group)
{
	struct span_msg m = {
		.type = SPAN_TASK,
		.task = {.op = SPAN_TASK_ADMIT, .slice = (uint8_t)slice, .group = group}};
	int err;

	snprintf(m.task.address, sizeof(m.task.address), "%s", address);
	pthread_mutex_lock(&s->lock);
	s->joining = (uint8_t)slice;
	s->join_linked = false;
	s->join_why[0] = 0;
	s->hello &= (uint16_t)~bit(slice);
	pthread_mutex_unlock(&s->lock);
	span_task_give(s, 0, &m);
	s->task = m;
	err = span_join_admit(s, &m);
	if (err)
		span_task_answer(s, &m, err);
}

int vmm_span_welcome(struct vmm_span *s, unsigned slice)
{
	int err = span_task_do(s, SPAN_TASK_WELCOME, slice);

	return err ? err : span_task_ready(s, slice);
}

void vmm_span_drop(struct vmm_span *s, unsigned slice)
{
	int err;

	pthread_mutex_lock(&s->lock);
	s->joining = 0;
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_or(&s->gone, bit(slice)); /* it is not asked to drop itself */
	err = span_task_do(s, SPAN_TASK_DROP, slice);
	if (err)
		log_warn("slice %u is not let go everywhere: %s", slice, strerror(-err));
}
