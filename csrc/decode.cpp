// One token of a whole language model in one call: reads the plan (decode.h) with a team of threads that meet at barriers.
#include "decode.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "barrier.h"
#include "library.h"
#include "scratch.h"

namespace oxl {
namespace {

constexpr float LARGEST_EXPONENT = 80.f;  // exp(-m) is held at exp(80): docs/math/mlstm.md, `inverse_scale`

struct Memory {
  float* data = nullptr;
  size_t size = 0;
  void reserve(size_t floats) {
    if (floats <= size) return;
    free(data);
    void* block = nullptr;
    if (posix_memalign(&block, 64, floats * sizeof(float))) abort();
    data = static_cast<float*>(block);
    size = floats;
    spoil(true);
  }
  void spoil(bool first = false) {  // what was never written must never be read; tests look
    if (poison || first)
      for (size_t i = 0; i < size; i++) data[i] = poison ? std::numeric_limits<float>::quiet_NaN() : 0.f;
  }
  ~Memory() { free(data); }
};

struct Decoder {
  Plan plan;
  Memory common, shared, own;  // own: for each thread one row and its temporaries
  Barrier barrier;
  explicit Decoder(const Plan& p) : plan(p) {}
};

// What one thread knows during a step.
struct Worker {
  Decoder& d;
  const int64_t *ids, *slots;
  int rows;
  float* logits;
  int thread, threads;
  bool alone;          // one row, computed by every thread for itself
  int first, last;     // rows of this thread
  float *own, *temporary;

  float* at(const Place& p, int row) const {
    if (p.own && alone) return own + p.before + p.offset;
    return (p.own ? d.shared.data : d.common.data) + p.before * d.plan.slots + (int64_t)row * p.width + p.offset;
  }
  bool writes_state() const { return !alone || thread == 0; }
  int64_t step_of(int row) const { return d.plan.steps[slots[row]]; }

