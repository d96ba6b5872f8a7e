// Threads that each take images of their own, and help one another with the last ones.
#pragma once
#include <memory>

#include "joint_work.h"
#include "torch_tensors.h"

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

// Who does a stage: all threads, or one, with those that have no more images of their own.
class Crew {
 public:
  Crew() = default;
  Crew(JointWork& own, const Shares& shares, int64_t threads) : own_(&own), shares_(&shares), threads_(threads) {}

  bool is_all() const { return own_ == nullptr; }

  template <class Call>
  void run(const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t)) const {
    if (is_all()) in_parallel(call, units, kernel);
    else own_->run(call, units, kernel, shares_->any() ? 1 : threads_);
  }

 private:
  JointWork* own_ = nullptr;
  const Shares* shares_ = nullptr;
  int64_t threads_ = 0;
};

// Calls body(crew, slot, first image) for all images, `together` at a time.
template <class F>
void by_images(int64_t threads, int64_t images, int64_t together, const F& body) {
  Shares shares(threads, (images + together - 1) / together);
  std::atomic<int64_t> busy{0};
  const auto count = static_cast<size_t>(threads);
  const std::unique_ptr<JointWork[]> works(new JointWork[count]);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t number, int64_t) {
    {
      const Counted working(busy);
      const Crew crew(works[static_cast<size_t>(number)], shares, threads);
      for (int64_t part; (part = shares.take(number)) >= 0;) body(crew, shares.slot(number, part), part * together);
    }
    // A thread that has not begun yet will find no image: nobody waits for it.
    while (busy > 0) {
      bool any = false;
      for (size_t other = 0; other < count; ++other) any = works[other].help() || any;
      if (!any) std::this_thread::yield();
    }
  });
}

}  // namespace acmix
