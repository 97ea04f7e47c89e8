/* Fake quantization in one pass over memory, where torch takes one per operator.

   The same operations on float32 in the same order as `fake.py` and `layer.py`, hence the same
   bits; compiled without contraction into fused products. A grid belongs to one seed, or to one
   feature of a seed: `features` is 1 or their number, and `rows` what lies before them. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* As torch's clamp, amax and maximum: what is no number stays so. */
static inline float at_least(float x, float low) { return x < low ? low : x; }
static inline float at_most(float x, float high) { return x > high ? high : x; }
static inline float larger(float a, float b) { return a != a || a > b ? a : b; }

static inline uint32_t magnitude_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

static inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The grid of one range: `QuantLayer._grid`, `grids.zero_point_grid` and `grids.affine_grid`. */
static void make_grid(float low, float high, float widened, int is_affine, float top, float *scale,
                      float *inverse, float *zero, float *centre) {
    low = low == INFINITY ? -1.0f : low; /* unseen */
    high = high == -INFINITY ? 1.0f : high;
    if (is_affine) {
        const float margin = 1e-4f * larger(fabsf(high), fabsf(low));
        const int is_point = high - low <= margin;
        low = is_point ? at_most(low, 0.0f) : low;
        high = is_point ? at_least(high, 0.0f) : high;
    } else {
        const float margin = widened > 0.0f ? (high - low) * widened : 0.0f; /* no inf * 0 */
        low = at_most(low - margin, 0.0f);
        high = at_least(high + margin, 0.0f);
    }
    *scale = at_least((high - low) / top, 1e-8f);
    *inverse = 1.0f / *scale;
    *zero = -low / *scale;
    *centre = rintf(*zero); /* which is zero itself, at one address, on a zero-point grid */
}

/* A row's weights on the input's grid, and the bits of the largest magnitude. */
static uint32_t fold(const float *weight, int64_t size, const float *grid, int64_t features,
                     float *folded) {
    uint32_t most = 0;
    if (features > 1)
        for (int64_t f = 0; f < size; f++) folded[f] = weight[f] * grid[f];
    else
        for (int64_t f = 0; f < size; f++) folded[f] = weight[f] * grid[0];
    for (int64_t f = 0; f < size; f++) {
        const uint32_t bits = magnitude_bits(folded[f]);
        most = bits > most ? bits : most;
    }
    return most;
}

/* `QuantLayer._encode`: the grids of ranges [seeds, 2, features] into scale, inverse, zero and
   centre [seeds, features], and `fake.encode_layer` with the largest magnitude as its range:
   weights [seeds, out, size], from one seed to the next by strides, into codes, bias_codes and
   unit, the scale per output. Biases on an affine grid lack their last term, and are not rounded. */
void encode_layer(const float *range, const float *weight, const float *bias,
                  int64_t weight_stride, int64_t bias_stride, int64_t seeds, int64_t out,
                  int64_t size, int64_t features, float widened, int64_t is_affine,
                  float input_top, float top, float bias_code_limit, int64_t per_channel,
                  float *scale, float *inverse, float *zero, float *centre, float *codes,
                  float *bias_codes, float *unit) {
    for (int64_t s = 0; s < seeds; s++) {
        for (int64_t f = 0; f < features; f++) {
            const int64_t at = s * features + f;
            make_grid(range[at + s * features], range[at + (s + 1) * features], widened,
                      (int)is_affine, input_top, scale + at, inverse + at, zero + at, centre + at);
        }
        const float *w = weight + s * weight_stride, *b = bias + s * bias_stride;
        float *to = codes + s * out * size, *b_to = bias_codes + s * out, *own = unit + s * out;
        uint32_t layer_most = 0, bias_most = 0;
        for (int64_t o = 0; o < out; o++) {
            const uint32_t most = fold(w + o * size, size, scale + s * features, features,
                                       to + o * size);
            const uint32_t b_bits = magnitude_bits(b[o]);
            layer_most = most > layer_most ? most : layer_most;
            bias_most = b_bits > bias_most ? b_bits : bias_most;
            own[o] = larger(from_bits(most) / top, from_bits(b_bits) / bias_code_limit);
        }
        const float of_layer = larger(from_bits(layer_most) / top,
                                      from_bits(bias_most) / bias_code_limit);
        for (int64_t o = 0; o < out; o++) {
            const float divisor = own[o] = at_least(per_channel ? own[o] : of_layer, 1e-12f);
            for (int64_t f = 0; f < size; f++) to[o * size + f] = rintf(to[o * size + f] / divisor);
            b_to[o] = is_affine ? b[o] / divisor : rintf(b[o] / divisor);
        }
    }
}

