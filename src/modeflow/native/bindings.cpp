// Python's way to the kernels: addresses and sizes in, nothing of torch. `modeflow/native/__init__.py` is the
// only caller and checks types, shapes and contiguity.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

#include "kernels.h"
#include "stack.h"

namespace nb = nanobind;
using namespace modeflow;

namespace {

const Kernels& best() {
#if defined(MODEFLOW_X86) && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return avx512_kernels();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_kernels();
#endif
    return base_kernels();
}

const Kernels* active = &best();

// A few threads that wait for work. Started at the first large call; after a fork the child starts its own.
class Pool {
  public:
    using Job = std::function<void(int64_t from, int64_t to)>;

    // `job(from, to)` on parts of [0, n) of at least `grain`, cut at multiples of `unit`.
    void run(int64_t n, int64_t grain, int64_t unit, int threads, const Job& job) {
        const int64_t parts = std::min<int64_t>(threads, n / std::max<int64_t>(grain, 1));
        if (parts <= 1) return job(0, n);
        std::unique_lock<std::mutex> one_at_a_time(entry_, std::try_to_lock);
        if (!one_at_a_time) return job(0, n);  // busy with another thread's call
        grow(static_cast<int>(parts) - 1);
        const int64_t step = ((n + parts - 1) / parts + unit - 1) / unit * unit;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = &job;
            n_ = n;
            step_ = step;
            next_ = 1;
            parts_ = static_cast<int>((n + step - 1) / step);
            left_ = parts_ - 1;
        }
        wake_.notify_all();
        job(0, std::min(step, n));
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [&] { return left_ == 0; });
        job_ = nullptr;
    }

    static Pool& instance() {
        if (!pool_) {
            pool_ = new Pool;  // never destroyed: threads may outlive static objects
#ifndef _WIN32
            static bool registered = (pthread_atfork(nullptr, nullptr, [] { pool_ = nullptr; }), true);
            (void)registered;
#endif
        }
        return *pool_;
    }

  private:
    void grow(int count) {
        for (; started_ < count; ++started_) std::thread([this] { work(); }).detach();
    }

    void work() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return job_ && next_ < parts_; });
            const int part = next_++;
            const auto* job = job_;
            const int64_t from = part * step_, to = std::min(n_, from + step_);
            lock.unlock();
            (*job)(from, to);
            lock.lock();
            if (--left_ == 0) done_.notify_one();
        }
    }

    static inline Pool* pool_ = nullptr;
    std::mutex entry_, mutex_;
    std::condition_variable wake_, done_;
    const Job* job_ = nullptr;
    int64_t n_ = 0, step_ = 0;
    int parts_ = 0, next_ = 0, left_ = 0, started_ = 0;
};

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Spline spline_of(int bins, double bound, double width, double height, double slope) {
    return Spline{bins,
                  static_cast<float>(bound),
                  static_cast<float>(width),
                  static_cast<float>(height),
                  static_cast<float>(slope),
                  static_cast<float>(std::log(std::expm1(1.0 - slope)))};
}

void spline(int bins, double bound, double width, double height, double slope, bool inverse, int64_t n, uintptr_t x,
            uintptr_t params, uintptr_t y, uintptr_t logderivative, int threads) {
    const Spline s = spline_of(bins, bound, width, height, slope);
    const int64_t stride = 3 * bins - 1;
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, 16, threads, [&](int64_t from, int64_t to) {
        active->spline(s, inverse, to - from, at<const float>(x) + from, at<const float>(params) + from * stride,
                       at<float>(y) + from, at<float>(logderivative) + from);
    });
}

void spline_backward(int bins, double bound, double width, double height, double slope, bool inverse, int64_t n,
                     uintptr_t x, uintptr_t params, uintptr_t grad_y, uintptr_t grad_log, uintptr_t grad_x,
                     uintptr_t grad_params, int threads) {
    const Spline s = spline_of(bins, bound, width, height, slope);
    const int64_t stride = 3 * bins - 1;
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, 16, threads, [&](int64_t from, int64_t to) {
        active->spline_backward(s, inverse, to - from, at<const float>(x) + from,
                                at<const float>(params) + from * stride, at<const float>(grad_y) + from,
                                at<const float>(grad_log) + from, at<float>(grad_x) + from,
                                at<float>(grad_params) + from * stride);
    });
}

// Each layer as (weight, bias, rows, columns, until).
using Layer = std::vector<int64_t>;

Dense dense_of(const Layer& layer) {
    return Dense{at<const float>(static_cast<uintptr_t>(layer[0])),
                 at<const float>(static_cast<uintptr_t>(layer[1])), static_cast<int>(layer[2]),
                 static_cast<int>(layer[3]), at<const int64_t>(static_cast<uintptr_t>(layer[4]))};
}

void autoregressive_inverse(int features, int params, bool residual, const std::vector<Layer>& hidden,
                            const Layer& final, uintptr_t context_first, uintptr_t context_final, int kind,
                            int bins, double bound, double width, double height, double slope, float most,
                            int64_t rows, uintptr_t u, uintptr_t x, uintptr_t logabsdet, int threads) {
    std::vector<Dense> layers;
    for (const Layer& layer : hidden) layers.push_back(dense_of(layer));
    const Spline s = spline_of(bins, bound, width, height, slope);
    const int64_t first = layers.empty() ? 0 : layers[0].rows;
    const Made made{features, params, residual, static_cast<int>(layers.size()), layers.data(), dense_of(final),
                    at<const float>(context_first), at<const float>(context_final)};
    nb::gil_scoped_release release;
    Pool::instance().run(rows, 16, 16, threads, [&](int64_t from, int64_t to) {
        Made part = made;
        if (part.context_first) part.context_first += from * first;
        if (part.context_final) part.context_final += from * features * params;
        active->autoregressive_inverse(part, kind, s, most, to - from, at<const float>(u) + from * features,
                                       at<float>(x) + from * features, at<float>(logabsdet) + from);
    });
}

