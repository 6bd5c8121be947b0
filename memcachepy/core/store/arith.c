/* Arithmetic on items that hold a number. */
#include "base/number.h"
#include "store/room.h"
#include "store/slab.h"
#include "store/write.h"

static bool
is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A stored number as memcached reads it, with strtoull() up to white space. */
static bool
parse_stored_number(const uint8_t *text, uint32_t len, uint64_t *number)
{
    if (len == 0) {
        return false;
    }
    uint32_t at = 0;
    while (at < len && is_space(text[at])) {
        at++;
    }
    bool negative = at < len && text[at] == '-';
    if (at < len && (text[at] == '-' || text[at] == '+')) {
        at++;
    }
    uint32_t digits_at = at;
    uint64_t value = 0;
    for (; at < len && text[at] >= '0' && text[at] <= '9'; at++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[at] - '0'), &value)) {
            return false;
        }
    }
    if (at == digits_at || (negative && value != 0)) {
        return false;
    }
    *number = value;
    return at == len || is_space(text[at]) || text[at] == '\0';
}

/* The new value: digits, padded to the stored length if that is longer. */
static uint32_t
format_result(uint64_t number, uint32_t stored_len, char *out)
{
    uint32_t len = number_format_u64(number, out);
    while (len < stored_len) {
        out[len++] = ' ';
    }
    return len;
}

/* A longer value is no number that fits; memcached copies it into a buffer of this size. */
#define STORED_NUMBER_LEN_MAX 1024
#define NUMBER_TEXT_LEN_MAX (STORED_NUMBER_LEN_MAX + U64_DECIMAL_LEN_MAX)

/* memcached's order of looks: what cannot be a number, whose cas it is, whether it is one. */
static enum arith_result
arith_verdict(const struct arith *arith, const struct item *old, uint64_t *value)
{
    if (old == NULL) {
        return arith->creates ? ARITH_DONE : ARITH_NOT_FOUND;
    }
    if (old->value_len == 0) {
        return ARITH_NOT_A_NUMBER;
    }
    if (arith->if_cas.given && arith->if_cas.unique != old->cas) {
        return ARITH_EXISTS;
    }
    return !(old->bits & (ITEM_CHAINED | ITEM_EXTENDED)) &&
                   old->value_len <= STORED_NUMBER_LEN_MAX &&
                   parse_stored_number(item_value(old), old->value_len, value)
               ? ARITH_DONE
               : ARITH_NOT_A_NUMBER;
}

/* Computes the number and what the item will be; its text goes to `text`. */
static struct item_form
arith_form(struct arith *arith, const struct item *old, uint64_t value, char *text)
{
    struct item_form form = {
        .key = arith->key,
        .expire = arith->create_expire,
        .cas_given = arith->cas_given,
        .piece = {(const uint8_t *)text},
    };
    arith->created = old == NULL;
    arith->expire_word_before = 0;
    if (old == NULL) {
        arith->number = arith->initial;
        form.value_len = number_format_u64(arith->initial, text);
    } else {
        uint64_t delta = arith->delta;
        arith->number = arith->increment ? value + delta : value > delta ? value - delta : 0;
        form.value_len = format_result(arith->number, old->value_len, text);
        arith->expire_word_before = atomic_load_explicit(&old->expire_word, memory_order_relaxed);
        form.client_flags = item_client_flags(old, old->bits);
        form.expire.word = arith->touches ? arith->expire.word : arith->expire_word_before;
        if (form.value_len == old->value_len) {
            form.marks = old->bits & ITEM_MARKS;
        }
    }
    form.piece_len[0] = form.value_len;
    return form;
}

/* memcached writes a number that is not longer into the item that is there. */
static enum publish
publish_of(const struct item_form *form, const struct item *old)
{
    if (old == NULL) {
        return PUBLISH_STORED;
    }
    return form->value_len == old->value_len ? PUBLISH_CHANGED : PUBLISH_GROWN;
}

enum arith_result
store_arith_with(struct store *store, struct arith *arith)
{
    const struct key *key = &arith->key;
    struct shard *shard = shard_of_key(store, key);
    if (!shard_lock(store, shard)) {
        return ARITH_BUSY;
    }
    for (;;) {
        struct table_place place;
        table_find(store, shard, key->bytes, key->len, key->hash, &place);
        struct item *old = place_live(store, &place);
        uint64_t value = 0;
        enum arith_result verdict = arith_verdict(arith, old, &value);
        if (verdict != ARITH_DONE) {
            shard_unlock(store, shard);
            return verdict;
        }
        char text[NUMBER_TEXT_LEN_MAX];
        struct item_form form = arith_form(arith, old, value, text);
        uint32_t class_id = slab_class_of(store, (uint32_t)form_bytes(&form));
        switch (room_make(store, shard, class_id)) {
        case ROOM_READY:
            if (place.primary == NULL) {
                continue; /* The shard has a table only now. */
            }
            if (!room_in_chain(store, shard, &place)) {
                shard_unlock(store, shard);
                return ARITH_NO_MEMORY;
            }
            if (old != NULL) {
                item_use_locked(store, old);
                class_counter_add(&store->slot->classes[class_id],
                                  arith->increment ? CLASS_incr_hits : CLASS_decr_hits, 1);
            }
            write_small(store, shard, &place, &form, class_id, publish_of(&form, old));
            shard_unlock(store, shard);
            arith->cas = form.cas;
            arith->expire_word = form.expire.word;
            return ARITH_DONE;
        case ROOM_CHANGED:
            continue;
        case ROOM_NO_MEMORY:
            shard_unlock(store, shard);
            return ARITH_NO_MEMORY;
        case ROOM_BUSY:
            return ARITH_BUSY;
        }
    }
}

enum arith_result
store_arith(struct store *store, const struct key *key, bool increment, uint64_t delta,
            uint64_t *number)
{
    struct arith arith = {.key = *key, .increment = increment, .delta = delta};
    enum arith_result result = store_arith_with(store, &arith);
    *number = arith.number;
    return result;
}
