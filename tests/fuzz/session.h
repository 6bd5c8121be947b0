/* An input played as the life of several connections at two workers. */
#ifndef FUZZ_SESSION_H
#define FUZZ_SESSION_H

#include "bench.h"

#include <stddef.h>
#include <stdint.h>

/* Inputs whose first byte is not less than this are sessions. */
#define SESSION_MARK 0xF0

void session_play(struct bench *bench, const uint8_t *bytes, size_t len);

#endif
