// The causal depthwise convolution, alone or followed by SiLU, forward and backward (the contract is in ops/conv1d/conv.py).
//
// A task is one row of the batch and a strip of channels. The backward pass goes from the last step to the first and keeps,
// for the width - 1 inputs before the present one, the part of their gradient that later steps have sent. Sums over time are
// kept a task and added up in a fixed order: results do not depend on the number of threads.
#include "conv.h"

namespace oxl {
namespace {

constexpr int STRIP = 128;         // channels of a task
constexpr int64_t SUM_STEPS = 64;  // steps whose weight gradients are added up before they join the total

template <class E, int TAPS>
void forward(const Conv& c, const View& y, const View& last, bool silu, int64_t b, int from, int until) {
  const Plan plan(c.T, c.width, c.flags(c.reset, b), c.flags(c.mask, b));
  clear_padding<E>(y, c.flags(c.mask, b), b, 0, c.T, from, until);
  E* rows[GROUP];
  const auto use = [&](int i, int d, int left, vec pre) { put(rows[i] + d, silu ? pre * vgate(pre).open : pre, left); };
  for (int64_t j = 0; j < plan.count;) {
    const bool group = TAPS && plan.full(j, j + GROUP);
    for (int i = 0; i < (group ? GROUP : 1); i++) rows[i] = static_cast<E*>(y.data) + y.at(b, plan.step(j + i), 0);
    if constexpr (TAPS > 0)
      if (group) conv_group<E, TAPS>(c, plan, b, j, from, until, use);
    if (!group) conv_step<E>(c, plan, b, j, from, until, use);
    j += group ? GROUP : 1;
  }
  c.keep<E>(plan, last, b, from, until);
}

struct Gradients {
  View dy, dlast, dx, dstate;
  float* work;  // [B, width + 1, D]: of every tap, oldest first, then of the bias
};

template <class E, int TAPS>
void backward(const Conv& c, const Gradients& g, bool silu, int64_t b, int from, int until) {
  const Plan plan(c.T, c.width, c.flags(c.reset, b), c.flags(c.mask, b));
  const size_t size = (size_t)STRIP * (c.width + 1);
  Scratch scratch(3 * size);
  float *pending = scratch.take(size), *recent = scratch.take(size), *total = scratch.take(size);
  memset(recent, 0, sizeof(float) * size);
  memset(total, 0, sizeof(float) * size);
  const ConvSums sums{pending, recent, STRIP};
  clear_padding<E>(g.dx, c.flags(c.mask, b), b, 0, c.T, from, until);
  pending_from_last<E>(c, plan, sums, g.dlast, b, from, until);

  const E* dy[GROUP];
  E* dx[GROUP];
  const auto slope = [&](int i, int d, int left, auto pre) {
    const vec out = get(dy[i] + d, left);
    if (!silu) return out;
    const vec x = pre();
    return out * silu_slope(x, vgate(x));
  };
  const auto use = [&](int i, int d, int left, vec x) { put(dx[i] + d, x, left); };
  for (int64_t j = plan.count, settled = j; j > 0;) {
    const bool group = TAPS && plan.full(j - GROUP, j);
    j -= group ? GROUP : 1;
    for (int i = 0; i < (group ? GROUP : 1); i++) {
      const int64_t t = plan.step(j + i);
      dy[i] = static_cast<const E*>(g.dy.data) + g.dy.at(b, t, 0);
      dx[i] = static_cast<E*>(g.dx.data) + g.dx.at(b, t, 0);
    }
    if constexpr (TAPS > 0)
      if (group) conv_group_backward<E, TAPS>(c, plan, sums, b, j, from, until, slope, use);
    if (!group) conv_step_backward<E>(c, plan, sums, b, j, from, until, slope, use);
    if (settled - j >= SUM_STEPS || j == 0) {
      for (size_t i = 0; i < size; i++) total[i] += recent[i], recent[i] = 0;
      settled = j;
    }
  }
  pending_to_state<E>(c, sums, g.dstate, b, from, until);
  for (int k = 0; k <= c.width; k++)
    memcpy(g.work + (b * (c.width + 1) + k) * c.D + from, total + k * STRIP, sizeof(float) * (until - from));
}

template <class Task>
void for_tasks(const Conv& c, int threads, const Task& task) {
  const int64_t strips = (c.D + STRIP - 1) / STRIP, tasks = c.B * strips;
  on_threads(threads < tasks ? threads : static_cast<int>(tasks), [&](int thread, int running) {
    const Range mine = share(tasks, running, thread);
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int from = static_cast<int>(i % strips) * STRIP;
      task(i / strips, from, from + STRIP < c.D ? from + STRIP : c.D);
    }
  });
}

}  // namespace
}  // namespace oxl

// x, y [B, T, D]; state, last [B, width - 1, D]; weight [width, D], oldest tap first; bias [D], reset, mask [B, T] or null.
OXL_EXPORT void openxlstm_conv1d_forward(
    const oxl::View* x, const oxl::View* state, const float* weight, const float* bias, const uint8_t* reset,
    const uint8_t* mask, const oxl::View* y, const oxl::View* last, int64_t B, int64_t T, int D, int width, int silu,
    int threads) {
  using namespace oxl;
  const Conv c{*x, *state, weight, bias, reset, mask, B, T, D, width};
  for_tasks(c, threads, [&](int64_t b, int from, int until) {
    if (x->bf16)
      width == 4 ? forward<uint16_t, 4>(c, *y, *last, silu, b, from, until)
                 : forward<uint16_t, 0>(c, *y, *last, silu, b, from, until);
    else
      width == 4 ? forward<float, 4>(c, *y, *last, silu, b, from, until)
                 : forward<float, 0>(c, *y, *last, silu, b, from, until);
  });
}

// sums [width + 1, D]: gradients of the taps, oldest first, and of the bias. work: [B, width + 1, D].
OXL_EXPORT void openxlstm_conv1d_backward(
    const oxl::View* x, const oxl::View* state, const float* weight, const float* bias, const uint8_t* reset,
    const uint8_t* mask, const oxl::View* dy, const oxl::View* dlast, const oxl::View* dx, const oxl::View* dstate,
    float* sums, float* work, int64_t B, int64_t T, int D, int width, int silu, int threads) {
  using namespace oxl;
  const Conv c{*x, *state, weight, bias, reset, mask, B, T, D, width};
  const Gradients g{*dy, *dlast, *dx, *dstate, work};
  for_tasks(c, threads, [&](int64_t b, int from, int until) {
    if (x->bf16)
      width == 4 ? backward<uint16_t, 4>(c, g, silu, b, from, until) : backward<uint16_t, 0>(c, g, silu, b, from, until);
    else
      width == 4 ? backward<float, 4>(c, g, silu, b, from, until) : backward<float, 0>(c, g, silu, b, from, until);
  });
  for (int64_t i = 0; i < (int64_t)(width + 1) * D; i++) {
    float sum = 0;
    for (int64_t b = 0; b < B; b++) sum += work[b * (width + 1) * D + i];
    sums[i] = sum;
  }
}
