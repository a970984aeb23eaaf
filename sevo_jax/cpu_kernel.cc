// The product for CPUs: base + scale * (A x) in one pass, for a matrix A of compressed rows.
//
// A row of the result is summed in registers, 256 bytes of features at a time, in the order of its
// entries, so that neither threads nor their number change a digit. Rows are dealt to XLA's own
// threads so that each gets about as many entries. What limits large tables is the wait for rows
// that are in no cache; those of the next entries are asked for ahead of their use.

#include <algorithm>
#include <cstdint>
#include <memory>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

#define INLINE __attribute__((always_inline)) static inline

// Code for each generation of vector instructions, of which loading chooses one.
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define FOR_EACH_CPU
#endif

constexpr int kVectorBytes = 64;
constexpr int64_t kEntriesAhead = 8;
constexpr int64_t kTasksAThread = 4;                // lets a free thread help a late one
constexpr int64_t kMultiplicationsATask = 1 << 18;  // some 20 us: less is not worth a thread

struct BFloat16 {
  uint16_t bits;
};

template <typename T, int kLanes>
using Vector __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias)) = T;

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

// kVectors vectors of one row, from feature `begin` on.
template <int kLanes, int kVectors, typename T, typename Source>
INLINE void SumFeatures(const Arguments<T, Source>& a, int64_t row, int64_t begin) {
  using V = Vector<T, kLanes>;
  V sums[kVectors] = {};
  const int64_t first = std::max<int64_t>(a.indptr[row], 0);
  const int64_t last = std::min<int64_t>(a.indptr[row + 1], a.num_entries);
  for (int64_t entry = first; entry < last; ++entry) {
    const int64_t later = std::min(entry + kEntriesAhead, a.num_entries - 1);
    const Source* ahead = a.x + a.indices[later] * a.dim + begin;
    for (size_t byte = 0; byte < kVectors * kLanes * sizeof(Source); byte += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(ahead) + byte);
    }
    const int64_t column = a.indices[entry];
    if (column < 0 || column >= a.num_columns) continue;  // as JAX has it: read nothing beyond x
    const Source* source = a.x + column * a.dim + begin;
    const T weight = a.data[entry];
    for (int v = 0; v < kVectors; ++v) sums[v] += weight * Load<T, kLanes>(source + v * kLanes);
  }
  const int64_t place = row * a.dim + begin;
  for (int v = 0; v < kVectors; ++v) {
    V& out = *reinterpret_cast<V*>(a.out + place + v * kLanes);
    out = a.base ? Load<T, kLanes>(a.base + place + v * kLanes) + *a.scale * sums[v] : sums[v];
  }
}

template <typename T, typename Source>
INLINE void SumRowsInline(const Arguments<T, Source>& a, int64_t begin, int64_t end) {
  constexpr int kLanes = kVectorBytes / sizeof(T);
  for (int64_t row = begin; row < end; ++row) {
    int64_t done = 0;
    for (; done + 4 * kLanes <= a.dim; done += 4 * kLanes) SumFeatures<kLanes, 4>(a, row, done);
    for (; done + kLanes <= a.dim; done += kLanes) SumFeatures<kLanes, 1>(a, row, done);
    for (; done + 4 <= a.dim; done += 4) SumFeatures<4, 1>(a, row, done);
    for (; done < a.dim; ++done) SumFeatures<1, 1>(a, row, done);
  }
}

#define DEFINE_SUM_ROWS(T, Source)                                                             \
  FOR_EACH_CPU void SumRows(const Arguments<T, Source>& a, int64_t begin, int64_t end) {       \
    SumRowsInline(a, begin, end);                                                              \
  }
DEFINE_SUM_ROWS(float, float)
DEFINE_SUM_ROWS(double, double)
DEFINE_SUM_ROWS(float, BFloat16)
DEFINE_SUM_ROWS(double, BFloat16)

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
ffi::Future Start(ffi::ThreadPool pool, Arguments<T, Source> a) {
  const int64_t work = (int64_t{a.indptr[a.num_rows]} - a.indptr[0]) * a.dim;
  const int64_t most = std::max<int64_t>(kTasksAThread * pool.num_threads(), 1);
  const int64_t parts = std::clamp<int64_t>(work / kMultiplicationsATask, 1, most);
  auto unfinished = std::make_shared<ffi::CountDownPromise>(parts);
  ffi::Future finished(*unfinished);
  const auto sum_part = [a, unfinished, parts](int64_t part) {
    SumRows(a, part == 0 ? 0 : Boundary(a.indptr, a.num_rows, part, parts),
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
ffi::Future Unpack(ffi::ThreadPool pool, ffi::AnyBuffer data, ffi::Buffer<ffi::S32> indices,
                   ffi::Buffer<ffi::S32> indptr, ffi::AnyBuffer x, ffi::RemainingArgs more,
                   ffi::Result<ffi::AnyBuffer> out) {
  const auto optional = [&](size_t index) -> const T* {
    const auto buffer = more.get<ffi::AnyBuffer>(index);
    return buffer ? reinterpret_cast<const T*>(buffer->untyped_data()) : nullptr;
  };
  return Start<T, Source>(
      pool, {int64_t(indptr.element_count()) - 1, x.dimensions()[0], int64_t(data.element_count()),
             x.dimensions()[1], reinterpret_cast<const T*>(data.untyped_data()),
             indices.typed_data(), indptr.typed_data(),
             reinterpret_cast<const Source*>(x.untyped_data()), optional(0), optional(1),
             reinterpret_cast<T*>(out->untyped_data())});
}

// The dtype of the entries, which the result has too, and whether x is rounded to bfloat16.
ffi::Future Product(ffi::ThreadPool pool, ffi::AnyBuffer data, ffi::Buffer<ffi::S32> indices,
                    ffi::Buffer<ffi::S32> indptr, ffi::AnyBuffer x, ffi::RemainingArgs more,
                    ffi::Result<ffi::AnyBuffer> out) {
  const bool narrow = x.element_type() == ffi::BF16;
  const auto unpack = data.element_type() == ffi::F64
                          ? (narrow ? Unpack<double, BFloat16> : Unpack<double, double>)
                          : (narrow ? Unpack<float, BFloat16> : Unpack<float, float>);
  return unpack(pool, data, indices, indptr, x, more, out);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(SevoJaxProduct, Product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>());
