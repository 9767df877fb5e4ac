// Python's way to the kernels: addresses and sizes in, nothing of torch. `modeflow/native/__init__.py` is the
// only caller and checks types, shapes and contiguity.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

#include "kernels.h"

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
    void run(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& job) {
        const int64_t parts = std::min<int64_t>(threads, n / std::max<int64_t>(grain, 1));
        if (parts <= 1) return job(0, n);
        std::unique_lock<std::mutex> one_at_a_time(entry_, std::try_to_lock);
        if (!one_at_a_time) return job(0, n);  // busy with another thread's call
        grow(static_cast<int>(parts) - 1);
        // Lanes are never split between threads.
        const int64_t step = ((n + parts - 1) / parts + 15) / 16 * 16;
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
    const std::function<void(int64_t, int64_t)>* job_ = nullptr;
    int64_t n_ = 0, step_ = 0;
    int parts_ = 0, next_ = 0, left_ = 0, started_ = 0;
};

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Spline spline_of(int bins, float bound, float width, float height, float slope) {
    return Spline{bins, bound, width, height, slope};
}

void spline(int bins, float bound, float width, float height, float slope, bool inverse, int64_t n, uintptr_t x,
            uintptr_t params, uintptr_t y, uintptr_t logderivative, int threads) {
    const Spline s = spline_of(bins, bound, width, height, slope);
    const int64_t stride = 3 * bins - 1;
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, threads, [&](int64_t from, int64_t to) {
        active->spline(s, inverse, to - from, at<const float>(x) + from, at<const float>(params) + from * stride,
                       at<float>(y) + from, at<float>(logderivative) + from);
    });
}

void spline_backward(int bins, float bound, float width, float height, float slope, bool inverse, int64_t n,
                     uintptr_t x, uintptr_t params, uintptr_t grad_y, uintptr_t grad_log, uintptr_t grad_x,
                     uintptr_t grad_params, int threads) {
    const Spline s = spline_of(bins, bound, width, height, slope);
    const int64_t stride = 3 * bins - 1;
    nb::gil_scoped_release release;
    Pool::instance().run(n, 2048, threads, [&](int64_t from, int64_t to) {
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
                            int bins, float bound, float width, float height, float slope, float most,
                            int64_t rows, uintptr_t u, uintptr_t x, uintptr_t logabsdet, int threads) {
    std::vector<Dense> layers;
    for (const Layer& layer : hidden) layers.push_back(dense_of(layer));
    const Spline s = spline_of(bins, bound, width, height, slope);
    const int64_t first = layers.empty() ? 0 : layers[0].rows;
    const Made made{features, params, residual, static_cast<int>(layers.size()), layers.data(), dense_of(final),
                    at<const float>(context_first), at<const float>(context_final)};
    nb::gil_scoped_release release;
    Pool::instance().run(rows, 16, threads, [&](int64_t from, int64_t to) {
        Made part = made;
        if (part.context_first) part.context_first += from * first;
        if (part.context_final) part.context_final += from * features * params;
        active->autoregressive_inverse(part, kind, s, most, to - from, at<const float>(u) + from * features,
                                       at<float>(x) + from * features, at<float>(logabsdet) + from);
    });
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
    m.def("instruction_set", [] { return std::string(active->name); });
    m.def("available", &available);
    m.def("use", &use);
}
