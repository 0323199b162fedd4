// The message queue's protocol and its recovery: core/src/queue/message_queue.cpp, batch.cpp, recovery.cpp, waits.cpp. The
// names are those of the code; `queue.*` in a comment is the FT_CRASH_POINT at that place.
//
// Two producers and two consumers, or one of them, each a process of its own, and a sweeper (the supervisor's; -DUNSWEPT:
// none), which is followed by another one when it dies. Producer 1 puts PUTS messages (one after the other, or in runs of
// RUN), producer 2 one. Message 3 is inline, the others lie in blocks. Consumers get until there is nothing more to come.
// Segments have CELLS cells. Up to DEATHS processes die, each at any moment: the killer runs between any two steps, and a
// step is one store that others see. What is read under a lock is read in the step before; so is what is stored there and
// nobody looks at yet.
//
// Proved, for every interleaving:
//   EXACT     the n-th get takes what the n-th PUBLISH put, whole; nothing is taken twice. So a put that returned is got
//             once, or is in the queue at the end; what its producer's death undid is never got.
//   BLOCKS    a block is read and freed by its owner only. At the end each block is free or linked into the queue, once.
//   CHAIN     at the end what is linked is what is in the chain, and the spare segment.
//   OWED      what the ledger says of a dead taker is the number of its committed takes (join() rests on that).
//   NOTE      was_taken() says of a dead taker's note what is true (-DNOTES).
//   NO_HANG   all that are not killed come to their end: no deadlock (invalid end states), no cycle (non-progress cycles).
//             Until the first death this rests on wakes alone; then a waiter's slice may end at any time. A slice whose
//             look would find nothing new is left out.
//
// Abstracted:
//   - The ends' locks are one step to take and one to release, and know a dead holder: that is lock.pml.
//   - Gates: a notification moves on all who have prepared and wakes one sleeper. No sentries, spinners, lazy puts.
//   - Memory is sequentially consistent. `seen` is left out: an end reads the other's count each time.
//   - The allocator gives and takes a block in one step. A sweep frees all blocks of the dead in one step, as its last:
//     nobody else changes these then, which BLOCKS would show.
//   - Left out: bounds in bytes, withdrawal, shut_down and drain, task_done, ledger blocks, handles that messages carry,
//     destroy, private memory. "Nothing more to come" is told to consumers without a step.
//   - A process that died does not come again: that is lock.pml's subject too.
//
// -DMUTATE_... leaves a step out; tools/check-models sees to it that each is caught.
// A hang after fewer than DEATHS deaths shows in the configuration with fewer: here the killer may still go on.
// check: -DPUTS=1 -DCAPACITY=1 -DDEATHS=0 -DUNSWEPT cycles
// check: -DPUTS=3 -DONE_PRODUCER -DONE_CONSUMER -DDEATHS=1 -DNOTES cycles
// check: -DPUTS=1 -DONE_PRODUCER -DDEATHS=1 -DNOTES
// check: -DPUTS=2 -DRUN=2 -DCELLS=2 -DONE_PRODUCER -DONE_CONSUMER -DDEATHS=2
// check: -DPUTS=4 -DCELLS=3 -DCAPACITY=4 -DONE_PRODUCER -DDEATHS=1 -DUNSWEPT
// check: -DPUTS=1 -DONE_CONSUMER -DDEATHS=1 cycles
// check: -DPUTS=1 -DDEATHS=1 -DUNSWEPT
// check: -DPUTS=2 -DONE_PRODUCER -DDEATHS=1

#ifndef CELLS
#define CELLS 1
#endif
#ifndef PUTS
#define PUTS 2 // of producer 1
#endif
#ifndef RUN
#define RUN 1
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define MESSAGES 4
#define SEGMENTS 5
#define FREED   0  // of a block or segment; else its owner, or
#define LINKED  9
#define DIED    8  // of a lock: HELD|OWNER_DIED; else its owner, or 0

#define IS_INLINE(message) ((message) == 3)
#define HOLDS(segment, index) (first[segment] <= (index) && (index) < first[segment] + CELLS)
#define CELL(segment, index) cell[(segment) * CELLS + (index) - first[segment]]

