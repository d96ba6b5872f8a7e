// The kernels of a processor with a matrix unit (AMX): those of ACMIX_BASE, but for stage I's product where it is large enough.
#include "matrix_product.h"

namespace acmix::ACMIX_BASE {

extern const Kernels kernels;

}  // namespace acmix::ACMIX_BASE

namespace acmix::ACMIX_ISA {
namespace {

constexpr const Kernels& kBase = ACMIX_BASE::kernels;

int64_t panels_size(const Product& p) { return p.by_tiles ? matrix_panels_size(p) : kBase.product_panels_size(p); }

int64_t panel_units(const Product& p) { return p.by_tiles ? weight_panels(p) : kBase.panel_units(p); }

void arrange(const Product& p, int64_t first, int64_t last) {
  return p.by_tiles ? arrange_matrix_panels(p, first, last) : kBase.arrange_panels(p, first, last);
}

int64_t units(const Product& p) { return p.by_tiles ? MatrixPlan(p).units() : kBase.product_units(p); }

void multiply(const Product& p, int64_t first, int64_t last) {
  return p.by_tiles ? multiply_by_matrix_unit(p, first, last) : kBase.multiply(p, first, last);
}

Kernels with_tiles() {
  Kernels set = kBase;
  set.name = "amx";
  set.pays_by_tiles = pays_by_tiles;
  set.product_panels_size = panels_size, set.panel_units = panel_units, set.arrange_panels = arrange;
  set.product_units = units, set.multiply = multiply;
  return set;
}

}  // namespace

// Made when it is asked for: no other processor may run anything of this file.
const Kernels& kernels() {
  static const Kernels set = with_tiles();
  return set;
}

}  // namespace acmix::ACMIX_ISA
