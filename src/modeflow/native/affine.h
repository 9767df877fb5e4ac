// The affine layer chosen by the context: u = (I + L) v with v = (x - m) exp(-s), and back.
#pragma once
#include <cstring>
#include <vector>

#include "context.h"
#include "lanes.h"
#include "packed.h"

namespace modeflow {
namespace {

// The numbers of an affine layer for one row, in `to`: those of its context, or a sum of such.
inline void affine_row(const PackedLayer& packed, const SparseContext& context, int r, int64_t size, real* to) {
    const real* table = packed.table.data();
    if (!packed.layer->has_context) {
        std::memcpy(to, table, sizeof(real) * size);
        return;
    }
    std::memset(to, 0, sizeof(real) * size);
    for (size_t k = context.start[r]; k < context.start[r + 1]; ++k) {
        const real *row = table + context.column[k] * size, v = context.value[k];
        for (int64_t i = 0; i < size; ++i) to[i] += v * row[i];
    }
}

void affine(const PackedLayer& packed, const SparseContext& context, bool inverse, int d, int rows, const real* x,
            int width, real* u, real* logabsdet) {
    const StackLayer& layer = *packed.layer;
    const int64_t size = affine_size(layer, d);
    Buffer space(size + d);
    real *numbers = space.data(), *v = numbers + size;
    for (int r = 0; r < rows; ++r) {
        affine_row(packed, context, r, size, numbers);
        const real *m = numbers, *s = numbers + d, *in = x + static_cast<int64_t>(r) * width;
        real *out = u + static_cast<int64_t>(r) * width, total = 0.0f;
        for (int j = 0; j < d; ++j) total += s[j];
        logabsdet[r] += inverse ? total : -total;
        const real* low = numbers + 2 * d;
        if (!inverse) {
            for (int j = 0; j < d; ++j) v[j] = (in[j] - m[j]) * exp_(-s[j]);
            for (int j = 0; j < d; ++j) {
                out[j] = v[j] + (layer.full ? dot(j, low, v) : 0.0f);
                low += j;
            }
        } else {
            for (int j = 0; j < d; ++j) {
                v[j] = in[j] - (layer.full ? dot(j, low, v) : 0.0f);
                low += j;
            }
            for (int j = 0; j < d; ++j) out[j] = v[j] * exp_(s[j]) + m[j];
        }
        for (int j = d; j < width; ++j) out[j] = 0.0f;
    }
}

// Gradients of an affine layer, of which those that are null are not wanted: of x; of its table (added to what is
// there); of the contexts (likewise).
struct AffineGrads {
    real *x, *table, *context;
};

void affine_backward(const PackedLayer& packed, const SparseContext& context, int contexts, int d, int rows,
                     const real* x, int width, const real* grad_u, const real* grad_log, const AffineGrads& to) {
    const StackLayer& layer = *packed.layer;
    const int64_t size = affine_size(layer, d);
    Buffer space(2 * size + 2 * d);
    real *numbers = space.data(), *grad = numbers + size, *v = grad + size, *grad_v = v + d;
    for (int r = 0; r < rows; ++r) {
        affine_row(packed, context, r, size, numbers);
        const real *m = numbers, *s = numbers + d, *in = x + static_cast<int64_t>(r) * width;
        const real *g = grad_u + static_cast<int64_t>(r) * width, *low = numbers + 2 * d;
        for (int j = 0; j < d; ++j) v[j] = (in[j] - m[j]) * exp_(-s[j]);
        for (int j = 0; j < d; ++j) grad_v[j] = g[j];
        real* grad_low = grad + 2 * d;
        for (int i = 0; layer.full && i < d; ++i) {
            for (int j = 0; j < i; ++j) {
                grad_v[j] += low[j] * g[i];
                grad_low[j] = g[i] * v[j];
            }
            low += i, grad_low += i;
        }
        for (int j = 0; j < d; ++j) {
            const real on_x = grad_v[j] * exp_(-s[j]);
            if (to.x) to.x[static_cast<int64_t>(r) * width + j] = on_x;
            grad[j] = -on_x;
            grad[d + j] = -grad_v[j] * v[j] - grad_log[r];
        }
        for (int j = d; to.x && j < width; ++j) to.x[static_cast<int64_t>(r) * width + j] = 0.0f;
        if (to.table && !layer.has_context)
            for (int64_t i = 0; i < size; ++i) to.table[i] += grad[i];
        if (to.table && layer.has_context)
            for (size_t k = context.start[r]; k < context.start[r + 1]; ++k) {
                real* row = to.table + context.column[k] * size;
                for (int64_t i = 0; i < size; ++i) row[i] += context.value[k] * grad[i];
            }
        if (to.context && layer.has_context)
            for (int c = 0; c < contexts; ++c)
                to.context[static_cast<int64_t>(r) * contexts + c] +=
                    dot(static_cast<int>(size), packed.table.data() + c * size, grad);
    }
}

}  // namespace
}  // namespace modeflow