byte block[MESSAGES + 1];                     // whose each message's block is
byte owner[SEGMENTS + 1];                     // and each segment
byte first[SEGMENTS + 1], next[SEGMENTS + 1];
byte cell[(SEGMENTS + 1) * CELLS];            // a message; 0: half written

byte tail_lock, tail_count, tail_segment, tail_intent, tail_upto; // the intent's owner, and the count that commits it
byte head_lock, head_count, head_segment, head_intent, head_upto, head_owed;
byte spare;
byte takes[5], note_sequence[5], note_tag[5]; // of the consumers, 3 and 4
bit claimed[5];

bit asleep[5], moved[5];                      // at the gates: not_full_ (1 and 2), not_empty_ (3 and 4)
bit dead[7], over[7], swept[7];
byte deaths, dying;

byte put_as[MESSAGES];                        // by number: what was published
byte got_by[MESSAGES];                        // and who has taken it
byte pending[5];                              // the number, from 1, of what a consumer has taken and not finished

#define GONE(process) (dead[process] || over[process])
#define NOTHING_TO_COME (GONE(1) && GONE(2) && head_count == tail_count)
#define HAS_GOT(taker, index) (got_by[index] == (taker) -> 1 : 0)
#define COMMITTED(taker) (HAS_GOT(taker, 0) + HAS_GOT(taker, 1) + HAS_GOT(taker, 2) + HAS_GOT(taker, 3))
#define IS_FULL (tail_count - head_count >= CAPACITY)

#include "queue.inl"

proctype Producer(byte from; byte until; byte step) provided (dying == 0 || dying == _pid) {
  byte s, n, count, message, upto;
  bit repairs;
  {
    do
    :: atomic { from < until -> // put_until, put_many_until: messages [from, from + step)
        n = from;
        do
        :: n < from + step && !IS_INLINE(n) -> block[n] = _pid; n++
        :: else -> break
        od;
        n = 0
      };
again:
      atomic {
        lock_end(tail_lock);
        if
        :: repairs
        :: else -> goto locked
        fi
      };
      repair_tail();
locked: // queue.put.locked
      atomic {
        repairs = 0;
        if
        :: !IS_FULL ->
          s = tail_segment;
          if
          :: s != 0 && HOLDS(s, tail_count) -> goto has_cell
          :: else -> goto has_none
          fi
        :: else // wait_not_full
        fi
      };
      atomic { unlock(tail_lock); moved[_pid] = 0 };
      atomic {
        if
        :: IS_FULL && !moved[_pid] -> asleep[_pid] = 1
        :: else -> goto again
        fi
      };
      atomic {
        if
        :: !asleep[_pid] -> goto again
        :: asleep[_pid] && deaths > 0 && !IS_FULL -> asleep[_pid] = 0; goto again // kSliceOver
        :: GONE(3) && GONE(4) -> // nobody will ever take anything: the deadline passes
          asleep[_pid] = 0;
          n = from;
          do
          :: n < from + step && !IS_INLINE(n) -> assert(block[n] == _pid); block[n] = FREED; n++
          :: else -> break
          od;
          goto done
        fi
      };
has_none:
      extend();
has_cell:
      // put_run, fill_cell. A run ends with its segment, and at the bound.
      atomic {
        upto = tail_count + step;
        if
        :: upto > first[s] + CELLS -> upto = first[s] + CELLS
        :: else
        fi;
        if
        :: upto > head_count + CAPACITY -> upto = head_count + CAPACITY
        :: else
        fi;
        n = tail_count
      };
#ifdef MUTATE_PUBLISH_FIRST
      atomic { CELL(s, n) = 0; message = n; goto publishes };
#endif
writing: // a cell is written in two steps
      CELL(s, n) = 0;
      atomic {
        CELL(s, n) = from + n - tail_count;
        n++;
        if
        :: n < upto -> goto writing
        :: else
        fi
      };
publishes: // queue.put.written
      atomic {
        if
        :: IS_INLINE(from) -> publish(upto); goto published // queue.put.published
        :: else -> n = tail_count; count = upto - tail_count
        fi;
#ifndef MUTATE_PUT_WITHOUT_INTENT
        tail_intent = _pid; // queue.put.intent
        tail_upto = upto
#endif
      };
linking:
      atomic { // queue.put.linked
        assert(block[from + n - tail_count] == _pid);
        block[from + n - tail_count] = LINKED;
        n++;
        if
        :: n < upto -> goto linking
        :: else
        fi
      };
      atomic { publish(upto) }; // queue.put.block_published
      tail_intent = 0; // queue.put.cleared
published:
#ifdef MUTATE_PUBLISH_FIRST
      CELL(s, message) = from;
#endif
      atomic {
        from = (IS_INLINE(from) -> from + 1 : from + count);
        step = (count != 0 && count < step -> step - count : step);
        s = 0; n = 0; upto = 0; message = 0; count = 0;
        unlock(tail_lock)
      };
      // queue.put.unlocked
#ifndef MUTATE_PUT_WITHOUT_WAKE
      notify_not_empty()
#endif
    :: else -> break
    od;
done:
    atomic { over[_pid] = 1; s = 0; n = 0; count = 0; upto = 0; message = 0; repairs = 0; from = 0; goto ended }
  } unless { dead[_pid] };
  atomic { dying = 0; s = 0; n = 0; count = 0; upto = 0; message = 0; repairs = 0; from = 0 };
ended:
  skip
}

