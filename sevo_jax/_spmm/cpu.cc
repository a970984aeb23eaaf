// The product for CPUs: base + scale * (A x) in one pass, for a matrix A of compressed rows.
//
// Features of a row of the result are summed in registers, in the order of the row's entries, so
// that neither threads nor their number change a digit. Rows are dealt to XLA's own threads so that
// each gets about as many entries. What limits large tables is the wait for rows that are in no
// cache; those of the next entries are asked for ahead of their use.

#include <algorithm>
#include <cstdint>
#include <memory>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

#define INLINE __attribute__((always_inline)) static inline

constexpr int64_t kCacheLine = 64;
constexpr int64_t kEntriesAhead = 8;
constexpr int64_t kTasksAThread = 4;                // lets a free thread help a late one
constexpr int64_t kMultiplicationsATask = 1 << 18;  // some 20 us: less is not worth a thread

struct BFloat16 {
  uint16_t bits;
};

// In a struct, since Clang drops the alignment of an alias that depends on a parameter.
template <typename T, int kLanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
};

template <typename T, int kLanes>
using Vector = typename VectorOf<T, kLanes>::type;

template <typename T, int kLanes>
INLINE Vector<T, kLanes> Load(const T* from) {
  return *reinterpret_cast<const Vector<T, kLanes>*>(from);
}

template <typename T, int kLanes>
INLINE Vector<T, kLanes> Load(const BFloat16* from) {  // the upper half of a float
  const auto bits = Load<uint16_t, kLanes>(reinterpret_cast<const uint16_t*>(from));
  const auto wide = __builtin_convertvector(bits, Vector<uint32_t, kLanes>) << 16;
  return __builtin_convertvector(reinterpret_cast<const Vector<float, kLanes>&>(wide),
                                 Vector<T, kLanes>);
}

template <typename T, typename Source>
struct Arguments {
  int64_t num_rows, num_columns, num_entries, dim;
  const T* data;
  const int32_t* indices;
  const int32_t* indptr;
  const Source* x;
  const T* scale;  // null for the product alone, as is base
  const T* base;
  T* out;
};

// kVectors vectors of one row, from feature `begin` on. (std::min would not be inlined everywhere.)
template <int kLanes, int kVectors, typename T, typename Source>
INLINE void SumFeatures(const Arguments<T, Source>& a, int64_t row, int64_t begin) {
  using V = Vector<T, kLanes>;
  V sums[kVectors] = {};
  const int64_t first = a.indptr[row] > 0 ? a.indptr[row] : 0;
  const int64_t end = a.indptr[row + 1];
  const int64_t last = end < a.num_entries ? end : a.num_entries;
  const int64_t most = a.num_entries - 1;
  const auto place = [&](int64_t column) {  // where its features are; nowhere, for a bad column
    return reinterpret_cast<uintptr_t>(a.x) + sizeof(Source) * (column * a.dim + begin);
  };
  for (int64_t entry = first; entry < last; ++entry) {
    const int64_t later = entry + kEntriesAhead < most ? entry + kEntriesAhead : most;
    const uintptr_t ahead = place(a.indices[later]);
    for (uintptr_t byte = 0; byte < kVectors * kLanes * sizeof(Source); byte += kCacheLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + byte));
    }
    const int64_t column = a.indices[entry];
    if (column < 0 || column >= a.num_columns) continue;  // read nothing beyond x
    const auto* source = reinterpret_cast<const Source*>(place(column));
    const T weight = a.data[entry];
    for (int v = 0; v < kVectors; ++v) sums[v] += weight * Load<T, kLanes>(source + v * kLanes);
  }
  const int64_t offset = row * a.dim + begin;
  for (int v = 0; v < kVectors; ++v) {
    V& out = *reinterpret_cast<V*>(a.out + offset + v * kLanes);
    out = a.base ? Load<T, kLanes>(a.base + offset + v * kLanes) + *a.scale * sums[v] : sums[v];
  }
}

// Vectors of kBytes, which the CPU must have: GCC takes wider ones apart through memory. Those that
// end a row begin where they fit, and may sum features a second time.
template <int kBytes, typename T, typename Source>
INLINE void SumRowsBy(const Arguments<T, Source>& a, int64_t begin, int64_t end) {
  constexpr int kLanes = kBytes / sizeof(T), kMany = kBytes == 64 ? 4 : 8, kFew = kMany / 2;
  for (int64_t row = begin; row < end; ++row) {
    int64_t done = 0;
    for (; done + kMany * kLanes <= a.dim; done += kMany * kLanes) {
      SumFeatures<kLanes, kMany>(a, row, done);
    }
    for (; done + kFew * kLanes <= a.dim; done += kFew * kLanes) {
      SumFeatures<kLanes, kFew>(a, row, done);
    }
    for (; done + kLanes <= a.dim; done += kLanes) SumFeatures<kLanes, 1>(a, row, done);
    if (done == a.dim) continue;
    if (a.dim >= kLanes) {
      SumFeatures<kLanes, 1>(a, row, a.dim - kLanes);
    } else {
      for (; done + 4 <= a.dim; done += 4) SumFeatures<4, 1>(a, row, done);
      for (; done < a.dim; ++done) SumFeatures<1, 1>(a, row, done);
    }
  }
}

