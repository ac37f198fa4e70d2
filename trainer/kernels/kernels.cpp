// For training in bf16 on a CPU: batch and group norm with what follows them and 2x2 max pooling, both
// ways, the sum of two gradients, and augmentation. Called by fused.py and images.py.
//
// A tensor [N, C, H, W] in channels_last is N * H * W rows of C numbers. Vectors have 16 lanes; the
// channels of lanes repeat after `period` = lcm(C, 16) numbers, so that any C needs no masks.
// Sums over a block of rows are in fp32, sums of blocks in fp64.

#include "bf16.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

const int64_t LANES = 16;
const int64_t BLOCK = 4096;  // numbers of a tensor whose sums stay in fp32; fits L1

enum Act { NONE = 0, RELU = 1, GELU = 2 };

inline Floats all(float value) { return value - Floats{}; }

inline Floats load(const bf16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
#ifdef __AVX512F__  // GCC 12 takes four instructions for this one
    Words words = (Words)_mm512_cvtepu16_epi32((__m256i)halves);
#else
    Words words = __builtin_convertvector(halves, Words);
#endif
    return (Floats)(words << 16);
}

inline Floats load(const float* from) {
    Floats floats;
    std::memcpy(&floats, from, sizeof floats);
    return floats;
}

inline void store(bf16* to, Floats value) {  // to the nearest, ties to even
#ifdef __AVX512BF16__
    __m256bh halves = _mm512_cvtneps_pbh((__m512)value);
#else
    Words bits = (Words)value;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    rounded = value == value ? rounded : Words{} + 0x7fc0;
    Halves halves = __builtin_convertvector(rounded, Halves);
#endif
    std::memcpy(to, &halves, sizeof halves);
}

