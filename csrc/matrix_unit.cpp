#include "matrix_unit.h"

#ifdef ACMIX_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace acmix {
namespace {

constexpr long kAsk = 0x1023, kTileData = 18;  // arch_prctl's ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA

bool asked() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned of_bfloat16 = 1u << 22, tiles = 1u << 24, words = 1u << 30;  // words: AVX512BW
  if ((d & of_bfloat16) == 0 || (d & tiles) == 0 || (b & words) == 0) return false;
  return ::syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}

}  // namespace

bool has_matrix_unit() {
  static const bool has = asked();
  return has;
}

}  // namespace acmix
#endif
