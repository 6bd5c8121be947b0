#include "mem/counters.h"

const char *const counter_names[COUNTER_COUNT] = {
#define X(name) #name,
    COUNTER_LIST(X)
#undef X
};
