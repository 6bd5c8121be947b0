#include "base/number.h"

#include <string.h>

static const char digit_pairs[] = "00010203040506070809101112131415161718192021222324"
                                  "25262728293031323334353637383940414243444546474849"
                                  "50515253545556575859606162636465666768697071727374"
                                  "75767778798081828384858687888990919293949596979899";

static unsigned
decimal_len(uint64_t value)
{
    unsigned len = 1;
    while (value >= 10000) {
        value /= 10000;
        len += 4;
    }
    if (value >= 1000) {
        return len + 3;
    }
    if (value >= 100) {
        return len + 2;
    }
    return value >= 10 ? len + 1 : len;
}

unsigned
number_format_u64(uint64_t value, char *out)
{
    unsigned len = decimal_len(value);
    char *end = out + len;
    while (value >= 100) {
        end -= 2;
        memcpy(end, digit_pairs + 2 * (value % 100), 2);
        value /= 100;
    }
    if (value >= 10) {
        memcpy(end - 2, digit_pairs + 2 * value, 2);
    } else {
        end[-1] = (char)('0' + value);
    }
    return len;
}

bool
number_parse_u64(const char *text, size_t len, uint64_t *out)
{
    if (len == 0) {
        return false;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned digit = (unsigned char)text[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, digit, &value)) {
            return false;
        }
    }
    *out = value;
    return true;
}
