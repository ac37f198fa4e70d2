// Convolutions in bf16 on the matrix tiles of AMX, for images in channels_last: output, both gradients,
// and, before what a convolution gives leaves the cache, its 2x2 max pooling and the statistics that a batch
// norm wants; on the way back the gradient of that norm's input. Called by tiles.py.
//
// Some images lie side by side: row by row, zeros between them as wide as the padding. What a tap of the
// kernel sees of 16 consecutive positions is then 16 equally distant rows of channels: a tile, wherever
// the tap is; where it sees rows beyond the image it is left out. Positions between the images are
// computed and thrown away. With a stride the images are parted into planes: of the rows i, i + stride,
// ... and the columns j, j + stride, ...

#include "tiles.h"

#ifdef TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Of a convolution of one group, as tiles.py passes it.
struct Layer {
    int64_t images, height, width, channels, outputs, rows, columns, stride, up, left, dilation;

    int64_t out_height() const { return (height + 2 * up - dilation * (rows - 1) - 1) / stride + 1; }
    int64_t out_width() const { return (width + 2 * left - dilation * (columns - 1) - 1) / stride + 1; }
};

// A batch norm behind a convolution whose gradient was left for now: that of its input x is
// g * scale + x * slope + offset, g that of its output, and 0 where that is masked and x * scale + shift <= 0.
struct Normed {
    const bf16* x;         // [N, H', W', O], or of what was pooled
    const float* numbers;  // [4, O]: scale, shift, slope, offset
    int64_t masked;
};

#ifdef TILES

namespace {

// Rows whose sums stay in fp32, and whose channels are gone through 16 by 16.
const int64_t ROWS = 64;
// Of the images that are laid out together: how many at most, bytes of them, and for the gradient of
// weights steps of 32 positions to sum over before the sums leave their registers.
const int64_t MOST = 64, CACHE = 320 << 10, MANY = 12;

thread_local Scratch images_scratch, gradients_scratch, pairs_scratch, turned_scratch, dense_scratch,
    output_scratch, normed_scratch;

int64_t thread() { return omp_get_thread_num(); }

// Of things that are taken `together`, some of those that this thread has.
struct Share {
    int64_t first, count;
};

std::vector<Share> shares(int64_t things, int64_t together) {
    const int64_t threads = omp_get_num_threads();
    std::vector<Share> found;
    const int64_t last = things * (thread() + 1) / threads;
    for (int64_t first = things * thread() / threads; first < last; first += together)
        found.push_back({first, std::min(together, last - first)});
    return found;
}

inline void copy(bf16* to, const bf16* from, int64_t count) {
    for (; count >= 32; count -= 32, to += 32, from += 32)
        _mm512_storeu_si512(to, _mm512_loadu_si512(from));
    const __mmask32 rest = ((uint64_t)1 << count) - 1;
    if (count) _mm512_mask_storeu_epi16(to, rest, _mm512_maskz_loadu_epi16(rest, from));
}

// A place of the kernel: how far from where a position begins to see, and which weights are there.
struct Tap {
    int64_t down, right, row, column;
};

// What `rows` times `columns` positions see of an image: those at (h, w) begin to see it at its row
// h * stride - up and column w * stride - left.
struct View {
    int64_t height, width, channels, outputs, rows, columns, stride, up, left;
    std::vector<Tap> taps;

    int64_t reach() const {
        int64_t farthest = 0;
        for (const Tap& tap : taps) farthest = std::max(farthest, tap.right);
        return farthest;
    }
};

// Of a layer, to its output.
View forward_view(const Layer& of) {
    View view{of.height, of.width, of.channels, of.outputs, of.out_height(), of.out_width(),
              of.stride, of.up,    of.left,     {}};
    for (int64_t i = 0; i < of.rows; i++)
        for (int64_t j = 0; j < of.columns; j++)
            view.taps.push_back({i * of.dilation, j * of.dilation, i, j});
    return view;
}

// Along one side of an image: of each `stride` pixels the one with this phase sees some taps' outputs.
struct Phase {
    int64_t first, pixels, before;     // first pixel, how many there are, outputs before that of the first
    std::vector<int64_t> taps, steps;  // of the kernel, and which output they see after `before`

    Phase(int64_t phase, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
          int64_t dilation) {
        const int64_t start = std::max<int64_t>(0, ceiling(padding - phase, stride));
        first = start * stride + phase - padding;
        pixels = std::max<int64_t>(0, ceiling(size - first, stride));
        before = 0;
        for (int64_t i = 0; i < kernel; i++)
            if (i * dilation % stride == phase) taps.push_back(i);
        for (const int64_t i : taps) before = std::max(before, i * dilation / stride - start);
        for (const int64_t i : taps) steps.push_back(start - i * dilation / stride + before);
    }
};

// Of the gradient of a layer's output, to that of its input; rows and columns of these phases.
View backward_view(const Layer& of, const Phase& rows, const Phase& columns) {
    View view{of.out_height(), of.out_width(), of.outputs,  of.channels,    rows.pixels,
              columns.pixels,  1,              rows.before, columns.before, {}};
    for (int64_t i = rows.taps.size() - 1; i >= 0; i--)  // as they follow each other in memory
        for (int64_t j = columns.taps.size() - 1; j >= 0; j--)
            view.taps.push_back({rows.steps[i], columns.steps[j], rows.taps[i], columns.taps[j]});
    return view;
}

// How images lie in memory to be seen by tiles.
struct Planes {
    View of;
    bool doubled;  // beside each position's 16 channels are those of the next position
    int64_t channels, pitch, right;
    int64_t together = 1, row = 0, plane = 0, nothing = 0, size = 0;

