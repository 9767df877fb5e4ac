// Threads that share out work.
//
// Those of the OpenMP runtime that torch has loaded, where there is one: it lets them spin between operations, and other
// threads would wait for a core until it gives up. Else, and in a forked child, threads of our own, started at the first
// large call.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

namespace modeflow {

class Pool {
  public:
    using Job = std::function<void(int64_t from, int64_t to)>;

    // `job(from, to)` on parts of [0, n) of at least `grain`, cut at multiples of `unit`; `uneven`: one by one, as
    // parts may take very different times.
    void run(int64_t n, int64_t grain, int64_t unit, int threads, const Job& job, bool uneven = false);

    static Pool& instance();

  private:
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

    void share(int64_t n, int64_t size, int64_t unit, unsigned threads, const Job& job);
    void grow(int count);
    void work();

    static Pool* pool_;
    static bool forked_;
    Parallel openmp_ = nullptr;
    std::mutex entry_, mutex_;
    std::condition_variable wake_, done_;
    const Job* job_ = nullptr;
    int64_t n_ = 0, step_ = 0;
    int parts_ = 0, next_ = 0, left_ = 0, started_ = 0;
};

}  // namespace modeflow