proctype Consumer() provided (dying == 0 || dying == _pid) {
  byte s, n, message, upto;
  byte taken[MESSAGES]; // get_locked's `out`, by number
  bit repairs;
  {
    skip;
again: // get_until, get_many_until
      atomic {
        lock_end(head_lock);
        if
        :: repairs
        :: else -> goto locked
        fi
      };
      repair_head();
locked: // queue.get.locked; find_oldest
      atomic {
        repairs = 0;
        if
        :: head_count != tail_count ->
          s = head_segment;
          assert(owner[s] == LINKED);
          if
          :: HOLDS(s, head_count) -> goto has_item
          :: else -> goto used_up
          fi
        :: else // wait_not_empty
        fi
      };
      atomic { unlock(head_lock); moved[_pid] = 0 };
      atomic {
        if
        :: NOTHING_TO_COME -> goto done
        :: !NOTHING_TO_COME && head_count == tail_count && !moved[_pid] -> asleep[_pid] = 1
        :: else -> goto again
        fi
      };
      atomic {
        if
        :: !asleep[_pid] -> goto again
        :: asleep[_pid] && deaths > 0 && head_count != tail_count -> asleep[_pid] = 0; goto again // kSliceOver
        :: NOTHING_TO_COME -> asleep[_pid] = 0; goto done
        fi
      };
used_up:
      advance();
advanced:
      s = head_segment;
has_item: // get_locked
      atomic {
        upto = head_count + RUN;
        if
        :: upto > tail_count -> upto = tail_count
        :: else
        fi;
        if
        :: upto > first[s] + CELLS -> upto = first[s] + CELLS
        :: else
        fi;
        n = head_count;
        do
        :: n < upto -> taken[n] = CELL(s, n); assert(taken[n] != 0); n++ // EXACT: never half written
        :: else -> break
        od;
        n = 0; s = 0
      };
      atomic {
        claimed[_pid] = 1;
        head_owed = takes[_pid] + upto - head_count;
#ifndef MUTATE_GET_WITHOUT_INTENT
        head_intent = _pid;
        head_upto = upto // queue.get.intent
#endif
      };
#ifdef NOTES
      note_sequence[_pid] = 0; // queue.get.note_wiped
      note_tag[_pid] = taken[head_count]; // queue.get.note_tagged
      note_sequence[_pid] = upto; // queue.get.noted
#endif
#ifdef MUTATE_COMMIT_FIRST
      atomic { commit(upto); n = upto - 1 };
#else
      n = head_count;
#endif
adopting:
      atomic { // queue.get.adopted
        message = taken[n];
        if
        :: !IS_INLINE(message) -> assert(block[message] == LINKED); block[message] = _pid
        :: else
        fi;
        message = 0;
        n++;
        if
        :: n < upto -> goto adopting
        :: else -> n = upto - 1
        fi
      };
#ifndef MUTATE_COMMIT_FIRST
      atomic { n = head_count; commit(upto) }; // queue.get.committed
#endif
      takes[_pid] = takes[_pid] + upto - n; // queue.get.owed
      head_intent = 0; // queue.get.cleared
      atomic { unlock(head_lock) }; // queue.get.unlocked
#ifndef MUTATE_GET_WITHOUT_WAKE
      notify_not_full();
#endif
      atomic { // the caller has its items
        do
        :: n < upto ->
          message = taken[n];
          if
          :: !IS_INLINE(message) -> assert(block[message] == _pid); block[message] = FREED // BLOCKS; discard
          :: else
          fi;
          taken[n] = 0;
          message = 0;
          n++
        :: else -> break
        od;
        pending[_pid] = 0;
        upto = 0;
        n = 0;
        goto again
      };
done:
    atomic { over[_pid] = 1; s = 0; n = 0; repairs = 0; upto = 0; goto ended }
  } unless { dead[_pid] };
  atomic {
    dying = 0; s = 0; n = 0; message = 0; repairs = 0; upto = 0;
    taken[0] = 0; taken[1] = 0; taken[2] = 0; taken[3] = 0
  };
ended:
  skip
}