    // `beside`: 16 channels are to lie beside those of the next position. Of images there are as many
    // as fill tiles best in CACHE, and at least `fewest` steps of 32 positions, if there are as many.
    Planes(const View& of, bool beside, int64_t available, int64_t fewest)
        : of(of), doubled(beside && of.channels == SIDE) {
        channels = of.channels == SIDE && !doubled ? SIDE : ceiling(of.channels, DEPTH) * DEPTH;
        right = of.reach() / of.stride;
        const int64_t seen = of.columns + right;
        // the zeros right of an image are those left of the next
        pitch = of.stride > 1 ? seen : std::max(of.columns, std::max(of.width + of.left, seen - of.left));
        if (doubled) pitch++;  // what lies beside the last tap is seen, too, if by weights of zero
        double best = 0;
        for (int64_t n = 1; n <= std::max<int64_t>(1, std::min(available, MOST)); n++) {
            if (n > 1 && 2 * numbers(n) > CACHE) break;
            const int64_t steps = ceiling(length(n), DEPTH) * of.rows;
            const double filled = (double)n * of.columns / (ceiling(length(n), DEPTH) * DEPTH) *
                                  std::min<double>(1, (double)steps / fewest);
            if (filled > best * 1.02) {
                best = filled;
                together = n;
            }
        }
        row = row_of(together);
        plane = ceiling(of.height, of.stride) * row;
        nothing = plane * of.stride * of.stride;
        size = numbers(together);
    }

    // Positions in a row, from the first of the first image to the last of the last.
    int64_t length(int64_t images) const { return images * pitch - (pitch - of.columns); }

    // Where output row h begins to see a tap of the kernel; -1: nowhere in the image.
    int64_t place(int64_t h, const Tap& tap) const {
        const int64_t s = of.stride, r = h * s + tap.down - of.up, c = tap.right;
        if (r < 0 || r >= of.height) return -1;
        return (r % s * s + c % s) * plane + r / s * row + c / s * channels;
    }

    // Lay out the n-th image; what is written nowhere is zero before. 32 numbers lie before `to`.
    void fill(const bf16* image, int64_t n, bf16* to) const {
        const int64_t c = of.channels, s = of.stride;
        to += n * pitch * channels;
        for (int64_t h = 0; h < of.height; h++) {
            bf16* line = to + h % s * s * plane + h / s * row;
            const bf16* from = image + h * of.width * c;
            if (s == 1 && c == channels) {
                copy(line + of.left * c, from, of.width * c);
                continue;
            }
            for (int64_t w = 0; w < of.width; w++, from += c) {
                const int64_t j = w + of.left;
                if (s > 1 && j / s >= pitch) break;
                bf16* at = line + j % s * plane + j / s * channels;
                if (!doubled) {
                    copy(at, from, c);
                    continue;
                }
                const __m256i v = _mm256_loadu_si256((const __m256i*)from);
                _mm256_store_si256((__m256i*)at, v);
                _mm256_store_si256((__m256i*)(at - SIDE), v);
            }
        }
    }

  private:
    int64_t row_of(int64_t images) const {
        return ceiling(images * pitch + std::max(right, of.left), 2) * 2 * channels;
    }

    // Of all planes and of `nothing`, a row of zeros as long as tiles read.
    int64_t numbers(int64_t images) const {
        const int64_t s = of.stride, rest = row_of(images) + ceiling(4 * SIDE + right, 2) * 2 * channels;
        return ceiling(of.height, s) * s * s * row_of(images) + rest;
    }
};

// What one product of tiles sums over: 32 channels of a tap, or 16 of each of two. Where there is one only,
// those of the next position are multiplied by zero: what is not a number there spreads in its image.
struct Step {
    const Tap *tap, *beside;
    int64_t channel;
};

std::vector<Step> steps_of(const Planes& planes) {
    const auto& taps = planes.of.taps;
    std::vector<Step> steps;
    std::vector<bool> done(taps.size());
    for (size_t i = 0; i < taps.size(); i++) {
        if (done[i]) continue;
        if (!planes.doubled) {
            for (int64_t c = 0; c < planes.channels; c += DEPTH) steps.push_back({&taps[i], &taps[i], c});
            continue;
        }
        const Tap* beside = nullptr;
        for (size_t j = i + 1; !beside && j < taps.size(); j++)
            if (!done[j] && taps[j].down == taps[i].down &&
                taps[j].right == taps[i].right + planes.of.stride) {
                beside = &taps[j];
                done[j] = true;
            }
        steps.push_back({&taps[i], beside, 0});
    }
    return steps;
}

// Weights [O, C, rows, columns] with strides, as tiles of 32 inputs and 16 outputs: one after the other
// for each step, and that for each 16 outputs.
class Packed {
    const Planes& planes;
    const float* weights;
    const int64_t* strides;

