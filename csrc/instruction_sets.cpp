#include "instruction_sets.h"

#include "matrix_unit.h"

#include <atomic>
#include <cstring>

namespace acmix {

namespace portable {
extern const Kernels kernels;
}
#ifdef ACMIX_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif
#ifdef ACMIX_AMX
namespace amx {
const Kernels& kernels();
}
#endif

namespace {

std::atomic<const Kernels*> chosen{nullptr};

#ifdef ACMIX_AMX
std::atomic<bool> refused{false};  // the matrix unit, to this process

// A matrix unit is asked for when it is to be used, not before.
bool may_use(const Kernels& set) {
  if (set.pays_by_tiles == nullptr || may_use_matrix_unit()) return true;
  refused = true;
  return false;
}
#else
bool may_use(const Kernels&) { return true; }
#endif

}  // namespace

int available(const Kernels** sets) {
  int count = 0;
#ifdef ACMIX_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
#ifdef ACMIX_AMX
  if (has_avx512 && has_matrix_unit() && !refused) sets[count++] = &amx::kernels();
#endif
  if (has_avx512) sets[count++] = &avx512::kernels;
  if (has_avx2) sets[count++] = &avx2::kernels;
#endif
  sets[count++] = &portable::kernels;
  return count;
}

const Kernels& kernels() {
  if (const Kernels* set = chosen.load(std::memory_order_relaxed)) return *set;
  const Kernels* sets[kMostSets];
  for (int i = 0, count = available(sets); i < count; ++i) {
    if (may_use(*sets[i])) return *sets[i];
  }
  return portable::kernels;
}

bool choose(const char* name) {
  if (std::strcmp(name, "auto") == 0) {
    chosen.store(nullptr, std::memory_order_relaxed);
    return true;
  }
  const Kernels* sets[kMostSets];
  const int count = available(sets);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(sets[i]->name, name) != 0) continue;
    if (!may_use(*sets[i])) return false;
    chosen.store(sets[i], std::memory_order_relaxed);
    return true;
  }
  return false;
}

}  // namespace acmix
