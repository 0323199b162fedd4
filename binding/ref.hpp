// Ref: one owned reference to a Python object.
//
// Never alive across a detach: its destructor must not run in a thread that the interpreter ends at re-attaching.
#pragma once

#include <utility>

#include "compat.hpp"

namespace freethreading::binding {

class Ref {
 public:
  Ref() = default;
  // Takes over a new reference, as the C API returns it; null where the call failed.
  static Ref take(PyObject* object) { return Ref(object); }
  // Shares a borrowed one.
  static Ref share(PyObject* object) { return Ref(Py_XNewRef(object)); }

  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  ~Ref() { Py_XDECREF(object_); }

  [[nodiscard]] PyObject* get() const { return object_; }
  // Gives the reference to the caller.
  [[nodiscard]] PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  explicit Ref(PyObject* object) : object_(object) {}
  PyObject* object_ = nullptr;
};

}  // namespace freethreading::binding
