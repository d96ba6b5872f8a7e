// Runs the kernels of one instruction set, ACMIX_ISA, on the cases of a file, without torch: each case several times, all of
// which must give the same bits. Prints what it is about to do; the tensors of the first run go to another file.
//
// Usage: driver CASES RESULTS [MISSING]   MISSING: bytes that each tensor's memory lacks, to see that it is noticed
#include <algorithm>
#include <cstring>
#include <thread>
#include <type_traits>

#include "../joint_work.h"
#include "../shares.h"
#include "calls.h"

#ifdef ACMIX_ASKS  // for a matrix unit
#include "../matrix_unit.h"
#endif

namespace acmix::ACMIX_ISA {
#ifdef ACMIX_AMX
const Kernels& kernels();
#else
extern const Kernels kernels;
#endif
}  // namespace acmix::ACMIX_ISA

namespace acmix::check {
namespace {

#ifdef ACMIX_AMX
const Kernels& kernels = acmix::ACMIX_ISA::kernels();
#else
const Kernels& kernels = acmix::ACMIX_ISA::kernels;
#endif

enum class Order { at_once, mixed, threads, shares, joint, rows };

struct Run {
  const char* name;
  Place place;
  Order order;
};

// The guard pages first: an access outside ends the program there, before it can harm the heap.
constexpr Run kRuns[] = {{"before a guard page", Place::before_guard, Order::at_once},
                         {"behind a guard page", Place::behind_guard, Order::at_once},
                         {"on the heap", Place::heap, Order::at_once},
                         {"a few units at a time", Place::heap, Order::mixed},
                         {"in threads", Place::heap, Order::threads},
                         {"in threads with shares", Place::heap, Order::shares},
                         {"by a thread that others help", Place::heap, Order::joint},
                         {"some rows after the others", Place::heap, Order::rows}};

struct Range {
  int64_t first, last;
};

// One, two, three units and so on again; the second half of the ranges, backwards, before the first.
std::vector<Range> mixed_ranges(int64_t units) {
  std::vector<Range> ranges;
  for (int64_t first = 0, count = 1; first < units; first += count, count = count % 3 + 1) {
    ranges.push_back({first, std::min(first + count, units)});
  }
  std::rotate(ranges.begin(), ranges.begin() + static_cast<std::ptrdiff_t>(ranges.size() / 2), ranges.end());
  std::reverse(ranges.begin(), ranges.begin() + static_cast<std::ptrdiff_t>(ranges.size() - ranges.size() / 2));
  return ranges;
}

// One thread's work, and two that help it until it is done.
template <class Call>
void jointly(const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t)) {
  JointWork work;
  std::atomic<bool> done{false};
  std::vector<std::thread> helpers;
  for (int i = 0; i < 2; ++i) {
    helpers.emplace_back([&] {
      while (!done) work.help();
    });
  }
  work.run(call, units, kernel, 3);
  done = true;
  for (std::thread& helper : helpers) helper.join();
}

// Each unit by the thread whose share it is, or by one that has done its own.
template <class Call>
void shared(const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t)) {
  constexpr int64_t kThreads = 3;
  Shares shares(kThreads, units);
  std::atomic<int64_t> done{0};
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t unit; (unit = shares.take(t)) >= 0; ++done) kernel(call, unit, unit + 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (done == units && !shares.any()) return;
  std::printf("%lld of %lld units were taken\n", static_cast<long long>(done), static_cast<long long>(units));
  std::exit(2);
}

template <class Call>
void on_units(Order order, const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t)) {
  if (units == 0) return;
  if (order == Order::at_once || order == Order::rows) return kernel(call, 0, units);
  if (order == Order::joint) return jointly(call, units, kernel);
  if (order == Order::shares) return shared(call, units, kernel);
  const std::vector<Range> ranges = mixed_ranges(units);
  if (order == Order::mixed) {
    for (const Range& range : ranges) kernel(call, range.first, range.last);
    return;
  }
  constexpr size_t kThreads = 3;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < ranges.size(); i += kThreads) kernel(call, ranges[i].first, ranges[i].last);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// A forward pass; for Order::rows a third of the output's rows, and then the rest. Where rows are convolved by pairs, an even number.
template <class Call>
void forward(Order order, Call call, int64_t (*units)(const Call&), void (*kernel)(const Call&, int64_t, int64_t)) {
  const int64_t bottom = call.bottom;
  if (order == Order::rows) {
    const bool in_pairs = std::is_same_v<Call, GroupConvolution> && std::strcmp(kernels.name, "portable") != 0;
    call.bottom = in_pairs ? std::min(bottom, (bottom / 3 + 1) / 2 * 2) : bottom / 3;
    on_units(order, call, units(call), kernel);
    call.top = call.bottom, call.bottom = bottom;
  }
  on_units(order, call, units(call), kernel);
}

