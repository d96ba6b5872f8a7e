// How a row of a map lies in scratch memory, its borders included.
#pragma once
#include "rows.h"

namespace acmix::ACMIX_ISA {

enum class Border { reflected, zero };

// A row of `size` columns and `reach` more on each side, for `queries` output columns at `stride`. The keys that one
// offset of the window shows to neighbouring queries lie side by side: at a stride of s, in s phases.
class PackedRow {
 public:
  PackedRow(int64_t size, int64_t reach, int64_t queries, int64_t stride, Border border)
      : size_(size), reach_(reach), stride_(stride),
        phase_(((queries - 1) * stride + 2 * reach + stride) / stride), own_(0), borders_(0), zero_(border == Border::zero), memory_(2 * Scratch<int64_t>::size_of(phase_ * stride)) {
    columns_ = memory_.take(entries());
    border_ = memory_.take(entries());
    for (int64_t c = 0; c < entries(); ++c) {
      const int64_t column = c - reach;
      const bool inside = column >= 0 && column < size;
      // What lies beyond the right border's reflection belongs to no query; any column will do there.
      columns_[place(c)] = border == Border::zero && !inside ? -1 : reflect(least(column, size - 1 + reach), size);
      if (inside) ++own_;
      else border_[borders_++] = place(c);
    }
  }

  int64_t entries() const { return phase_ * stride_; }
  // Where padded column `column` lies; for an offset of the window, where the keys of all queries begin.
  ACMIX_INLINE int64_t place(int64_t column) const {
    if (stride_ == 1) return column;
    if (stride_ == 2) return (column & 1) * phase_ + (column >> 1);
    return column % stride_ * phase_ + column / stride_;
  }
  // The map's column that an entry shows, or -1 for a zero.
  int64_t column(int64_t entry) const { return columns_[entry]; }

  // The map's own columns; the border is still to be completed.
  template <class T>
  void read(const View& view, int64_t offset, int64_t step, T* to) const {
    if (stride_ == 1) {
      read_row(view, offset, own_, step, to + reach_);
      return;
    }
    for (int64_t phase = 0; phase < stride_; ++phase) {
      const int64_t first = first_of(phase);
      read_row(view, offset + first * step, own_of(first), stride_ * step, to + place(reach_ + first));
    }
  }

  // Whether rows of this tensor take the short way below.
  bool is_plain(const View& view) const {
    return stride_ <= 2 && view.dtype == Dtype::float32 && view.strides[4] == 1 && (zero_ || size_ > reach_);
  }

  // A plain row, complete: the map's own columns and, where the border reflects, one reflection on each side. What else
  // there is keeps the zeros of new scratch memory.
  ACMIX_INLINE void read_plain(const float* from, float* to) const {
    place_plain([&](int64_t c) { return load(from + c); }, [&](int64_t c) { return from[c]; }, to);
  }

  // The same times `factor`, less `minus` before that where it is not null.
  ACMIX_INLINE void read_plain(const float* from, const float* minus, float factor, float* to) const {
    if (minus == nullptr) {
      place_plain([&](int64_t c) { return load(from + c) * factor; }, [&](int64_t c) { return from[c] * factor; }, to);
    } else {
      place_plain([&](int64_t c) { return (load(from + c) - load(minus + c)) * factor; },
                  [&](int64_t c) { return (from[c] - minus[c]) * factor; }, to);
    }
  }

  // Less another tensor's columns, those that were read.
  template <class T>
  void subtract(const View& view, int64_t offset, int64_t step, T* to) const {
    if (stride_ == 1) {
      subtract_row(view, offset, own_, step, to + reach_);
      return;
    }
    for (int64_t phase = 0; phase < stride_; ++phase) {
      const int64_t first = first_of(phase);
      subtract_row(view, offset + first * step, own_of(first), stride_ * step, to + place(reach_ + first));
    }
  }

  // Copies or zeros beyond the borders, from the columns that stand there already.
  template <class T>
  void complete(T* to) const {
    for (int64_t i = 0; i < borders_; ++i) {
      const int64_t entry = border_[i], column = columns_[entry];
      to[entry] = column < 0 ? T(0) : to[place(reach_ + column)];
    }
  }

  // All entries times `factor`.
  template <class T>
  void scale(T* to, T factor) const {
    for (int64_t i = 0; i < entries(); ++i) to[i] *= factor;
  }

  // Ones where the map is, zeros beyond.
  template <class T>
  void ones(T* to) const {
    for (int64_t c = 0; c < entries(); ++c) to[c] = columns_[c] < 0 ? T(0) : T(1);
  }

  // Add the entries where their columns stand: what padding copied comes back to its source.
  template <class T>
  void add_back(const T* from, T* to) const {
    if (stride_ == 1) {
      for (int64_t c = 0; c < own_; ++c) to[c] += from[reach_ + c];
    } else {
      for (int64_t c = 0; c < own_; ++c) to[c] += from[place(reach_ + c)];
    }
    for (int64_t i = 0; i < borders_; ++i) {
      if (columns_[border_[i]] >= 0) to[columns_[border_[i]]] += from[border_[i]];
    }
  }

 private:
  // Columns of a plain row to their places, from functions that give a vector of them or one: whole vectors, the last
  // one where the row ends; one by one in rows shorter than that.
  template <class V, class E>
  ACMIX_INLINE void place_plain(V vector, E entry, float* to) const {
    constexpr int64_t lanes = Lanes<float>::count;
    if (size_ < stride_ * lanes) {
      for (int64_t c = 0; c < size_; ++c) to[place(reach_ + c)] = entry(c);
    } else if (stride_ == 1) {
      for (int64_t c = 0; c + lanes < size_; c += lanes) store(to + reach_ + c, vector(c));
      store(to + reach_ + size_ - lanes, vector(size_ - lanes));
    } else {
      for (int64_t c = 0; c + 2 * lanes < size_; c += 2 * lanes) split(vector(c), vector(c + lanes), c, to);
      split(vector(size_ - 2 * lanes), vector(size_ - lanes), size_ - 2 * lanes, to);
    }
    if (zero_) return;
    for (int64_t c = 1; c <= reach_; ++c) {
      to[place(reach_ - c)] = entry(c);
      to[place(reach_ + size_ - 1 + c)] = entry(size_ - 1 - c);
    }
  }

  // Columns from `column` on to the two phases of a stride of two.
  ACMIX_INLINE void split(Vector<float> left, Vector<float> right, int64_t column, float* to) const {
    store(to + place(reach_ + column), every_second<0>(left, right));
    store(to + place(reach_ + column + 1), every_second<1>(left, right));
  }

  // The first column of the map in a phase of padded columns, and how many follow it there.
  int64_t first_of(int64_t phase) const { return ((phase - reach_) % stride_ + stride_) % stride_; }
  int64_t own_of(int64_t first) const { return first < own_ ? (own_ - first + stride_ - 1) / stride_ : 0; }

  int64_t size_, reach_, stride_, phase_, own_, borders_;
  bool zero_;
  Scratch<int64_t> memory_;
  int64_t *columns_, *border_;
};

}  // namespace acmix::ACMIX_ISA