  public:
    Packed(const Planes& planes, const float* weights, const int64_t* strides)
        : planes(planes), weights(weights), strides(strides) {}

    void write(const std::vector<Step>& steps, bf16* to) const {
        const View& of = planes.of;
        for (int64_t o = 0; o < of.outputs; o += SIDE)
            for (const Step& step : steps)
                for (int half = 0; half < 2; half++, to += TILE / 2) {
                    const int64_t c = step.channel + (planes.doubled ? 0 : half * SIDE);
                    const int64_t count = std::min(of.channels - c, SIDE);
                    const Tap* tap = half ? step.beside : step.tap;
                    if (!tap || count <= 0) std::memset(to, 0, TILE);
                    else if (count == SIDE && strides[1] == 1) columns(at(o, c, *tap), to);
                    else if (count == SIDE && strides[0] == 1) rows(at(o, c, *tap), to);
                    else each(at(o, c, *tap), count, to);
                }
    }

  private:
    const float* at(int64_t output, int64_t channel, const Tap& tap) const {
        return weights + output * strides[0] + channel * strides[1] + tap.row * strides[2] +
               tap.column * strides[3];
    }

    // Of 16 inputs that lie side by side: 8 rows of 16 pairs, one per output.
    void columns(const float* from, bf16* to) const {
        __m512i rows[SIDE];
        for (int64_t o = 0; o < SIDE; o++)
            rows[o] = _mm512_castsi256_si512(halves(from + o * strides[0]));
        transpose(rows);
        for (int64_t i = 0; i < SIDE / 2; i++) _mm512_storeu_si512(to + i * DEPTH, rows[i]);
    }

    // Of 16 outputs that lie side by side.
    void rows(const float* from, bf16* to) const {
        for (int64_t i = 0; i < SIDE / 2; i++) {
            const float* pair = from + 2 * i * strides[1];
            bf16 both[DEPTH];
            _mm256_storeu_si256((__m256i*)both, halves(pair));
            _mm256_storeu_si256((__m256i*)(both + SIDE), halves(pair + strides[1]));
            _mm512_storeu_si512(to + i * DEPTH, pairs(both, both + SIDE));
        }
    }

    void each(const float* from, int64_t count, bf16* to) const {
        for (int64_t c = 0; c < SIDE; c++)
            for (int64_t o = 0; o < SIDE; o++) {
                const float value = c < count ? from[o * strides[0] + c * strides[1]] : 0.0f;
                to[c / 2 * DEPTH + 2 * o + c % 2] = rounded(value);
            }
    }

    static __m256i halves(const float* from) {
        return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from));
    }
};

// Where the output of positions lies in an image [height, width, outputs].
struct Image {
    int64_t height, width, first_row, first_column, stride;
};

// A convolution of images that are laid out.
struct Product {
    Planes planes;
    Image to;

    Product(const Planes& planes, const Image& to, const float* from, const int64_t* strides,
            const float* added = nullptr)
        : planes(planes), to(to), seen(planes.of.rows), bias(planes.of.outputs) {
        const auto steps = steps_of(planes);
        count = steps.size();
        for (int64_t h = 0; h < planes.of.rows; h++)
            for (int64_t k = 0; k < count; k++) {
                const int64_t at = planes.place(h, *steps[k].tap);
                if (at >= 0) seen[h].push_back({at + steps[k].channel, k * TILE});
                any.push_back(at >= 0 ? at + steps[k].channel : planes.nothing);
            }
        weights = room.numbers(planes.of.outputs / SIDE * count * TILE);
        Packed(planes, from, strides).write(steps, room.numbers(0));
        if (added) std::copy_n(added, bias.size(), bias.begin());
    }

    // What so many images give, one after the other: blocks of 16 outputs and of positions by twos.
    void operator()(const bf16* images, int64_t together, bf16* to) const {
        const int64_t blocks = planes.of.outputs / SIDE;
        int64_t block = 0;
        for (; block + 1 < blocks; block += 2) two(images, together, block, to + block * SIDE);
        if (block < blocks) one(images, together, block, to + block * SIDE);
    }

  private:
    struct Seen {
        int64_t at, weights;
    };
    std::vector<std::vector<Seen>> seen;  // by each row of the output: the steps with a row of the image
    std::vector<int64_t> any;             // by rows, of all steps
    Scratch room;
    const bf16* weights;
    std::vector<float> bias;
    int64_t count;

