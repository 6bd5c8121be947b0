/* Configurations: changes without a journal, of which nothing has to be undone. */
#ifndef TESTS_CRASH_OPERATIONS_CONFIG_H
#define TESTS_CRASH_OPERATIONS_CONFIG_H

#include "operations_text.h"

#include "mem/config_table.h"

#define CONFIG_OLD 100
#define CONFIG_NEW 101
#define CONFIG_LATER 102

/* So many bytes of that number. */
static bool
config_store(struct world *world, uint32_t number)
{
    uint8_t value[CONFIG_LATER];
    memset(value, (int)number, sizeof(value));
    struct config_entry entry = {"k", value, 1, number, number};
    return config_set(world->segment, &entry) == CONFIG_OK;
}

/* The number; 0: there is none, -1: it is not whole. */
static int
config_number(const struct world *world)
{
    static uint8_t value[CONFIG_VALUE_LEN_MAX];
    struct config_view view;
    switch (config_read(world->segment, "k", 1, value, &view)) {
    case CONFIG_OK:
        break;
    case CONFIG_NOT_FOUND:
        return config_count(world->segment) == 0 ? 0 : -1;
    default:
        return -1;
    }
    for (uint32_t i = 0; i < view.value_len; i++) {
        if (value[i] != view.client_flags) {
            return -1;
        }
    }
    return view.value_len == view.client_flags ? (int)view.client_flags : -1;
}

static void
prepare_config(struct world *world)
{
    use_put(world, 0, SMALL, 99);
    if (!config_store(world, CONFIG_OLD)) {
        printf("no configuration was stored\n");
        exit(2);
    }
}

static bool
run_config_set(struct world *world)
{
    return config_store(world, CONFIG_NEW);
}

static bool
run_config_delete(struct world *world)
{
    return config_delete(world->segment, "k", 1) == CONFIG_OK;
}

#endif
