// The update of Muon (trainer/loop/optim.py) on the matrix tiles of AMX. Called by tiles.py.

#include "tiles.h"

#include <cmath>

#ifdef TILES

namespace {

const int64_t BOTH = 2 * SIDE;  // rows and columns of a block of four tiles of sums
const int ITERATIONS = 3;
const float A = 3.4445f, B = -4.7750f, C = 2.0315f;  // of the polynomial: Jordan's

thread_local Scratch x_scratch, gram_scratch, polynomial_scratch, packed_scratch;

// Of [rows, columns], for what is multiplied by its transpose.
const bf16* packed_columns(const bf16* x, int64_t rows, int64_t columns) {
    bf16* to = packed_scratch.numbers(rows * columns);
    for (int64_t i = 0; i < rows; i += SIDE)
        for (int64_t k = 0; k < columns; k += DEPTH, to += TILE) {
            __m512i tile[SIDE];
            for (int64_t r = 0; r < SIDE; r++) tile[r] = _mm512_load_si512(x + (i + r) * columns + k);
            transpose(tile);
            for (int64_t r = 0; r < SIDE; r++) _mm512_store_si512(to + r * DEPTH, tile[r]);
        }
    return to - rows * columns;
}

// Of [rows, columns], for what it is multiplied by from the left.
const bf16* packed_rows(const bf16* x, int64_t rows, int64_t columns) {
    bf16* to = packed_scratch.numbers(rows * columns);
    for (int64_t j = 0; j < columns; j += SIDE)
        for (int64_t k = 0; k < rows; k += 2, to += DEPTH) {
            const bf16* first = x + k * columns + j;
            _mm512_store_si512(to, pairs(first, first + columns));
        }
    return to - rows * columns;
}

// What `of(place, sums)` makes of each 16 numbers of a [rows, depth] times what is packed, [rows,
// columns]. All are multiples of 32.
template <class Of>
void multiply(const bf16* a, const bf16* packed, int64_t rows, int64_t columns, int64_t depth, bf16* to,
              Of of) {
    alignas(64) float sums[BOTH * BOTH];
    for (int64_t i = 0; i < rows; i += BOTH)
        for (int64_t j = 0; j < columns; j += BOTH) {
            const bf16 *upper = a + i * depth, *lower = upper + SIDE * depth;
            const bf16 *left = packed + j * depth, *right = left + SIDE * depth;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t k = 0; k < depth; k += DEPTH) {
                _tile_loadd(4, upper + k, 2 * depth);
                _tile_loadd(6, left + k * SIDE, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, right + k * SIDE, 64);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, lower + k, 2 * depth);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, sums, 4 * BOTH);
            _tile_stored(1, sums + SIDE, 4 * BOTH);
            _tile_stored(2, sums + SIDE * BOTH, 4 * BOTH);
            _tile_stored(3, sums + SIDE * BOTH + SIDE, 4 * BOTH);
            for (int64_t r = 0; r < BOTH; r++)
                for (int64_t c = 0; c < BOTH; c += SIDE) {
                    const int64_t at = (i + r) * columns + j + c;
                    store(to + at, of(at, _mm512_load_ps(sums + r * BOTH + c)));
                }
        }
}

// Newton-Schulz iterations of x [rows, columns], at most as many rows as columns.
void orthogonalise(bf16* x, int64_t rows, int64_t columns) {
    bf16* gram = gram_scratch.numbers(rows * rows);
    bf16* polynomial = polynomial_scratch.numbers(rows * rows);
    for (int i = 0; i < ITERATIONS; i++) {
        multiply(x, packed_columns(x, rows, columns), rows, rows, columns, gram,
                 [](int64_t, __m512 sums) { return sums; });
        multiply(gram, packed_rows(gram, rows, rows), rows, rows, rows, polynomial,
                 [=](int64_t at, __m512 sums) { return B * widened(gram + at) + C * sums; });
        // each number of x is read from its packed copy before it is written
        multiply(polynomial, packed_rows(x, rows, columns), rows, columns, rows, x,
                 [=](int64_t at, __m512 sums) { return A * widened(x + at) + sums; });
    }
}

void update(float* filters, const float* gradient, float* buffer, int64_t outputs, int64_t inputs,
            float lr, float momentum, float decay) {
    const int64_t count = outputs * inputs;
    double of_filters = 0, of_direction = 0;
    for (int64_t i = 0; i < count; i += 4096) {
        float own = 0, steps = 0;
        for (int64_t j = i; j < std::min(i + 4096, count); j++) {
            buffer[j] = momentum * buffer[j] + gradient[j];
            const float direction = gradient[j] + momentum * buffer[j];
            steps += direction * direction;
            own += filters[j] * filters[j];
        }
        of_filters += own;
        of_direction += steps;
    }
    const bool tall = outputs > inputs;
    const int64_t rows = ceiling(tall ? inputs : outputs, BOTH) * BOTH;
    const int64_t columns = ceiling(tall ? outputs : inputs, BOTH) * BOTH;
    const int64_t down = tall ? 1 : columns, right = tall ? columns : 1;
    bf16* x = x_scratch.zeros(rows * columns);
    const float shrink = 1 / ((float)std::sqrt(of_direction) + 1e-7f);
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t i = 0; i < inputs; i++) {
            const int64_t at = o * inputs + i;
            x[o * down + i * right] = rounded((gradient[at] + momentum * buffer[at]) * shrink);
        }
    orthogonalise(x, rows, columns);
    const float norm = std::max((float)std::sqrt(of_filters), 1e-12f);
    const float scale = std::sqrt((float)outputs) * (1 - lr * decay) / norm;
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t i = 0; i < inputs; i++) {
            const int64_t at = o * inputs + i;
            filters[at] = filters[at] * scale - lr * one(x[o * down + i * right]);
        }
}

}  // namespace

#endif

extern "C" {

// One step for `count` layers: filters, gradients and momentum buffers [outputs, inputs] in fp32.
void muon(float** filters, float** gradients, float** buffers, const int64_t* outputs,
          const int64_t* inputs, int64_t count, float lr, float momentum, float decay, int threads) {
#ifdef TILES
    std::vector<int64_t> order(count);  // the largest first
    for (int64_t i = 0; i < count; i++) order[i] = i;
    std::sort(order.begin(), order.end(), [=](int64_t a, int64_t b) {
        return outputs[a] * inputs[a] * std::min(outputs[a], inputs[a]) >
               outputs[b] * inputs[b] * std::min(outputs[b], inputs[b]);
    });
#pragma omp parallel num_threads(threads)
    {
        const Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < count; n++) {
            const int64_t i = order[n];
            update(filters[i], gradients[i], buffers[i], outputs[i], inputs[i], lr, momentum, decay);
        }
    }
#endif
}

}  // extern "C"
