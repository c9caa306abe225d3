// A language model as a list of operations, for one step of several independent streams. The caller builds the list once
// (openxlstm/inference/plan.py has the same structs for ctypes) and keeps every array that it points to; a stream keeps its
// memory in a *slot*, a step works on `rows` streams, each with its slot.
#pragma once
#include "product.h"

namespace oxl {

// Where a vector of activations stands. Results of what is split over columns or heads are common to all threads. What is
// computed a row at a time belongs to whoever computes it (`own`): with one row every thread computes all of it for itself, which
// is quicker than to wait for another; with more rows each thread has some, and the places are shared.
struct Place {
  int64_t before;  // floats of a row that stand before this place
  int32_t width;   // floats, a multiple of 16
  int32_t offset;  // where in it to begin
  int64_t own;
};

// Kinds of operations. ROW operations run a row at a time; the others are split over panels, heads or strips of state.
enum Kind : int32_t {
  EMBED = 0,     // ROW  x = table[id]
  NORM = 1,      // ROW  LayerNorm or RMSNorm
  ADD = 2,       // ROW  to += from
  CONVOLVE = 3,  // ROW  a causal depthwise convolution and SiLU
  HEADWISE = 4,  // ROW  a map with small blocks on its diagonal
  HEAD_NORM = 5, // ROW  (LayerNorm a head [+ skip * a]) [* gate]
  JOIN = 6,      // ROW  a head's input and its last output, side by side
  QUANTISE = 7,  // ROW  vectors for int8 matrices
  ROTARY = 8,    // ROW  cosines and sines of the position
  PRODUCT = 9,   // activation(M x + b)
  GATED = 10,    // activation(M x + b) * (N x + c)
  GATES = 11,    // scalar gates of the mLSTM, and its stabiliser
  MLSTM = 12,    // one step of the matrix memory
  RECURRENT = 13,// products and step of sLSTM and LSTM
  ATTEND = 14,   // attention to all keys of a stream
};

// When the threads wait for each other before an operation.
enum Wait : int32_t { GO = 0, WAIT = 1, WAIT_IF_SHARED = 2 };

struct Op {
  int32_t kind, wait;
  const void* args;  // the struct below with the kind's name
};

struct Embed {
  Place to;
  const void* table;  // [vocab_size, dim] floats or bfloat16
  int64_t vocab_size;
  int32_t dim, bf16;
};

struct Norm {
  Place from, to;
  const float *weight, *bias;  // [dim, filled up to 16]; bias may be null
  int32_t dim, rms;
  float eps;
};

struct Add {
  Place from, to;
  int32_t dim;
};

struct Convolve {
  Place from, to;
  const float *taps, *bias;  // [width, padded channels], [padded channels]
  float* state;              // [slots, width, padded channels], a ring: step s writes at s % width
  int32_t channels, width;
};

struct Headwise {
  Place from, to;
  const float* weight;  // [size, padded channels]: for each output its weights on the inputs 0 .. size - 1 of its block
  int32_t channels, size;
};

struct HeadNorm {
  Place from, scale, skip_from, gate, to;
  int64_t head;                       // floats from one head of `from` to the next
  const float *weight, *bias, *skip;  // [heads * dim]; bias and skip may be null
  int32_t heads, dim, scaled, gated;  // scaled: a head is first multiplied by its number in `scale`
  float eps;
};

struct Join {
  Place from, to;
  const float* h;  // [slots, 2, heads, padded dim]: step s reads s % 2 and writes the other
  int64_t group;   // floats from one head of `to` to the next
  int32_t heads, dim;
};

struct Quantise {
  Place from, to;
  int64_t from_group, to_group;
  int32_t groups, inner;
};

struct Rotary {
  Place to;                 // [cos, sin], half of each
  const double* frequency;  // [half]
  const int64_t* position;  // [slots]
  int32_t half;
};

struct Product {
  Matrix matrix;
  Place from, to;
  int64_t from_group, to_group;
  int32_t outer;       // results of a group
  int32_t activation;
  float cap;
  int32_t is_head;     // to the logits, not to `to`
};

struct Gates {
  Place from[3], to;     // to: for each head f, i and what the read-out needs of m
  const float *weight, *bias;  // [2 heads, sum of widths], [2 heads]; input gates first
  float* m;              // [slots, heads]
  int32_t inputs, width[3];
  int32_t heads, sigmoid_input, normalize;
  float cap;             // 0: none
};

struct Mlstm {
  Place q, k, v, gates, to, scale;  // scale: what a head's read-out is to be multiplied by
  float *C, *n;                     // [slots, heads, strips, key_dim, W], [slots, heads, padded key_dim]
  int64_t head;                     // floats from one head of `to` to the next
  int32_t heads, key_dim, value_dim, normalize;
  float eps;
};

struct Recurrent {
  Matrix matrix;                 // strips i f z o, and so on
  Place if_from, zo_from, to;    // inputs of the gates i and f, and z and o
  float *h, *c, *n, *m;          // [slots, 2, heads, padded dim] and [slots, heads, padded dim]; LSTM: n, m null
  int64_t group, head;           // floats from one head to the next, of the inputs and of `to`
  int32_t heads, dim, exp_forget;
};

struct Attend {
  Place qkv, table, to;
  float *k, *v;                // [slots, capacity, heads, dim]
  uint8_t* alive;              // [slots, capacity]
  int64_t *length, *position;  // [slots] keys kept, and valid steps since the last reset
  int64_t capacity;
  int32_t heads, dim;
};

struct Plan {
  const Op* ops;
  int64_t num_ops, slots;
  int64_t own_width, common_width, thread_width;  // floats: of a row's own and common places, and of a thread's temporaries
  int64_t* steps;                                 // [slots] steps seen, whatever they were
};

}  // namespace oxl
