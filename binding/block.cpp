// Block: owns the block of the region in which a message came. Its end frees it, and with it the references that the message
// carries; in a child of a fork its end frees nothing.
#include "freethreading/queue/message.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

struct Block {
  PyObject_HEAD
  Place* place;
  OwnerId owner;
  Message message;
};

Block* block(PyObject* self) { return reinterpret_cast<Block*>(self); }

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  if (block(self)->place != nullptr && block(self)->place->is_self(block(self)->owner)) {
    discard(*block(self)->place, block(self)->message);
  }
  type->tp_free(self);
  Py_DECREF(type);
}

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("What a message came in: keeps the shared objects alive that the message carries.")},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.Block", sizeof(Block), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace

PyObject* block_of(PyObject* self, Message& message) {
  Place& place = place_of(self);
  State* state = state_of(self);
  PyTypeObject* type = state == nullptr ? nullptr : state->type(TypeIndex::kBlock);
  PyObject* made = type == nullptr ? nullptr : type->tp_alloc(type, 0);
  if (made == nullptr) {
    discard(place, message);
    return nullptr;
  }
  block(made)->place = &place;
  block(made)->owner = place.self();
  block(made)->message = message;
  return made;
}

int add_block(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kBlock, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
