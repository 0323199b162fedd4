// The processor: how many this process may use, and the pause of a spinning loop.
#pragma once

namespace freethreading::os {

// Tells the processor that this is a spin-wait loop.
inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Processors in this process's affinity mask when it was first asked, at least 1.
int available_cpus() noexcept;

}  // namespace freethreading::os
