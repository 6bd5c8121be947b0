/* The operations that are killed after each of their instructions: the state each begins in, what
 * it does, and by what it is seen that it did just that. */
#ifndef TESTS_CRASH_OPERATIONS_H
#define TESTS_CRASH_OPERATIONS_H

#include "operations_config.h"
#include "operations_memory.h"
#include "operations_meta.h"
#include "operations_text.h"
#include "operations_track.h"
#include "operations_upload.h"

struct operation {
    const char *name;
    void (*prepare)(struct world *world);
    bool (*run)(struct world *world);
    change_fn *did; /* NULL: the facts are enough */
    uint32_t pages; /* limit; 0: all that there are */
    unsigned megabytes;
    enum eviction_policy policy;
    bool piecemeal; /* what it changes may have happened in part */
    bool keeps;     /* no fact changes */
    bool rebuilds;  /* a death may cost a rebuild */
    bool tracks;    /* whoever finds a fact changed finds the key's bit set, or
                    no session */
};

static const struct operation operations[] = {
    {.name = "first_set", prepare_nothing, run_put, .did = grew},
    {.name = "set_new", prepare_set_new, run_put},
    {.name = "set_over", prepare_set_over, run_put},
    {.name = "set_larger", prepare_set_larger, run_put},
    {.name = "set_over_last_of_page", prepare_last_of_page, run_put, .did = gave_page},
    {.name = "add_over_dead", prepare_set_over_dead, run_put},
    {.name = "cas", prepare_cas, run_put},
    {.name = "append", prepare_append, run_put},
    {.name = "prepend", prepare_prepend, run_put},
    {.name = "delete", prepare_set_over, run_delete},
    {.name = "delete_last_of_page", prepare_last_of_page, run_delete, .did = gave_page},
    {.name = "incr", prepare_incr, run_incr},
    {.name = "incr_longer", prepare_incr_longer, run_incr},
    {.name = "decr", prepare_incr, run_decr},
    {.name = "incr_with", prepare_incr, run_incr_with},
    {.name = "incr_creates", prepare_set_new, run_incr_with},
    {.name = "invalidate", prepare_set_over, run_invalidate},
    {.name = "invalidate_chain", prepare_delete_chain, run_invalidate},
    {.name = "empty", prepare_set_over, run_empty},
    {.name = "empty_stale", prepare_set_over, run_empty_stale},
    {.name = "empty_chain", prepare_delete_chain, run_empty},
    {.name = "win", prepare_win, run_fetch},
    {.name = "win_chain", prepare_win_chain, run_fetch},
    {.name = "fetch_creates", prepare_set_new, run_fetch},
    {.name = "fetch_touches", prepare_set_over, run_fetch},
    {.name = "set_stale", prepare_set_stale, run_put},
    {.name = "vivify", prepare_vivify, run_put},
    {.name = "vivify_chain", prepare_vivify_chain, run_put},
    {.name = "touch", prepare_set_over, run_touch},
    {.name = "gat", prepare_set_over, run_gat},
    {.name = "get", prepare_set_over, run_get, .keeps = true},
    {.name = "get_expired", prepare_get_expired, run_get_expired, .did = reclaimed, .keeps = true},
    {.name = "set_tracked", prepare_tracked_set, run_put, .tracks = true},
    {.name = "delete_tracked", prepare_tracked_set, run_delete, .tracks = true},
    {.name = "touch_tracked", prepare_tracked_set, run_touch, .tracks = true},
    {.name = "gat_tracked", prepare_tracked_set, run_gat, .tracks = true},
    {.name = "fetch_tracked", prepare_tracked_set, run_fetch, .tracks = true},
    {.name = "incr_tracked", prepare_tracked_incr, run_incr, .tracks = true},
    {.name = "invalidate_tracked", prepare_tracked_set, run_invalidate, .tracks = true},
    {.name = "empty_tracked", prepare_tracked_set, run_empty, .tracks = true},
    {.name = "upload_commit_tracked", prepare_tracked_commit, run_upload_commit, .tracks = true},
    {.name = "flush_all_tracked", prepare_tracked_set, run_flush_all, .tracks = true},
    {.name = "config_set", prepare_config, run_config_set, .keeps = true},
    {.name = "config_over_none", prepare_nothing, run_config_set, .keeps = true},
    {.name = "config_delete", prepare_config, run_config_delete, .keeps = true},
    {.name = "flush_all", prepare_set_over, run_flush_all},
    {.name = "flush_all_later", prepare_set_over, run_flush_all_later, .keeps = true},
    {.name = "flush_all_sweep", prepare_flush_all_sweep, run_flush_all, .did = reclaimed},
    {.name = "table_split", prepare_split, run_put, .did = split},
    {.name = "table_page", prepare_table_page, run_put, .did = took_table_page},
    {.name = "table_overflow", prepare_overflow, run_put, .did = took_overflow},
    {.name = "page_attach", prepare_page_attach, run_put, .did = took_page},
    {.name = "evict", prepare_evict, run_put, .did = evicted, .pages = 24, .piecemeal = true},
    {.name = "evict_chain",
     prepare_evict_chain,
     run_put,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "steal_page",
     prepare_steal_page,
     run_put,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "donation",
     prepare_donation,
     run_put,
     .did = took_from_others,
     .pages = 24,
     .megabytes = 16,
     .piecemeal = true},
    {.name = "set_chain", prepare_set_chain, run_put},
    {.name = "set_chain_over_chain", prepare_set_chain_over_chain, run_put},
    {.name = "set_over_chain", prepare_set_over_chain, run_put},
    {.name = "append_into_chain", prepare_append_into_chain, run_put},
    {.name = "append_to_chain", prepare_append_to_chain, run_put},
    {.name = "prepend_to_chain", prepare_prepend_to_chain, run_put},
    {.name = "delete_chain", prepare_delete_chain, run_delete},
    {.name = "delete_pinned", prepare_delete_pinned, run_delete},
    {.name = "upload_begin", prepare_set_chain, run_upload_begin, .did = held_more, .keeps = true},
    {.name = "upload_extend", prepare_upload_extend, run_upload_extend, .keeps = true},
    {.name = "upload_commit", prepare_upload_commit, run_upload_commit},
    {.name = "upload_commit_over", prepare_upload_commit_over, run_upload_commit},
    {.name = "upload_commit_append", prepare_upload_commit_append, run_upload_commit},
    {.name = "upload_commit_vivify", prepare_upload_commit_vivify, run_upload_commit},
    {.name = "upload_abort",
     prepare_upload_commit,
     run_upload_abort,
     .did = repaired,
     .keeps = true},
    {.name = "pin", prepare_delete_chain, run_pin, .did = held_more, .keeps = true},
    {.name = "unpin", prepare_unpin, run_unpin, .did = repaired, .keeps = true},
    {.name = "unpin_last", prepare_unpin_last, run_unpin, .did = repaired, .keeps = true},
    {.name = "recover", prepare_recover, run_recover, .did = repaired, .keeps = true},
    {.name = "evict_read",
     prepare_evict_read,
     run_put,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "evict_sampled",
     prepare_evict,
     run_put,
     .did = evicted,
     .pages = 24,
     .policy = POLICY_ALLKEYS_LFU,
     .piecemeal = true},
    {.name = "ghost_page",
     prepare_ghost_page,
     run_put,
     .did = took_ghost_page,
     .pages = 24,
     .piecemeal = true},
    {.name = "piece_of_ring", prepare_piece_of_ring, run_put, .did = took_piece_of_ring},
    {.name = "sweep", prepare_sweep, run_sweep, .did = reclaimed, .keeps = true},
    {.name = "reassign",
     prepare_evict,
     run_reassign,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "carry", prepare_carry, run_carry, .did = gave_page, .keeps = true},
    {.name = "adopt", store_a_few, run_adopt, .did = took_page, .keeps = true},
    {.name = "shrink", prepare_shrink, run_shrink, .did = shrank, .pages = 24, .piecemeal = true},
    {.name = "rebuild",
     prepare_rebuild,
     run_rebuild,
     .did = rebuilt,
     .keeps = true,
     .rebuilds = true},
};
#define OPERATION_COUNT (sizeof(operations) / sizeof(operations[0]))

#endif
