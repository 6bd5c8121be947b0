/* See config.h and own_keys.h. */
#include "proto/config.h"

#include "proto/own_keys.h"

/* What a head may be long, and a tail with it. */
#define REPLY_FRAME_BYTES_MAX 640

static bool
append(struct protocol *protocol, const struct config_view *view, const struct batch_key *entry,
       const struct reply_form *form)
{
    struct output *output = &protocol->output;
    uint8_t *out = output->bytes + output->end;
    struct hit hit = {view->client_flags, view->value_len, config_version(view)};
    out = form->head(out, entry, &hit);
    copy_value(out, view->copy->value, view->value_len);
    out += view->value_len;
    memcpy(out, form->tail, form->tail_len);
    out += form->tail_len;
    if (!config_confirm(store_segment(protocol->store), view)) {
        return false;
    }
    output->end = (uint32_t)(out - output->bytes);
    return true;
}

enum config_result
config_answer(struct protocol *protocol, struct slice key, const struct batch_key *entry,
              const struct reply_form *form)
{
    const struct segment *segment = store_segment(protocol->store);
    struct config_view view;
    for (unsigned i = 0; i < CONFIG_TRIES_MAX; i++) {
        if (!config_find(segment, key.bytes, key.len, &view)) {
            return CONFIG_NOT_FOUND;
        }
        if (!output_reserve(&protocol->output, view.value_len + REPLY_FRAME_BYTES_MAX)) {
            return CONFIG_NO_MEMORY;
        }
        if (append(protocol, &view, entry, form)) {
            return CONFIG_OK;
        }
    }
    return CONFIG_BUSY;
}

bool
config_answer_view(struct protocol *protocol, const struct config_view *view,
                   struct batch_key *entry, const struct reply_form *form)
{
    entry->key = (struct key){.bytes = view->copy->key, .len = view->key_len};
    return output_reserve(&protocol->output, view->value_len + REPLY_FRAME_BYTES_MAX) &&
           append(protocol, view, entry, form);
}

enum config_result
config_take(struct protocol *protocol, const struct value_command *command, const uint8_t *value)
{
    const struct put *put = &command->put;
    const struct config_entry entry = {
        .key = put->key.bytes,
        .key_len = put->key.len,
        .client_flags = put->client_flags,
        .value = value,
        .value_len = put->value_len,
    };
    COUNT(protocol->counters, cmd_config_set);
    return config_set(store_segment(protocol->store), &entry);
}

/* ---- own keys ------------------------------------------------------------------------------- */

static enum own_answer
get_list(struct protocol *protocol, const struct batch_key *entry, const struct reply_form *form)
{
    const struct slice cluster = {(const uint8_t *)CONFIG_CLUSTER, sizeof(CONFIG_CLUSTER) - 1};
    COUNT(protocol->counters, cmd_config_get);
    return config_answer(protocol, cluster, entry, form) == CONFIG_OK ? OWN_HIT : OWN_MISS;
}

/* What cannot be answered at once, a value of many pages among it, is left to who asks. */
static enum own_answer
get_health(struct protocol *protocol, const struct batch_key *entry, const struct reply_form *form)
{
    struct tally uncounted = {.touches = true};
    switch (answer_key(protocol, entry, &uncounted, *form)) {
    case ANSWER_HIT:
        return OWN_HIT;
    case ANSWER_MISS:
        return OWN_MISS;
    case ANSWER_BUSY:
    case ANSWER_WAIT:
        break;
    }
    return OWN_NOT;
}

enum own_answer
own_get(struct protocol *protocol, const struct batch_key *entry, const struct reply_form *form)
{
    if (key_is_list(&entry->key)) {
        return get_list(protocol, entry, form);
    }
    return key_is_health(&entry->key) ? get_health(protocol, entry, form) : OWN_NOT;
}
