/* The sweep: gives back the memory of expired and flushed items that nobody asks for. */
#ifndef STORE_SWEEP_H
#define STORE_SWEEP_H

#include "store/shard.h"

/* One step of the maintainer: begins a pass over all pages every few seconds and goes on with the
 * one begun. True: there is more to do at once. */
bool store_sweep(struct store *store);

#endif