// exp(x) for x <= 0: 2^n times a polynomial of the rest (Taylor to the sixth), relative error 3e-7
inline Floats exp_negative(Floats x) {
    x = x > -87.0f ? x : all(-87.0f);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    Floats n = (x * 1.44269504f + magic) - magic;
    Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = all(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    Words scale = ((Words)(n + (magic + 127.0f))) << 23;
    return p * (Floats)scale;
}

struct Normal {
    Floats below, density;  // distribution function and density of N(0, 1)
};

// Abramowitz & Stegun 7.1.26, absolute error 1e-7
inline Normal normal(Floats z) {
    Floats x = (z < 0.0f ? -z : z) * 0.70710678f;
    Floats e = exp_negative(-x * x);
    Floats t = 1.0f / (1.0f + 0.3275911f * x);
    Floats p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    Floats tail = 0.5f * p * t * e;
    return {z < 0.0f ? tail : 1.0f - tail, e * 0.39894228f};
}

template <Act act>
inline Floats activated(Floats z) {
    if (act == RELU) return z <= 0.0f ? Floats{} : z;  // NaN stays NaN
    if (act == GELU) return z * normal(z).below;
    return z;
}

// What a thread has of `count` things.
struct Share {
    int64_t first, last;
};

inline Share share(int64_t count) {
#ifdef _OPENMP
    int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
#else
    int64_t threads = 1, thread = 0;
#endif
    return {count * thread / threads, count * (thread + 1) / threads};
}

inline int this_thread() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// `body(mine, thread)` on each thread, `mine` what it has of `count` things. One thread is this one:
// a team of one within a team would take longer than an image does.
template <class Body>
void divided(int threads, int64_t count, Body body) {
    if (threads == 1) {
        body(Share{0, count}, 0);
        return;
    }
#pragma omp parallel num_threads(threads)
    body(share(count), this_thread());
}

int64_t period_of(int64_t channels) {
    int64_t period = channels;
    while (period % LANES) period += channels;
    return period;
}

// How a tensor of rows is gone through: in blocks of periods.
struct Rows {
    int64_t rows, channels, period, periods, block;
    int threads;

    Rows(int64_t rows, int64_t channels, int threads)
        : rows(rows), channels(channels), period(period_of(channels)),
          periods(rows * channels / period), block(BLOCK / period > 4 ? BLOCK / period : 4),
          threads(threads) {}
};

// Two sums per channel over all rows: `of(j)` has what the channels of a period from j on need, and
// `of(j)(i, first, second)` adds the 16 numbers at i.
template <class Of>
std::vector<double> sum(const Rows& at, Of of) {
    const int64_t period = at.period, channels = at.channels, block = at.block;
    std::vector<double> parts(2 * period * at.threads), sums(2 * channels);
    divided(at.threads, at.periods, [&](Share mine, int thread) {
        double* own = parts.data() + 2 * period * thread;
        for (int64_t from = mine.first; from < mine.last; from += block) {
            int64_t to = from + block < mine.last ? from + block : mine.last;
            for (int64_t j = 0; j < period; j += LANES) {
                const auto add = of(j);
                Floats a0{}, a1{}, a2{}, a3{}, b0{}, b1{}, b2{}, b3{};
                int64_t row = from;
                for (; row + 3 < to; row += 4) {
                    int64_t i = row * period + j;
                    add(i, a0, b0);
                    add(i + period, a1, b1);
                    add(i + 2 * period, a2, b2);
                    add(i + 3 * period, a3, b3);
                }
                for (; row < to; row++) add(row * period + j, a0, b0);
                Floats a = (a0 + a1) + (a2 + a3), b = (b0 + b1) + (b2 + b3);
                for (int64_t lane = 0; lane < LANES; lane++) {
                    own[j + lane] += a[lane];
                    own[period + j + lane] += b[lane];
                }
            }
        }
    });
    for (int t = 0; t < at.threads; t++)
        for (int64_t half = 0; half < 2; half++)
            for (int64_t j = 0; j < period; j++)
                sums[half * channels + j % channels] += parts[(2 * t + half) * period + j];
    return sums;
}

// `of(j)(i)` for the 16 numbers at i, whose channels are those of the period from j on.
template <class Of>
void each(const Rows& at, Of of) {
    const int64_t period = at.period, block = at.block;
    divided(at.threads, at.periods, [&](Share mine, int) {
        for (int64_t from = mine.first; from < mine.last; from += block) {
            int64_t to = from + block < mine.last ? from + block : mine.last;
            for (int64_t j = 0; j < period; j += LANES) {
                const auto give = of(j);
                for (int64_t row = from; row < to; row++) give(row * period + j);
            }
        }
    });
}

// A value per channel, repeated to the period.
template <class Of>
std::vector<float> repeated(int64_t period, int64_t channels, Of of) {
    std::vector<float> values(period);
    for (int64_t j = 0; j < period; j++) values[j] = j < channels ? of(j) : values[j - channels];
    return values;
}

// What the norm does to a channel: x * scale + shift, for each place of a period.
struct Affine {
    std::vector<float> scale, shift;

    Affine(int64_t period, int64_t channels, const float* weight, const float* bias,
           const float* mean, const float* rstd) {
        scale = repeated(period, channels, [=](int64_t c) {
            return weight ? weight[c] * rstd[c] : rstd[c];
        });
        shift = repeated(period, channels, [&](int64_t c) {
            return (bias ? bias[c] : 0.0f) - mean[c] * scale[c];
        });
    }
};

template <Act act>
void apply(const Rows& at, const bf16* x, const bf16* residual, bf16* y, const Affine& affine) {
    const float *scale = affine.scale.data(), *shift = affine.shift.data();
    if (residual)
        each(at, [=](int64_t j) {
            const Floats a = load(scale + j), b = load(shift + j);
            return [=](int64_t i) {
                store(y + i, activated<act>(load(x + i) * a + b + load(residual + i)));
            };
        });
    else
        each(at, [=](int64_t j) {
            const Floats a = load(scale + j), b = load(shift + j);
            return [=](int64_t i) { store(y + i, activated<act>(load(x + i) * a + b)); };
        });
}

void apply(int act, const Rows& at, const bf16* x, const bf16* residual, bf16* y,
           const Affine& affine) {
    auto run = act == RELU ? apply<RELU> : act == GELU ? apply<GELU> : apply<NONE>;
    run(at, x, residual, y, affine);
}

// How a tensor is normalised: in parts of so many rows, each in groups of so many channels. Batch
// norm: one part, groups of one; group norm: a part per image.
struct Norm {
    const float *weight, *bias;  // of each channel; null: 1 and 0
    int act;
    int64_t group;
};

// Variance of each channel's group. `mean` and `rstd` get the group's mean and 1 / its deviation.
std::vector<double> measured(const Rows& at, int64_t group, float eps, const bf16* x, float* mean,
                             float* rstd) {
    const int64_t channels = at.channels;
    // sums around the first row: a mean far from zero costs no digits
    const auto first = repeated(at.period, channels, [=](int64_t c) { return one(x[c]); });
    const float* around = first.data();
    const auto sums = sum(at, [=](int64_t j) {
        const Floats near = load(around + j);
        return [=](int64_t i, Floats& plain, Floats& squares) {
            Floats d = load(x + i) - near;
            plain += d;
            squares += d * d;
        };
    });
    std::vector<double> variances(channels);
    for (int64_t from = 0; from < channels; from += group) {
        double middle = 0, variance = 0;
        for (int64_t c = from; c < from + group; c++)
            middle += (around[c] + sums[c] / at.rows) / group;
        for (int64_t c = from; c < from + group; c++) {
            double off = sums[c] / at.rows, own = sums[channels + c] / at.rows - off * off;
            double apart = around[c] + off - middle;
            variance += ((own < 0 ? 0 : own) + apart * apart) / group;
        }
        for (int64_t c = from; c < from + group; c++) {
            mean[c] = middle;
            rstd[c] = 1 / std::sqrt(variance + eps);
            variances[c] = variance;
        }
    }
    return variances;
}

// Gradients of a part; those of weight and bias are added to `of_affine`. With `later` that of x is left
// to be computed from four numbers of each channel that it gets: see `convolve_backward`.
void backward_part(const Rows& at, const Norm& norm, const bf16* of_y, const bf16* x, const bf16* y,
                   const float* mean, const float* rstd, bf16* of_x, bf16* of_sum,
                   double* of_affine, float* later) {
    const int64_t channels = at.channels, group = norm.group;
    const int act = norm.act;
    const Affine affine(at.period, channels, norm.weight, norm.bias, mean, rstd);
    const float *scale = affine.scale.data(), *shift = affine.shift.data();
    const auto means = repeated(at.period, channels, [=](int64_t c) { return mean[c]; });
    const float* center = means.data();
    std::vector<double> sums;
    auto total = [&](auto gradients) {
        sums = sum(at, [=](int64_t j) {
            const auto gradient = gradients(j);
            const Floats middle = load(center + j);
            return [=](int64_t i, Floats& plain, Floats& products) {
                Floats g = gradient(i);
                plain += g;
                products += g * (load(x + i) - middle);
            };
        });
    };
    bf16* kept = of_sum ? of_sum : of_x;  // the gradient before the activation
    const bool keeps = act == GELU || (act == RELU && of_sum);
    auto masked = [=](int64_t j) {
        const Floats a = load(scale + j), b = load(shift + j);
        return [=](int64_t i) {
            return load(x + i) * a + b > 0.0f ? load(of_y + i) : Floats{};
        };
    };
    auto from = [](const bf16* gradients) {
        return [=](int64_t) { return [=](int64_t i) { return load(gradients + i); }; };
    };
    if (act == GELU)
        total([=](int64_t j) {
            const Floats a = load(scale + j), b = load(shift + j);
            return [=](int64_t i) {
                Floats z = load(x + i) * a + b;
                Normal n = normal(z);
                Floats g = load(of_y + i) * (n.below + z * n.density);
                store(kept + i, g);
                return g;
            };
        });
    else if (keeps)
        total([=](int64_t) {
            return [=](int64_t i) {
                Floats g = load(y + i) > 0.0f ? load(of_y + i) : Floats{};
                store(kept + i, g);
                return g;
            };
        });
    else if (act == RELU)
        total(masked);
    else
        total(from(of_y));

    std::vector<float> slopes(channels), offsets(channels);
    for (int64_t from = 0; from < channels; from += group) {
        double plain = 0, products = 0;
        for (int64_t c = from; c < from + group; c++) {
            of_affine[c] += sums[channels + c] * rstd[c];
            of_affine[channels + c] += sums[c];
            plain += scale[c] * sums[c];
            products += scale[c] * sums[channels + c];
        }
        const double count = (double)at.rows * group;
        for (int64_t c = from; c < from + group; c++) {
            double slope = -products * rstd[c] * rstd[c] / count;
            slopes[c] = slope;
            offsets[c] = -plain / count - slope * mean[c];
        }
    }
    if (later) {
        std::copy_n(scale, channels, later);
        std::copy_n(shift, channels, later + channels);
        std::copy_n(slopes.data(), channels, later + 2 * channels);
        std::copy_n(offsets.data(), channels, later + 3 * channels);
        return;
    }
    const auto slope = repeated(at.period, channels, [&](int64_t c) { return slopes[c]; });
    const auto offset = repeated(at.period, channels, [&](int64_t c) { return offsets[c]; });
    const float *slope_at = slope.data(), *offset_at = offset.data();
    auto run = [&](auto gradients) {
        each(at, [=](int64_t j) {
            const auto gradient = gradients(j);
            const Floats a = load(scale + j), b = load(slope_at + j), c = load(offset_at + j);
            return [=](int64_t i) { store(of_x + i, gradient(i) * a + (load(x + i) * b + c)); };
        });
    };
    if (keeps)
        run(from(kept));
    else if (act == RELU)
        run(masked);
    else
        run(from(of_y));
}

const int64_t SIDE = 32, PIXELS = SIDE * SIDE, COLOURS = 3;

// Where between -0.5 and 31.5 a coordinate beyond ends up, mirrored at the border as often as it
// takes, then moved to the centre of the outermost pixel: grid_sample's "reflection".
inline float reflected(float at) {
    const float low = -0.5f, span = SIDE;
    if (at < low || at > low + span) {
        float from = std::fabs(at - low);
        float rest = std::fmod(from, span);
        bool even = (int64_t)(from / span) % 2 == 0;
        at = even ? rest + low : span - rest + low;
    }
    return at < 0 ? 0 : at > SIDE - 1 ? SIDE - 1 : at;
}

// Bilinear sampling [3, 32, 32] at the places of an inverse affine map [2, 3] of -1 to 1.
void warp(const float* image, const float* map, float* to) {
    const int side = SIDE;
    for (int row = 0; row < side; row++) {
        const float y = (2 * row + 1) / (float)side - 1;
        float across[SIDE], down[SIDE];
        for (int column = 0; column < side; column++) {
            const float x = (2 * column + 1) / (float)side - 1;
            across[column] = ((map[0] * x + map[1] * y + map[2] + 1) * side - 1) / 2;
            down[column] = ((map[3] * x + map[4] * y + map[5] + 1) * side - 1) / 2;
        }
        for (int column = 0; column < side; column++) {
            const float at = reflected(across[column]), under = reflected(down[column]);
            const int left = at, top = under;
            const float right_share = at - left, lower_share = under - top;
            const int right = left + 1 < side, below = top + 1 < side ? side : 0;
            const float* p = image + top * side + left;
            float* pixel = to + row * side + column;
            for (int colour = 0; colour < COLOURS; colour++, p += PIXELS, pixel += PIXELS) {
                const float upper = p[0] + right_share * (p[right] - p[0]);
                const float lower = p[below] + right_share * (p[below + right] - p[below]);
                *pixel = upper + lower_share * (lower - upper);
            }
        }
    }
}

}  // namespace

