// The shared lock's protocol: core/src/sync/lock.cpp, with the parts of parking.cpp, memory/process_table.cpp and the
// sweeper that it rests on. The words are those of the code; `lock.*` in a comment is the FT_CRASH_POINT at that place.
//
// Three processes take and release one lock, the first ROUNDS times, the others once less, but once. Up to DEATHS of them
// (or of the sweepers) die, each at any moment: the killer runs between any two steps, and a step is one access to memory
// that others see, or one system call. Sweepers sweep the slots of the dead, or do not (never: -DUNSWEPT); a swept slot is
// used again, by a process of the next generation.
//
// Proved, for every interleaving:
//   EXCLUSION   one live process at most is between its lock_until() and its unlock().
//   TOLD        whoever takes the lock first after its holder died gets kOwnerDied, and nobody else does.
//   FREE        a word without HELD and GRANTED is 0 (lock_word.hpp).
//   NO_HANG     every process that is not killed comes to its end: there is neither a deadlock (spin's invalid end states)
//               nor a cycle (spin's non-progress cycles). Until the first death this rests on wakes alone: see SLICES.
//
// SLICES. A waiter's slice may end at any time. Until somebody has died only SLICES of them do, so that no proof rests on
// them; then as many as need be, as it is they that make up for the wake of a dead waker. A slice whose end would change
// nothing (it is not the first slice, the word is held and says SLEEPERS and STARVED, its owner lives) is left out: so a
// hang is a deadlock. TIMEOUTS calls have a deadline.
//
// STEPS. A loop of load, look and compare-and-swap that begins anew where the swap fails is one step: nothing is done in
// between, so it is as if the load came right before the swap that succeeds. try_lock() in lock_until() is part of the
// first such step.
//
// Abstracted:
//   - Memory is sequentially consistent: the orders that lock.cpp names are a matter of the sanitizers' tests.
//   - Spinning, which only looks. Times: "has waited kStarving", "the deadline has passed" may be so at any look behind the
//     first park. An interrupted wait is one that runs into its deadline.
//   - A process has one thread. futex_wake wakes any sleeper, not the first.
//   - Private memory and forks (a clean exit with disown(), reassign(), grants that were copied), robust_ locks.
//   - Generations do not wrap around: a slot is used twice at most.
//
// -DMUTATE_... leaves a step out; tools/check-models sees to it that each is caught.
// A hang after fewer than DEATHS deaths shows in the configuration with fewer: here the killer may still go on.
// check: -DROUNDS=2 -DDEATHS=0 -DSLICES=2 -DTIMEOUTS=2 -DUNSWEPT cycles
// check: -DROUNDS=2 -DDEATHS=1 -DUNSWEPT cycles
// check: -DROUNDS=1 -DDEATHS=2 -DUNSWEPT
// check: -DROUNDS=1 -DDEATHS=1 -DSLICES=0 -DTIMEOUTS=0 cycles
// check: -DROUNDS=1 -DDEATHS=2 -DSLICES=0 -DTIMEOUTS=0

#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#ifndef SLICES
#define SLICES 1
#endif
#ifndef TIMEOUTS
#define TIMEOUTS 1
#endif
#define PROCESSES 3

// The bits of the word.
#define kOwner     7
#define kHeld      8
#define kSleepers  16
#define kStarved   32
#define kGranted   64
#define kOwnerDied 128

// An OwnerId: slot and generation. Slots are counted from 1.
#ifdef MUTATE_NO_GENERATION
#define OWNER(slot)       (slot)
#define SLOT(owner)       (owner)
#define IS_CURRENT(owner) (true)
#else
#define OWNER(slot)       ((slot) + PROCESSES * generation[slot])
#define SLOT(owner)       (((owner) - 1) % PROCESSES + 1)
#define IS_CURRENT(owner) (((owner) - 1) / PROCESSES == generation[SLOT(owner)])
#endif
// Place::liveness
#define HAS_LEFT(owner) (!IS_CURRENT(owner) || free[SLOT(owner)])
#define HAS_DIED(owner) (IS_CURRENT(owner) && dead[SLOT(owner)] && !free[SLOT(owner)])

byte word;                      // Lock::word_
bit asleep[PROCESSES + 1];      // in futex_wait on the word
bit dead[PROCESSES + 1];        // killed; stays so until the slot is used again
bit free[PROCESSES + 1];        // the slot was swept, and nobody has it
byte generation[PROCESSES + 1];
bit over[PROCESSES + 1];        // came to its end
byte deaths;
byte dying;                     // killed just now: nobody else goes on before it is gone
byte slices = SLICES;
byte timeouts = TIMEOUTS;

byte holder;                    // the live process in its section; 0: none
bit untold;                     // a holder died, and nobody was told

