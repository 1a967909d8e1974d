#include "node/vmm/shadow.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"

#define ENTRY_PRESENT	 UINT64_C(1)
#define ENTRY_ACCESSED	 UINT64_C(0x20)
#define ENTRY_LARGE	 UINT64_C(0x80)
#define ENTRY_NX	 (UINT64_C(1) << 63)
#define ENTRY_ADDRESS	 UINT64_C(0x000ffffffffff000)
#define ENTRY_LARGE_ZERO UINT64_C(0x1fe000) /* of 2 MiB: reserved */

/* Behind the LAPICs' registers, which are the last. */
#define DEVICES_END UINT64_C(0xfef00000)

#define AGAIN_NS    BASE_NS_PER_SEC

enum { ENTRIES = VMM_PAGE_SIZE / 8, SLOT = 8 };

/* Where the firmware would be, if there were any: the page that is moved to and fro. */
#define PLACE_A UINT64_C(0xffe00000)
#define PLACE_B UINT64_C(0xffe01000)

struct vmm_shadow {
	struct vmm_vcpus *vcpus;
	uint64_t memory_end;
	void *page;
	bool at_b;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t asked, done; /* under lock */
	bool stopping;

	_Atomic(uint64_t) flushes, tables;
};

/* A small number, unless it begins a table of all memory from address 0 on. */
static bool is_small(uint64_t entry, unsigned index)
{
	return (entry & ~(ENTRY_NX | (VMM_PAGE_SIZE - 1))) == 0 && index != 0 &&
	       !(entry & ENTRY_NX);
}

/* Tables that map the first GiBs one to one are made without a look at how much there is. */
static bool leads_somewhere(uint64_t entry, uint64_t memory_end)
{
	uint64_t address = entry & ENTRY_ADDRESS;

	return address < memory_end || (address >= VMM_MEM_HOLE_START && address < DEVICES_END) ||
	       (entry & (ENTRY_LARGE | ENTRY_LARGE_ZERO)) == ENTRY_LARGE;
}

bool vmm_shadow_is_table(const uint64_t entries[ENTRIES], uint64_t memory_end)
{
	bool used = false;

	for (unsigned i = 0; i < ENTRIES; i++) {
		uint64_t entry = entries[i];

		if (!(entry & ENTRY_PRESENT))
			continue;
		if (!leads_somewhere(entry, memory_end))
			return false;
		used = used || ((entry & ENTRY_ACCESSED) && !is_small(entry, i));
	}
	return used;
}

/* KVM throws all of a machine's shadow pages away when a slot of memory is moved. */
static int place(struct vmm_shadow *s, uint64_t gpa)
{
	struct kvm_userspace_memory_region slot = {.slot = SLOT,
						   .guest_phys_addr = gpa,
						   .memory_size = VMM_PAGE_SIZE,
						   .userspace_addr = (uintptr_t)s->page};

	return ioctl(s->vcpus->kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0 ? -errno : 0;
}

static int flush(struct vmm_shadow *s)
{
	int err = place(s, s->at_b ? PLACE_A : PLACE_B);

	if (err)
		return err;
	s->at_b = !s->at_b;
	atomic_fetch_add_explicit(&s->flushes, 1, memory_order_relaxed);
	return 0;
}

/* Under the lock, which it gives up meanwhile. */
static void wait_to_try_again(struct vmm_shadow *s)
{
	struct timespec until = base_clock_timespec(base_clock_ns() + AGAIN_NS);

	while (!s->stopping && !pthread_cond_timedwait(&s->changed, &s->lock, &until))
		;
}

static void *flusher_main(void *arg)
{
	struct vmm_shadow *s = arg;

	pthread_mutex_lock(&s->lock);
	while (!s->stopping) {
		uint64_t asked = s->asked;
		int err;

		if (asked == s->done) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		pthread_mutex_unlock(&s->lock);
		err = flush(s);
		pthread_mutex_lock(&s->lock);
		if (err) {
			/* Memory may come; with the tables that it has the guest must not go on. */
			log_error("the guest stands: its page tables cannot be made anew: %s",
				  strerror(-err));
			wait_to_try_again(s);
			continue;
		}
		s->done = asked;
		if (s->asked == asked)
			vmm_vcpus_let_go(s->vcpus);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

void vmm_shadow_lost(struct vmm_shadow *s, const uint8_t *bytes, uint64_t count)
{
	uint64_t tables = 0;

	if (!s)
		return;
	for (uint64_t i = 0; i < count; i++)
		tables += vmm_shadow_is_table(
			(const uint64_t *)(const void *)(bytes + i * VMM_PAGE_SIZE), s->memory_end);
	if (!tables)
		return;
	atomic_fetch_add_explicit(&s->tables, tables, memory_order_relaxed);
	pthread_mutex_lock(&s->lock);
	/* Else they are held back already. */
	if (s->asked++ == s->done)
		vmm_vcpus_hold_back(s->vcpus);
	pthread_cond_signal(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

void vmm_shadow_stats(const struct vmm_shadow *s, uint64_t *flushes, uint64_t *tables)
{
	*flushes = s ? atomic_load_explicit(&s->flushes, memory_order_relaxed) : 0;
	*tables = s ? atomic_load_explicit(&s->tables, memory_order_relaxed) : 0;
}

static uint64_t memory_end(const struct vmm_mem *mem)
{
	const struct vmm_mem_region *last = vmm_mem_region_at(mem, vmm_mem_region_count(mem) - 1);

	return last->gpa + last->len;
}

int vmm_shadow_new(struct vmm_vcpus *vcpus, struct vmm_shadow **out)
{
	struct vmm_shadow *s;
	pthread_condattr_t attr;
	int err;

	*out = NULL;
	if (!vcpus->kvm->shadow_paging)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->vcpus = vcpus;
	s->memory_end = memory_end(vcpus->mem);
	s->page = mmap(NULL, VMM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);
	if (s->page == MAP_FAILED) {
		err = -errno;
		goto err_free;
	}
	err = place(s, PLACE_A);
	if (err)
		goto err_unmap;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attr);
	pthread_condattr_destroy(&attr);
	err = -pthread_create(&s->thread, NULL, flusher_main, s);
	if (err)
		goto err_unmap;
	*out = s;
	return 0;
err_unmap:
	munmap(s->page, VMM_PAGE_SIZE);
err_free:
	free(s);
	return err;
}

void vmm_shadow_free(struct vmm_shadow *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	pthread_cond_signal(&s->changed);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	munmap(s->page, VMM_PAGE_SIZE);
	free(s);
}
