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

// Units first..last of a call, in one number: they change together.
struct UnitRange {
  uint32_t first, last;

  static UnitRange of(uint64_t packed) { return {static_cast<uint32_t>(packed), static_cast<uint32_t>(packed >> 32)}; }
  uint64_t packed() const { return static_cast<uint64_t>(last) << 32 | first; }
};

// What one thread is about: units of a call, which others may take from as long as it is open. It begins with the first ones, they
// with the last: so each has about the same ones in the next stage and in the next call, and finds them in its cache.
class alignas(64) JointWork {
 public:
  // All units of a call; done when this returns. In parts that so many threads can share, if there are more than one.
  template <class Call>
  void run(const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t), int64_t threads) {
    if (threads == 1 || units > UINT32_MAX) return kernel(call, 0, units);
    call_ = &call, kernel_ = reinterpret_cast<void (*)()>(kernel), threads_ = threads;
    take_ = [](const JointWork& work, int64_t first, int64_t last) {
      reinterpret_cast<void (*)(const Call&, int64_t, int64_t)>(work.kernel_)(*static_cast<const Call*>(work.call_), first, last);
    };
    left_ = UnitRange{0, static_cast<uint32_t>(units)}.packed();
    open_ = true;
    const Closing closing{*this};
    take_parts(true);
  }

  // Takes from what is open; whether there was any.
  bool help() {
    if (!open_) return false;  // who only looks is no visitor, or one would always be there
    const Counted visitor(visitors_);
    return open_ && take_parts(false);
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
  bool take_parts(bool own) {
    bool any = false;
    for (uint64_t left = left_;;) {
      const UnitRange all = UnitRange::of(left);
      if (all.first >= all.last) return any;
      const auto size = static_cast<uint32_t>(part_of(all.last - all.first, threads_));
      const UnitRange part = own ? UnitRange{all.first, all.first + size} : UnitRange{all.last - size, all.last};
      const UnitRange rest = own ? UnitRange{part.last, all.last} : UnitRange{all.first, part.first};
      if (!left_.compare_exchange_weak(left, rest.packed())) continue;
      take_(*this, part.first, part.last);
      any = true;
      left = left_;
    }
  }

  const void* call_ = nullptr;
  void (*kernel_)() = nullptr;
  void (*take_)(const JointWork&, int64_t first, int64_t last) = nullptr;
  int64_t threads_ = 0;
  std::atomic<uint64_t> left_{0};
  std::atomic<int> visitors_{0};
  std::atomic<bool> open_{false};
};

}  // namespace acmix
