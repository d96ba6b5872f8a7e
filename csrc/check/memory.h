// Memory of exactly so many bytes, so that an access outside is noticed.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace acmix::check {

// On the heap, around which AddressSanitizer watches; or at the end or the beginning of pages between two that nobody may
// touch: there the processor itself notices, masked lanes included, at any optimisation and without a sanitizer.
enum class Place { heap, before_guard, behind_guard };

class Block {
 public:
  Block(size_t size, Place place) : place_(place) {
    if (place == Place::heap) {
      data_ = static_cast<char*>(std::malloc(size));
      if (data_ == nullptr && size > 0) fail();
      return;
    }
    const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE)), inner = (size + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    void* const mapping = ::mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) fail();
    pages_ = static_cast<char*>(mapping);
    if (inner > 0 && ::mprotect(pages_ + page, inner, PROT_READ | PROT_WRITE) != 0) fail();
    data_ = pages_ + page + (place == Place::before_guard ? inner - size : 0);
  }
  ~Block() {
    if (place_ == Place::heap) std::free(data_);
    else ::munmap(pages_, mapped_);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  char* data() const { return data_; }

 private:
  [[noreturn]] static void fail() {
    std::perror("memory");
    std::exit(2);
  }

  Place place_;
  char *data_ = nullptr, *pages_ = nullptr;
  size_t mapped_ = 0;
};

}  // namespace acmix::check
