// FT_CRASH_POINT("queue.put.reserved"): a named instruction at which a test can have the process die.
//
// In a build without FT_CRASH_POINTS it is nothing. In one with it, a process whose environment has
// FT_CRASH_AT="name[:n][:how]" dies the n-th time (1 when left out) it comes by that name: `how` is kill (SIGKILL, when
// left out), exit (_exit(3)) or stop (SIGSTOP, and it goes on when it is continued). Tests in the same process use
// set_crash_point() instead. list_crash_points() gives every name that was compiled in.
#pragma once

#ifdef FT_CRASH_POINTS

#include <string_view>
#include <vector>

namespace freethreading {

enum class CrashKind { kKill, kExit, kStop };

struct CrashPointSite {
  explicit CrashPointSite(const char* site_name) noexcept;
  void reached() noexcept;
  const char* name;
  CrashPointSite* next;
};

// Arms the point `name` for this process (empty: disarms): its `nth` passing from now on dies.
void set_crash_point(std::string_view name, int nth = 1, CrashKind kind = CrashKind::kKill) noexcept;
// Names of all points whose code was linked in (a site registers itself when the program or library is loaded).
std::vector<std::string_view> list_crash_points();

}  // namespace freethreading

// NOLINTBEGIN(cppcoreguidelines-macro-usage,bugprone-macro-parentheses): a statement with a site of its own
#define FT_CRASH_POINT(name_literal)                                       \
  do {                                                                     \
    struct FtSite {                                                        \
      static constexpr const char* text() noexcept { return name_literal; } \
    };                                                                     \
    ::freethreading::crash_site<FtSite>.reached();                         \
  } while (false)
// NOLINTEND(cppcoreguidelines-macro-usage,bugprone-macro-parentheses)

namespace freethreading {
template <class Site>
inline CrashPointSite crash_site{Site::text()};
}  // namespace freethreading

#else
#define FT_CRASH_POINT(name_literal) static_cast<void>(0)
#endif
