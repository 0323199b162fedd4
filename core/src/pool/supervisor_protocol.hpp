// What the program, the supervisor and the zygote say to each other: packets of these structs, descriptors beside them.
//
//   program -> supervisor   StartRequest + the worker's descriptors
//   supervisor -> program   Ready, once
//   supervisor -> zygote    StartOrder + the same descriptors
//   zygote -> supervisor    StartAnswer, one for each order, in order
//
// src/freethreading/_zygote.py reads StartOrder and writes StartAnswer (struct formats "<Q40s" and "<Qii").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "freethreading/memory/object.hpp"
#include "freethreading/pool/supervisor.hpp"

namespace freethreading::protocol {

// Descriptors as the supervisor and the zygote find them when they begin.
inline constexpr int kControl = 3;
inline constexpr int kRegion = 4;
inline constexpr int kPreparation = 5;
inline constexpr int kDeathPipe = 6;  // the zygote's only

struct StartRequest {
  std::uint64_t offset;  // the WorkerRecord's Handle
  std::uint64_t generation;
  WorkerToken token;
};

struct StartOrder {
  std::uint64_t ticket;
  WorkerToken token;
};
static_assert(sizeof(StartOrder) == 48);

struct StartAnswer {
  std::uint64_t ticket;
  std::int32_t pid;    // 0: not started
  std::int32_t error;  // errno, where it was not
};
static_assert(sizeof(StartAnswer) == 16);

struct Ready {
  std::uint32_t owner;  // the supervisor's slot in the session; kNobody: it could not attach
  std::int32_t pid;
};

}  // namespace freethreading::protocol
