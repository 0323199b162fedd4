#include "freethreading/crash_point.hpp"

#ifdef FT_CRASH_POINTS

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

namespace freethreading {

namespace {

CrashPointSite*& first_site() noexcept {
  static CrashPointSite* first = nullptr;
  return first;
}

// What is armed in this process. The name is written while `left` is 0, so a site that sees it positive sees the name.
struct Armed {
  char name[96] = {};
  std::atomic<int> left{0};
  CrashKind kind = CrashKind::kKill;
};

Armed& armed() noexcept {
  static Armed value;
  return value;
}

void arm(std::string_view name, int nth, CrashKind kind) noexcept {
  Armed& target = armed();
  target.left.store(0);
  const std::size_t length = std::min(name.size(), sizeof target.name - 1);
  std::memcpy(target.name, name.data(), length);
  target.name[length] = '\0';
  target.kind = kind;
  target.left.store(name.empty() ? 0 : nth);
}

void arm_from_environment() noexcept {
  const char* text = std::getenv("FT_CRASH_AT");
  if (text == nullptr) {
    return;
  }
  std::string_view rest = text;
  const auto next = [&rest] {
    const std::size_t colon = std::min(rest.find(':'), rest.size());
    const std::string_view part = rest.substr(0, colon);
    rest.remove_prefix(std::min(colon + 1, rest.size()));
    return part;
  };
  const std::string_view name = next();
  int nth = 1;
  CrashKind kind = CrashKind::kKill;
  while (!rest.empty()) {
    const std::string_view part = next();
    if (part == "exit") {
      kind = CrashKind::kExit;
    } else if (part == "stop") {
      kind = CrashKind::kStop;
    } else if (!part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos) {
      nth = std::atoi(part.data());
    }
  }
  arm(name, nth, kind);
}

}  // namespace

CrashPointSite::CrashPointSite(const char* site_name) noexcept : name(site_name), next(first_site()) {
  first_site() = this;
}

void CrashPointSite::reached() noexcept {
  static const bool environment_read = (arm_from_environment(), true);
  static_cast<void>(environment_read);
  Armed& target = armed();
  if (target.left.load() <= 0 || std::strcmp(name, target.name) != 0 || target.left.fetch_sub(1) != 1) {
    return;
  }
  switch (target.kind) {
    case CrashKind::kKill:
      kill(getpid(), SIGKILL);
      break;
    case CrashKind::kExit:
      _exit(3);
    case CrashKind::kStop:
      kill(getpid(), SIGSTOP);
      break;
  }
}

void set_crash_point(std::string_view name, int nth, CrashKind kind) noexcept { arm(name, nth, kind); }

std::vector<std::string_view> list_crash_points() {
  std::vector<std::string_view> names;
  for (const CrashPointSite* site = first_site(); site != nullptr; site = site->next) {
    names.emplace_back(site->name);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace freethreading

#endif
