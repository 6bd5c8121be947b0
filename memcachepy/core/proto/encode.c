#include "proto/encode.h"

#include "base/platform.h"

static bool
is_unreserved(uint8_t byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || byte == '-' || byte == '.' || byte == '_' || byte == '~';
}

bool
key_breaks_line(const uint8_t *bytes, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        if (UNLIKELY(bytes[i] <= ' ' || bytes[i] == 0x7F)) {
            return true;
        }
    }
    return false;
}

uint8_t *
encode_uri(uint8_t *out, const uint8_t *bytes, uint32_t len)
{
    static const char digits[] = "0123456789ABCDEF";
    for (uint32_t i = 0; i < len; i++) {
        if (LIKELY(is_unreserved(bytes[i]))) {
            *out++ = bytes[i];
        } else {
            *out++ = '%';
            *out++ = (uint8_t)digits[bytes[i] >> 4];
            *out++ = (uint8_t)digits[bytes[i] & 15];
        }
    }
    return out;
}

uint8_t *
encode_base64(uint8_t *out, const uint8_t *bytes, uint32_t len)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (uint32_t i = 0; i < len; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16;
        group |= i + 1 < len ? (uint32_t)bytes[i + 1] << 8 : 0;
        group |= i + 2 < len ? bytes[i + 2] : 0;
        *out++ = (uint8_t)letters[group >> 18];
        *out++ = (uint8_t)letters[group >> 12 & 63];
        *out++ = i + 1 < len ? (uint8_t)letters[group >> 6 & 63] : '=';
        *out++ = i + 2 < len ? (uint8_t)letters[group & 63] : '=';
    }
    return out;
}
