/* Intrusive doubly linked list. The head is a node that points to itself when the list is empty. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct base_list {
	struct base_list *prev, *next;
};

#define base_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline void base_list_init(struct base_list *head)
{
	head->prev = head->next = head;
}

static inline bool base_list_empty(const struct base_list *head)
{
	return head->next == head;
}

static inline void base_list_insert(struct base_list *node, struct base_list *prev,
				    struct base_list *next)
{
	node->prev = prev;
	node->next = next;
	prev->next = node;
	next->prev = node;
}

static inline void base_list_add(struct base_list *head, struct base_list *node)
{
	base_list_insert(node, head, head->next);
}

static inline void base_list_add_tail(struct base_list *head, struct base_list *node)
{
	base_list_insert(node, head->prev, head);
}

/* The node is left pointing to itself, so removing it twice is harmless. */
static inline void base_list_del(struct base_list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	base_list_init(node);
}

#define base_list_entry(node, type, member) base_container_of(node, type, member)

#define base_list_foreach(pos, head, type, member)                                                 \
	for (type *pos = base_list_entry((head)->next, type, member); &pos->member != (head);      \
	     pos = base_list_entry(pos->member.next, type, member))

/* `pos` may be removed and freed inside the loop. */
#define base_list_foreach_safe(pos, head, type, member)                                            \
	for (type *pos = base_list_entry((head)->next, type, member),                              \
		  *pos##_next = base_list_entry(pos->member.next, type, member);                   \
	     &pos->member != (head); pos = pos##_next,                                             \
		  pos##_next = base_list_entry(pos##_next->member.next, type, member))

#endif
