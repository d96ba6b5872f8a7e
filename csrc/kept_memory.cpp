// Memory for what a forward pass keeps for its backward pass, and for what that writes on the way. A training step asks for
// the same blocks again and again; from the system each would come page by page, cleared, while the kernels wait for it. A block
// comes back when its storage dies, so whoever still holds it, a hook or a second backward pass, holds the block too. Such
// storage cannot be resized.
#include <pthread.h>

#include <mutex>
#include <vector>

#include "torch_tensors.h"

namespace acmix {
namespace {

constexpr int64_t kMostIdle = int64_t{128} << 20;  // entries of float32 that are held for later, in all
constexpr int64_t kSpare = 8;                     // a block may be larger than what it is used for by this part

class IdleBlocks {
 public:
  // The smallest block that fits, or none.
  std::optional<Tensor> take(int64_t entries) {
    const std::lock_guard<std::mutex> lock(mutex_);
    size_t best = blocks_.size();
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const int64_t size = blocks_[i].numel();
      if (size < entries || size > entries + entries / kSpare) continue;
      if (best == blocks_.size() || size < blocks_[best].numel()) best = i;
    }
    if (best == blocks_.size()) return std::nullopt;
    Tensor block = blocks_[best];
    blocks_.erase(blocks_.begin() + best);
    entries_ -= block.numel();
    return block;
  }

  // What has been idle for longest goes where there is too much.
  void give(const Tensor& block) {
    if (block.numel() > kMostIdle) return;
    std::vector<Tensor> dropped;  // when the lock is open again
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.push_back(block);
    entries_ += block.numel();
    size_t first = 0;
    for (; entries_ > kMostIdle; ++first) entries_ -= blocks_[first].numel();
    dropped.assign(blocks_.begin(), blocks_.begin() + first);
    blocks_.erase(blocks_.begin(), blocks_.begin() + first);
  }

  void release() {
    std::vector<Tensor> dropped;
    const std::lock_guard<std::mutex> lock(mutex_);
    dropped.swap(blocks_);
    entries_ = 0;
  }

  int64_t entries() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return entries_;
  }

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
  std::vector<Tensor> blocks_;  // the one that has been idle for longest comes first
  int64_t entries_ = 0;
};

IdleBlocks& idle_blocks();

// A process that is forked meanwhile would find the lock closed, and nobody to open it.
IdleBlocks* made() {
  pthread_atfork([] { idle_blocks().lock(); }, [] { idle_blocks().unlock(); }, [] { idle_blocks().unlock(); });
  return new IdleBlocks();
}

// Never destroyed: storages may die after everything else has.
IdleBlocks& idle_blocks() {
  static IdleBlocks& blocks = *made();
  return blocks;
}

[[maybe_unused]] const IdleBlocks& kMadeWhenLoaded = idle_blocks();  // before a process could be forked in the middle of it

// [batch, 3, heads, width, height, columns] of float32, with arbitrary values.
Tensor kept_memory(int64_t batch, int64_t heads, int64_t width, int64_t height, int64_t columns) {
  const std::vector<int64_t> sizes{batch, 3, heads, width, height, columns};
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * sizes[i];
  const int64_t entries = strides[0] * batch;
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  std::optional<Tensor> idle = idle_blocks().take(entries);
  const Tensor block = idle.has_value() ? *idle : torch::stable::empty({entries}, ScalarType::Float, std::nullopt, cpu);
  return torch::stable::from_blob(block.data_ptr(), sizes, strides, cpu, ScalarType::Float,
                                  [block](void*) { idle_blocks().give(block); });
}

void release_memory() { idle_blocks().release(); }

// Bytes that are held for later.
int64_t idle_memory() { return idle_blocks().entries() * static_cast<int64_t>(sizeof(float)); }

}  // namespace
}  // namespace acmix

STABLE_TORCH_LIBRARY_FRAGMENT(acmix_cpu, m) {
  m.def("kept_memory(int batch, int heads, int width, int height, int columns) -> Tensor");
  m.def("release_memory() -> ()");
  m.def("idle_memory() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CompositeExplicitAutograd, m) {
  m.impl("kept_memory", TORCH_BOX(&acmix::kept_memory));
  m.impl("release_memory", TORCH_BOX(&acmix::release_memory));
  m.impl("idle_memory", TORCH_BOX(&acmix::idle_memory));
}
