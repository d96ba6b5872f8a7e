// Who takes which part of a call.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace acmix {

// Parts of a call of which every thread has its own: it finds in its cache what it wrote in the call, or the pass, before. One
// that has done its own takes others'.
class Shares {
 public:
  Shares(int64_t threads, int64_t parts)
      : threads_(threads), parts_(parts), left_(parts), taken_(new std::atomic<int64_t>[static_cast<size_t>(threads)]()) {}

  bool any() const { return left_ > 0; }

  // What a thread does next, or -1 where nothing is left.
  int64_t take(int64_t thread) {
    for (int64_t i = 0; i < threads_; ++i) {
      const int64_t owner = (thread + i) % threads_;
      std::atomic<int64_t>& taken = taken_[static_cast<size_t>(owner)];
      if (owner + threads_ * taken >= parts_) continue;
      const int64_t part = owner + threads_ * taken.fetch_add(1);
      if (part >= parts_) continue;
      --left_;
      return part;
    }
    return -1;
  }

  // The thread's own memory, or the part's where there are fewer of these.
  int64_t slot(int64_t thread, int64_t part) const { return parts_ < threads_ ? part : thread; }

 private:
  int64_t threads_, parts_;
  std::atomic<int64_t> left_;
  std::unique_ptr<std::atomic<int64_t>[]> taken_;
};

}  // namespace acmix
