/* Decimal numbers as the protocol writes them. */
#ifndef BASE_NUMBER_H
#define BASE_NUMBER_H

#include "base/platform.h"

#define U64_DECIMAL_LEN_MAX 20

/* Writes the digits without a terminator and returns how many. */
unsigned number_format_u64(uint64_t value, char *out);

/* All of [text, text + len) must be 1 to 20 digits that fit 64 bits. */
bool number_parse_u64(const char *text, size_t len, uint64_t *out) MUST_CHECK;

#endif