  // The share of this thread of `count` pieces.
  int64_t begin(int64_t count) const { return count * thread / threads; }
  int64_t end(int64_t count) const { return count * (thread + 1) / threads; }
};

OXL_INLINE vec load_some(const float* p, int n) { return n >= W ? load(p) : load_part(p, n); }
OXL_INLINE void store_some(float* p, vec x, int n) { n >= W ? store(p, x) : store_part(p, x, n); }
// x in the first n lanes, 0 in the others.
OXL_INLINE vec first_lanes(vec x, int n) { return select(iota() < (float)n, x, splat(0.f)); }

void run(const Embed& op, const Worker& w) {
  for (int r = w.first; r < w.last; r++) {
    float* to = w.at(op.to, r);
    for (int i = 0; i < op.dim; i += W) {
      const int64_t at = w.ids[r] * op.dim + i;
      const int n = op.dim - i;
      const vec x = op.bf16 ? (n >= W ? load((const uint16_t*)op.table + at) : load_part((const uint16_t*)op.table + at, n))
                            : load_some((const float*)op.table + at, n);
      store(to + i, x);
    }
  }
}

// Mean and 1 / sqrt(variance + eps) of n numbers; `scale` multiplies them first.
struct Moments {
  float mean, inverse;
};
OXL_INLINE Moments moments(const float* x, int n, float scale, float eps, bool rms) {
  vec total = splat(0.f);
  if (!rms)
    for (int i = 0; i < n; i += W) total += load_some(x + i, n - i);
  const float mean = rms ? 0.f : sum(total) * scale / n;
  vec squares = splat(0.f);
  for (int i = 0; i < n; i += W) {
    vec y = load_some(x + i, n - i) * scale - mean;
    if (n - i < W) y = first_lanes(y, n - i);
    squares += y * y;
  }
  return {mean, 1.f / std::sqrt(sum(squares) / n + eps)};
}

void run(const Norm& op, const Worker& w) {
  for (int r = w.first; r < w.last; r++) {
    const float* from = w.at(op.from, r);
    float* to = w.at(op.to, r);
    const Moments m = moments(from, op.dim, 1.f, op.eps, op.rms);
    for (int i = 0; i < op.dim; i += W) {
      vec y = (load(from + i) - m.mean) * m.inverse * load(op.weight + i);
      if (op.bias) y += load(op.bias + i);
      store(to + i, y);
    }
  }
}

void run(const Add& op, const Worker& w) {
  for (int r = w.first; r < w.last; r++) {
    const float* from = w.at(op.from, r);
    float* to = w.at(op.to, r);
    for (int i = 0; i < op.dim; i += W) store(to + i, load(to + i) + load(from + i));
  }
}

void run(const Convolve& op, const Worker& w) {
  const int padded = round_up(op.channels, 16);
  for (int r = w.first; r < w.last; r++) {
    const float* from = w.at(op.from, r);
    float* to = w.at(op.to, r);
    float *ring = op.state + w.slots[r] * op.width * padded, *end = ring + op.width * padded;
    float* now = ring + w.step_of(r) % op.width * padded;
    for (int i = 0; i < op.channels; i += W) {
      const vec x = load(from + i);
      vec y = op.bias ? load(op.bias + i) : splat(0.f);
      const float *before = now, *taps = op.taps + i;
      for (int tap = 0; tap < op.width - 1; tap++, taps += padded) {  // oldest first
        before += padded;
        if (before == end) before = ring;
        y += load(before + i) * load(taps);
      }
      if (w.writes_state()) store(now + i, x);
      store(to + i, vsilu(y + x * load(taps)));
    }
  }
}

void run(const Headwise& op, const Worker& w) {
  const int padded = round_up(op.channels, 16), size = op.size;
  for (int r = w.first; r < w.last; r++) {
    const float* from = w.at(op.from, r);
    float* to = w.at(op.to, r);
#if !defined(__clang__)
    if (W % size == 0) {  // blocks do not cross vectors, and `size` is a power of 2
      const ivec block = __builtin_convertvector(iota(), ivec) & -size;
      for (int i = 0; i < op.channels; i += W) {
        const vec x = load(from + i);
        vec y = splat(0.f);
        for (int j = 0; j < size; j++) y += __builtin_shuffle(x, block + j) * load(op.weight + j * padded + i);
        store(to + i, y);
      }
      continue;
    }
#endif
    for (int block = 0; block < op.channels; block += size)
      for (int c = block; c < block + size; c++) {
        float y = 0.f;
        for (int j = 0; j < size; j++) y += from[block + j] * op.weight[j * padded + c];
        to[c] = y;
      }
  }
}

void run(const HeadNorm& op, const Worker& w) {
  for (int r = w.first; r < w.last; r++) {
    float* to = w.at(op.to, r);
    const float *scales = op.scaled ? w.at(op.scale, r) : nullptr, *gate = op.gated ? w.at(op.gate, r) : nullptr;
    const float* extra = op.skip ? w.at(op.skip_from, r) : nullptr;
    for (int h = 0; h < op.heads; h++) {
      const float* from = w.at(op.from, r) + h * op.head;
      const float scale = scales ? scales[h] : 1.f;
      const Moments m = moments(from, op.dim, scale, op.eps, false);
      for (int i = 0; i < op.dim; i += W) {
        const int n = op.dim - i, at = h * op.dim + i;
        vec y = (load(from + i) * scale - m.mean) * m.inverse * load_some(op.weight + at, n);
        if (op.bias) y += load_some(op.bias + at, n);
        if (op.skip) y += load_some(op.skip + at, n) * load_some(extra + at, n);
        if (gate) y *= load_some(gate + at, n);
        store_some(to + at, y, n);
      }
    }
  }
}

void run(const Join& op, const Worker& w) {
  const int padded = round_up(op.dim, 16);
  for (int r = w.first; r < w.last; r++)
    for (int h = 0; h < op.heads; h++) {
      float* to = w.at(op.to, r) + h * op.group;
      const float* last = op.h + ((w.slots[r] * 2 + w.step_of(r) % 2) * op.heads + h) * padded;
      memcpy(to, w.at(op.from, r) + h * op.dim, sizeof(float) * op.dim);
      memcpy(to + op.dim, last, sizeof(float) * op.dim);
    }
}

void run(const Quantise& op, const Worker& w) {
  for (int r = w.first; r < w.last; r++)
    for (int g = 0; g < op.groups; g++)
      Quantised::write(w.at(op.from, r) + g * op.from_group, op.inner, (int32_t*)(w.at(op.to, r) + g * op.to_group));
}

void run(const Rotary& op, const Worker& w) {
  for (int r = w.first; r < w.last; r++) {
    float* to = w.at(op.to, r);
    for (int j = 0; j < op.half; j++) {
      const double angle = (double)op.position[w.slots[r]] * op.frequency[j];
      to[j] = (float)std::cos(angle);
      to[op.half + j] = (float)std::sin(angle);
    }
  }
}

struct Store final : Finish {  // results to a place or to the logits
  const Product& op;
  float* to;
  int64_t row;
  Store(const Product& op, float* to, int64_t row) : op(op), to(to), row(row) {}

