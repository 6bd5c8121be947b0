/* Prints the table's hash, a line for each length, of bytes that count up from 0 and end where
 * reading ends. usage: siphash KEY0 KEY1 LENGTHS */
#include "base/siphash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int
main(int argc, char **argv)
{
    if (argc != 4) {
        return 2;
    }
    struct siphash_key key = {{strtoull(argv[1], NULL, 0), strtoull(argv[2], NULL, 0)}};
    size_t lengths = strtoull(argv[3], NULL, 0);
    uint8_t *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + 4096, 4096, PROT_NONE) != 0 || lengths > 4096) {
        return 2;
    }
    for (size_t len = 0; len < lengths; len++) {
        uint8_t *bytes = pages + 4096 - len;
        for (size_t i = 0; i < len; i++) {
            bytes[i] = (uint8_t)i;
        }
        printf("%" PRIu64 "\n", siphash13(bytes, len, &key));
    }
    return 0;
}
