// Block: owns the block of the region in which a message came, and gives its payload as a writable buffer: an array that came
// in it lies there. Its end frees the block, and with it the references that the message carries; in a child of a fork its end
// frees nothing, and its parent keeps the block as long as the child lives.
#include "freethreading/memory/session.hpp"
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
  std::uint64_t forks;
  Message message;
};

Block* block(PyObject* self) { return reinterpret_cast<Block*>(self); }

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  if (block(self)->place != nullptr && block(self)->place->is_self(block(self)->owner)) {
    block(self)->place->session()->discard_unseen(block(self)->message, block(self)->forks);
  }
  type->tp_free(self);
  Py_DECREF(type);
}

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  const Message& message = block(self)->message;
  std::byte* begin = payload_of(*block(self)->place, message);
  return PyBuffer_FillInfo(view, self, begin, static_cast<Py_ssize_t>(message.size), 0, flags);
}

PyType_Slot slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)},
    {Py_tp_doc, const_cast<char*>("What a message came in. The shared objects that it carries live as long, and its bytes are read where they lie.")},
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
  block(made)->forks = place.session()->forks();
  block(made)->message = message;
  return made;
}

int add_block(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kBlock, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
