#include "memory/destroy.hpp"

#include "freethreading/pool/blob_log.hpp"
#include "freethreading/pool/worker_record.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "freethreading/sync/barrier.hpp"
#include "freethreading/sync/condition.hpp"
#include "freethreading/sync/lock.hpp"
#include "freethreading/sync/rlock.hpp"

namespace freethreading::memory {

void destroy_body(Place& place, ObjectHeader& object) noexcept {
  switch (object.type) {
    case ObjectType::kCondition:
      object.body<Condition>()->destroy(place);
      break;
    case ObjectType::kBarrier:
      object.body<Barrier>()->destroy(place);
      break;
    case ObjectType::kQueue:
    case ObjectType::kSimpleQueue:
    case ObjectType::kChannel:
      object.body<MessageQueue>()->destroy(place);
      break;
    case ObjectType::kWorker: {
      auto& record = *object.body<WorkerRecord>();
      Message payload;
      payload.block = record.payload.exchange(kNoOffset);
      discard(place, payload);
      break;
    }
    case ObjectType::kBlobLog:
      object.body<BlobLog>()->destroy(place);
      break;
    case ObjectType::kNone:
    case ObjectType::kLock:
    case ObjectType::kRLock:
    case ObjectType::kSemaphore:
    case ObjectType::kBoundedSemaphore:
    case ObjectType::kEvent:
    case ObjectType::kPool:
    case ObjectType::kAtomicInt64:
    case ObjectType::kSharedBuffer:
      break;  // they own nothing
  }
}

void sweep_body(Place& place, ObjectHeader& object, OwnerId gone, bool left_cleanly) noexcept {
  const auto recover = [&](auto* lock) {
    if (left_cleanly) {
      lock->disown(gone);
    } else {
      lock->mark_owner_died(gone);
    }
  };
  switch (object.type) {
    case ObjectType::kLock:
      recover(object.body<Lock>());
      break;
    case ObjectType::kRLock:
      recover(object.body<RLock>());
      break;
    case ObjectType::kCondition:
      object.body<Condition>()->sweep(place, gone);
      break;
    case ObjectType::kBarrier:
      object.body<Barrier>()->sweep(place, gone);
      break;
    case ObjectType::kQueue:
    case ObjectType::kSimpleQueue:
    case ObjectType::kChannel:
      object.body<MessageQueue>()->sweep(place, gone);
      break;
    case ObjectType::kBlobLog:
      object.body<BlobLog>()->sweep(place, gone);
      break;
    case ObjectType::kNone:
    case ObjectType::kSemaphore:
    case ObjectType::kBoundedSemaphore:
    case ObjectType::kEvent:
    case ObjectType::kWorker:
    case ObjectType::kPool:
    case ObjectType::kAtomicInt64:
    case ObjectType::kSharedBuffer:
      break;  // nobody holds them
  }
}

}  // namespace freethreading::memory
