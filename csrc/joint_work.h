// One thread's work on a call, of which others take a part.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>

namespace acmix {

// Counts as long as it is there.
template <class Number>
struct Counted {
  std::atomic<Number>& count;
  explicit Counted(std::atomic<Number>& of) : count(of) { ++count; }
  ~Counted() { --count; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
};

// How many units a thread takes of those that are left to some. Where others use the machine too, one thread is often faster
// than the next, and equal parts would let it wait.
inline int64_t part_of(int64_t left, int64_t threads) {
  const int64_t size = left * 2 / (3 * threads);
  return size > 1 ? size : 1;
}

// What one thread is about: units of a call, which others may take from as long as it is open.
class alignas(64) JointWork {
 public:
  // All units of a call; done when this returns. In parts that so many threads can share, if there are more than one.
  template <class Call>
  void run(const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t), int64_t threads) {
    if (threads == 1) return kernel(call, 0, units);
    call_ = &call, kernel_ = reinterpret_cast<void (*)()>(kernel), units_ = units, threads_ = threads;
    take_ = [](const JointWork& work, int64_t first, int64_t last) {
      reinterpret_cast<void (*)(const Call&, int64_t, int64_t)>(work.kernel_)(*static_cast<const Call*>(work.call_), first, last);
    };
    next_ = 0;
    open_ = true;
    const Closing closing{*this};
    take_parts();
  }

  // Takes from what is open; whether there was any.
  bool help() {
    if (!open_) return false;  // who only looks is no visitor, or one would always be there
    const Counted visitor(visitors_);
    return open_ && take_parts();
  }

 private:
  // Nobody comes in any more, and those who are in finish: what they have taken is then done.
  struct Closing {
    JointWork& work;
    ~Closing() {
      work.open_ = false;
      while (work.visitors_ > 0) std::this_thread::yield();
    }
  };

  // Large parts at first and small ones in the end: each costs its own scratch memory, and nobody shall wait long.
  bool take_parts() {
    bool any = false;
    for (int64_t first = next_; first < units_;) {
      const int64_t size = part_of(units_ - first, threads_);
      if (!next_.compare_exchange_weak(first, first + size)) continue;
      take_(*this, first, first + size);
      any = true;
      first = next_;
    }
    return any;
  }

  const void* call_ = nullptr;
  void (*kernel_)() = nullptr;
  void (*take_)(const JointWork&, int64_t first, int64_t last) = nullptr;
  int64_t units_ = 0, threads_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> visitors_{0};
  std::atomic<bool> open_{false};
};

}  // namespace acmix
