// exp, log and what is made of them, for float and double: polynomials in which compilers find vector instructions.
// Rounding is as written (no fast-math); `tests/native/test_kernels.py` measures units in the last place.
#pragma once
#include <cstdint>
#include <cstring>

namespace modeflow {
namespace {

inline float from_bits(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline double from_bits(int64_t bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline int32_t to_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline int64_t to_bits(double value) {
    int64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// exp within 1 ulp on [-87, 88], clamped outside. Range reduction by ln 2 in two parts, then a polynomial.
inline float exp_(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    float n = (x * 1.44269504088896341f + magic) - magic;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * from_bits((static_cast<int32_t>(n) + 127) << 23);
}

// The same on [-700, 709], by a rational function.
inline double exp_(double x) {
    x = x < -700.0 ? -700.0 : (x > 709.0 ? 709.0 : x);
    const double magic = 6755399441055744.0;  // 1.5 * 2^52
    const double shifted = x * 1.4426950408889634074 + magic, n = shifted - magic;
    const double r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6, z = r * r;
    double p = 1.26177193074810590878e-4;
    p = p * z + 3.02994407707441961300e-2;
    p = (p * z + 9.99999999999999999910e-1) * r;
    double q = 3.00198505138664455042e-6;
    q = q * z + 2.52448340349684104192e-3;
    q = q * z + 2.27265548208155028766e-1;
    q = q * z + 2.00000000000000000009;
    const double value = 1.0 + 2.0 * (p / (q - p));
    // The integer stands in the last bits of the shifted number.
    return value * from_bits((to_bits(shifted) - to_bits(magic) + 1023) << 52);
}

// log within 1 ulp for positive normal numbers.
inline float log_(float x) {
    int32_t bits = to_bits(x);
    int32_t e = ((bits >> 23) & 255) - 126;
    float m = from_bits((bits & 0x007fffff) | 0x3f000000);  // in [1/2, 1)
    bool small = m < 0.707106781186547524f;
    e -= small ? 1 : 0;
    m = small ? m + m : m;
    m -= 1.0f;
    float z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float n = static_cast<float>(e);
    float y = m * z * p - 2.12194440e-4f * n - 0.5f * z;
    return (m + y) + 0.693359375f * n;
}

inline double log_(double x) {
    const int64_t bits = to_bits(x);
    const int64_t half = 0x3fe0000000000000, two52 = 0x4330000000000000;
    double m = from_bits((bits & int64_t(0x000fffffffffffff)) | half);  // in [1/2, 1)
    const bool small = m < 0.70710678118654752440;
    // The exponent as a number: its bits below those of 2^52.
    double n = from_bits(((bits >> 52) & int64_t(2047)) | two52) - (4503599627370496.0 + 1022.0);
    n -= small ? 1.0 : 0.0;
    m = (small ? m + m : m) - 1.0;
    const double z = m * m;
    double p = 1.01875663804580931796e-4;
    p = p * m + 4.97494994976747001425e-1;
    p = p * m + 4.70579119878881725854;
    p = p * m + 1.44989225341610930846e1;
    p = p * m + 1.79368678507819816313e1;
    p = p * m + 7.70838733755885391666;
    double q = m + 1.12873587189167450590e1;
    q = q * m + 4.52279145837532221105e1;
    q = q * m + 8.29875266912776603211e1;
    q = q * m + 7.11544750618563894466e1;
    q = q * m + 2.31251620126765340583e1;
    const double y = m * (z * p / q) - n * 2.121944400546905827679e-4 - 0.5 * z;
    return (m + y) + n * 0.693359375;
}

// log(1 + exp(x)).
template <class Real>
inline Real softplus_(Real x) {
    const Real a = x < 0 ? x : -x;
    const Real e = exp_(a);  // in (0, 1]
    // log1p(e), exact to rounding also where e is tiny: log(u) * e / (u - 1) with u = 1 + e.
    const Real u = 1 + e;
    const Real l = u == 1 ? e : log_(u) * (e / (u - 1));
    return (x > 0 ? x : Real(0)) + l;
}

template <class Real>
inline Real sigmoid_(Real x) {
    return 1 / (1 + exp_(-x));
}

}  // namespace
}  // namespace modeflow
