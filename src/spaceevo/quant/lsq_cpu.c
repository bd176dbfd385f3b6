/* LSQ+ fake quantisation, forward and backward, each in one pass over memory. `lsq.py` holds the definition; every float
   operation here is one of its, in the same order, so values are the same to the last bit (no contraction, no fast-math).
   Elements are float32 or, with `half`, bfloat16 that is widened for the arithmetic and rounded once, to even. */
#include <math.h>
#include <stdint.h>

#define BLOCK 4096 /* elements whose gradient sums are gathered in float before they go into doubles */
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    float scale, offset, zero, low, high;
} Grid;

INLINE float load(const void *data, int64_t i, int half) {
    if (!half) return ((const float *)data)[i];
    union { uint32_t bits; float value; } wide = {(uint32_t)((const uint16_t *)data)[i] << 16};
    return wide.value;
}

INLINE void store(void *data, int64_t i, float value, int half) {
    if (!half) {
        ((float *)data)[i] = value;
        return;
    }
    union { float value; uint32_t bits; } wide = {value};
    uint32_t rounded = (wide.bits + 0x7fff + ((wide.bits >> 16) & 1)) >> 16;
    ((uint16_t *)data)[i] = value != value ? 0x7fc0 : (uint16_t)rounded;
}

INLINE float clip(float value, float low, float high) { /* a NaN passes, as in torch.clamp */
    value = value < low ? low : value;
    return value > high ? high : value;
}

INLINE void forward(const void *restrict x, void *restrict y, int64_t from, int64_t to, Grid g, int integer, int half) {
    for (int64_t i = from; i < to; i++) {
        float v = load(x, i, half);
        if (integer)
            v = (clip(rintf(v / g.scale) + g.zero, g.low, g.high) - g.zero) * g.scale;
        else
            v = rintf(clip((v - g.offset) / g.scale, g.low, g.high)) * g.scale + g.offset;
        store(y, i, v, half);
    }
}

INLINE void backward(const void *restrict x, const void *restrict grad, void *restrict grad_x, double *restrict sums, int64_t from, int64_t to, Grid g,
                     int integer, int half) {
    float scale_sum = 0, outside_sum = 0;
#pragma omp simd reduction(+ : scale_sum, outside_sum)
    for (int64_t i = from; i < to; i++) {
        float ratio = (integer ? load(x, i, half) : load(x, i, half) - g.offset) / g.scale;
        float value = integer ? ratio + g.zero : ratio;
        float level = clip(integer ? rintf(ratio) + g.zero : rintf(ratio), g.low, g.high);
        float inside = value > g.low && value < g.high ? 1.0f : 0.0f;
        float upstream = load(grad, i, half), passed = upstream * inside;
        store(grad_x, i, passed, half);
        scale_sum += upstream * (level - value * inside);
        outside_sum += upstream - passed;
    }
    sums[0] = scale_sum;
    sums[1] = outside_sum;
}

#define EACH_KIND(call) \
    if (integer && half) call(1, 1); \
    else if (integer) call(1, 0); \
    else if (half) call(0, 1); \
    else call(0, 0)

void lsq_forward(const void *restrict x, void *restrict y, int64_t n, Grid g, int integer, int half) {
#pragma omp parallel for schedule(static) if (n > 8 * BLOCK)
    for (int64_t from = 0; from < n; from += BLOCK) {
        int64_t to = from + BLOCK < n ? from + BLOCK : n;
#define FORWARD(integer, half) forward(x, y, from, to, g, integer, half)
        EACH_KIND(FORWARD);
    }
}

/* `sums` takes two doubles a block: the gradient of the scale, and the gradient that the clip stopped. */
void lsq_backward(const void *restrict x, const void *restrict grad, void *restrict grad_x, double *restrict sums, int64_t n, Grid g, int integer, int half) {
#pragma omp parallel for schedule(static) if (n > 8 * BLOCK)
    for (int64_t from = 0; from < n; from += BLOCK) {
        int64_t to = from + BLOCK < n ? from + BLOCK : n;
#define BACKWARD(integer, half) backward(x, grad, grad_x, sums + from / BLOCK * 2, from, to, g, integer, half)
        EACH_KIND(BACKWARD);
    }
}
