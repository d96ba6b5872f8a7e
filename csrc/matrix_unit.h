#pragma once

namespace acmix {

// Whether this processor and its system have a matrix unit for bfloat16 (AMX).
bool has_matrix_unit();

// Asks the system to let this process use it, once; false where it does not. Signals then need more memory on their stacks.
bool may_use_matrix_unit();

}  // namespace acmix