  void take(const float* acc, int rows, int strips, int r, int g, int panel) const override {
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < strips; j++, acc += W) {
        const int first = (panel * strips + j) * W, n = op.outer - first;
        if (n <= 0) continue;
        float* at = to + (r + i) * row + g * op.to_group + first;
        store_some(at, activate((Activation)op.activation, load(acc), op.cap), n);
      }
  }
};

struct StoreGated final : Finish {  // strips come in pairs: what the activation sees, and what it multiplies
  const Product& op;
  float* to;
  int64_t row;
  StoreGated(const Product& op, float* to, int64_t row) : op(op), to(to), row(row) {}

  void take(const float* acc, int rows, int strips, int r, int g, int panel) const override {
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < strips; j += 2, acc += 2 * W) {
        const int first = (panel * strips + j) / 2 * W, n = op.outer - first;
        if (n <= 0) continue;
        float* at = to + (r + i) * row + g * op.to_group + first;
        store_some(at, activate((Activation)op.activation, load(acc), op.cap) * load(acc + W), n);
      }
  }
};

Operand operand(const Worker& w, const Place& from, int64_t group) { return {w.at(from, 0), from.width, group}; }

template <class To>
void product(const Product& op, const Worker& w, int64_t vocab_size) {
  const int64_t panels = (int64_t)op.matrix.groups * op.matrix.count;
  const To finish(op, op.is_head ? w.logits : w.at(op.to, 0), op.is_head ? vocab_size : op.to.width);
  multiply(op.matrix, operand(w, op.from, op.from_group), w.rows, w.begin(panels), w.end(panels), finish);
}

// The sum runs over the inputs one after another, in the order of `weight`.
float dot(const float* x, const float* y, int n) {
  vec a[4] = {};
  int i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) a[j] += load(x + i + j * W) * load(y + i + j * W);
  for (; i < n; i += W) a[0] += load_some(x + i, n - i) * load_some(y + i, n - i);
  return sum((a[0] + a[1]) + (a[2] + a[3]));
}

float log_sigmoid(float x) { return std::fmin(x, 0.f) - std::log1p(std::exp(-std::fabs(x))); }

void run(const Gates& op, const Worker& w) {
  const int64_t items = (int64_t)w.rows * op.heads;
  // From the last thread on: those before it may have one panel more of the product that runs at the same time.
  const int64_t first = items - w.end(items), last = items - w.begin(items);
  int64_t total = 0;
  for (int j = 0; j < op.inputs; j++) total += op.width[j];
  for (int64_t item = first; item < last; item++) {
    const int r = (int)(item / op.heads), h = (int)(item % op.heads);
    float pre[2];
    for (int gate = 0; gate < 2; gate++) {
      const int64_t row = gate * op.heads + h;
      const float* weight = op.weight + row * total;
      float x = 0.f;
      for (int j = 0; j < op.inputs; weight += op.width[j++]) x += dot(w.at(op.from[j], r), weight, op.width[j]);
      x += op.bias[row];
      pre[gate] = op.cap > 0.f ? op.cap * std::tanh(x / op.cap) : x;
    }
    const float log_i = op.sigmoid_input ? log_sigmoid(pre[0]) : pre[0], log_f = log_sigmoid(pre[1]);
    float& kept = op.m[w.slots[r] * op.heads + h];
    const float m = std::fmax(log_f + kept, log_i);
    float* to = w.at(op.to, r) + 4 * h;
    to[0] = std::exp(log_f + kept - m);
    to[1] = std::exp(log_i - m);
    to[2] = op.normalize ? std::exp(std::fmin(-m, LARGEST_EXPONENT)) : std::exp(m);
    kept = pre[0] == pre[0] && pre[1] == pre[1] ? m : pre[0] + pre[1];  // fmax drops NaN
  }
}

