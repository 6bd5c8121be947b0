/* What the store's structs mean to the data segment: a reader of another release must have them
 * alike, or it takes one field for another. */
#ifndef STORE_FORMAT_H
#define STORE_FORMAT_H

#include "mem/segment.h"

/* For segment_create() and all that opens what it made. */
void store_format(struct data_format *format);

#endif
