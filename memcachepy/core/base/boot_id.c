/* See boot_id.h. Linux names each boot by a random UUID. */
#include "base/boot_id.h"

#include <stdio.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static int
hex_digit(int character)
{
    return character >= '0' && character <= '9'   ? character - '0'
           : character >= 'a' && character <= 'f' ? character - 'a' + 10
                                                  : -1;
}

bool
boot_id_read(uint8_t id[BOOT_ID_BYTES])
{
    FILE *stream = fopen(BOOT_ID, "re");
    if (stream == NULL) {
        return false;
    }
    unsigned digits = 0;
    for (int next; digits < 2 * BOOT_ID_BYTES && (next = fgetc(stream)) != EOF;) {
        int digit = hex_digit(next);
        if (digit >= 0) {
            uint8_t *byte = &id[digits / 2];
            *byte = (uint8_t)(digits % 2 == 0 ? digit << 4 : *byte | digit);
            digits++;
        }
    }
    fclose(stream);
    return digits == 2 * BOOT_ID_BYTES;
}
