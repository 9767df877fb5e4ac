// What a context adds to dense layers, and its gradients.
#pragma once
#include <cstring>
#include <vector>

#include "lanes.h"
#include "matrix.h"

namespace modeflow {
namespace {

// The contexts of some rows, without their zeros: of a one-hot context, one number of each row.
struct SparseContext {
    std::vector<int> column;
    std::vector<real> value;
    std::vector<size_t> start{0};

    void read(const real* context, int width, int64_t from, int64_t to) {
        column.clear(), value.clear(), start.assign(1, 0);
        for (int64_t r = from; r < to; ++r) {
            const real* row = context + r * width;
            for (int c = 0; c < width; ++c)
                if (row[c] != 0.0f) column.push_back(c), value.push_back(row[c]);
            start.push_back(column.size());
        }
    }
    // `visit(row, column, value)` in the order of the rows, of the first `rows` of them.
    template <class Visit>
    void each(int rows, const Visit& visit) const {
        for (int r = 0; r < rows; ++r)
            for (size_t k = start[r]; k < start[r + 1]; ++k) visit(r, column[k], value[k]);
    }
};

// to += value * from, of a multiple of 16 numbers.
inline void add_scaled(int n, real value, const real* from, real* to) {
    const Vector factor = spread(value);
    for (int i = 0; i < n; i += VECTOR)
        store_vector(to + i, multiply_add(factor, load_vector(from + i), load_vector(to + i)));
}

// sum of a[i] * b[i]
inline real dot(int n, const real* a, const real* b) {
    real sum = 0.0f;
#ifndef _MSC_VER
#pragma omp simd reduction(+ : sum)
#endif
    for (int i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// What a dense layer gives, with what the contexts add to it.
inline void dense_forward(const PackedDense& dense, int rows, const SparseContext& context, const real* x, real* y,
                          int64_t y_row) {
    if (dense.contexts) {
        for (int r = 0; r < rows; ++r) std::memset(y + r * y_row, 0, sizeof(real) * dense.out_p);
        context.each(rows, [&](int r, int c, real v) {
            add_scaled(dense.out_p, v, dense.context_weight.data() + static_cast<int64_t>(c) * dense.out_p,
                       y + r * y_row);
        });
    }
    dense.forward(rows, x, y, y_row, dense.contexts > 0);
}

// The gradient of the contexts, from that of what a dense layer gives.
inline void add_context_grad(const PackedDense& dense, int rows, const real* grad, int64_t row, real* grad_context) {
    if (!dense.contexts || !grad_context) return;
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < dense.contexts; ++c)
            grad_context[static_cast<int64_t>(r) * dense.contexts + c] +=
                dot(dense.out, dense.context_weight.data() + static_cast<int64_t>(c) * dense.out_p, grad + r * row);
}

// The gradient of what the contexts add to a dense layer.
inline void context_weight_grad(const PackedDense& dense, const SparseContext& context, int rows, const real* grad,
                                int64_t row, real* total, bool add) {
    real* sum = total + dense.context_grad_at();
    if (!add) std::memset(sum, 0, sizeof(real) * dense.contexts * dense.out_p);
    context.each(rows, [&](int r, int c, real v) {
        add_scaled(dense.out_p, v, grad + r * row, sum + static_cast<int64_t>(c) * dense.out_p);
    });
}

}  // namespace
}  // namespace modeflow