#if defined(__x86_64__)
template <typename T, typename Source>
__attribute__((target("avx512f"))) void SumRows64(const Arguments<T, Source>& a, int64_t begin,
                                                  int64_t end) {
  SumRowsBy<64>(a, begin, end);
}

template <typename T, typename Source>
__attribute__((target("avx2,fma"))) void SumRows32(const Arguments<T, Source>& a, int64_t begin,
                                                   int64_t end) {
  SumRowsBy<32>(a, begin, end);
}
#endif

// By the widest vectors that the CPU has, of at most `widest` bytes.
template <typename T, typename Source>
void SumRows(const Arguments<T, Source>& a, int64_t widest, int64_t begin, int64_t end) {
#if defined(__x86_64__)
  if (widest >= 64 && __builtin_cpu_supports("avx512f")) return SumRows64(a, begin, end);
  if (widest >= 32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return SumRows32(a, begin, end);
  }
#endif
  SumRowsBy<16>(a, begin, end);
}

// The row before which there is the share `part / parts` of the work, a row being worth an entry.
int64_t Boundary(const int32_t* indptr, int64_t num_rows, int64_t part, int64_t parts) {
  const auto before = [&](int64_t row) { return int64_t{indptr[row]} - indptr[0] + row; };
  const int64_t target = before(num_rows) * part / parts;
  int64_t low = 0, high = num_rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (before(middle) < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <typename T, typename Source>
ffi::Future Start(ffi::ThreadPool pool, int64_t widest, Arguments<T, Source> a) {
  const int64_t work = (int64_t{a.indptr[a.num_rows]} - a.indptr[0]) * a.dim;
  const int64_t most = std::max<int64_t>(kTasksAThread * pool.num_threads(), 1);
  const int64_t parts = std::clamp<int64_t>(work / kMultiplicationsATask, 1, most);
  auto unfinished = std::make_shared<ffi::CountDownPromise>(parts);
  ffi::Future finished(*unfinished);
  const auto sum_part = [a, widest, unfinished, parts](int64_t part) {
    SumRows(a, widest, part == 0 ? 0 : Boundary(a.indptr, a.num_rows, part, parts),
            part == parts - 1 ? a.num_rows : Boundary(a.indptr, a.num_rows, part + 1, parts));
    unfinished->CountDown();
  };
  for (int64_t part = 1; part < parts; ++part) {
    pool.Schedule([sum_part, part] { sum_part(part); });
  }
  sum_part(0);
  return finished;
}

template <typename T, typename Source>
ffi::Future Unpack(ffi::ThreadPool pool, int64_t widest, ffi::AnyBuffer data,
                   ffi::Buffer<ffi::S32> indices, ffi::Buffer<ffi::S32> indptr, ffi::AnyBuffer x,
                   ffi::RemainingArgs more, ffi::Result<ffi::AnyBuffer> out) {
  const auto optional = [&](size_t index) -> const T* {
    const auto buffer = more.get<ffi::AnyBuffer>(index);
    return buffer ? reinterpret_cast<const T*>(buffer->untyped_data()) : nullptr;
  };
  return Start<T, Source>(
      pool, widest,
      {int64_t(indptr.element_count()) - 1, x.dimensions()[0], int64_t(data.element_count()),
       x.dimensions()[1], reinterpret_cast<const T*>(data.untyped_data()), indices.typed_data(),
       indptr.typed_data(), reinterpret_cast<const Source*>(x.untyped_data()), optional(0),
       optional(1), reinterpret_cast<T*>(out->untyped_data())});
}

// Python has checked dtypes and shapes. The dtype of the entries is that of all but x, which may be
// rounded to bfloat16.
ffi::Future Product(ffi::ThreadPool pool, int64_t widest, ffi::AnyBuffer data,
                    ffi::Buffer<ffi::S32> indices, ffi::Buffer<ffi::S32> indptr, ffi::AnyBuffer x,
                    ffi::RemainingArgs more, ffi::Result<ffi::AnyBuffer> out) {
  const bool narrow = x.element_type() == ffi::BF16;
  const auto unpack = data.element_type() == ffi::F64
                          ? (narrow ? Unpack<double, BFloat16> : Unpack<double, double>)
                          : (narrow ? Unpack<float, BFloat16> : Unpack<float, float>);
  return unpack(pool, widest, data, indices, indptr, x, more, out);
}

}  // namespace

// Its number goes up whenever its operands change: no other version of cpu.py finds it.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* SevoJaxProduct1(
    XLA_FFI_CallFrame*);

XLA_FFI_DEFINE_HANDLER_SYMBOL(SevoJaxProduct1, Product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("widest")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>());
