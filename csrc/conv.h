// The causal depthwise convolution over the valid steps of one row of the batch: what conv.cpp and qkv.cpp share.
//
//   pre[t] = bias + sum_s w_s * x[t - s],  s = 0 .. width - 1 steps back
//
// Padded steps are not walked over at all; what lies before the first valid one is the state. Where GROUP steps in a row see
// all their taps, each vector of channels goes through all of them while weights, inputs and sums stay in registers.
#pragma once
#include "rows.h"

namespace oxl {

constexpr int MAX_TAPS = 64;  // Python refuses more
constexpr int GROUP = 8;

// Which steps of one row of the batch are valid, and how many inputs back each may look.
class Plan {
 public:
  Plan(int64_t T, int width, const uint8_t* reset, const uint8_t* mask) : end_reach(width - 1), count(T), width(width) {
    if (!reset && !mask) return;
    steps = static_cast<int32_t*>(malloc(sizeof(int32_t) * 2 * (T + 1)));
    if (!steps) abort();
    reaches = steps + T;
    count = 0;
    for (int64_t t = 0; t < T; t++) {
      if (reset && reset[t]) end_reach = 0;
      if (mask && !mask[t]) continue;
      steps[count] = static_cast<int32_t>(t);
      reaches[count++] = end_reach;
      if (end_reach < width - 1) end_reach++;
    }
  }
  ~Plan() { free(steps); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  int64_t step(int64_t j) const { return steps ? steps[j] : j; }
  int reach(int64_t j) const { return steps ? reaches[j] : width - 1; }
  bool full(int64_t first, int64_t end) const {  // whether all of these are there and see all their taps
    if (first < 0 || end > count) return false;
    for (int64_t j = first; steps && j < end; j++)
      if (reaches[j] < width - 1) return false;
    return true;
  }

  int end_reach;  // how far a step after the last would see
  int64_t count;  // valid steps

 private:
  int width;
  int32_t *steps = nullptr, *reaches = nullptr;
};

struct Conv {
  View x, state;               // [B, T, D], [B, width - 1, D]
  const float *weight, *bias;  // [width, D], oldest tap first; [D] or null
  const uint8_t *reset, *mask;  // [B, T] or null
  int64_t B, T;
  int D, width;

  const uint8_t* flags(const uint8_t* all, int64_t b) const { return all ? all + b * T : nullptr; }
  const float* tap(int s) const { return weight + (int64_t)(width - 1 - s) * D; }  // s steps back

  template <class E>
  const E* input(const Plan& plan, int64_t b, int64_t j) const {  // the j-th valid one; j < 0 is the state
    return j >= 0 ? static_cast<const E*>(x.data) + x.at(b, plan.step(j), 0)
                  : static_cast<const E*>(state.data) + state.at(b, width - 1 + j, 0);
  }

  // The last width - 1 inputs, oldest first, channels from..until of them; zeros before a reset.
  template <class E>
  void keep(const Plan& plan, const View& last, int64_t b, int from, int until) const {
    for (int s = 1; s < width; s++) {
      E* to = static_cast<E*>(last.data) + last.at(b, width - 1 - s, 0) + from;
      if (s > plan.end_reach)
        memset(to, 0, sizeof(E) * (until - from));
      else
        memcpy(to, input<E>(plan, b, plan.count - s) + from, sizeof(E) * (until - from));
    }
  }
};

// Calls use(i, d, left, pre) with the output of step first + i at channels d.., for all channels from..until.
template <class E, int TAPS, class Use>
static void conv_group(const Conv& c, const Plan& plan, int64_t b, int64_t first, int from, int until, const Use& use) {
  const E* inputs[GROUP + TAPS - 1];
  for (int i = 0; i < GROUP + TAPS - 1; i++) inputs[i] = c.input<E>(plan, b, first - (TAPS - 1) + i);
  for (int d = from; d < until; d += W) {
    const int left = until - d;
    const vec bias = c.bias ? get(c.bias + d, left) : splat(0.f);
    vec w[TAPS], x[TAPS];  // oldest first
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; k++) w[k] = get(c.weight + (int64_t)k * c.D + d, left);
#pragma GCC unroll 8
    for (int k = 1; k < TAPS; k++) x[k] = get(inputs[k - 1] + d, left);
    for (int i = 0; i < GROUP; i++) {
#pragma GCC unroll 8
      for (int k = 1; k < TAPS; k++) x[k - 1] = x[k];
      x[TAPS - 1] = get(inputs[i + TAPS - 1] + d, left);
      vec pre = bias;
#pragma GCC unroll 8
      for (int k = 0; k < TAPS; k++) pre += w[k] * x[k];
      use(i, d, left, pre);
    }
  }
}

// The same for one step, however far it may look.
template <class E, class Use>
static void conv_step(const Conv& c, const Plan& plan, int64_t b, int64_t j, int from, int until, const Use& use) {
  const int reach = plan.reach(j);
  const E* inputs[MAX_TAPS];
  for (int s = 0; s <= reach; s++) inputs[s] = c.input<E>(plan, b, j - s);
  for (int d = from; d < until; d += W) {
    const int left = until - d;
    vec pre = c.bias ? get(c.bias + d, left) : splat(0.f);
    for (int s = reach; s >= 0; s--) pre += get(c.tap(s) + d, left) * get(inputs[s] + d, left);
    use(0, d, left, pre);
  }
}

// Running sums of a strip of at most `stride` channels in the backward pass, which goes from the last step to the first.
struct ConvSums {
  float* pending;  // [width - 1, stride]: gradient of the input s steps before the next one, from later steps, at s - 1
  float* taps;     // [width + 1, stride]: gradients of the taps, oldest first, then of the bias
  int stride;
};

// Calls slope(i, d, left, pre) for the gradient of the output of step first + i, where pre() computes that output again, and
// use(i, d, left, dx) with the gradient of its input.
template <class E, int TAPS, class Slope, class Use>
static void conv_group_backward(const Conv& c, const Plan& plan, const ConvSums& sums, int64_t b, int64_t first, int from,
                                int until, const Slope& slope, const Use& use) {
  const E* inputs[GROUP + TAPS - 1];
  for (int i = 0; i < GROUP + TAPS - 1; i++) inputs[i] = c.input<E>(plan, b, first - (TAPS - 1) + i);
  for (int d = from; d < until; d += W) {
    const int left = until - d;
    float *pending = sums.pending + d - from, *taps = sums.taps + d - from;
    const vec bias = c.bias ? get(c.bias + d, left) : splat(0.f);
    vec w[TAPS], x[TAPS], dw[TAPS], wait[TAPS], db = load(taps + TAPS * sums.stride);
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; k++) {
      w[k] = get(c.weight + (int64_t)k * c.D + d, left);
      dw[k] = load(taps + k * sums.stride);
      wait[k] = k < TAPS - 1 ? load(pending + k * sums.stride) : splat(0.f);
      if (k < TAPS - 1) x[k] = get(inputs[GROUP + k] + d, left);
    }
    for (int i = GROUP - 1; i >= 0; i--) {
#pragma GCC unroll 8
      for (int k = TAPS - 1; k > 0; k--) x[k] = x[k - 1];
      x[0] = get(inputs[i] + d, left);
      const vec g = slope(i, d, left, [&] {
        vec pre = bias;
#pragma GCC unroll 8
        for (int k = 0; k < TAPS; k++) pre += w[k] * x[k];
        return pre;
      });
      db += g;
#pragma GCC unroll 8
      for (int k = 0; k < TAPS; k++) dw[k] += g * x[k];
      use(i, d, left, wait[0] + g * w[TAPS - 1]);
#pragma GCC unroll 8
      for (int s = 1; s < TAPS; s++) wait[s - 1] = wait[s] + g * w[TAPS - 1 - s];
    }
    store(taps + TAPS * sums.stride, db);
#pragma GCC unroll 8
    for (int k = 0; k < TAPS; k++) {
      store(taps + k * sums.stride, dw[k]);
      if (k < TAPS - 1) store(pending + k * sums.stride, wait[k]);
    }
  }
}