    void two(const bf16* images, int64_t together, int64_t block, bf16* to) const {
        alignas(64) float sums[4 * SUMS];
        const int64_t c = planes.channels, bytes = 2 * c, length = planes.length(together);
        const bf16 *first = weights + block * count * TILE, *second = first + count * TILE;
        for (int64_t h = 0; h < planes.of.rows; h++)
            for (int64_t at = 0; at < length; at += 2 * SIDE) {
                const bf16* from = images + at * c;
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
                for (const Seen& one : seen[h]) {
                    _tile_loadd(4, from + one.at, bytes);
                    _tile_loadd(6, first + one.weights, 64);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_loadd(7, second + one.weights, 64);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_loadd(5, from + one.at + SIDE * c, bytes);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
                _tile_stored(0, sums, 128);
                _tile_stored(1, sums + SIDE, 128);
                _tile_stored(2, sums + 2 * SUMS, 128);
                _tile_stored(3, sums + 2 * SUMS + SIDE, 128);
                keep<2>(sums, block, h, at, std::min(at + 2 * SIDE, length), to);
            }
    }

    // Two rows at once: sums that need not wait for each other.
    void one(const bf16* images, int64_t together, int64_t block, bf16* to) const {
        alignas(64) float sums[4 * SUMS];
        const int64_t c = planes.channels, bytes = 2 * c, length = planes.length(together);
        const int64_t height = planes.of.rows;
        const bf16* tiles = weights + block * count * TILE;
        for (int64_t h = 0; h < height; h += 2) {
            const int64_t next = std::min(h + 1, height - 1);
            const int64_t *upper = any.data() + h * count, *lower = any.data() + next * count;
            for (int64_t at = 0; at < length; at += 2 * SIDE) {
                const bf16* from = images + at * c;
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
                for (int64_t k = 0; k < count; k++) {
                    _tile_loadd(6, tiles + k * TILE, 64);
                    _tile_loadd(4, from + upper[k], bytes);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_loadd(5, from + upper[k] + SIDE * c, bytes);
                    _tile_dpbf16ps(1, 5, 6);
                    _tile_loadd(7, from + lower[k], bytes);
                    _tile_dpbf16ps(2, 7, 6);
                    _tile_loadd(4, from + lower[k] + SIDE * c, bytes);
                    _tile_dpbf16ps(3, 4, 6);
                }
                _tile_stored(0, sums, 64);
                _tile_stored(1, sums + SUMS, 64);
                _tile_stored(2, sums + 2 * SUMS, 64);
                _tile_stored(3, sums + 3 * SUMS, 64);
                const int64_t end = std::min(at + 2 * SIDE, length);
                keep<1>(sums, block, h, at, end, to);
                keep<1>(sums + 2 * SUMS, block, next, at, end, to);
            }
        }
    }

    // Round the sums of positions that are in an image: from `at` to `end` in row h.
    template <int tiles>
    void keep(const float* sums, int64_t block, int64_t h, int64_t at, int64_t end, bf16* to) const {
        const int64_t c = planes.of.outputs, width = planes.of.columns;
        __m512 added[tiles];
        for (int i = 0; i < tiles; i++) added[i] = _mm512_loadu_ps(&bias[(block + i) * SIDE]);
        for (int64_t n = at / planes.pitch; n * planes.pitch < end; n++) {
            const int64_t begin = n * planes.pitch;
            const int64_t first = std::max(at, begin), last = std::min(end, begin + width);
            const int64_t row = n * this->to.height + h * this->to.stride + this->to.first_row;
            const int64_t column = (first - begin) * this->to.stride + this->to.first_column;
            bf16* pixel = to + (row * this->to.width + column) * c;
            const float* from = sums + (first - at) * tiles * SIDE;
            for (int64_t m = first; m < last; m++, pixel += this->to.stride * c)
                for (int i = 0; i < tiles; i++, from += SIDE)
                    store(pixel + i * SIDE, _mm512_load_ps(from) + added[i]);
        }
    }
};

// The gradient of weights, summed over images.
struct WeightGradient {
    Planes planes;
    int64_t taps, blocks, tiles, steps;    // blocks of outputs; tiles: of inputs, for all taps; of a row
    std::vector<int64_t> column;           // tile of a tap and a block of inputs
    std::vector<std::vector<int64_t>> at;  // of each tile, by row of the output: its first pairs, or -1
    std::vector<int64_t> source;           // of each position of a row: image and column, or -1
    bool any_odd = false;                  // whether a tap begins to see at an odd position

    WeightGradient(const View& of, int64_t available)
        : planes(of, false, available, MANY), taps(of.taps.size()), blocks(of.outputs / SIDE),
          tiles(taps * inputs()), steps(ceiling(planes.length(planes.together), DEPTH)), column(tiles),
          at(tiles), source(steps * DEPTH, -1) {
        int64_t n = 0;
        for (int64_t input = 0; input < inputs(); input++)
            for (int64_t parity = 0; parity < 2; parity++)  // neighbours share lines of the cache
                for (int64_t tap = 0; tap < taps; tap++) {
                    if (of.taps[tap].right / of.stride % 2 != parity) continue;
                    any_odd |= parity;
                    column[tap * inputs() + input] = n;
                    for (int64_t h = 0; h < of.rows; h++) {
                        const int64_t place = planes.place(h, of.taps[tap]);
                        at[n].push_back(place < 0 ? -1 : pairs_at(place) + input * 2 * SIDE);
                    }
                    n++;
                }
        for (int64_t image = 0; image < planes.together; image++)
            for (int64_t w = 0; w < of.columns; w++)
                source[image * planes.pitch + w] = (image * of.rows * of.columns + w) * of.outputs;
    }

    int64_t inputs() const { return ceiling(planes.of.channels, SIDE); }
    int64_t sums() const { return blocks * tiles * SUMS; }

