/* Which boot of the host this is: another one begins the boot-time clock anew. */
#ifndef BASE_BOOT_ID_H
#define BASE_BOOT_ID_H

#include "base/platform.h"

#define BOOT_ID_BYTES 16

/* False: the host does not tell. */
bool boot_id_read(uint8_t id[BOOT_ID_BYTES]) MUST_CHECK;

#endif
