// What the files of a pool worker's loops share (call_serve.cpp, job_serve.cpp).
#pragma once

#include "call_context.hpp"
#include "calls.hpp"
#include "channel.hpp"
#include "worker_terms.hpp"

namespace freethreading::binding {

// Whether a call of the user's runs; see runs_user_code().
void mark_user_code(bool runs);

// What each call of a worker's needs; borrowed.
struct Server {
  PyObject* results;
  mutable CallContexts contexts;
  PyObject* answer;  // (done, value or exception) -> (kind, payload, shared objects)
};

// call() in a context of its own; signal handlers see that it is the user's code. Null with its exception set.
template <class Call>
PyObject* serve_call(const Server& server, Call call) {
  return server.contexts.run([&] {
    mark_user_code(true);
    PyObject* value = call();
    mark_user_code(false);
    return value;
  });
}

// Writes an outcome, one of both null, into a message, which has a head already; `encoded`: the value's encoding where the codec
// takes it and the caller has it, or null. Where that fails, writes why it did. False: that fails as well, and an error is set.
bool write_outcome(const Server& server, PyObject* value, PyObject* exception, const Encoding* encoded, Message* message);

// run_job(), a function of the module (job_serve.cpp).
PyObject* run_job(PyObject* module, PyObject* const* args, Py_ssize_t nargs);

}  // namespace freethreading::binding