    // Add what `count` images come to that are laid out, with gradients [H', W', O] one after the other.
    void add(const bf16* images, const bf16* gradients, int64_t count, float* sums) const {
        const int64_t height = planes.of.rows;
        bf16* pairs = pairs_scratch.numbers(2 * planes.size);
        bf16* turned = turned_scratch.numbers(blocks * height * steps * TILE);
        pair(images, pairs);
        for (int64_t h = 0; h < height; h++)
            turn(gradients + h * planes.of.columns * planes.of.outputs, count, turned + h * steps * TILE);
        const int64_t block_size = height * steps * TILE;
        int64_t block = 0;
        for (; block + 1 < blocks; block += 2) {
            float* row = sums + block * tiles * SUMS;
            int64_t n = 0;
            for (; n + 1 < tiles; n += 2) two(turned + block * block_size, pairs, n, row + n * SUMS);
            if (n < tiles) lone(turned + block * block_size, pairs, n, row + n * SUMS);
        }
        if (block < blocks)
            for (int64_t n = 0; n < tiles; n += 5)
                five(turned + block * block_size, pairs, n, sums + block * tiles * SUMS);
    }

    // The sums of threads as gradient [O, C, rows, columns] with strides.
    void gather(const float* sums, int threads, const int64_t* strides, float* to) const {
        for (int64_t o = 0; o < planes.of.outputs; o++)
            for (int64_t tap = 0; tap < taps; tap++)
                for (int64_t c = 0; c < planes.of.channels; c++) {
                    const int64_t n = o / SIDE * tiles + column[tap * inputs() + c / SIDE];
                    const float* from = sums + n * SUMS + o % SIDE * SIDE + c % SIDE;
                    float total = 0;
                    for (int thread = 0; thread < threads; thread++) total += from[thread * this->sums()];
                    const Tap& of = planes.of.taps[tap];
                    to[o * strides[0] + c * strides[1] + of.row * strides[2] + of.column * strides[3]] =
                        total;
                }
    }

  private:
    // Of a place of an image that of its pairs: those that begin with even positions come first.
    int64_t pairs_at(int64_t place) const {
        const int64_t position = place / planes.channels;
        return position / 2 * 2 * planes.channels + position % 2 * planes.size;
    }

    // Each two neighbouring positions side by side, from the first on and then from the second.
    void pair(const bf16* images, bf16* even) const {
        const int64_t c = planes.channels;
        bf16* odd = even + planes.size;
        for (const bf16* end = images + planes.size; images < end; images += 2 * c)
            for (int64_t i = 0; i < c; i += SIDE, even += 2 * SIDE, odd += 2 * SIDE) {
                _mm512_store_si512(even, pairs(images + i, images + c + i));
                if (any_odd) _mm512_store_si512(odd, pairs(images + c + i, images + 2 * c + i));
            }
    }

    // A row's positions as columns: for each 16 outputs tiles of 32 positions.
    void turn(const bf16* gradients, int64_t count, bf16* to) const {
        alignas(64) static const bf16 zeros[SIDE] = {0};
        const int64_t length = planes.length(count), block_size = planes.of.rows * steps * TILE;
        for (int64_t k = 0; k < steps; k++)
            for (int64_t block = 0; block < blocks; block++) {
                const auto of = [&](int64_t i) {
                    return i < length && source[i] >= 0 ? gradients + source[i] + block * SIDE : zeros;
                };
                __m512i rows[SIDE];
                for (int64_t i = 0; i < SIDE; i++)
                    rows[i] = pairs(of(k * DEPTH + 2 * i), of(k * DEPTH + 2 * i + 1));
                transpose(rows);
                bf16* tile = to + block * block_size + k * TILE;
                for (int64_t i = 0; i < SIDE; i++) _mm512_store_si512(tile + i * DEPTH, rows[i]);
            }
    }

