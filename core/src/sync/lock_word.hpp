// The word of a Lock.
//
//   bits   name        meaning
//   0-21   OWNER       HELD: the process that holds it; GRANTED: the process that granted it; else 0
//   22     HELD        somebody holds it
//   23     SLEEPERS    somebody may sleep on the word
//   24     STARVED     a sleeper has waited kStarving: the next unlock() grants
//   25     GRANTED     free, but only for a waiter that has parked
//   26     OWNER_DIED  with HELD, and no OWNER: the next locker gets it and is told so
//
//   word                  meaning                   try_lock()  waiter                          unlock()
//   0                     free                      takes       takes                           refused
//   HELD|p                held by process p         refused     sets SLEEPERS, parks            -> 0
//   HELD|p|SLEEPERS       and maybe sleepers        refused     parks                           -> 0, wakes one
//   HELD|..|STARVED       and one of them starves   refused     parks                           -> GRANTED, wakes one
//   HELD                  left by a clean exit      refused     parks                           -> 0
//   HELD|OWNER_DIED       its owner died            refused     takes: kOwnerDied               -> 0
//   GRANTED|p|SLEEPERS    reserved                  refused     has parked: takes; else parks   refused
//
// Invariant FREE: a word without HELD and GRANTED is 0, so that one compare-and-swap with 0 locks.
// Invariant SLEEPERS: whoever sleeps has seen SLEEPERS in the word, or a waiter that was woken is on its way; a waiter
// that was woken puts SLEEPERS back, whether it takes the lock or leaves.
// Invariant OWNER: HELD with an OWNER names a live process, or one whose death the next waiter or the sweeper repairs.
#pragma once

#include <cstdint>

#include "freethreading/place.hpp"

namespace freethreading::lock_word {

inline constexpr std::uint32_t kOwner = kOwnerMask;
inline constexpr std::uint32_t kHeld = 1U << 22;
inline constexpr std::uint32_t kSleepers = 1U << 23;
inline constexpr std::uint32_t kStarved = 1U << 24;
inline constexpr std::uint32_t kGranted = 1U << 25;
inline constexpr std::uint32_t kOwnerDied = 1U << 26;
static_assert((kOwner & (kHeld | kSleepers | kStarved | kGranted | kOwnerDied)) == 0);
static_assert(kHeld == 1U << kOwnerBits);

}  // namespace freethreading::lock_word
