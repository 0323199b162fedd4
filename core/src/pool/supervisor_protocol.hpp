// What the program, the supervisor, the zygote and its spares say to each other: packets of these structs, descriptors beside them.
//
//   program -> supervisor   StartRequest + the worker's descriptors, where one is to be started
//   supervisor -> program   Ready, once
//   supervisor -> zygote    ForkOrder
//   zygote -> supervisor    ForkAnswer + the spare's socket, one for each order, in order
//   supervisor -> spare     StartOrder + the worker's descriptors, once
//
// src/freethreading/_zygote.py reads ForkOrder and writes ForkAnswer (struct formats "<Q" and "<ii"), _worker_process.py reads
// StartOrder ("<40s").
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

enum class RequestKind : std::uint64_t {
  kStart = 0,
  kStandby,   // to be started where a worker of its crew dies and the program asks for none
  kWithdraw,  // of one that was kStandby: it is to be kFailed, unless it was started already
  kEnd,       // the worker is to be killed if it is in the task that its record's to_end names
};

struct StartRequest {
  std::uint64_t offset;  // the WorkerRecord's Handle
  std::uint64_t generation;
  RequestKind kind;
  WorkerToken token;
};

struct ForkOrder {
  std::uint64_t number;
};
static_assert(sizeof(ForkOrder) == 8);

struct ForkAnswer {
  std::int32_t pid;    // 0: not forked
  std::int32_t error;  // errno, where it was not
};
static_assert(sizeof(ForkAnswer) == 8);

struct StartOrder {
  WorkerToken token;
};
static_assert(sizeof(StartOrder) == 40);

struct Ready {
  std::uint32_t owner;  // the supervisor's slot in the session; kNobody: it could not attach
  std::int32_t pid;
};

}  // namespace freethreading::protocol