    void two(const bf16* rows, const bf16* pairs, int64_t n, float* a) const {
        const int64_t c = planes.channels, height = planes.of.rows, bytes = 4 * c;
        float* b = a + tiles * SUMS;
        _tile_loadd(0, a, 64);
        _tile_loadd(1, a + SUMS, 64);
        _tile_loadd(2, b, 64);
        _tile_loadd(3, b + SUMS, 64);
        const int64_t *first = at[n].data(), *second = at[n + 1].data();
        for (int64_t h = 0; h < height; h++) {
            const bf16 *upper = rows + h * steps * TILE, *lower = upper + height * steps * TILE;
            if (first[h] < 0 && second[h] < 0) continue;
            if (first[h] >= 0 && second[h] >= 0) {
                const bf16 *left = pairs + first[h], *right = pairs + second[h];
                for (int64_t k = 0; k < steps; k++) {
                    _tile_loadd(4, upper + k * TILE, 64);
                    _tile_loadd(6, left + k * DEPTH * c, bytes);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_loadd(7, right + k * DEPTH * c, bytes);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_loadd(5, lower + k * TILE, 64);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
                continue;
            }
            const bf16* seen = pairs + std::max(first[h], second[h]);
            for (int64_t k = 0; k < steps; k++) {
                _tile_loadd(4, upper + k * TILE, 64);
                _tile_loadd(5, lower + k * TILE, 64);
                _tile_loadd(6, seen + k * DEPTH * c, bytes);
                if (first[h] >= 0) {
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(2, 5, 6);
                } else {
                    _tile_dpbf16ps(1, 4, 6);
                    _tile_dpbf16ps(3, 5, 6);
                }
            }
        }
        _tile_stored(0, a, 64);
        _tile_stored(1, a + SUMS, 64);
        _tile_stored(2, b, 64);
        _tile_stored(3, b + SUMS, 64);
    }

    // Two blocks of outputs and one tile of inputs.
    void lone(const bf16* rows, const bf16* pairs, int64_t n, float* a) const {
        const int64_t c = planes.channels, height = planes.of.rows, bytes = 4 * c;
        float* b = a + tiles * SUMS;
        _tile_loadd(0, a, 64);
        _tile_loadd(2, b, 64);
        for (int64_t h = 0; h < height; h++) {
            if (at[n][h] < 0) continue;
            const bf16 *upper = rows + h * steps * TILE, *lower = upper + height * steps * TILE;
            const bf16* seen = pairs + at[n][h];
            for (int64_t k = 0; k < steps; k++) {
                _tile_loadd(6, seen + k * DEPTH * c, bytes);
                _tile_loadd(4, upper + k * TILE, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, lower + k * TILE, 64);
                _tile_dpbf16ps(2, 5, 6);
            }
        }
        _tile_stored(0, a, 64);
        _tile_stored(2, b, 64);
    }

    // One block of outputs and five tiles of inputs, the last of which may be the same.
    void five(const bf16* rows, const bf16* pairs, int64_t n, float* sums) const {
        const int64_t c = planes.channels, height = planes.of.rows, bytes = 4 * c;
        float* to[5];
        const int64_t* places[5];
        for (int64_t i = 0; i < 5; i++) {
            const int64_t tile = std::min(n + i, tiles - 1);
            to[i] = sums + tile * SUMS;
            places[i] = at[tile].data();
        }
        _tile_loadd(0, to[0], 64);
        _tile_loadd(1, to[1], 64);
        _tile_loadd(2, to[2], 64);
        _tile_loadd(3, to[3], 64);
        _tile_loadd(4, to[4], 64);
        for (int64_t h = 0; h < height; h++) {
            const bf16* seen[5];
            for (int64_t i = 0; i < 5; i++)
                seen[i] = pairs + (places[i][h] < 0 ? pairs_at(planes.nothing) : places[i][h]);
            for (int64_t k = 0; k < steps; k++) {
                const int64_t from = k * DEPTH * c;
                _tile_loadd(5, rows + (h * steps + k) * TILE, 64);
                _tile_loadd(6, seen[0] + from, bytes);
                _tile_dpbf16ps(0, 5, 6);
                _tile_loadd(7, seen[1] + from, bytes);
                _tile_dpbf16ps(1, 5, 7);
                _tile_loadd(6, seen[2] + from, bytes);
                _tile_dpbf16ps(2, 5, 6);
                _tile_loadd(7, seen[3] + from, bytes);
                _tile_dpbf16ps(3, 5, 7);
                _tile_loadd(6, seen[4] + from, bytes);
                _tile_dpbf16ps(4, 5, 6);
            }
        }
        _tile_stored(0, to[0], 64);
        _tile_stored(1, to[1], 64);
        _tile_stored(2, to[2], 64);
        _tile_stored(3, to[3], 64);
        _tile_stored(4, to[4], 64);
    }
};

// Of each channel's numbers, those of a thread: sums of distances from the first, and of their squares.
struct Moments {
    int64_t count = 0;
    std::vector<float> first;
    std::vector<double> plain, squares;

