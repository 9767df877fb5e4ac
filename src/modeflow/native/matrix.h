// Matrix products on registers, and dense layers packed for them.
//
// Matrices are row by row, rows padded to a multiple of 16 numbers, so that no loop has a tail. Weights are packed
// in panels of a few vectors' width, one after the other: a panel is read from the first row to the last without a
// jump, and stays in the nearest cache while blocks of rows pass it.
#pragma once
#include <algorithm>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "lanes.h"

namespace modeflow {
namespace {

template <class T>
struct Aligned {  // to a cache line: a vector then never lies in two of them
    using value_type = T;
    Aligned() = default;
    template <class U>
    Aligned(const Aligned<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
    void construct(T*) {}  // what is resized is written before it is read: no zeros first
    template <class... Args>
    void construct(T* p, Args&&... args) { ::new (static_cast<void*>(p)) T(std::forward<Args>(args)...); }
    template <class U>
    bool operator==(const Aligned<U>&) const { return true; }
    template <class U>
    bool operator!=(const Aligned<U>&) const { return false; }
};
using Buffer = std::vector<real, Aligned<real>>;

// Blocks of rows by vectors that leave registers free: of a product, and of a gradient of weights.
#if defined(__AVX512F__)
constexpr int TALL = 8, WIDE = 2, GRADIENT_TALL = 6, GRADIENT_WIDE = 4;
#elif defined(__aarch64__)
constexpr int TALL = 6, WIDE = 4, GRADIENT_TALL = 6, GRADIENT_WIDE = 4;
#else
constexpr int TALL = 6, WIDE = 2, GRADIENT_TALL = 6, GRADIENT_WIDE = 2;
#endif

// M rows by N vectors of C = [C] + [bias] + A B, in registers over the whole of k. A is read at a[m * a_row + k * a_k].
template <int M, int N>
inline void block(int k_all, const real* a, int64_t a_row, int64_t a_k, const real* b, int64_t b_row, real* c,
                  int64_t c_row, const real* bias, bool add) {
    Vector sum[M][N];
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) {
            sum[m][n] = bias ? load_vector(bias + VECTOR * n) : spread(0.0f);
            if (add) sum[m][n] = sum[m][n] + load_vector(c + m * c_row + VECTOR * n);
        }
    for (int k = 0; k < k_all; ++k) {
        Vector right[N];
        for (int n = 0; n < N; ++n) right[n] = load_vector(b + k * b_row + VECTOR * n);
        for (int m = 0; m < M; ++m) {
            const Vector left = spread(a[m * a_row + k * a_k]);
            for (int n = 0; n < N; ++n) sum[m][n] = multiply_add(left, right[n], sum[m][n]);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) store_vector(c + m * c_row + VECTOR * n, sum[m][n]);
}

template <int M, int N>
inline void rows_of_blocks(int m_all, int k, const real* a, int64_t a_row, int64_t a_k, const real* b,
                           int64_t b_row, real* c, int64_t c_row, const real* bias, bool add) {
    int m = 0;
    for (; m + M <= m_all; m += M)
        block<M, N>(k, a + m * a_row, a_row, a_k, b, b_row, c + m * c_row, c_row, bias, add);
    if (M > 4 && m_all - m >= 4) {
        block<4, N>(k, a + m * a_row, a_row, a_k, b, b_row, c + m * c_row, c_row, bias, add);
        m += 4;
    }
    for (; m < m_all; ++m)
        block<1, N>(k, a + m * a_row, a_row, a_k, b, b_row, c + m * c_row, c_row, bias, add);
}

// Columns j to n of a matrix in panels of N vectors, the last one narrower: `visit(constant N, j)`.
template <int N>
struct Width {
    static constexpr int vectors = N;
};
template <int N, class Visit>
inline void for_panels(int n, const Visit& visit, int j = 0) {
    for (; j + VECTOR * N <= n; j += VECTOR * N) visit(Width<N>{}, j);
    if constexpr (N > 1)
        if (j < n) for_panels<N - 1>(n, visit, j);
}

// Numbers of a matrix of k rows, packed in panels. Panel j begins at j * k.
inline size_t packed_size(int k, int n_padded) { return static_cast<size_t>(k) * n_padded; }

// A dense layer, packed for the way there, (in, out), and for the way back, (out, in). A mask says which weights act;
// what a panel never reads is left out.
struct PackedDense {
    int in = 0, out = 0, in_p = 0, out_p = 0, contexts = 0;
    Buffer forward_panels, backward_panels, bias;
    Buffer context_weight;                // what each context adds, (contexts, out_p)
    std::vector<int> input_end;           // for every forward panel: inputs that it reads, from the first
    std::vector<int> output_begin;        // for every backward panel: first output that reads it
    std::vector<int> grad_output_begin;   // likewise for every panel of the gradient
    int64_t grad_offset = 0;              // where its gradients lie: (out, in_p), (out_p) and (contexts, out_p)

