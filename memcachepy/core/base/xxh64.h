/* XXH64, written from its specification (xxHash, doc/xxhash_spec.md, "XXH64 algorithm"). */
#ifndef BASE_XXH64_H
#define BASE_XXH64_H

#include "base/platform.h"

uint64_t xxh64(const void *data, size_t len, uint64_t seed);

#endif