extern "C" {

// Whether rows of so many channels come out even.
int norm_takes(int64_t rows, int64_t channels) {
    return channels > 0 && rows > 1 && rows * channels % period_of(channels) == 0;
}

// y = act(norm(x) + residual) with the statistics of the batch. Of `parts` parts, each is of `rows`
// rows and normalised in groups of `group` channels; the running statistics are those of a single
// part. weight, bias, residual and the running statistics may be null. Into `statistics` go, for each
// part, the means of the channels' groups and 1 / their standard deviations. `moments` are null, or, of a
// single part with groups of one, means and then variances of the channels.
void norm_forward(const bf16* x, const bf16* residual, const float* weight, const float* bias,
                  float* running_mean, float* running_var, float factor, float eps, int act,
                  int64_t parts, int64_t rows, int64_t channels, int64_t group,
                  const double* moments, int threads, bf16* y, float* statistics) {
    const int64_t numbers = rows * channels;
    const int across = parts == 1 ? 1 : threads, within = parts == 1 ? threads : 1;
    divided(across, parts, [&](Share mine, int) {
        for (int64_t part = mine.first; part < mine.last; part++) {
            const int64_t i = part * numbers;
            float *mean = statistics + part * 2 * channels, *rstd = mean + channels;
            const Rows at(rows, channels, within);
            std::vector<double> variances;
            if (moments) {
                variances.assign(moments + channels, moments + 2 * channels);
                for (int64_t c = 0; c < channels; c++) {
                    mean[c] = moments[c];
                    rstd[c] = 1 / std::sqrt(variances[c] + eps);
                }
            } else {
                variances = measured(at, group, eps, x + i, mean, rstd);
            }
            const Affine affine(at.period, channels, weight, bias, mean, rstd);
            apply(act, at, x + i, residual ? residual + i : nullptr, y + i, affine);
            for (int64_t c = 0; running_mean && c < channels; c++) {
                running_mean[c] += factor * (mean[c] - running_mean[c]);
                running_var[c] += factor * (variances[c] * rows / (rows - 1) - running_var[c]);
            }
        }
    });
}

// y = act(norm(x) + residual), each channel with a mean and a variance that are known. weight, bias and
// residual may be null.
void norm_apply(const bf16* x, const bf16* residual, const float* weight, const float* bias,
                const float* mean, const float* var, float eps, int act, int64_t rows,
                int64_t channels, int threads, bf16* y) {
    const Rows at(rows, channels, threads);
    std::vector<float> rstd(channels);
    for (int64_t c = 0; c < channels; c++) rstd[c] = 1 / std::sqrt((double)var[c] + eps);
    apply(act, at, x, residual, y, Affine(at.period, channels, weight, bias, mean, rstd.data()));
}

// Gradients of x, in of_affine of weight and then bias, in of_sum of norm(x) + residual; of_sum may
// be null where nothing was added. y is needed with a residual and ReLU alone. `later` is null, or, of a
// single part, gets what `convolve_backward` computes the gradient of x from; of_x then gets that of norm(x)
// with GELU, else nothing, and may be null.
void norm_backward(const bf16* of_y, const bf16* x, const bf16* y, const float* weight,
                   const float* bias, const float* statistics, int act, int64_t parts, int64_t rows,
                   int64_t channels, int64_t group, int threads, bf16* of_x, bf16* of_sum,
                   float* of_affine, float* later) {
    const Norm norm{weight, bias, act, group};
    const int64_t numbers = rows * channels;
    const int across = parts == 1 ? 1 : threads, within = parts == 1 ? threads : 1;
    std::vector<double> sums(2 * channels * across);
    divided(across, parts, [&](Share mine, int thread) {
        for (int64_t part = mine.first; part < mine.last; part++) {
            const int64_t i = part * numbers;
            const float* mean = statistics + part * 2 * channels;
            backward_part(Rows(rows, channels, within), norm, of_y + i, x + i,
                          y ? y + i : nullptr, mean, mean + channels, of_x ? of_x + i : nullptr,
                          of_sum ? of_sum + i : nullptr, sums.data() + 2 * channels * thread,
                          later);
        }
    });
    for (int64_t c = 0; c < 2 * channels; c++) {
        double total = 0;
        for (int thread = 0; thread < across; thread++) total += sums[2 * channels * thread + c];
        of_affine[c] = total;
    }
}

// y = a + b. torch's sum of large bf16 tensors takes four times as long when they are not in cache.
void add(const bf16* a, const bf16* b, int64_t count, int threads, bf16* y) {
    const int64_t whole = count / LANES;
    divided(threads, whole, [=](Share mine, int) {
        for (int64_t i = mine.first * LANES; i < mine.last * LANES; i += LANES)
            store(y + i, load(a + i) + load(b + i));
    });
    for (int64_t i = whole * LANES; i < count; i++) y[i] = rounded(one(a[i]) + one(b[i]));
}

// The greatest of each 2x2 positions, of x [images, height, width, channels]; channels are a
// multiple of 16. NaN is the greatest, an odd row or column is left out, as in torch.
void pool_forward(const bf16* x, int64_t images, int64_t height, int64_t width, int64_t channels,
                  int threads, bf16* y) {
    const int64_t rows = height / 2, columns = width / 2;
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < images * rows; row++) {
        const bf16* upper = x + (row / rows * height + row % rows * 2) * width * channels;
        const bf16* lower = upper + width * channels;
        bf16* to = y + row * columns * channels;
        for (int64_t column = 0; column < columns; column++) {
            const int64_t i = 2 * column * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                Floats m = load(upper + i + c);
                for (const bf16* p : {upper + i + channels, lower + i, lower + i + channels}) {
                    Floats v = load(p + c);
                    m = (v > m) | (v != v) ? v : m;
                }
                store(to + column * channels + c, m);
            }
        }
    }
}