    // Add rows [., C].
    void add(const bf16* x, int64_t rows, int64_t channels) {
        if (!count) {
            for (int64_t c = 0; c < channels; c++) first.push_back(one(x[c]));
            plain.resize(channels);
            squares.resize(channels);
        }
        count += rows;
        for (int64_t from = 0; from < rows; from += ROWS)
            for (int64_t c = 0; c < channels; c += SIDE) {
                const int64_t to = std::min(from + ROWS, rows);
                const __m512 near = _mm512_loadu_ps(&first[c]);
                __m512 sums[4] = {}, products[4] = {};
                int64_t row = from;
                const auto next = [&](int k) {
                    const __m512 d = widened(x + row++ * channels + c) - near;
                    sums[k] += d;
                    products[k] += d * d;
                };
                while (row + 3 < to) {
                    next(0);
                    next(1);
                    next(2);
                    next(3);
                }
                while (row < to) next(0);
                const __m512 a = (sums[0] + sums[1]) + (sums[2] + sums[3]);
                const __m512 b = (products[0] + products[1]) + (products[2] + products[3]);
                for (int64_t i = 0; i < SIDE; i++) {
                    plain[c + i] += a[i];
                    squares[c + i] += b[i];
                }
            }
    }
};

// Means and then variances of the numbers of several threads (Chan et al. 1979).
void gather(const std::vector<Moments>& parts, int64_t channels, double* to) {
    for (int64_t c = 0; c < channels; c++) {
        double count = 0, mean = 0, apart = 0;
        for (const Moments& part : parts) {
            if (!part.count) continue;
            const double n = part.count, off = part.plain[c] / n, more = part.first[c] + off - mean;
            const double own = part.squares[c] - off * off * n;
            apart += (own < 0 ? 0 : own) + more * more * count * n / (count + n);  // NaN stays NaN
            count += n;
            mean += more * n / count;
        }
        to[c] = mean;
        to[channels + c] = apart / count;
    }
}

// Rows [., C] of the gradient of a norm's input, of that before its activation: see `Normed`.
void differentiate(const Normed& norm, const bf16* gradient, const bf16* x, int64_t rows, int64_t channels,
                   bf16* to) {
    const float *scale = norm.numbers, *shift = scale + channels, *slope = shift + channels,
                *offset = slope + channels;
    for (int64_t from = 0; from < rows; from += ROWS)
        for (int64_t c = 0; c < channels; c += SIDE) {
            const __m512 a = _mm512_loadu_ps(scale + c), b = _mm512_loadu_ps(shift + c);
            const __m512 s = _mm512_loadu_ps(slope + c), o = _mm512_loadu_ps(offset + c);
            const int64_t end = std::min(from + ROWS, rows) * channels + c;
            for (int64_t i = from * channels + c; i < end; i += channels) {
                const __m512 v = widened(x + i);
                __m512 g = widened(gradient + i);
                if (norm.masked)
                    g = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v * a + b, __m512{}, _CMP_GT_OQ), g);
                store(to + i, g * a + (v * s + o));
            }
        }
}

inline __mmask16 above(__m512 a, __m512 b) {  // NaN is the greatest
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) | _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}

// The greatest of 2x2 positions of [H, W, C], and for each 16 of them three masks: whether it is in the
// right column in the upper row, in the lower, and whether it is in the lower row. The first of equals.
void pool(const bf16* x, int64_t height, int64_t width, int64_t channels, bf16* y, uint16_t* where) {
    for (int64_t h = 0; h < height / 2; h++)
        for (int64_t w = 0; w < width / 2; w++)
            for (int64_t c = 0; c < channels; c += SIDE, y += SIDE) {
                const bf16 *a = x + ((2 * h) * width + 2 * w) * channels + c, *b = a + width * channels;
                const __m512 a0 = widened(a), a1 = widened(a + channels);
                const __m512 b0 = widened(b), b1 = widened(b + channels);
                const __mmask16 right = above(a1, a0), below_right = above(b1, b0);
                const __m512 upper = _mm512_mask_mov_ps(a0, right, a1);
                const __m512 lower = _mm512_mask_mov_ps(b0, below_right, b1);
                const __mmask16 low = above(lower, upper);
                store(y, _mm512_mask_mov_ps(upper, low, lower));
                if (where) {
                    *where++ = (right & ~low) | (below_right & low);
                    *where++ = low;
                }
            }
}

// The gradient of what was pooled.
void unpool(const bf16* gradient, const uint16_t* where, int64_t height, int64_t width,
            int64_t channels, bf16* to) {
    for (int64_t h = 0; h < height / 2; h++) {
        for (int64_t w = 0; w < width / 2; w++)
            for (int64_t c = 0; c < channels; c += SIDE, gradient += SIDE, where += 2) {
                bf16 *a = to + ((2 * h) * width + 2 * w) * channels + c, *b = a + width * channels;
                const __m256i g = _mm256_loadu_si256((const __m256i*)gradient);
                const __mmask16 right = where[0], low = where[1];
                _mm256_storeu_si256((__m256i*)a, _mm256_maskz_mov_epi16(~right & ~low, g));
                _mm256_storeu_si256((__m256i*)(a + channels), _mm256_maskz_mov_epi16(right & ~low, g));
                _mm256_storeu_si256((__m256i*)b, _mm256_maskz_mov_epi16(~right & low, g));
                _mm256_storeu_si256((__m256i*)(b + channels), _mm256_maskz_mov_epi16(right & low, g));
            }
        if (width % 2)
            for (int64_t r = 2 * h; r < 2 * h + 2; r++)
                std::memset(to + (r * width + width - 1) * channels, 0, 2 * channels);
    }
    if (height % 2) std::memset(to + (height - 1) * width * channels, 0, 2 * width * channels);
}

}  // namespace

#endif