// C = f C + i k v^T and the read-out scale q C, for `N` strips of the values' columns.
template <int N>
OXL_INLINE void update(float* C, int64_t strip, const float* q, const float* k, int key_dim, float f, float i, float scale,
                       const vec v[N], vec out[N]) {
  for (int j = 0; j < N; j++) out[j] = splat(0.f);
  for (int d = 0; d < key_dim; d++) {
    const vec ik = splat(i * k[d]), qs = splat(q[d] * scale);
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) {
      float* at = C + j * strip + d * W;
      const vec c = load(at) * f + ik * v[j];
      store(at, c);
      out[j] += qs * c;
    }
  }
}

void run(const Mlstm& op, const Worker& w) {
  const int K = op.key_dim, V = op.value_dim, strips = (V + W - 1) / W, padded = round_up(K, 16);
  const int64_t items = (int64_t)w.rows * op.heads * strips, strip = (int64_t)K * W;
  const float scale = 1.f / std::sqrt((float)K);
  for (int64_t item = w.begin(items), last = w.end(items); item < last;) {
    const int64_t head = item / strips;  // of all rows
    const int r = (int)(head / op.heads), h = (int)(head % op.heads), s = (int)(item % strips);
    const int64_t slot_head = w.slots[r] * op.heads + h;
    const float *q = w.at(op.q, r) + h * K, *k = w.at(op.k, r) + h * K, *v = w.at(op.v, r) + h * V;
    const float* gates = w.at(op.gates, r) + 4 * h;
    const float f = gates[0], i = gates[1];
    if (s == 0) {
      float* n = op.n + slot_head * padded;
      vec nq = splat(0.f);
      for (int d = 0; d < K; d += W) {
        const vec x = load(n + d) * f + load_some(k + d, K - d) * i;
        store(n + d, x);
        nq += x * load_some(q + d, K - d) * scale;
      }
      const float size = std::fabs(sum(nq));
      w.at(op.scale, r)[h] = op.normalize ? 1.f / ((size > gates[2] || size != size ? size : gates[2]) + op.eps) : gates[2];
    }
    float *C = op.C + (slot_head * strips + s) * strip, *to = w.at(op.to, r) + h * op.head + s * W;
    const int left = (int)((last - item < strips - s) ? last - item : strips - s);
    int done = 0;
    for (; done + 4 <= left; done += 4) {
      vec value[4], out[4];
      for (int j = 0; j < 4; j++) value[j] = load_some(v + (s + done + j) * W, V - (s + done + j) * W);
      update<4>(C + done * strip, strip, q, k, K, f, i, scale, value, out);
      for (int j = 0; j < 4; j++) store(to + (done + j) * W, out[j]);
    }
    for (; done < left; done++) {
      vec value[1] = {load_some(v + (s + done) * W, V - (s + done) * W)}, out[1];
      update<1>(C + done * strip, strip, q, k, K, f, i, scale, value, out);
      store(to + done * W, out[0]);
    }
    item += left;
  }
}

struct Step final : Finish {  // the pointwise part of sLSTM and LSTM, for the W units whose four gates a panel made
  const Recurrent& op;
  const Worker& w;
  Step(const Recurrent& op, const Worker& w) : op(op), w(w) {}

  void take(const float* acc, int rows, int, int r, int head, int panel) const override {
    const int padded = round_up(op.dim, 16), first = panel * W;
    for (int i = 0; i < rows; i++, acc += 4 * W) {
      const int64_t slot = w.slots[r + i], at = (slot * op.heads + head) * padded + first;
      float* h_next = op.h + ((slot * 2 + (w.step_of(r + i) + 1) % 2) * op.heads + head) * padded + first;
      const vec i_pre = load(acc), f_pre = load(acc + W), z = vtanh(load(acc + 2 * W)), o = vsigmoid(load(acc + 3 * W));
      vec h;
      if (op.n) {
        const vec log_f = op.exp_forget ? f_pre : vlog_sigmoid(f_pre), kept = load(op.m + at);
        const vec m = at_least(log_f + kept, i_pre);
        const vec gate_i = vexp(i_pre - m), gate_f = vexp(log_f + kept - m);
        const vec c = gate_f * load(op.c + at) + gate_i * z, n = gate_f * load(op.n + at) + gate_i;
        store(op.c + at, c);
        store(op.n + at, n);
        store(op.m + at, m);
        h = o * c / n;
      } else {
        const vec c = vsigmoid(f_pre) * load(op.c + at) + vsigmoid(i_pre) * z;
        store(op.c + at, c);
        h = o * vtanh(c);
      }
      store(h_next, h);
      store(w.at(op.to, r + i) + head * op.head + first, h);
    }
  }
};

