// The pages that forks of one process write to, so that a later fork has them before it needs them.
//
// A page that two processes share is copied when one first writes to it: some microseconds, a few hundred times in the life of a
// fork of an interpreter. Forks that live alike write to the same pages. One of the first notes its own, in memory that all share;
// the others have them copied at once, which costs less than a fault for each. Nothing of this changes what is in the memory.
#pragma once

namespace freethreading::os {

// In the process that will fork, before it does; and again where its forks will live otherwise from now on. Until one of these has
// noted, they have what was noted before.
void expect_forks() noexcept;
// In a fork that has lived its life: notes what it has written to, if none has before, and it was not too much for all to copy.
void note_written_pages() noexcept;
// In a new fork, first of all: copies what was noted.
void copy_written_pages() noexcept;

}  // namespace freethreading::os