// With the position code in parts where the kernels take it so.
Attention as_taken(Attention a) {
  if (a.code == nullptr) return a;
  Attention in_parts = a;
  in_parts.position.data = nullptr;
  if (a.out.data == nullptr) in_parts.out = a.grad;
  if (kernels.takes_code_in_parts(in_parts)) return in_parts;
  a.code = nullptr;
  return a;
}

void multiply(Product p, const Run& run) {
  p.by_tiles = kernels.pays_by_tiles != nullptr;  // whether it pays or not
  const size_t size = static_cast<size_t>(kernels.product_panels_size(p)) * sizeof(float);
  const Block panels(size, run.place);
  if (size > 0) ::memset(panels.data(), 0xff, size);  // NaN
  p.panels = reinterpret_cast<float*>(panels.data());
  on_units(run.order, p, kernels.panel_units(p), kernels.arrange_panels);
  on_units(run.order, p, kernels.product_units(p), kernels.multiply);
}

void multiply_rows(RowProducts p, const Run& run) {
  const size_t size = static_cast<size_t>(kernels.turned_size(p)) * sizeof(float);
  const Block turned(size, run.place);
  ::memset(turned.data(), 0xff, size);  // NaN
  p.turned = reinterpret_cast<float*>(turned.data());
  on_units(run.order, p, kernels.turn_units(p), kernels.turn_rows);
  on_units(run.order, p, kernels.row_product_units(p), kernels.multiply_rows);
}

std::vector<std::string> results(const Case& c, const Run& run, size_t missing) {
  const Placed at(c, run.place, missing);
  if (c.kernel == 0) {
    forward(run.order, as_taken(attention_of(c, at)), kernels.attention_forward_units, kernels.attention_forward);
  } else if (c.kernel == 1) {
    const Attention a = as_taken(attention_of(c, at));
    on_units(run.order, a, kernels.attention_backward_units(a), kernels.attention_backward);
  } else if (c.kernel == 2) {
    forward(run.order, convolution_of(c, at), kernels.convolution_forward_units, kernels.convolution_forward);
  } else if (c.kernel == 3) {
    const GroupConvolution g = convolution_of(c, at);
    on_units(run.order, g, kernels.convolution_backward_units(g), kernels.convolution_backward);
  } else if (c.kernel == 4) {
    multiply(product_of(c, at), run);
  } else if (c.kernel == 5) {
    multiply_rows(row_products_of(c, at), run);
  } else if (c.kernel == 6) {
    on_units(run.order, grid_sums_of(c, at), c.numbers[0], kernels.sum_over_grid);
  } else {
    const Mixing m = mixing_of(c, at);
    on_units(run.order, m, m.channels, kernels.compose);
    on_units(run.order, m, m.channels, kernels.pull_back_shifts);
    on_units(run.order, m, m.maps, kernels.pull_back_mix);
  }
  return at.bytes();
}

// Returns how many runs differ from the first one.
int check(const Case& c, int64_t number, size_t missing, std::FILE* to) {
  std::vector<std::string> first;
  int differing = 0;
  for (const Run& run : kRuns) {
    std::printf("case %lld, %s\n", static_cast<long long>(number), run.name);
    std::fflush(stdout);
    std::vector<std::string> found = results(c, run, missing);
    if (first.empty()) first = std::move(found);
    else if (found != first) {
      ++differing;
      std::printf("case %lld, %s: other bits than in the first run\n", static_cast<long long>(number), run.name);
    }
  }
  for (const std::string& bytes : first) std::fwrite(bytes.data(), 1, bytes.size(), to);
  return differing;
}

}  // namespace
}  // namespace acmix::check

int main(int count, char** arguments) {
  using namespace acmix::check;
  if (count < 3) {
    std::fprintf(stderr, "usage: %s CASES RESULTS [MISSING]\n", arguments[0]);
    return 2;
  }
#ifdef ACMIX_ASKS
  if (!acmix::may_use_matrix_unit()) {
    std::fprintf(stderr, "no matrix unit that this process may use\n");
    return 2;
  }
#endif
  Reader reader(arguments[1]);
  std::FILE* const to = std::fopen(arguments[2], "wb");
  if (to == nullptr) return 2;
  const size_t missing = count > 3 ? static_cast<size_t>(std::atoll(arguments[3])) : 0;
  int differing = 0;
  const int64_t cases = reader.number();
  for (int64_t i = 0; i < cases; ++i) differing += check(reader.read_case(), i, missing, to);
  return std::fclose(to) == 0 && differing == 0 ? 0 : 1;
}