/* Does something to every run of numbers that share a grid, or have one each: `at` is where the run
   starts, `own` where its grids do, and `step` is 0 or 1, known to the compiler. */
#define EACH_RUN(something)                                                                     \
    do {                                                                                        \
        const int64_t run = features > 1 ? features : rows;                                     \
        const int64_t num_runs = features > 1 ? rows : 1;                                       \
        for (int64_t r = 0; r < seeds * num_runs; r++) {                                        \
            const int64_t at = r * run, own = r / num_runs * features;                          \
            if (features > 1) {                                                                 \
                enum { step = 1 };                                                              \
                something;                                                                      \
            } else {                                                                            \
                enum { step = 0 };                                                              \
                something;                                                                      \
            }                                                                                   \
        }                                                                                       \
    } while (0)

/* Centred codes of inputs [seeds, rows, features], and what backward keeps of them. */
#define ENCODE(name, type, low, high, KEPT)                                                     \
    static inline void name##_run(const float *x, int64_t n, const float *inverse,              \
                                  const float *zero, const float *centre, int step, float top,  \
                                  float *centred, type *kept) {                                 \
        for (int64_t i = 0; i < n; i++) {                                                       \
            const float raw = rintf(x[i] * inverse[i * step] + zero[i * step]);                 \
            centred[i] = at_most(at_least(raw, 0.0f), top) - centre[i * step];                  \
            KEPT(kept[i] = (type)(int32_t)at_most(at_least(raw, low), high));                   \
        }                                                                                       \
        (void)kept;                                                                             \
    }                                                                                           \
    void name(const float *x, const float *inverse, const float *zero, const float *centre,     \
              int64_t seeds, int64_t rows, int64_t features, float top, float *centred,         \
              type *kept) {                                                                     \
        EACH_RUN(name##_run(x + at, run, inverse + own, zero + own, centre + own, step, top,    \
                            centred + at, kept + at));                                          \
    }
#define YES(statement) statement
#define NO(statement)

ENCODE(encode, uint8_t, 0.0f, 0.0f, NO)
ENCODE(encode_int16, int16_t, -1.0f, top + 1.0f, YES)
ENCODE(encode_uint8, uint8_t, 0.0f, top, YES)

/* The values of codes that were kept, clamped: `grids.decode`. */
#define DECODE(name, type)                                                                      \
    static inline void name##_run(const type *kept, int64_t n, const float *scale,              \
                                  const float *zero, int step, int32_t top, float *values) {    \
        for (int64_t i = 0; i < n; i++) {                                                       \
            const int32_t code = kept[i] < 0 ? 0 : kept[i] > top ? top : kept[i];               \
            values[i] = ((float)code - zero[i * step]) * scale[i * step];                       \
        }                                                                                       \
    }                                                                                           \
    void name(const type *kept, const float *scale, const float *zero, int64_t seeds,           \
              int64_t rows, int64_t features, int64_t top, float *values) {                     \
        EACH_RUN(name##_run(kept + at, run, scale + own, zero + own, step, (int32_t)top,        \
                            values + at));                                                      \
    }

DECODE(decode_int16, int16_t)
DECODE(decode_uint8, uint8_t)

/* Gradients by inputs, in place, from those by their codes: none where one was clamped. Where the
   inputs are what a ReLU gave, `relu`, by what that got. */
