#include "matrix_unit.h"

#ifdef ACMIX_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace acmix {
namespace {

// arch_prctl's ARCH_GET_XCOMP_SUPP and ARCH_REQ_XCOMP_PERM, and XFEATURE_XTILEDATA.
constexpr long kSupported = 0x1021, kAsk = 0x1023, kTileData = 18;

bool found() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned of_bfloat16 = 1u << 22, tiles = 1u << 24, words = 1u << 30;  // words: AVX512BW
  if ((d & of_bfloat16) == 0 || (d & tiles) == 0 || (b & words) == 0) return false;
  uint64_t features = 0;
  return ::syscall(SYS_arch_prctl, kSupported, &features) == 0 && (features >> kTileData & 1) != 0;
}

}  // namespace

bool has_matrix_unit() {
  static const bool has = found();
  return has;
}

bool may_use_matrix_unit() {
  static const bool may = has_matrix_unit() && ::syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
  return may;
}

}  // namespace acmix
#endif
