// Where the threads of a team wait for each other, some thirty times a token: spinning costs a fraction of a microsecond, the
// barrier of an OpenMP runtime several. After a while of spinning in vain a thread gives its core away, for there may be more
// threads than cores.
#pragma once
#include <sched.h>

#include <atomic>
#include <cstdint>

namespace oxl {

class Barrier {
 public:
  void wait(int threads) {
    if (threads == 1) return;
    const uint32_t now = generation.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
      arrived.store(0, std::memory_order_relaxed);
      generation.store(now + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; generation.load(std::memory_order_acquire) == now; spins++) {
      if (spins < 4000) pause();
      else sched_yield();
    }
  }

 private:
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }

  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<uint32_t> generation{0};
};

}  // namespace oxl