static inline void mask_run(float *grad, const int16_t *kept, const float *relu, int64_t n,
                            const float *scale, int step, int16_t top) {
    for (int64_t i = 0; i < n; i++) {
        const float by_value = grad[i] * (1.0f / scale[i * step]);
        const int is_off = relu && relu[i] <= 0.0f;
        grad[i] = kept[i] >= 0 && kept[i] <= top && !is_off ? by_value : 0.0f;
    }
}

void mask(float *grad, const int16_t *kept, const float *relu, const float *scale, int64_t seeds,
          int64_t rows, int64_t features, int64_t top) {
    EACH_RUN(mask_run(grad + at, kept + at, relu ? relu + at : 0, run, scale + own, step,
                      (int16_t)top));
}

/* Integers in the order of the floats that they are the bits of. */
static inline int32_t rank(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

static inline float of_rank(int32_t rank) {
    return from_bits((uint32_t)(rank ^ ((rank >> 31) & 0x7fffffff)));
}

static inline void widen(int32_t *least, int32_t *most, float x) {
    const int32_t at = rank(x);
    *least = at < *least ? at : *least;
    *most = at > *most ? at : *most;
}

/* Ranges [seeds, 2, features] by inputs [seeds, rows, features]: `QuantLayer._observe_plainly` of
   their extremes, or of moving averages. */
void observe(const float *x, int64_t seeds, int64_t rows, int64_t features, int64_t is_average,
             float momentum, float *range) {
    int32_t least[features], most[features];
    for (int64_t s = 0; s < seeds; s++) {
        for (int64_t f = 0; f < features; f++) least[f] = INT32_MAX, most[f] = INT32_MIN;
        const float *from = x + s * rows * features;
        if (features == 1) {
            int32_t low = INT32_MAX, high = INT32_MIN;
            for (int64_t r = 0; r < rows; r++) widen(&low, &high, from[r]);
            least[0] = low, most[0] = high;
        } else
            for (int64_t r = 0; r < rows; r++)
                for (int64_t f = 0; f < features; f++)
                    widen(least + f, most + f, from[r * features + f]);
        for (int64_t f = 0; f < features; f++) {
            float *low = range + 2 * s * features + f, *high = low + features;
            const float seen_low = of_rank(least[f]), seen_high = of_rank(most[f]);
            if (!isfinite(seen_low + seen_high)) continue;
            if (is_average) {
                *low = isinf(*low) ? seen_low : *low + momentum * (seen_low - *low);
                *high = isinf(*high) ? seen_high : *high + momentum * (seen_high - *high);
            } else {
                *low = at_most(*low, seen_low);
                *high = at_least(*high, seen_high);
            }
        }
    }
}

/* Outputs from sums of codes [seeds, rows, out], in place: the bias is added, the unit
   [seeds, out] multiplied, and perhaps a ReLU. */
void finish(float *sums, const float *bias_codes, const float *unit, int64_t seeds, int64_t rows,
            int64_t out, int64_t has_relu) {
    for (int64_t s = 0; s < seeds; s++)
        for (int64_t r = s * rows; r < (s + 1) * rows; r++)
            for (int64_t o = 0; o < out; o++) {
                const float sum = sums[r * out + o] + bias_codes[s * out + o];
                const float value = sum * unit[s * out + o];
                sums[r * out + o] = has_relu ? at_least(value, 0.0f) : value;
            }
}

/* Outputs [seeds, out] at one input per seed [seeds, size]: `QuantLayer._infer`. Sums of codes
   below 2^24 are exact in whatever order. */
void infer(const float *x, const float *inverse, const float *zero, const float *centre,
           int64_t seeds, int64_t out, int64_t size, int64_t features, float top,
           const float *codes, const float *bias_codes, const float *unit, int64_t has_relu,
           float *centred, float *y) {
    encode(x, inverse, zero, centre, seeds, size / (features > 1 ? features : 1), features, top,
           centred, 0);
    for (int64_t s = 0; s < seeds; s++)
        for (int64_t o = s * out; o < (s + 1) * out; o++) {
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) sum += codes[o * size + i] * centred[s * size + i];
            const float value = (sum + bias_codes[o]) * unit[o];
            y[o] = has_relu ? at_least(value, 0.0f) : value;
        }
}
