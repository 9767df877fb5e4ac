// Python's way through a tree of states, level by level, and to its Gaussian leaves.
#include <algorithm>

#include "bindings.h"
#include "dispatch.h"
#include "fields.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace modeflow {
namespace {

// Rows of so many numbers that they are worth a thread.
int64_t rows_worth(int64_t numbers) { return std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(numbers, 1)); }

// One call works on the rows of a level: a thread has all places of its rows.
template <class Real, class Job>
void by_rows(const BasicTreeLevel<Real>& level, int threads, const Job& job) {
    nb::gil_scoped_release release;
    Pool::instance().run(level.rows, rows_worth(level.states * (level.last - level.first)), 1, threads, job);
}

template <class Real>
void tree_evidence(const TreeLevelFields& fields, uintptr_t leaves, uintptr_t messages, double lowest,
                   uintptr_t evidence, uintptr_t top, int threads) {
    const BasicTreeLevel<Real> level = fields.as<Real>();
    by_rows(level, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().tree_evidence(level, at<const Real>(leaves), at<const Real>(messages),
                                         static_cast<Real>(lowest), at<Real>(evidence), at<Real>(top), from, to);
    });
}

template <class Real>
void tree_ratios(const TreeLevelFields& fields, uintptr_t evidence, uintptr_t messages, uintptr_t posterior,
                 uintptr_t ratios, int threads) {
    const BasicTreeLevel<Real> level = fields.as<Real>();
    by_rows(level, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().tree_ratios(level, at<const Real>(evidence), at<const Real>(messages), at<Real>(posterior),
                                       at<Real>(ratios), from, to);
    });
}

template <class Real>
void gaussian_log_prob(const GaussianLeavesFields& fields, uintptr_t log_prob, int threads) {
    const BasicGaussianLeaves<Real> leaves = fields.as<Real>();
    nb::gil_scoped_release release;
    Pool::instance().run(leaves.features * leaves.rows, rows_worth(leaves.states), 1, threads,
                         [&](int64_t from, int64_t to) {
                             kernels_of<Real>().gaussian_log_prob(leaves, at<Real>(log_prob), from, to);
                         });
}

template <class Real>
void gaussian_grad(const GaussianLeavesFields& fields, uintptr_t gradient, uintptr_t first, uintptr_t second,
                   uintptr_t grad_x, int threads) {
    const BasicGaussianLeaves<Real> leaves = fields.as<Real>();
    const int64_t units = leaves.features * ((leaves.states + 31) / 32);
    nb::gil_scoped_release release;
    Pool& pool = Pool::instance();
    pool.run(units, rows_worth(32 * leaves.rows), 1, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().gaussian_grad(leaves, at<const Real>(gradient), at<Real>(first), at<Real>(second), from, to);
    });
    if (!grad_x) return;
    pool.run(leaves.features * leaves.rows, rows_worth(leaves.states), 1, threads, [&](int64_t from, int64_t to) {
        kernels_of<Real>().gaussian_input_grad(leaves, at<const Real>(gradient), at<Real>(grad_x), from, to);
    });
}

}  // namespace

template <class Real>
void define_tree(nb::module_ m) {
    m.def("tree_evidence", &tree_evidence<Real>, nb::kw_only(), "level"_a, "leaves"_a, "messages"_a, "lowest"_a,
          "evidence"_a, "top"_a, "threads"_a);
    m.def("tree_ratios", &tree_ratios<Real>, nb::kw_only(), "level"_a, "evidence"_a, "messages"_a, "posterior"_a,
          "ratios"_a, "threads"_a);
    m.def("gaussian_log_prob", &gaussian_log_prob<Real>, nb::kw_only(), "leaves"_a, "log_prob"_a, "threads"_a);
    m.def("gaussian_grad", &gaussian_grad<Real>, nb::kw_only(), "leaves"_a, "gradient"_a, "first"_a, "second"_a,
          "grad_x"_a, "threads"_a);
}

template void define_tree<float>(nb::module_);
template void define_tree<double>(nb::module_);

}  // namespace modeflow