    void set(int in_, int out_, int contexts_) {
        in = in_, out = out_, in_p = pad(in), out_p = pad(out), contexts = contexts_;
    }

    // Weights in rows of `row` numbers.
    void pack(const real* weight, int64_t row, const real* bias_, const real* mask, bool backward) {
        bias.assign(out_p, 0.0f);
        std::memcpy(bias.data(), bias_, sizeof(real) * out);
        Buffer masked;
        if (mask) {
            masked.resize(static_cast<size_t>(out) * in);
            for (int o = 0; o < out; ++o)
                for (int i = 0; i < in; ++i) {
                    const int64_t place = static_cast<int64_t>(o) * in + i;
                    masked[place] = mask[place] != 0.0f ? weight[o * row + i] : 0.0f;
                }
            weight = masked.data(), row = in;
        }
        forward_panels.resize(packed_size(in, out_p));
        input_end.clear();
        for_panels<WIDE>(out_p, [&](auto width, int j) {
            constexpr int W = VECTOR * decltype(width)::vectors;
            real* to = forward_panels.data() + static_cast<int64_t>(j) * in;
            const real* from = weight + j * row;
            const int used = std::min(W, out - j);
            int begin = 0;
#ifdef MODEFLOW_TRANSPOSE
            for (; used == W && begin + VECTOR <= in; begin += VECTOR)
                for (int part = 0; part < W; part += VECTOR) {
                    Vector rows[VECTOR];
                    for (int o = 0; o < VECTOR; ++o) rows[o] = load_vector(from + (part + o) * row + begin);
                    transpose(rows);
                    for (int i = 0; i < VECTOR; ++i) store_vector(to + (begin + i) * W + part, rows[i]);
                }
#endif
            for (int i = begin; i < in; ++i) {
                for (int o = 0; o < used; ++o) to[i * W + o] = from[o * row + i];
                for (int o = used; o < W; ++o) to[i * W + o] = 0.0f;
            }
            int last = in;
            while (mask && last > 0 && !read_by(mask, j, j + used, last - 1)) --last;
            input_end.push_back(last);
        });
        if (!backward) return;
        backward_panels.resize(packed_size(out, in_p));
        output_begin.clear(), grad_output_begin.clear();
        for_panels<WIDE>(in_p, [&](auto width, int j) {
            constexpr int W = VECTOR * decltype(width)::vectors;
            real* to = backward_panels.data() + static_cast<int64_t>(j) * out;
            const int used = std::max(0, std::min(W, in - j));
            for (int o = 0; o < out; ++o) {
                std::memcpy(to + o * W, weight + o * row + j, sizeof(real) * used);
                for (int i = used; i < W; ++i) to[o * W + i] = 0.0f;
            }
            output_begin.push_back(first_reader(mask, j, j + used));
        });
        for_panels<GRADIENT_WIDE>(in_p, [&](auto width, int j) {
            grad_output_begin.push_back(first_reader(mask, j, std::min(in, j + VECTOR * decltype(width)::vectors)));
        });
    }
    // What the contexts add: weights (out, contexts) in rows of `row` numbers; the bias goes into the layer's.
    void pack_context(const real* weight, int64_t row, const real* more_bias) {
        context_weight.assign(static_cast<size_t>(contexts) * out_p, 0.0f);
        for (int o = 0; o < out; ++o) {
            for (int c = 0; c < contexts; ++c) context_weight[static_cast<size_t>(c) * out_p + o] = weight[o * row + c];
            if (more_bias) bias[o] += more_bias[o];
        }
    }
    int64_t bias_at() const { return grad_offset + static_cast<int64_t>(out) * in_p; }
    int64_t context_grad_at() const { return bias_at() + out_p; }
    int64_t grad_size() const { return context_grad_at() - grad_offset + static_cast<int64_t>(contexts) * out_p; }

