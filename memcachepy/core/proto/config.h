/* Configurations on the wire, of both protocols; see mem/config_table.h. Not for callers of proto.
 */
#ifndef PROTO_CONFIG_H
#define PROTO_CONFIG_H

#include "mem/config_table.h"
#include "proto/answer.h"
#include "proto/value.h"

#define CONFIG_FORBIDDEN                                                                           \
    "only loopback addresses and UNIX sockets may change what every client connects to"

/* Appends one reply with the value of a configuration, as get does with an item's: the head that
 * `form` makes says the key of `entry`. CONFIG_OK, CONFIG_NOT_FOUND, or CONFIG_NO_MEMORY or
 * CONFIG_BUSY; of all but the first nothing is appended. */
enum config_result config_answer(struct protocol *protocol, struct slice key,
                                 const struct batch_key *entry, const struct reply_form *form);

/* The same for what was found in passing; the head says the configuration's own key. False: it
 * changed meanwhile, or there is no memory for so long a reply. */
bool config_answer_view(struct protocol *protocol, const struct config_view *view,
                        struct batch_key *entry, const struct reply_form *form);

/* Stores the value of a command that was made by one of the two protocols, and counts it. */
enum config_result config_take(struct protocol *protocol, const struct value_command *command,
                               const uint8_t *value);

#endif