extern "C" {

// Whether the processor has tiles, this was compiled for them and the kernel lets us have them.
int tiles_ready() {
#ifdef TILES
    const long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

// y [N, H', W', O] of x [N, H, W, C], weights [O, C, rows, columns] with strides, and bias, which may be
// null. O is a multiple of 16. If it is `pooled`, y is [N, H' / 2, W' / 2, O], and `where`, N * H' / 2 *
// W' / 2 * O / 8 words, tells for the gradient what it was taken from; it may be null. `moments` are null, or
// get means and then variances of y's channels.
void convolve(const Layer* of, const bf16* x, const float* weights, const int64_t* strides,
              const float* bias, int pooled, int threads, bf16* y, uint16_t* where, double* moments) {
#ifdef TILES
    const Planes planes(forward_view(*of), true, of->images / threads, 1);
    const Image whole{of->out_height(), of->out_width(), 0, 0, 1};
    const Product product(planes, whole, weights, strides, bias);
    const int64_t height = of->out_height(), width = of->out_width(), outputs = of->outputs;
    const int64_t given = of->height * of->width * of->channels, numbers = height * width * outputs;
    const int64_t less = (height / 2) * (width / 2) * outputs, left = pooled ? less : numbers;
    std::vector<Moments> parts(threads);
#pragma omp parallel num_threads(threads)
    {
        const Tiles tiles;
        Moments own;
        bf16* images = images_scratch.zeros(DEPTH + planes.size) + DEPTH;
        bf16* output = pooled ? output_scratch.numbers(planes.together * numbers) : nullptr;
        for (const Share share : shares(of->images, planes.together)) {
            for (int64_t i = 0; i < share.count; i++)
                planes.fill(x + (share.first + i) * given, i, images);
            product(images, share.count, pooled ? output : y + share.first * numbers);
            for (int64_t i = 0; pooled && i < share.count; i++) {
                const int64_t n = share.first + i;
                pool(output + i * numbers, height, width, outputs, y + n * less,
                     where ? where + n * less / 8 : nullptr);
            }
            if (moments) own.add(y + share.first * left, share.count * left / outputs, outputs);
        }
        parts[thread()] = std::move(own);
    }
    if (moments) gather(parts, outputs, moments);
#endif
}

// The gradient of weights, with their strides, and that of x, for which C is a multiple of 16. Either may
// be null. of_y is as y was, with `where` if it was pooled. `norm` is null, or what the gradient of y has
// still to be computed by from of_y.
void convolve_backward(const Layer* of, const bf16* x, const float* weights, const int64_t* strides,
                       const bf16* of_y, const uint16_t* where, const Normed* norm, int threads,
                       float* of_weights, bf16* of_x) {
#ifdef TILES
    const int64_t height = of->out_height(), width = of->out_width(), outputs = of->outputs;
    const int64_t given = of->height * of->width * of->channels, numbers = height * width * outputs;
    const int64_t less = (height / 2) * (width / 2) * outputs;
    const WeightGradient sum(forward_view(*of), of->images / threads);
    std::vector<Product> products;  // the gradient of x: a convolution, with a stride one for each phase
    for (int64_t i = 0; of_x && i < of->stride; i++)
        for (int64_t j = 0; j < of->stride; j++) {
            const Phase rows(i, of->height, of->rows, of->stride, of->up, of->dilation);
            const Phase columns(j, of->width, of->columns, of->stride, of->left, of->dilation);
            if (!rows.pixels || !columns.pixels) continue;
            const Planes planes(backward_view(*of, rows, columns), true, sum.planes.together, 1);
            const Image image{of->height, of->width, rows.first, columns.first, of->stride};
            const int64_t turned[] = {strides[1], strides[0], strides[2], strides[3]};
            products.emplace_back(planes, image, weights, turned);
        }
    std::vector<float> sums(of_weights ? threads * sum.sums() : 0);
#pragma omp parallel num_threads(threads)
    {
        const Tiles tiles;
        const Planes& planes = sum.planes;
        bf16* images = images_scratch.zeros(planes.size + 2 * planes.channels + DEPTH) + DEPTH;
        bf16* dense = where ? dense_scratch.numbers(planes.together * numbers) : nullptr;
        const int64_t left = where ? less : numbers;
        bf16* normed = norm ? normed_scratch.numbers(planes.together * left) : nullptr;
        int64_t room = 0;
        for (const Product& product : products) room += DEPTH + product.planes.size;
        bf16* gradients = gradients_scratch.zeros(room);
        float* own = sums.data() + thread() * (of_weights ? sum.sums() : 0);
        for (const Share share : shares(of->images, planes.together)) {
            const bf16* gradient = of_y + share.first * left;
            if (norm) {
                const bf16* given = norm->x + share.first * left;
                differentiate(*norm, gradient, given, share.count * left / outputs, outputs, normed);
                gradient = normed;
            }
            for (int64_t i = 0; where && i < share.count; i++)
                unpool(gradient + i * less, where + (share.first + i) * less / 8, height, width, outputs,
                       dense + i * numbers);
            if (where) gradient = dense;
            if (of_weights) {
                for (int64_t i = 0; i < share.count; i++)
                    planes.fill(x + (share.first + i) * given, i, images);
                sum.add(images, gradient, share.count, own);
            }
            bf16* laid_out = gradients;
            for (const Product& product : products) {
                const Planes& back = product.planes;
                laid_out += DEPTH;
                for (int64_t i = 0, count; i < share.count; i += count) {
                    count = std::min(back.together, share.count - i);
                    for (int64_t k = 0; k < count; k++)
                        back.fill(gradient + (i + k) * numbers, k, laid_out);
                    product(laid_out, count, of_x + (share.first + i) * given);
                }
                laid_out += back.size;
            }
        }
    }
    if (of_weights) sum.gather(sums.data(), threads, strides, of_weights);
#endif
}

}  // extern "C"
