// What the program, the supervisor, the zygote and its spares say to each other: packets of these structs, descriptors beside them.
//
//   program -> supervisor   StartRequest + the worker's descriptors, where one is to be started
//   supervisor -> program   Ready, once
//                           or, with what modules are to be imported in a file beside it, kImport
//   supervisor -> zygote    ZygoteOrder; the same file beside kImport
//   zygote -> supervisor    ZygoteAnswer: kSpare + the spare's socket, one for each kFork, in order; kImported, one for each kImport;
//                           kSuccessor: whoever answers from here on is that process, which has more modules
//   supervisor -> spare     StartOrder + the worker's descriptors, once
//
// src/freethreading/_zygote.py reads ZygoteOrder and writes ZygoteAnswer (struct formats "<Q" and "<iii"), _worker_process.py reads
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
  kWithdraw,  // of one that was kStart or kStandby: it is to be kFailed, unless it has a process already
  kEnd,       // the worker is to be killed if it is in the task that its record's to_end names
  kImport,    // there is no record: workers that are asked for later are to have these modules
  kRenew,     // there is no record: they are to have no modules of before
};

struct StartRequest {
  std::uint64_t offset;  // the WorkerRecord's Handle
  std::uint64_t generation;
  RequestKind kind;
  WorkerToken token;
};

enum class OrderKind : std::uint64_t { kFork = 0, kImport };

struct ZygoteOrder {
  OrderKind kind;
};
static_assert(sizeof(ZygoteOrder) == 8);

enum class AnswerKind : std::int32_t { kSpare = 0, kSuccessor, kImported };

struct ZygoteAnswer {
  AnswerKind kind;
  std::int32_t pid;    // of a kSpare, 0: not forked; of a kSuccessor
  std::int32_t error;  // errno, where it was not
};
static_assert(sizeof(ZygoteAnswer) == 12);

struct StartOrder {
  WorkerToken token;
};
static_assert(sizeof(StartOrder) == 40);

struct Ready {
  std::uint32_t owner;  // the supervisor's slot in the session; kNobody: it could not attach
  std::int32_t pid;
};

}  // namespace freethreading::protocol
