/* The share of memory that uploads and pins may take together (hold_if_room() in store/held.c),
 * which several processes ask for at the same time without a lock.
 *
 * Proves: what has been let in never exceeds the share, unless it is one value alone; and who asks
 * while nobody else holds or asks is let in.
 *
 * The world: three processes that ask for one part or four of a share of two, hold that for a while,
 * and let go; one of them asks again. Slots are looked at one after another; all accesses are
 * seq_cst, so they have one order.
 *
 * Not proved: that somebody is let in when all ask at the same moment. The lowest slot looks again
 * for a while, so it nearly always is; else all of them ask again 10 ms later.
 *
 * -D that must be found out:
 *   JUDGE_FIRST   the sums are looked at before the own bytes are counted in */

#define PROCESSES 3
#define SHARE 2
#define TRIES 2

byte held[PROCESSES]; /* slot->held_bytes */
byte let_in[PROCESSES];
byte asking; /* who asks or holds */
byte asked;  /* how often anybody has begun to ask */

inline look()
{
    d_step { others = 0; before = 0; i = 0 };
    do
    :: atomic { i < PROCESSES && i != me -> others = others + held[i]; i++ }
    :: atomic { i == me -> before = others; i++ }
    :: i == PROCESSES -> break
    od
}

proctype process(byte me; byte rounds)
{
    byte bytes, others, before, i, tries;
    bool alone;
    byte asked_mine;

    do
    :: rounds == 0 -> break
    :: rounds > 0 -> rounds--;
        if
        :: bytes = 1
        :: bytes = 4
        fi;
        atomic { tries = TRIES; alone = asking == 0; asking++; asked++; asked_mine = asked };
#ifndef JUDGE_FIRST
        held[me] = held[me] + bytes;
#endif
        do
        :: look();
            if
            :: others == 0 || others + bytes <= SHARE ->
#ifdef JUDGE_FIRST
                held[me] = held[me] + bytes;
#endif
                d_step {
                    let_in[me] = bytes;
                    assert(let_in[0] + let_in[1] + let_in[2] <= SHARE ||
                           let_in[0] + let_in[1] + let_in[2] == bytes)
                };
                let_in[me] = 0;
                held[me] = held[me] - bytes;
                break
            :: else -> tries--
            fi;
            if
            :: before != 0 || tries == 0 ->
#ifndef JUDGE_FIRST
                held[me] = held[me] - bytes;
#endif
                assert(!alone || asked != asked_mine);
                break
            :: else
            fi
        od;
        atomic { asking--; alone = false; asked_mine = 0; bytes = 0; others = 0; before = 0; i = 0; tries = 0 }
    od
}

init
{
    atomic { run process(0, 2); run process(1, 1); run process(2, 1) }
}
