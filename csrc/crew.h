// Threads that each take images of their own, and help one another with the last ones.
#pragma once
#include <memory>

#include "joint_work.h"
#include "shares.h"
#include "torch_tensors.h"

namespace acmix {

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
