// ft-supervisor PROGRAM_PID ZYGOTE_ARGV...: see docs/design/workers.md. Descriptors 3 (the program), 4 (the session's region)
// and 5 (the zygote's preparation) are open.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "os/children.hpp"
#include "pool/supervisor_protocol.hpp"
#include "supervisor/supervision.hpp"

int main(int argc, char** argv) {
  using namespace freethreading;  // NOLINT(google-build-using-namespace)
  if (argc < 3) {
    static_cast<void>(std::fputs("ft-supervisor is a part of freethreading, which starts it by itself\n", stderr));
    return 2;
  }
  os::close_from(protocol::kPreparation + 1);
  os::close_standard_input();
  if (!os::move_to_orphan()) {
    return 1;
  }
  constexpr int kDecimal = 10;
  supervisor::Supervision supervision(static_cast<int>(std::strtol(argv[1], nullptr, kDecimal)),
                                      std::vector<std::string>(argv + 2, argv + argc));
  std::_Exit(supervision.run());  // without ending the sweeper's thread first
}