// Whether a parked waiter will change something after its slice.
#define MAY_CHANGE(w) (IS_OPEN(w) || ((w) & kSleepers) == 0 || ((w) & (kHeld | kStarved)) == kHeld || MAY_REPAIR(w))
#ifdef MUTATE_NO_LIVENESS
#define MAY_REPAIR(w) false
#else
#define MAY_REPAIR(w) (((w) & kHeld) != 0 && ((w) & kOwner) != 0 && (HAS_DIED((w) & kOwner) || HAS_LEFT((w) & kOwner)))
#endif

#define FREE assert((word & (kHeld | kGranted)) != 0 || word == 0)

// futex_wake(word_, 1): how many it woke. Part of an atomic step.
inline wake(count) {
  if
  :: asleep[1] -> asleep[1] = 0; count = 1
  :: asleep[2] -> asleep[2] = 0; count = 1
  :: asleep[3] -> asleep[3] = 0; count = 1
  :: !asleep[1] && !asleep[2] && !asleep[3] -> count = 0
  fi
}

#define IS_OPEN(w) ((((w) & kGranted) != 0 && parked) || \
                    (((w) & kGranted) == 0 && (((w) & kHeld) == 0 || ((w) & kOwnerDied) != 0)))

// The lock is this process's: `died`: and it was told kOwnerDied.
inline enter(died) {
  assert(holder == 0);     // EXCLUSION
  assert(untold == died);  // TOLD
  untold = 0;
  holder = me
}

// Acquisition::take
inline take() {
  d_step {
    died = (word & kOwnerDied) != 0;
#ifdef MUTATE_NO_SLEEPERS_ON_TAKE
    word = self | kHeld | (word & kSleepers);
#else
    word = self | kHeld | (parked -> kSleepers : word & kSleepers);
#endif
    enter(died);
    died = 0
  }
}

proctype Process(byte me; byte rounds) provided (dying == 0 || dying == _pid) { // me is _pid
  byte self, w, round;
  byte since; // 1: has parked, 2: so long ago that it starves
  bit parked, died, woken, impatient;
born:
  {
    self = OWNER(me);
    do
    :: atomic { round < rounds -> round++ };
look: // Lock::lock_until, Acquisition::run
      atomic {
        if
        :: IS_OPEN(word) -> take(); goto section
        :: else
        fi;
        if
        :: timeouts > 0 && since -> timeouts--; impatient = 1; goto repair // deadline.passed()
        :: true
        fi;
        // sleep
        w = word | kSleepers;
        if
        :: (word & kHeld) != 0 && since != 0 -> w = w | kStarved // has waited kStarving
        :: since != 2 || (word & kHeld) == 0
        fi;
        word = w;
        FREE;
        since = (since == 0 -> 1 : since)
      };
      // lock.wait.announced; park: futex_wait
      atomic {
        if
        :: word == w -> asleep[me] = 1; w = 0
        :: else -> w = 0; goto look // kChanged
        fi
      };
      atomic {
        if
        :: !asleep[me] -> parked = 1; goto look // lock.wait.woken: kWoken
#ifndef MUTATE_NO_SLICES
        :: asleep[me] && (deaths > 0 || slices > 0) && (!parked || MAY_CHANGE(word)) ->
          asleep[me] = 0;
          parked = 1;
          since = 2;
          slices = (deaths > 0 -> slices : slices - 1)
        :: asleep[me] && timeouts > 0 -> // deadline.passed()
          timeouts--;
          asleep[me] = 0;
          parked = 1;
          impatient = 1
#endif
        fi
      };
      // lock.wait.woken: kSliceOver

repair:
      atomic {
        w = word;
        if
        :: (w & kHeld) == 0 || (w & kOwner) == 0 ->
          if
          :: IS_OPEN(w) -> take(); goto section
          :: else -> goto not_repaired
          fi
#ifdef MUTATE_NO_LIVENESS
        :: else -> goto not_repaired
#else
        :: else
#endif
        fi
      };
      atomic { // place_.liveness(owner)
        if
        :: HAS_LEFT(w & kOwner)
        :: HAS_DIED(w & kOwner) -> goto take_over
        :: else -> goto not_repaired // kAlive
        fi
      };
      atomic { // swept since: held by nobody
        if
        :: word == w -> word = w & ~kOwner
        :: else
        fi;
        goto not_repaired
      };
take_over:
      atomic {
#ifdef MUTATE_REPAIR_STORES
        if
        :: true ->
#else
        if
        :: (word & kHeld) != 0 && (word & kOwner) == (w & kOwner) ->
#endif
          word = self | kHeld | (word & kSleepers);
          enter(1);
          goto section // lock.repair.taken
        :: else -> goto not_repaired
        fi
      };
not_repaired:
      atomic {
        w = 0;
        if
        :: !impatient -> goto look
        :: else -> impatient = 0
        fi
      };
      atomic { // give_up
#ifndef MUTATE_GIVE_UP_SILENTLY
        if
        :: parked && IS_OPEN(word) -> take(); goto section
        :: parked && !IS_OPEN(word) -> word = word | kSleepers
        :: !parked
        fi;
#endif
        goto next_round
      };

section:
      atomic { w = 0; parked = 0; since = 0; impatient = 0; assert(holder == me) };
      atomic { // unlock, unlock_marked
        holder = 0;
        w = word;
        assert((w & kHeld) != 0 && (w & kOwner) == self);
        word = ((w & kSleepers) != 0 && (w & kStarved) != 0 -> kGranted | kSleepers | self : 0);
        FREE;
        if
        :: (w & kSleepers) == 0 -> goto next_round
        :: else -> w = word
        fi
      };
      // lock.unlock.stored
#ifndef MUTATE_UNLOCK_WITHOUT_WAKE
      atomic {
        wake(woken);
        if
        :: woken || w == 0 -> goto next_round
        :: else // granted, and nobody slept
        fi
      };
#ifndef MUTATE_GRANT_STAYS
      atomic {
        if
        :: word == w -> word = 0
        :: else -> goto next_round
        fi
      };
      atomic { wake(woken) };
#endif
#endif
next_round:
      atomic { w = 0; woken = 0; parked = 0; since = 0; impatient = 0 }
    :: atomic { round == rounds -> over[me] = 1; w = 0; goto ended }
    od
  } unless { dead[me] };

  atomic {
    dying = 0;
    w = 0; woken = 0; parked = 0; since = 0; impatient = 0; died = 0; self = 0; round = 0;
    if
    :: generation[me] == 0
    :: goto ended
    fi
  };
end_of_the_dead: // its slot may be used again, once it was swept: ProcessTable::claim, adopt
  atomic { free[me]; free[me] = 0; dead[me] = 0; goto born };
ended:
  skip
}

