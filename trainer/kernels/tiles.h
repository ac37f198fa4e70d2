// The matrix tiles of AMX: for products in bf16 whose sums are in fp32. Where there are none, or this is
// compiled for another processor, TILES is not defined.

#pragma once

#include "bf16.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define TILES 1
#include <immintrin.h>
#include <omp.h>
#endif

#ifdef TILES

namespace {

const int64_t SIDE = 16;            // rows of a tile
const int64_t DEPTH = 32;           // numbers that a product of tiles sums over
const int64_t TILE = SIDE * DEPTH;  // numbers of bf16 in a tile; half as many of fp32
const int64_t SUMS = SIDE * SIDE;
const std::align_val_t PAGE{4096};

// Memory of a thread that its next call finds again, at the beginning of a page.
class Scratch {
    bf16* at = nullptr;
    int64_t size = 0;

  public:
    Scratch() = default;
    Scratch(Scratch&& other) : at(std::exchange(other.at, nullptr)), size(std::exchange(other.size, 0)) {}

    bf16* numbers(int64_t count) {
        if (count > size) {
            ::operator delete(at, PAGE);
            size = 0;
            at = (bf16*)::operator new(2 * count, PAGE);
            size = count;
        }
        return at;
    }

    bf16* zeros(int64_t count) {
        bf16* found = numbers(count);
        if (count) std::memset(found, 0, 2 * count);
        return found;
    }

    ~Scratch() { ::operator delete(at, PAGE); }
};

// All tiles of 16 rows of 64 bytes, for the life of it; then as they were: oneDNN remembers what it set.
class Tiles {
    struct alignas(64) Layout {
        uint8_t palette = 0, start = 0, reserved[14] = {0};
        uint16_t bytes[16] = {0};
        uint8_t rows[16] = {0};
    } before;

    // To the compiler the instructions touch eight bytes of a layout only: without this it drops the rest.
    static void touch(Layout* layout) { __asm__ volatile("" : : "r"(layout) : "memory"); }

  public:
    Tiles() {
        touch(&before);
        _tile_storeconfig(&before);
        touch(&before);
        Layout layout;
        layout.palette = 1;
        std::fill_n(layout.bytes, 8, 64);
        std::fill_n(layout.rows, 8, SIDE);
        touch(&layout);
        _tile_loadconfig(&layout);
    }
    ~Tiles() {
        touch(&before);
        _tile_loadconfig(&before);
    }
};

inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// 16 numbers and 16 others, by turns.
inline __m512i pairs(const bf16* first, const bf16* second) {
    const __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)first));
    const __m512i b = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)second));
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

// 16 rows of 16 words become columns.
inline void transpose(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            r[4 * i + 2 * j] = _mm512_unpacklo_epi64(t[4 * i + j], t[4 * i + j + 2]);
            r[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(t[4 * i + j], t[4 * i + j + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            t[i + 8 * j] = _mm512_shuffle_i32x4(r[i + 8 * j], r[i + 8 * j + 4], 0x88);
            t[i + 8 * j + 4] = _mm512_shuffle_i32x4(r[i + 8 * j], r[i + 8 * j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

inline void store(bf16* to, __m512 values) {
    const __m256bh halves = _mm512_cvtneps_pbh(values);
    std::memcpy(to, &halves, sizeof halves);
}

inline __m512 widened(const bf16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16));
}

}  // namespace

#endif
