#include "pool.h"

#include <algorithm>
#include <atomic>
#include <thread>

#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace modeflow {

Pool* Pool::pool_ = nullptr;
bool Pool::forked_ = false;

void Pool::run(int64_t n, int64_t grain, int64_t unit, int threads, const Job& job, bool uneven) {
    const int64_t parts = std::min<int64_t>(threads, n / std::max<int64_t>(grain, 1));
    if (parts <= 1) return n > 0 ? job(0, n) : void();
    if (openmp_) return share(n, uneven ? 1 : (n + parts - 1) / parts, unit, static_cast<unsigned>(parts), job);
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

Pool& Pool::instance() {
    if (!pool_) {
        pool_ = new Pool;  // never destroyed: threads may outlive static objects
#ifndef _WIN32
        if (!forked_) pool_->openmp_ = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        static bool registered = (pthread_atfork(nullptr, nullptr,
                                                 [] {
                                                     pool_ = nullptr;
                                                     forked_ = true;
                                                 }),
                                  true);
        (void)registered;
#endif
    }
    return *pool_;
}

// Parts are taken one by one, so that it does not matter how many threads come.
void Pool::share(int64_t n, int64_t size, int64_t unit, unsigned threads, const Job& job) {
    struct Shared {
        const Job& job;
        int64_t n, step;
        std::atomic<int64_t> next{0};
    } shared{job, n, (size + unit - 1) / unit * unit};
    openmp_(
        [](void* data) {
            auto& s = *static_cast<Shared*>(data);
            for (int64_t from; (from = s.step * s.next++) < s.n;) s.job(from, std::min(s.n, from + s.step));
        },
        &shared, threads, 0);
}

void Pool::grow(int count) {
    for (; started_ < count; ++started_) std::thread([this] { work(); }).detach();
}

void Pool::work() {
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

}  // namespace modeflow