// A prepared stack: weights packed as they were, for one forward and backward pass.
struct Handle {
    const StackKernels* kernels;
    void* prepared;

    Handle(const Handle&) = delete;
    explicit Handle(Stack&& stack) : kernels(active->stack), prepared(kernels->prepare(std::move(stack))) {}
    ~Handle() { kernels->release(prepared); }
};

// Every layer as (kind, index, kept, moved, hidden, blocks, bins, then addresses of its parameters) and
// (eps, or bound, smallest width, height and slope).
Handle* make_stack(int features, int context, const std::vector<std::vector<int64_t>>& layers,
                   const std::vector<std::vector<double>>& constants) {
    Stack stack{features, context, {}};
    for (size_t i = 0; i < layers.size(); ++i) {
        const auto& l = layers[i];
        const auto& c = constants[i];
        StackLayer layer{};
        layer.kind = static_cast<StackLayer::Kind>(l[0]);
        layer.index = at<const int64_t>(static_cast<uintptr_t>(l[1]));
        layer.kept = static_cast<int>(l[2]), layer.moved = static_cast<int>(l[3]);
        layer.hidden = static_cast<int>(l[4]), layer.blocks = static_cast<int>(l[5]);
        if (layer.kind == StackLayer::LINEAR) layer.eps = static_cast<float>(c[0]);
        if (layer.kind == StackLayer::COUPLING)
            layer.spline = spline_of(static_cast<int>(l[6]), c[0], c[1], c[2], c[3]);
        for (size_t k = 7; k < l.size(); ++k)
            layer.parameters.push_back(at<const float>(static_cast<uintptr_t>(l[k])));
        stack.layers.push_back(std::move(layer));
    }
    return new Handle(std::move(stack));
}

int64_t stack_tape(const Handle& h, int tile) { return h.kernels->tape_size(h.prepared, tile); }

void stack_run(const Handle& h, bool inverse, int tile, int64_t rows, uintptr_t x, uintptr_t context, uintptr_t u,
               uintptr_t logabsdet, uintptr_t tape, int threads) {
    nb::gil_scoped_release release;
    Pool::instance().run((rows + tile - 1) / tile, 1, 1, threads, [&](int64_t from, int64_t to) {
        h.kernels->run(h.prepared, inverse, tile, rows, from, to, at<const float>(x), at<const float>(context),
                       at<float>(u), at<float>(logabsdet), at<float>(tape));
    });
}

void stack_backward(const Handle& h, int tile, int64_t rows, uintptr_t grad_u, uintptr_t grad_log, uintptr_t tape,
                    uintptr_t grad_x, uintptr_t grad_context, const Addresses& gradients,
                    int threads) {
    nb::gil_scoped_release release;
    const int64_t size = h.kernels->sums_size(h.prepared), tiles = (rows + tile - 1) / tile;
    // Sums are of groups of tiles, whatever the threads: the result does not depend on their number.
    const int64_t groups = std::min<int64_t>(tiles, 8);
    std::vector<std::vector<float>> sums(static_cast<size_t>(groups));
    Pool::instance().run(groups, 1, 1, threads, [&](int64_t from, int64_t to) {
        for (int64_t g = from; g < to; ++g) {
            sums[g].assign(size, 0.0f);
            h.kernels->backward(h.prepared, tile, rows, tiles * g / groups, tiles * (g + 1) / groups,
                                at<const float>(grad_u), at<const float>(grad_log), at<const float>(tape),
                                at<float>(grad_x), at<float>(grad_context), sums[g].data());
        }
    });
    for (size_t g = 1; g < sums.size(); ++g)
        for (int64_t i = 0; i < size; ++i) sums[0][i] += sums[g][i];
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) total += at<const float>(grad_log)[r];
    h.kernels->finish(h.prepared, sums[0].data(), total, gradients);
}

std::vector<std::string> available() {
    std::vector<std::string> names{"base"};
#ifdef MODEFLOW_X86
    if (&best() != &base_kernels()) names.push_back("avx2");
    if (&best() == &avx512_kernels()) names.push_back("avx512");
#endif
    return names;
}

void use(const std::string& name) {
    for (const std::string& known : available())
        if (known == name) {
#ifdef MODEFLOW_X86
            active = name == "avx512" ? &avx512_kernels() : name == "avx2" ? &avx2_kernels() : &base_kernels();
#endif
            return;
        }
    throw nb::value_error("no such instruction set here");
}

}  // namespace

NB_MODULE(_kernels, m) {
    m.def("spline", &spline);
    m.def("spline_backward", &spline_backward);
    m.def("autoregressive_inverse", &autoregressive_inverse);
    nb::class_<Handle>(m, "Stack");
    m.def("make_stack", &make_stack, nb::rv_policy::take_ownership);
    m.def("stack_tape", &stack_tape);
    m.def("stack_run", &stack_run);
    m.def("stack_backward", &stack_backward);
    m.def("instruction_set", [] { return std::string(active->name); });
    m.def("available", &available);
    m.def("use", &use);
}