// The gradient goes to the first of the greatest, in the order of reading.
void pool_backward(const bf16* of_y, const bf16* x, int64_t images, int64_t height, int64_t width,
                   int64_t channels, int threads, bf16* of_x) {
    const int64_t rows = height / 2, columns = width / 2;
#pragma omp parallel for num_threads(threads)
    for (int64_t image = 0; image < images; image++) {
        const bf16* own = x + image * height * width * channels;
        bf16* to = of_x + image * height * width * channels;
        for (int64_t row = 0; row < rows; row++) {
            const bf16* from = of_y + (image * rows + row) * columns * channels;
            for (int64_t column = 0; column < columns; column++) {
                const int64_t i = (2 * row * width + 2 * column) * channels;
                const int64_t places[] = {i, i + channels, i + width * channels,
                                          i + (width + 1) * channels};
                for (int64_t c = 0; c < channels; c += LANES) {
                    Floats v[4], g = load(from + column * channels + c);
                    for (int k = 0; k < 4; k++) v[k] = load(own + places[k] + c);
                    auto right = (v[1] > v[0]) | (v[1] != v[1]);
                    auto below = (v[3] > v[2]) | (v[3] != v[3]);
                    Floats upper = right ? v[1] : v[0], lower = below ? v[3] : v[2];
                    auto low = (lower > upper) | (lower != lower);
                    Floats up = low ? Floats{} : g, down = low ? g : Floats{};
                    store(to + places[0] + c, right ? Floats{} : up);
                    store(to + places[1] + c, right ? up : Floats{});
                    store(to + places[2] + c, below ? Floats{} : down);
                    store(to + places[3] + c, below ? down : Floats{});
                }
            }
            if (width % 2)
                for (int64_t r = 2 * row; r < 2 * row + 2; r++)
                    std::memset(to + (r * width + width - 1) * channels, 0, 2 * channels);
        }
        if (height % 2)
            std::memset(to + (height - 1) * width * channels, 0, 2 * width * channels);
    }
}

