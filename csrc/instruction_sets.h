#pragma once
#include "problem.h"

namespace acmix {

constexpr int kMostSets = 4;

// The instruction sets that were compiled in and that this processor has, the best first. Returns how many.
int available(const Kernels** sets);

// The kernels in use: the best available ones, or those that were chosen.
const Kernels& kernels();

// Use the named set from now on, or the best where the name is "auto"; false where it is not available.
bool choose(const char* name);

}  // namespace acmix
