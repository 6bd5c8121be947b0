/* Doubly linked lists whose links lie in the elements. */
#ifndef NET_LIST_H
#define NET_LIST_H

#include "base/platform.h"

/* A head, or an element's link; an element in no list points to itself. */
struct list {
    struct list *next, *previous;
};

#define LIST_ELEMENT(link, type, member) ((type *)((char *)(link) - offsetof(type, member)))

static inline void
list_init(struct list *list)
{
    list->next = list->previous = list;
}

static inline bool
list_is_empty(const struct list *list)
{
    return list->next == list;
}

static inline void
list_append(struct list *head, struct list *element)
{
    element->previous = head->previous;
    element->next = head;
    head->previous->next = element;
    head->previous = element;
}

static inline void
list_remove(struct list *element)
{
    element->previous->next = element->next;
    element->next->previous = element->previous;
    list_init(element);
}

/* Moves all elements of `from` to the empty `to`. */
static inline void
list_move(struct list *from, struct list *to)
{
    if (list_is_empty(from)) {
        return;
    }
    *to = *from;
    to->next->previous = to->previous->next = to;
    list_init(from);
}

#endif
