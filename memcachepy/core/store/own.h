/* The words of the own slot that other processes read and that this one alone writes.
 *
 * Another process may write over them: pins and uploads that it does not hold, so that no entry is
 * left for others, or chunks are never freed; watchers and dumps that it does not have, so that
 * none may begin. Each process knows from its own memory what they are to be, and looks once a
 * second. */
#ifndef STORE_OWN_H
#define STORE_OWN_H

#include "store/store.h"

/* Writes again what is not as this process has left it. Called by a process that has one handle of
 * its slot, without a lock; `serves`: it is in its loop. */
void store_look_at_own(struct store *store, bool serves);

/* What connections of this process watch, and how many. */
void store_note_watchers(struct store *store, uint32_t watchers, uint32_t classes);

#endif
