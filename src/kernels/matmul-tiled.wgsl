// y[b, m, n] = scale * sum over k of A[b, m, k] * B[b, k, n] + bias[n]: what matmul-tile.wgsl needs to know of it.
// Constants: TA, TB (bool: a is [k, m], b is [n, k]), BIAS; A, B, Y: vec4<f32>, or f32 where rows are not a multiple of
// 4; fitting `quadA`, `quadB` and `putY` are appended. Grid of matmul-tile.wgsl with z: batch.
struct Params { m: u32, n: u32, k: u32, aBatch: u32, bBatch: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> a: array<A>;
@group(0) @binding(1) var<storage, read> b: array<B>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;

fn innerOf(z: u32) -> vec2<u32> { return vec2(0u, params.k); }

/// Element (m, 0) of A, and whether there is a row m.
struct Row { first: u32, inside: bool }
fn rowAt(z: u32, m: u32) -> Row { return Row(z * params.aBatch + m * select(params.k, 1u, TA), m < params.m); }

// quadA(at, count): four neighbours from element at, of which count exist; the rest are zeros.
fn loadA(row: Row, z: u32, k: u32) -> vec4<f32> {
  if (!row.inside || k >= params.k) { return vec4<f32>(); }
  if (!TA) { return quadA(row.first + k, params.k - k); }
  var v: vec4<f32>;
  for (var j = 0u; j < 4u; j++) {
    if (k + j < params.k) { v[j] = oneA(row.first + (k + j) * params.m); }
  }
  return v;
}

fn loadB(z: u32, k: u32, n: u32) -> vec4<f32> {
  if (n >= params.n || k >= params.k) { return vec4<f32>(); }
  let first = z * params.bBatch;
  if (!TB) { return quadB(first + k * params.n + n, params.n - n); }
  var v: vec4<f32>;
  for (var j = 0u; j < 4u; j++) {
    if (n + j < params.n) { v[j] = oneB(first + (n + j) * params.k + k); }
  }
  return v;
}

fn store(z: u32, m: u32, n: u32, sum: vec4<f32>) {
  if (m >= params.m || n >= params.n) { return; }
  var value = sum * params.scale;
  if (BIAS) {
    let last = params.n - 1u;
    value += vec4(bias[n], bias[min(n + 1u, last)], bias[min(n + 2u, last)], bias[min(n + 3u, last)]);
  }
  putY((z * params.m + m) * params.n + n, params.n - n, value);
}