void run(const Recurrent& op, const Worker& w) {
  const int64_t panels = (int64_t)op.matrix.groups * op.matrix.count;
  multiply_two(op.matrix, operand(w, op.if_from, op.group), operand(w, op.zo_from, op.group), w.rows, w.begin(panels),
               w.end(panels), Step(op, w));
}

// x [dim] turned in pairs (j, j + half).
void rotate(const float* x, const float* table, int half, float* out) {
  for (int j = 0; j < half; j++) {
    out[j] = x[j] * table[j] - x[half + j] * table[half + j];
    out[half + j] = x[half + j] * table[j] + x[j] * table[half + j];
  }
}

// Softmax over the keys in blocks, with a running maximum as in flash attention.
void run(const Attend& op, const Worker& w) {
  constexpr int BLOCK = 64;
  const int D = op.dim, padded = round_up(D, 16);
  const int64_t items = (int64_t)w.rows * op.heads, all = (int64_t)op.heads * D;
  float *q = w.temporary, *total = q + padded;
  const float scale = 1.f / std::sqrt((float)D);
  for (int64_t item = w.begin(items); item < w.end(items); item++) {
    const int r = (int)(item / op.heads), h = (int)(item % op.heads);
    const int64_t slot = w.slots[r], now = op.length[slot];
    const float *qkv = w.at(op.qkv, r), *table = w.at(op.table, r);
    float *keys = op.k + slot * op.capacity * all + h * D, *values = op.v + slot * op.capacity * all + h * D;
    uint8_t* alive = op.alive + slot * op.capacity;
    rotate(qkv + h * D, table, D / 2, q);
    rotate(qkv + all + h * D, table, D / 2, keys + now * all);
    memcpy(values + now * all, qkv + 2 * all + h * D, sizeof(float) * D);
    for (int i = 0; i < D; i++) total[i] = 0.f;
    float largest = -INFINITY, weight = 0.f;
    for (int64_t s = 0; s <= now; s += BLOCK) {
      const int n = (int)(now + 1 - s < BLOCK ? now + 1 - s : BLOCK);
      float score[BLOCK], block_largest = largest;
      for (int j = 0; j < n; j++) {
        const bool seen = s + j == now || alive[s + j];
        score[j] = seen ? dot(q, keys + (s + j) * all, D) * scale : -INFINITY;
        block_largest = score[j] <= block_largest ? block_largest : score[j];
      }
      if (block_largest == -INFINITY) continue;
      const float shrink = std::exp(largest - block_largest);
      weight *= shrink;
      for (int i = 0; i < D; i++) total[i] *= shrink;
      for (int j = 0; j < n; j++) {
        if (score[j] == -INFINITY) continue;
        const float p = std::exp(score[j] - block_largest);
        const float* v = values + (s + j) * all;
        weight += p;
        for (int i = 0; i < D; i++) total[i] += p * v[i];
      }
      largest = block_largest;
    }
    float* to = w.at(op.to, r) + h * D;
    for (int i = 0; i < D; i++) to[i] = total[i] / weight;
  }
}

void work(const Worker& w, int64_t vocab_size) {
  for (int64_t i = 0; i < w.d.plan.num_ops; i++) {
    const Op& op = w.d.plan.ops[i];
    if (op.wait == WAIT || (op.wait == WAIT_IF_SHARED && !w.alone)) w.d.barrier.wait(w.threads);
    switch (op.kind) {
      case EMBED: run(*(const Embed*)op.args, w); break;
      case NORM: run(*(const Norm*)op.args, w); break;
      case ADD: run(*(const Add*)op.args, w); break;
      case CONVOLVE: run(*(const Convolve*)op.args, w); break;
      case HEADWISE: run(*(const Headwise*)op.args, w); break;
      case HEAD_NORM: run(*(const HeadNorm*)op.args, w); break;
      case JOIN: run(*(const Join*)op.args, w); break;
      case QUANTISE: run(*(const Quantise*)op.args, w); break;
      case ROTARY: run(*(const Rotary*)op.args, w); break;
      case PRODUCT: product<Store>(*(const Product*)op.args, w, vocab_size); break;
      case GATED: product<StoreGated>(*(const Product*)op.args, w, vocab_size); break;
      case GATES: run(*(const Gates*)op.args, w); break;
      case MLSTM: run(*(const Mlstm*)op.args, w); break;
      case RECURRENT: run(*(const Recurrent*)op.args, w); break;
      case ATTEND: run(*(const Attend*)op.args, w); break;
    }
  }
}

}  // namespace
}  // namespace oxl

