// The steps that the processes of queue.pml are made of, and the repairs. See there.

// Gate::notify_one. Part of an atomic step.
inline notify(one, other) {
  moved[one] = 1;
  moved[other] = 1;
  if
  :: asleep[one] -> asleep[one] = 0
  :: asleep[other] -> asleep[other] = 0
  :: !asleep[one] && !asleep[other]
  fi
}
inline notify_not_empty() { atomic { notify(3, 4) } }
inline notify_not_full() { atomic { notify(1, 2) } }

// lock_end. Part of an atomic step. `repairs`: its holder was dead.
inline lock_end(lock) {
  if
  :: lock == 0 -> lock = _pid; repairs = 0
  :: lock == DIED || (lock != 0 && lock != DIED && dead[lock]) -> lock = _pid; repairs = 1
  fi
}
inline unlock(lock) { assert(lock == _pid); lock = 0 }

// QueueRecovery::repair_tail
inline repair_tail() {
  atomic { s = tail_segment; n = (s == 0 -> head_segment : next[s]) };
#ifndef MUTATE_TAIL_CHAIN_NOT_MENDED
  if
  :: n != 0 ->
    atomic { assert(owner[n] != FREED); owner[n] = LINKED }; // queue.repair.tail_linked
    atomic { tail_segment = n; s = n }
  :: else
  fi;
#endif
  if
  :: spare != 0 ->
    atomic { assert(owner[spare] != FREED); owner[spare] = LINKED };
#ifndef MUTATE_SPARE_TWICE
    if
    :: spare == s -> spare = 0
    :: else
    fi
#endif
  :: else
  fi;
  notify_not_empty();
  atomic { n = tail_count; count = (tail_intent != 0 -> tail_upto : tail_count) };
#ifndef MUTATE_PUT_NOT_UNDONE
  do
  :: atomic { n < count -> // queue.repair.put_adopted
      message = CELL(s, n);
      if
      :: !IS_INLINE(message) -> assert(block[message] != FREED); block[message] = _pid
      :: else
      fi;
      message = 0;
      n++
    }
  :: else -> break
  od;
#endif
  tail_intent = 0; // queue.repair.put_cleared
#ifndef MUTATE_PUT_NOT_UNDONE
  n = tail_count;
  do
  :: atomic { n < count -> // discard
      message = CELL(s, n);
      if
      :: !IS_INLINE(message) -> assert(block[message] == _pid); block[message] = FREED
      :: else
      fi;
      message = 0;
      n++
    }
  :: else -> break
  od;
#endif
  atomic { s = 0; n = 0; count = 0 }
}

// QueueRecovery::repair_head
inline repair_head() {
#ifndef MUTATE_HEAD_SEGMENT_NOT_LINKED
  atomic {
    if
    :: head_segment != 0 -> assert(owner[head_segment] != FREED); owner[head_segment] = LINKED
    :: else
    fi
  };
#endif
  notify_not_full();
  if
  :: head_intent != 0 ->
    if
    :: head_upto == head_count ->
#ifndef MUTATE_OWED_NOT_SET
      atomic { // queue.repair.get_owed
        if
        :: head_owed != 0 && claimed[head_intent] -> takes[head_intent] = head_owed
        :: else
        fi
      }
#else
      skip
#endif
    :: else ->
#ifndef MUTATE_GET_NOT_UNDONE
      n = head_count;
      do
      :: n < head_upto -> // queue.repair.get_linked
        atomic {
          message = CELL(head_segment, n);
          if
          :: !IS_INLINE(message) -> assert(block[message] != FREED); block[message] = LINKED
          :: else
          fi;
          message = 0;
          n++
        }
      :: else -> break
      od;
      n = 0;
#endif
#ifndef MUTATE_NOTE_NOT_WIPED
      atomic {
        if
        :: note_sequence[head_intent] == head_count + 1 -> note_sequence[head_intent] = 0 // queue.repair.note_wiped
        :: else
        fi
      }
#endif
    fi;
    atomic { assert(takes[head_intent] == COMMITTED(head_intent)); head_intent = 0 } // OWED
  :: else
  fi
}

// QueueRecovery::extend
inline extend() {
#ifndef MUTATE_EXTEND_WITHOUT_INTENT
  atomic { tail_intent = _pid; tail_upto = tail_count };
#endif
  atomic {
    if
    :: spare != 0 -> s = spare
    :: else ->
      s = 1;
      do
      :: owner[s] != FREED -> s++
      :: else -> break
      od;
      assert(s <= SEGMENTS);
      owner[s] = _pid
    fi;
    next[s] = 0;
    first[s] = tail_count
  }; // queue.extend.allocated
  atomic {
    if
    :: tail_segment == 0 -> head_segment = s
    :: else -> next[tail_segment] = s
    fi
  }; // queue.extend.chained
  spare = 0; // queue.extend.spare_used
  owner[s] = LINKED; // queue.extend.linked
  tail_segment = s; // queue.extend.moved
  tail_intent = 0
}

// QueueRecovery::advance and keep_as_spare
inline advance() {
  atomic {
    n = next[s];
    assert(n != 0);
#ifndef MUTATE_ADVANCE_KEEPS_OWED
    head_owed = 0;
#endif
    head_intent = _pid;
    head_upto = head_count
  }; // queue.advance.intent
  owner[s] = _pid; // queue.advance.adopted
  head_segment = n; // queue.advance.moved
  head_intent = 0;
  atomic { // keep_as_spare
    if
    :: tail_lock == 0 && spare == 0 -> tail_lock = _pid
    :: else -> assert(owner[s] == _pid); owner[s] = FREED; goto advanced // queue.advance.freed
    fi
  };
#ifndef MUTATE_SPARE_WITHOUT_INTENT
  atomic { tail_intent = _pid; tail_upto = tail_count }; // queue.advance.sparing
#endif
  spare = s; // queue.advance.spared
  owner[s] = LINKED; // queue.advance.spare_linked
  tail_intent = 0;
  unlock(tail_lock)
}

// PUBLISH and COMMIT, with the proof's book-keeping.
inline publish(upto) {
  do
  :: tail_count < upto -> put_as[tail_count] = CELL(tail_segment, tail_count); tail_count++
  :: else -> break
  od
}
inline commit(upto) {
  pending[_pid] = upto;
  do
  :: head_count < upto ->
    assert(got_by[head_count] == 0 && put_as[head_count] != 0 && put_as[head_count] == taken[head_count]); // EXACT
    got_by[head_count] = _pid;
    head_count++
  :: else -> break
  od
}
