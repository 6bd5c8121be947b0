#include "proto/command.h"

#include "proto/execute.h"

const struct command command_table[COMMAND_COUNT] = {
#define X(name, id, tokens_min, handler, help)                                                     \
    {name, sizeof(name) - 1, tokens_min, COMMAND_##id, handler, help},
    COMMAND_LIST(X) DEBUG_COMMAND_LIST(X)
#undef X
};

const struct command *
command_find(struct slice name)
{
    for (unsigned i = 0; i < COMMAND_COUNT; i++) {
        const struct command *command = &command_table[i];
        if (name.len == command->name_len &&
            memcmp(name.bytes, command->name, command->name_len) == 0) {
            return command;
        }
    }
    return NULL;
}
