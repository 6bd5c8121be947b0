/* The fuzz target, for libFuzzer and for driver.c. */
#ifndef FUZZ_PROTOCOL_H
#define FUZZ_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Checks and frees what is kept between inputs. */
void fuzz_finish(void);

#endif
