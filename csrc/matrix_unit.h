#pragma once

namespace acmix {

// Whether this processor has a matrix unit for bfloat16 (AMX), and the system lets this process use it, which has to be asked
// for.
bool has_matrix_unit();

}  // namespace acmix