using namespace oxl;

// A decoder that runs `plan` (copied; what it points to stays the caller's). Free it with openxlstm_decoder_free.
OXL_EXPORT void* openxlstm_decoder_new(const Plan* plan) { return new Decoder(*plan); }
OXL_EXPORT void openxlstm_decoder_free(void* decoder) { delete static_cast<Decoder*>(decoder); }

// One token for each of `rows` streams: ids [rows], slots [rows] (different ones), logits [rows, vocab_size] are written.
// Returns 0, or -1 with nothing changed if an id or a slot is out of range. One call at a time for each decoder.
OXL_EXPORT int openxlstm_decoder_step(void* decoder, const int64_t* ids, const int64_t* slots, int rows, float* logits,
                                      int threads) {
  Decoder& d = *static_cast<Decoder*>(decoder);
  const Plan& plan = d.plan;
  const int64_t vocab_size = ((const Embed*)plan.ops[0].args)->vocab_size;
  if (rows < 1 || rows > plan.slots) return -1;
  for (int r = 0; r < rows; r++)
    if (ids[r] < 0 || ids[r] >= vocab_size || slots[r] < 0 || slots[r] >= plan.slots) return -1;
#if !defined(_OPENMP)
  threads = 1;
#endif
  const int64_t own = plan.own_width + plan.thread_width;
  d.common.reserve(plan.common_width * plan.slots);
  d.shared.reserve(plan.own_width * plan.slots);
  d.own.reserve(own * threads);
  d.common.spoil();
  d.shared.spoil();
  d.own.spoil();
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Worker w{d, ids, slots, rows, logits, 0, 1, rows == 1, 0, rows, nullptr, nullptr};
#if defined(_OPENMP)
    w.thread = omp_get_thread_num();
    w.threads = omp_get_num_threads();
#endif
    if (!w.alone) w.first = (int)w.begin(rows), w.last = (int)w.end(rows);
    w.own = d.own.data + own * w.thread;
    w.temporary = w.own + plan.own_width;
    work(w, vocab_size);
  }
  for (int r = 0; r < rows; r++) plan.steps[slots[r]]++;
  for (int64_t i = 0; i < plan.num_ops; i++)
    if (plan.ops[i].kind == ATTEND) {
      const Attend& op = *(const Attend*)plan.ops[i].args;
      for (int r = 0; r < rows; r++) {
        op.alive[slots[r] * op.capacity + op.length[slots[r]]++] = 1;
        op.position[slots[r]]++;
      }
    }
  return 0;
}

// Ask for large pages behind `bytes` bytes that nothing has been written to: weights are read end to end, and each small page
// costs a walk through the page table. Only a hint.
OXL_EXPORT void openxlstm_large_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = 4096, first = ((uintptr_t)data + page - 1) / page * page, last = ((uintptr_t)data + bytes) / page * page;
  if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// For tests: bytes of the struct of each kind of operation, then of Plan (kind 100), Matrix (101), Place (102), Op (103).
OXL_EXPORT int64_t openxlstm_decoder_sizeof(int kind) {
  switch (kind) {
    case EMBED: return sizeof(Embed);
    case NORM: return sizeof(Norm);
    case ADD: return sizeof(Add);
    case CONVOLVE: return sizeof(Convolve);
    case HEADWISE: return sizeof(Headwise);
    case HEAD_NORM: return sizeof(HeadNorm);
    case JOIN: return sizeof(Join);
    case QUANTISE: return sizeof(Quantise);
    case ROTARY: return sizeof(Rotary);
    case PRODUCT: case GATED: return sizeof(Product);
    case GATES: return sizeof(Gates);
    case MLSTM: return sizeof(Mlstm);
    case RECURRENT: return sizeof(Recurrent);
    case ATTEND: return sizeof(Attend);
    case 100: return sizeof(Plan);
    case 101: return sizeof(Matrix);
    case 102: return sizeof(Place);
    case 103: return sizeof(Op);
  }
  return 0;
}