// What must be true of a dead consumer after settle_dead.
inline check_taker(taker) {
  d_step {
    assert(takes[taker] == COMMITTED(taker)); // OWED
#ifdef NOTES
    s = note_sequence[taker];
    if
    :: s != 0 && s <= head_count -> assert(got_by[s - 1] == taker && put_as[s - 1] == note_tag[taker]) // NOTE
    :: else -> s = 0
    fi;
    assert(pending[taker] == 0 || pending[taker] == s);
#endif
    s = 0;
    n = 0
  }
}

// Session::sweep_process: MessageQueue::sweep, then the blocks of the dead. Number 6 follows when number 5 has died.
proctype Sweeper() provided (dying == 0 || dying == _pid) {
  byte s, n, count, message, gone;
  bit repairs, holds;
  {
    do
    :: atomic { gone == 0 && (_pid == 5 || dead[5]) && dead[1] && !swept[1] -> gone = 1 }
    :: atomic { gone == 0 && (_pid == 5 || dead[5]) && dead[2] && !swept[2] -> gone = 2 }
    :: atomic { gone == 0 && (_pid == 5 || dead[5]) && dead[3] && !swept[3] -> gone = 3 }
    :: atomic { gone == 0 && (_pid == 5 || dead[5]) && dead[4] && !swept[4] -> gone = 4 }
    :: atomic { gone == 0 && _pid == 6 && dead[5] && !swept[5] -> gone = 5 }
    :: gone != 0 ->
#ifndef MUTATE_SWEEP_WITHOUT_SETTLING
      // settle_dead(tail_)
      holds = tail_lock == gone;
      if
      :: holds || tail_intent == gone ->
        atomic {
          if
          :: tail_lock == gone -> tail_lock = DIED // mark_owner_died
          :: else
          fi
        };
        atomic { lock_end(tail_lock) };
        if
        :: repairs -> repair_tail()
        :: else
        fi;
        atomic { unlock(tail_lock); repairs = 0 }
      :: else
      fi;
      // settle_dead(head_)
      holds = head_lock == gone;
      if
      :: holds || head_intent == gone ->
        atomic {
          if
          :: head_lock == gone -> head_lock = DIED
          :: else
          fi
        };
        atomic { lock_end(head_lock) };
        if
        :: repairs -> repair_head()
        :: else
        fi;
        atomic { unlock(head_lock); repairs = 0 }
      :: else
      fi;
#endif
      if
      :: gone == 3 || gone == 4 -> check_taker(gone)
      :: else
      fi;
      notify_not_empty();
      notify_not_full();
      atomic { // free_all_of
        n = 1;
        do
        :: n <= MESSAGES -> block[n] = (block[n] == gone -> FREED : block[n]); n++
        :: else -> break
        od;
        n = 1;
        do
        :: n <= SEGMENTS -> owner[n] = (owner[n] == gone -> FREED : owner[n]); n++
        :: else -> break
        od;
        n = 0;
        swept[gone] = 1;
        gone = 0;
        holds = 0; repairs = 0
      }
    :: atomic {
        GONE(1) && GONE(2) && GONE(3) && GONE(4) && (_pid == 5 || dead[5] || over[5]) && gone == 0 &&
        (!dead[1] || swept[1]) && (!dead[2] || swept[2]) && (!dead[3] || swept[3]) && (!dead[4] || swept[4]) &&
        (_pid == 5 || !dead[5] || swept[5]) ->
        over[_pid] = 1;
        goto ended
      }
    od
  } unless { dead[_pid] };
  atomic { dying = 0; s = 0; n = 0; count = 0; message = 0; gone = 0; repairs = 0; holds = 0 };
ended:
  skip
}

