// Calls of kernels in files. All numbers are int64 or double as they lie in memory; a file begins with how many calls follow.
// A call is its kernel, how many numbers, those numbers, the scale, how many tensors, and the tensors: a dtype, or -1 where
// there is none, five strides, how many bytes, and those bytes. The meaning of the numbers and the order of the tensors stand
// in calls.h.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace acmix::check {

struct Tensor {
  int64_t dtype;
  int64_t strides[5];
  std::string bytes;
};

struct Case {
  int64_t kernel;
  std::vector<int64_t> numbers;
  double scale;
  std::vector<Tensor> tensors;
};

class Reader {
 public:
  explicit Reader(const char* path) : file_(std::fopen(path, "rb")) {
    if (file_ == nullptr) fail(path);
  }
  ~Reader() { std::fclose(file_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  Case read_case() {
    Case c{};
    c.kernel = number();
    c.numbers.resize(static_cast<size_t>(number()));
    for (int64_t& n : c.numbers) n = number();
    read(&c.scale, sizeof c.scale);
    c.tensors.resize(static_cast<size_t>(number()));
    for (Tensor& t : c.tensors) {
      t.dtype = number();
      for (int64_t& stride : t.strides) stride = number();
      t.bytes.resize(static_cast<size_t>(number()));
      read(&t.bytes[0], t.bytes.size());
    }
    return c;
  }

  int64_t number() {
    int64_t n = 0;
    read(&n, sizeof n);
    return n;
  }

 private:
  void read(void* to, size_t size) {
    if (std::fread(to, 1, size, file_) != size) fail("the file of cases is too short");
  }

  [[noreturn]] static void fail(const char* what) {
    std::perror(what);
    std::exit(2);
  }

  std::FILE* file_;
};

}  // namespace acmix::check
