/* Keys as text that no byte of them can break: URI encoding and base64. Each function writes to
 * `out` and returns the place behind what it wrote. */
#ifndef PROTO_ENCODE_H
#define PROTO_ENCODE_H

#include <stdbool.h>
#include <stdint.h>

/* Whether a key cannot stand in a line as it is: it has a space or a control character. Such keys
 * come in base64 and by the binary protocol; lines of them would read as other lines or commands.
 */
bool key_breaks_line(const uint8_t *bytes, uint32_t len);

/* At most so many bytes for one. */
#define ENCODE_URI_FACTOR 3

/* Letters, digits and - . _ ~ as they are, all else as %XX. */
uint8_t *encode_uri(uint8_t *out, const uint8_t *bytes, uint32_t len);

/* RFC 4648 with padding: four bytes for each three begun. */
uint8_t *encode_base64(uint8_t *out, const uint8_t *bytes, uint32_t len);

#endif