inline kill(victim) {
  dead[victim] = 1;
  deaths++;
  dying = victim
}
#define MAY_DIE(victim) (deaths < DEATHS && !dead[victim] && !over[victim])

// SIGKILL.
proctype Killer() provided (dying == 0) {
end:
  do
  :: atomic { MAY_DIE(1) -> asleep[1] = 0; kill(1) }
  :: atomic { MAY_DIE(2) -> asleep[2] = 0; kill(2) }
  :: atomic { MAY_DIE(3) -> asleep[3] = 0; kill(3) }
  :: atomic { MAY_DIE(4) -> asleep[4] = 0; kill(4) }
#ifndef UNSWEPT
  :: atomic { MAY_DIE(5) -> kill(5) }
#endif
  od
}

// What is left when all is over.
inline check_end() {
  d_step {
    assert(dead[3] || head_count == tail_count);
#ifndef ONE_CONSUMER
    assert(dead[4] || head_count == tail_count);
#endif
#ifndef UNSWEPT
    n = 1;
    do
    :: n <= MESSAGES -> // BLOCKS
      if
      :: block[n] == LINKED ->
        s = head_count;
        do
        :: s < tail_count && put_as[s] != n -> s++
        :: else -> break
        od;
        assert(s < tail_count)
      :: else -> assert(block[n] == FREED)
      fi;
      n++
    :: else -> break
    od;
    n = head_count;
    do
    :: n < tail_count -> assert(IS_INLINE(put_as[n]) || block[put_as[n]] == LINKED); n++
    :: else -> break
    od;
    // CHAIN
    s = head_segment;
    do
    :: s != 0 -> assert(owner[s] == LINKED); owner[s] = FREED; s = next[s]
    :: else -> break
    od;
    if
    :: spare != 0 -> assert(owner[spare] == LINKED); owner[spare] = FREED
    :: else
    fi;
    n = 1;
    do
    :: n <= SEGMENTS -> assert(owner[n] == FREED); n++
    :: else -> break
    od
#endif
  }
}

// In the place of one that a configuration does without: the others' numbers stay.
proctype Absent() {
end:
  false
}

init {
  byte s, n;
  atomic {
    run Producer(1, 1 + PUTS, RUN);
#ifdef ONE_PRODUCER
    over[2] = 1;
    run Absent();
#else
    run Producer(3, 4, 1);
#endif
    run Consumer();
#ifdef ONE_CONSUMER
    over[4] = 1;
    run Absent();
#else
    run Consumer();
#endif
#ifndef UNSWEPT
    run Sweeper();
    run Sweeper();
#endif
    run Killer()
  };
#ifdef UNSWEPT
  GONE(1) && GONE(2) && GONE(3) && GONE(4);
#else
  (over[5] || dead[5]) && over[6];
#endif
  check_end()
}
