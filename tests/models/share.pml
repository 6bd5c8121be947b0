/* The share of memory that uploads and pins may take together (hold_if_room() in store/held.c),
 * which several processes ask for at the same time without a lock, and the reservation of the one
 * that has waited longest.
 *
 * Proves: what has been let in never exceeds the share, unless it is one value alone; a process
 * that asks while no other holds, asks or has reserved is let in; and all that ask after another
 * has reserved leave room for it while the reservation stands, so each process passes a reservation
 * once at most.
 *
 * The world: three processes that ask for one part or four of a share of two, hold that for a
 * while, and let go. One of them, if it is not let in, may reserve what it asked for, ask again, or
 * not come back; a reservation lapses at any moment, as that of a stopped or dead process does.
 * Slots are looked at one after another; all accesses are seq_cst, so they have one order.
 *
 * Not proved: that somebody is let in when all ask at the same moment. The lowest slot looks again
 * for a while, so it nearly always is; else all of them ask again 10 ms later.
 *
 * -D that must be found out:
 *   JUDGE_FIRST     the sums are looked at before the own bytes are counted in
 *   PASSES          a reservation is not counted
 *   PASSES_ALONE    nor if nothing is held */

#define PROCESSES 3
#define SHARE 2
#define TRIES 2

byte held[PROCESSES]; /* slot->held_bytes */
byte let_in[PROCESSES];
byte knows[PROCESSES]; /* let in by those that knew of the reservation that stands */
byte next, next_bytes; /* the reservation, one word: 1 + the process, 0: there is none */
byte number; /* of reservations that there were */
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

proctype process(byte me; byte rounds; byte again)
{
    byte bytes, others, before, i, tries, reserved, reserved_number;
    bool alone, waits;
    byte asked_mine;

    do
    :: rounds == 0 && !waits -> break
    :: rounds > 0 || waits ->
        if
        :: waits -> waits = false
        :: else -> rounds--;
            if
            :: bytes = 1
            :: bytes = 4
            fi
        fi;
        atomic {
            tries = TRIES;
            alone = asking == 0 && (next == 0 || next == me + 1);
            asking++; asked++; asked_mine = asked
        };
        atomic {
            if
            :: next != 0 -> next = 0; next_bytes = 0 /* it lapses */
            :: next != 0 && next != me + 1 -> reserved = next_bytes; reserved_number = number
            :: else
            fi
        };
#ifndef JUDGE_FIRST
        held[me] = held[me] + bytes;
#endif
        do
        :: look();
            if
#ifdef PASSES
            :: others == 0 || others + bytes <= SHARE ->
#else
#ifdef PASSES_ALONE
            :: others == 0 || others + reserved + bytes <= SHARE ->
#else
            :: others + reserved == 0 || others + reserved + bytes <= SHARE ->
#endif
#endif
#ifdef JUDGE_FIRST
                held[me] = held[me] + bytes;
#endif
                d_step {
                    let_in[me] = bytes;
                    assert(let_in[0] + let_in[1] + let_in[2] <= SHARE ||
                           let_in[0] + let_in[1] + let_in[2] == bytes);
                    knows[me] = (reserved == 0 || number != reserved_number -> 0 : bytes);
                    assert(next == 0 || knows[me] == 0 ||
                           knows[0] + knows[1] + knows[2] + reserved <= SHARE);
                    if
                    :: next == me + 1 -> next = 0; next_bytes = 0
                    :: else
                    fi
                };
                d_step { let_in[me] = 0; knows[me] = 0 };
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
                /* It has waited for long, or not, or does not come back. */
                atomic {
                    if
                    :: next == 0 && again > 0 ->
                        again--; next = me + 1; next_bytes = bytes; number++; waits = true
                    :: again > 0 -> again--; waits = true
                    :: true
                    fi
                };
                break
            :: else
            fi
        od;
        atomic {
            asking--; alone = false; asked_mine = 0; reserved = 0; reserved_number = 0;
            bytes = (waits -> bytes : 0); others = 0; before = 0; i = 0; tries = 0
        }
    od
}

init
{
    atomic { run process(0, 1, 0); run process(1, 1, 1); run process(2, 1, 0) }
}