// Move, warp, grey, normalise and cover `count` images [3, 32, 32]; y is [count, 32, 32, 3].
// `index` tells where in the epoch's parameters an image's are; each of those may be null. rows and
// columns [., 32]: the source of each; maps [., 2, 3] for those `warped`; holes [., 2]: the first
// row and column of squares of side `hole`. A value v becomes v * scale + offset.
void augment(const uint8_t* images, const int64_t* index, int64_t count, const int64_t* rows,
             const int64_t* columns, const uint8_t* warped, const float* maps, const uint8_t* gray,
             const float* luma, const int64_t* holes, int64_t hole, const float* scale,
             const float* offset, int threads, bf16* y) {
#pragma omp parallel for num_threads(threads)
    for (int64_t n = 0; n < count; n++) {
        const uint8_t* image = images + n * COLOURS * PIXELS;
        const int64_t own = index[n];
        float moved[COLOURS * PIXELS], sampled[COLOURS * PIXELS], *values = moved;
        for (int64_t colour = 0; colour < COLOURS; colour++)
            for (int64_t row = 0; row < SIDE; row++) {
                int64_t source = rows ? rows[own * SIDE + row] : row;
                const uint8_t* from = image + colour * PIXELS + source * SIDE;
                float* to = moved + colour * PIXELS + row * SIDE;
                for (int64_t column = 0; column < SIDE; column++)
                    to[column] = from[columns ? columns[own * SIDE + column] : column];
            }
        if (maps && warped[own]) {
            warp(moved, maps + own * 6, sampled);
            values = sampled;
        }
        if (gray && gray[own])
            for (int64_t i = 0; i < PIXELS; i++) {
                float sum = 0;
                for (int64_t colour = 0; colour < COLOURS; colour++)
                    sum += values[colour * PIXELS + i] * luma[colour];
                for (int64_t colour = 0; colour < COLOURS; colour++)
                    values[colour * PIXELS + i] = sum;
            }
        bf16* to = y + n * COLOURS * PIXELS;
        for (int64_t i = 0; i < PIXELS; i++)
            for (int64_t colour = 0; colour < COLOURS; colour++)
                to[i * COLOURS + colour] =
                    rounded(values[colour * PIXELS + i] * scale[colour] + offset[colour]);
        if (holes)
            for (int64_t row = 0; row < SIDE; row++)
                for (int64_t column = 0; column < SIDE; column++) {
                    int64_t down = row - holes[2 * own], right = column - holes[2 * own + 1];
                    if (down >= 0 && down < hole && right >= 0 && right < hole)
                        std::memset(to + (row * SIDE + column) * COLOURS, 0, 2 * COLOURS);
                }
    }
}

}  // extern "C"
