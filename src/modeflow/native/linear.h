// The LU linear layer: packing its matrix, solving with its factors, and gradients of what they are made from.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lanes.h"
#include "matrix.h"

namespace modeflow {
namespace {

inline double softplus(double x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::fabs(x))); }

struct LUFactors {
    std::vector<double> lower, upper;  // (D, D)
    std::vector<double> slope;         // of the diagonal in what it is made from
    double logabsdet = 0;

    // `parameters`: lower and upper part, raw diagonal, bias. The product of the factors goes into `dense`.
    void pack(const real* const* parameters, real eps, int d, bool backward, PackedDense& dense) {
        const size_t n = static_cast<size_t>(d);
        lower.assign(n * n, 0.0);
        upper.assign(n * n, 0.0);
        const real *low = parameters[0], *up = parameters[1], *raw = parameters[2];
        for (size_t i = 0; i < n; ++i) {
            for (size_t j = 0; j < i; ++j) lower[i * n + j] = *low++;
            lower[i * n + i] = 1.0;
            const double diagonal = static_cast<double>(eps) + softplus(raw[i]);
            upper[i * n + i] = diagonal;
            slope.push_back(1.0 / (1.0 + std::exp(-static_cast<double>(raw[i]))));
            for (size_t j = i + 1; j < n; ++j) upper[i * n + j] = *up++;
            logabsdet += std::log(diagonal);
        }
        std::vector<double> row(n);
        std::vector<real> weight(n * n);
        for (size_t i = 0; i < n; ++i) {
            std::fill(row.begin(), row.end(), 0.0);
            for (size_t k = 0; k <= i; ++k) {
                const double l = lower[i * n + k];
                for (size_t j = k; j < n; ++j) row[j] += l * upper[k * n + j];
            }
            for (size_t j = 0; j < n; ++j) weight[i * n + j] = static_cast<real>(row[j]);
        }
        dense.pack(weight.data(), d, parameters[3], nullptr, backward);
    }

    // From the gradient of W = L U, in rows of `row_size` numbers: dL = dW U^T below the diagonal, dU = L^T dW on and
    // above it. `total` is the sum of the gradients of the log-determinants.
    void parameter_grad(int d, const real* weight, int64_t row_size, double total, real* low, real* up,
                        real* raw) const {
        const size_t n = static_cast<size_t>(d);
        std::vector<double> row(n), across(n * n);
        for (size_t j = 0; j < n; ++j)
            for (size_t k = j; k < n; ++k) across[k * n + j] = upper[j * n + k];
        for (size_t i = 0; i < n; ++i) {
            std::fill(row.begin(), row.end(), 0.0);
            for (size_t k = 0; k < n; ++k) {
                const double g = weight[i * row_size + k];
                const size_t end = std::min(i, k + 1);
                for (size_t j = 0; j < end; ++j) row[j] += g * across[k * n + j];
            }
            for (size_t j = 0; j < i; ++j) *low++ = static_cast<real>(row[j]);
        }
        for (size_t i = 0; i < n; ++i) {
            std::fill(row.begin(), row.end(), 0.0);
            for (size_t k = i; k < n; ++k) {
                const double l = lower[k * n + i];
                for (size_t j = i; j < n; ++j) row[j] += l * weight[k * row_size + j];
            }
            const double diagonal = upper[i * n + i];
            raw[i] = static_cast<real>((row[i] + total / diagonal) * slope[i]);
            for (size_t j = i + 1; j < n; ++j) *up++ = static_cast<real>(row[j]);
        }
    }
};

// One row of a substitution, for all rows of data: values[i] minus the others, times the factors.
inline void eliminate(const double* factors, int i, int from, int to, int rows_p, real* values) {
    real* out = values + static_cast<int64_t>(i) * rows_p;
    const int step = 4 * VECTOR;
    for (int r = 0; r < rows_p; r += step) {
        const int n = std::min(4, (rows_p - r) / VECTOR);
        Vector sum[4];
        for (int v = 0; v < n; ++v) sum[v] = load_vector(out + r + VECTOR * v);
        for (int k = from; k < to; ++k) {
            const Vector factor = spread(static_cast<real>(-factors[k]));
            const real* other = values + static_cast<int64_t>(k) * rows_p + r;
            for (int v = 0; v < n; ++v) sum[v] = multiply_add(factor, load_vector(other + VECTOR * v), sum[v]);
        }
        for (int v = 0; v < n; ++v) store_vector(out + r + VECTOR * v, sum[v]);
    }
}

// x with L U x + b = u by substitution, which holds where an inverse matrix would lose digits.
void solve(const LUFactors& factors, const real* bias, int d, int width, int rows, const real* u, real* x,
           Buffer& space) {
    const int rows_p = pad(rows);
    space.assign(static_cast<size_t>(d) * rows_p, 0.0f);
    real* values = space.data();  // (features, rows)
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < d; ++j)
            values[static_cast<int64_t>(j) * rows_p + r] = u[static_cast<int64_t>(r) * width + j] - bias[j];
    for (int i = 0; i < d; ++i) eliminate(&factors.lower[static_cast<size_t>(i) * d], i, 0, i, rows_p, values);
    for (int i = d; i-- > 0;) {
        const double* row = &factors.upper[static_cast<size_t>(i) * d];
        eliminate(row, i, i + 1, d, rows_p, values);
        const real diagonal = static_cast<real>(row[i]);
        for (int r = 0; r < rows_p; ++r) values[static_cast<int64_t>(i) * rows_p + r] /= diagonal;
    }
    for (int r = 0; r < rows; ++r)
        for (int j = 0; j < width; ++j)
            x[static_cast<int64_t>(r) * width + j] = j < d ? values[static_cast<int64_t>(j) * rows_p + r] : 0.0f;
}

}  // namespace
}  // namespace modeflow
