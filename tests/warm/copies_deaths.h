/* The leader of a change dies at a crash point: copies are hidden, and nothing is lost. */
#ifndef TESTS_WARM_COPIES_DEATHS_H
#define TESTS_WARM_COPIES_DEATHS_H

#include "copies_nodes.h"

/* A whole change of all of the ledger's keys, in a process that is killed on the way. */
static void
lead(unsigned pass)
{
    static struct under_way item;
    from.leader = store_open(from.segment, SLOT_LEADER);
    to.leader = store_open(to.segment, SLOT_LEADER);
    crash_arm("*", pass);
    begin_session();
    for (int index = 0; index < KEY_COUNT; index++) {
        char text[32];
        struct key key;
        make_key(from.leader, &key, text, index);
        struct dump_item dumped = {.key_len = (uint8_t)key.len};
        memcpy(dumped.key, text, key.len);
        item.text = text;
        if (store_copy_read(from.leader, &dumped, item.value, &item.copy) == COPY_STORED) {
            (void)!store_to(&item);
        }
    }
    end_session(COPY_CONFIRM);
    _exit(0);
}

static void
expect_hidden_or_own(bool own)
{
    for (int index = 0; index < KEY_COUNT; index++) {
        char text[32];
        struct key key;
        make_key(to.client, &key, text, index);
        struct belief found = {0};
        if (read_value(to.client, &key, buffer, &found) && !own) {
            struct table_place place;
            struct shard *shard = shard_of_hash(to.client, key.hash);
            EXPECT(shard_lock(to.client, shard));
            table_find(to.client, shard, key.bytes, key.len, key.hash, &place);
            /* Confirmed before the death: nobody had changed it until then. */
            EXPECT(place.bucket != NULL && !(place.item->bits & ITEM_COPIED));
            shard_unlock(to.client, shard);
        }
    }
}

/* The session's beginning has a dozen points, its end as many; between them are the copies. */
#define FIRST_PASSES 16
#define PASSES_MAX 1500

static void
sweep(unsigned count, uint64_t seed)
{
    unsigned deaths = 0;
    random_state = seed;
    ledger = ledgers_make(1);
    for (unsigned i = 0; i < count; i++) {
        char when[64];
        unsigned pass = 1 + (i < FIRST_PASSES ? i : (unsigned)draw(PASSES_MAX));
        uint64_t kept, dropped;
        struct recovery recovery;
        int status;
        for (unsigned j = 0; j < 100; j++) {
            operate(from.client, buffer);
        }
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            lead(pass);
        }
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
            printf("pass %u: the leader died of signal %d\n", pass, WTERMSIG(status));
            exit(1);
        }
        EXPECT(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        deaths += WIFSIGNALED(status);
        EXPECT(store_recover(from.client, SLOT_LEADER, &recovery));
        EXPECT(store_recover(to.client, SLOT_LEADER, &recovery));
        segment_claim_slot(from.segment, SLOT_LEADER);
        segment_claim_slot(to.segment, SLOT_LEADER);
        tick();
        session += 1000;
        snprintf(when, sizeof(when), "after pass %u, seed %" PRIu64, pass, seed);
        expect_sound(from.segment, from.client, when);
        expect_sound(to.segment, to.client, when);
        verify(from.client);
        expect_hidden_or_own(!WIFSIGNALED(status));
        EXPECT(atomic_load(&to.segment->run->tracking) == 0);
        EXPECT(atomic_load(&from.segment->run->tracking) == 0);
        walk_to_end(COPY_DROP, &kept, &dropped);
        EXPECT(track_head_of(to.segment)->copies != COPIES_CHECKED);
        expect_empty(&to, when);
    }
    printf("%u deaths, sound after each\n", deaths);
}

#endif