    void forward(int rows, const real* x, real* y, int64_t y_row, bool add = false) const {
        size_t panel = 0;
        for_panels<WIDE>(out_p, [&](auto width, int j) {
            constexpr int N = decltype(width)::vectors;
            const real* weight = forward_panels.data() + static_cast<int64_t>(j) * in;
            rows_of_blocks<TALL, N>(rows, input_end[panel++], x, in_p, 1, weight, VECTOR * N, y + j, y_row,
                                    bias.data() + j, add);
        });
    }
    // grad_x = grad_y W.
    void backward(int rows, const real* grad_y, int64_t grad_row, real* grad_x, int64_t x_row) const {
        size_t panel = 0;
        for_panels<WIDE>(in_p, [&](auto width, int j) {
            constexpr int N = decltype(width)::vectors;
            const int first = output_begin[panel++];
            const real* weight = backward_panels.data() + static_cast<int64_t>(j) * out + first * VECTOR * N;
            rows_of_blocks<TALL, N>(rows, out - first, grad_y + first, grad_row, 1, weight, VECTOR * N, grad_x + j,
                                    x_row, nullptr, false);
        });
    }

    // The gradient of the weights of one panel of inputs is written to `total`, or added to it.
    void weight_grad(size_t panel, int rows, const real* x, const real* grad_y, int64_t grad_row, real* total,
                  bool add) const {
        size_t found = 0;
        for_panels<GRADIENT_WIDE>(in_p, [&](auto width, int j) {
            if (found++ != panel) return;
            constexpr int N = decltype(width)::vectors, W = VECTOR * N;
            alignas(64) real strip[W * 128];
            const int first = grad_output_begin[panel];
            for (int from = 0; from < rows; from += 128) {
                const int some = std::min(128, rows - from);
                const real* right = x + static_cast<int64_t>(from) * in_p + j;
                int64_t right_row = in_p;
                if (in_p > W) {  // far apart, rows would push each other out of the cache
                    for (int r = 0; r < some; ++r)
                        std::memcpy(strip + r * W, right + static_cast<int64_t>(r) * in_p, sizeof(real) * W);
                    right = strip, right_row = W;
                }
                real* sum = total + grad_offset + static_cast<int64_t>(first) * in_p + j;
                rows_of_blocks<GRADIENT_TALL, N>(out - first, some, grad_y + from * grad_row + first, 1, grad_row,
                                                 right, right_row, sum, in_p, nullptr, add || from > 0);
            }
        });
    }
    size_t grad_panels() const {
        size_t n = 0;
        for_panels<GRADIENT_WIDE>(in_p, [&](auto, int) { ++n; });
        return n;
    }

    // Likewise, that of the bias.
    void bias_grad(int rows, const real* grad_y, int64_t grad_row, real* total, bool add) const {
        real* bias_sum = total + bias_at();
        if (!add) std::memset(bias_sum, 0, sizeof(real) * out_p);
        for (int r = 0; r < rows; ++r)
            for (int o = 0; o < out; ++o) bias_sum[o] += grad_y[r * grad_row + o];
    }

  private:
    bool read_by(const real* mask, int from, int to, int input) const {
        for (int o = from; o < to; ++o)
            if (mask[static_cast<int64_t>(o) * in + input] != 0.0f) return true;
        return false;
    }
    int first_reader(const real* mask, int from, int to) const {
        int first = mask ? out : 0;
        for (int i = from; i < to; ++i)
            for (int o = 0; o < first; ++o)
                if (mask[static_cast<int64_t>(o) * in + i] != 0.0f) first = o;
        return first;
    }
};

}  // namespace
}  // namespace modeflow