template <class E, class Slope, class Use>
static void conv_step_backward(const Conv& c, const Plan& plan, const ConvSums& sums, int64_t b, int64_t j, int from, int until,
                               const Slope& slope, const Use& use) {
  const int width = c.width, reach = plan.reach(j);
  const E* inputs[MAX_TAPS];
  for (int s = 0; s <= reach; s++) inputs[s] = c.input<E>(plan, b, j - s);
  for (int d = from; d < until; d += W) {
    const int left = until - d;
    float *pending = sums.pending + d - from, *taps = sums.taps + d - from;
    const vec g = slope(0, d, left, [&] {
      vec pre = c.bias ? get(c.bias + d, left) : splat(0.f);
      for (int s = reach; s >= 0; s--) pre += get(c.tap(s) + d, left) * get(inputs[s] + d, left);
      return pre;
    });
    store(taps + width * sums.stride, load(taps + width * sums.stride) + g);
    for (int s = 0; s < width; s++) {
      vec dx = s < width - 1 ? load(pending + s * sums.stride) : splat(0.f);
      if (s <= reach) {
        float* dw = taps + (width - 1 - s) * sums.stride;
        store(dw, load(dw) + g * get(inputs[s] + d, left));
        dx += g * get(c.tap(s) + d, left);
      }
      if (s == 0)
        use(0, d, left, dx);
      else
        store(pending + (s - 1) * sums.stride, dx);
    }
  }
}

// `pending` begins with the gradient of the last state, and what is left of it at the end is that of the first.
template <class E>
static void pending_from_last(const Conv& c, const Plan& plan, const ConvSums& sums, const View& dlast, int64_t b, int from,
                              int until) {
  for (int s = 1; s < c.width; s++) {
    const E* row = static_cast<const E*>(dlast.data) + dlast.at(b, c.width - 1 - s, 0);
    for (int d = from; d < until; d += W)
      store(sums.pending + (s - 1) * sums.stride + d - from, s <= plan.end_reach ? get(row + d, until - d) : splat(0.f));
  }
}
template <class E>
static void pending_to_state(const Conv& c, const ConvSums& sums, const View& dstate, int64_t b, int from, int until) {
  for (int s = 1; s < c.width; s++) {
    E* row = static_cast<E*>(dstate.data) + dstate.at(b, c.width - 1 - s, 0);
    for (int d = from; d < until; d += W) put(row + d, load(sums.pending + (s - 1) * sums.stride + d - from), until - d);
  }
}

// Zeros at the padded steps begin..end.
template <class E>
static void clear_padding(const View& to, const uint8_t* mask, int64_t b, int64_t begin, int64_t end, int from, int until) {
  if (!mask) return;
  for (int64_t t = begin; t < end; t++)
    if (!mask[t]) memset(static_cast<E*>(to.data) + to.at(b, t, 0) + from, 0, sizeof(E) * (until - from));
}

}  // namespace oxl