// SIGKILL. The kernel takes a sleeper off the futex.
inline kill(victim) {
  dead[victim] = 1;
  deaths++;
  slices = 0;
  asleep[victim] = 0;
  if
  :: (word & kHeld) != 0 && (word & kOwner) == OWNER(victim) -> untold = 1
  :: else
  fi;
  if
  :: holder == victim -> holder = 0
  :: else
  fi;
  dying = victim
}

#define MAY_DIE(victim) (deaths < DEATHS && !dead[victim] && !over[victim])

proctype Killer() provided (dying == 0) {
end:
  do
  :: atomic { MAY_DIE(1) -> kill(1) }
  :: atomic { MAY_DIE(2) -> kill(2) }
  :: atomic { MAY_DIE(3) -> kill(3) }
  od
}

// Session::sweep_process, and within it Lock::mark_owner_died. A sweeper that dies is followed by another one, which begins
// again; or nobody sweeps any more.
proctype Sweeper() provided (dying == 0) {
  byte gone, owner;
  bit sleepers;
again:
  atomic { gone = 0; owner = 0; sleepers = 0 };
end:
  atomic {
    if
    :: dead[1] && !free[1] -> gone = 1
    :: dead[2] && !free[2] -> gone = 2
    :: dead[3] && !free[3] -> gone = 3
    :: deaths > 0 -> goto ended // nobody sweeps
    fi;
    owner = OWNER(gone);
#ifdef MUTATE_SWEEP_FREES_FIRST
    free[gone] = 1;
    generation[gone]++
#endif
  };
  atomic { // mark_owner_died
    if
    :: (word & kHeld) != 0 && (word & kOwner) == owner ->
      sleepers = (word & kSleepers) != 0;
      word = (word & ~(kOwner | kSleepers | kStarved)) | kOwnerDied
    :: else
    fi
  };
  // lock.mark_owner_died.stored
  if
  :: atomic { deaths < DEATHS -> deaths++; slices = 0; goto again }
  :: atomic {
      if
      :: sleepers -> wake(sleepers)
      :: else
      fi
    }
  fi;
#ifndef MUTATE_SWEEP_FREES_FIRST
  atomic { free[gone] = 1; generation[gone]++ }; // end_sweep
#endif
  goto again;
ended:
  skip
}

init {
  atomic {
    run Process(1, ROUNDS);
    run Process(2, (ROUNDS > 1 -> ROUNDS - 1 : 1));
    run Process(3, (ROUNDS > 1 -> ROUNDS - 1 : 1));
    run Killer();
#ifndef UNSWEPT
    run Sweeper()
#endif
  };
#if SLICES + TIMEOUTS > 0
  atomic { slices = 0; timeouts = 0 } // at any moment: from here on nothing but wakes helps, until somebody dies
#endif
}
