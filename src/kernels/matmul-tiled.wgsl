// y[b, m, n] = scale * sum over k of A[b, m, k] * B[b, k, n] + bias[n]: what matmul-tile.wgsl needs to know of it.
// Constants: TA, TB (bool: a is [k, m], b is [n, k]), BIAS; A, B, Y: vec4<f32>, or f32 where rows are not a multiple of
// 4; fitting `foursOf` and `putText` of product-text.ts are appended. Grid of matmul-tile.wgsl with z: batch.
struct Params { m: u32, n: u32, k: u32, aBatch: u32, bBatch: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> a: array<A>;
@group(0) @binding(1) var<storage, read> b: array<B>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;

fn innerOf(z: u32) -> vec2<u32> { return vec2(0u, params.k); }

/// A load's first element where k0 is 0; how many there are from it on to the end of its line, along k or across it; and how many
/// steps of k from it on.
struct Row { first: u32, count: u32, deep: u32 }
alias Column = Row;

/// Of element i of `size` at k, in a matrix from `first` on, whose lines run along k or across it.
fn lineAt(first: u32, i: u32, size: u32, k: u32, along: bool) -> Row {
  let deep = max(params.k, k) - k;
  if (along) { return Row(first + i * params.k + k, select(0u, deep, i < size), deep); }
  return Row(first + k * size + i, max(size, i) - i, deep);
}
fn rowAt(z: u32, m: u32, k: u32) -> Row { return lineAt(z * params.aBatch, m, params.m, k, !TA); }
fn columnAt(z: u32, n: u32, k: u32) -> Column { return lineAt(z * params.bBatch, n, params.n, k, TB); }

// Where it lies, and how many of its four elements exist.
fn stepOf(line: Row, k0: u32, size: u32, along: bool) -> vec2<u32> {
  if (along) { return vec2(line.first + k0, max(line.count, k0) - k0); }
  return vec2(line.first + k0 * size, select(0u, line.count, k0 < line.deep));
}
fn placeA(row: Row, z: u32, k0: u32) -> PlaceA { return fourA(stepOf(row, k0, params.m, !TA)); }
fn placeB(column: Column, z: u32, k0: u32) -> PlaceB { return fourB(stepOf(column, k0, params.n, TB)); }

fn store(z: u32, m: u32, n: u32, sum: vec4<f32>) {
  if (m >= params.m || n >= params.n) { return; }
  var value = sum * params.scale;
  if (BIAS) {
    let last = params.n - 1u;
    value += vec4(bias[n], bias[min(n + 1u, last)], bias[min(n + 2u, last)], bias[min(n + 3u, last)]);
  }
  putY((z * params.m + m) * params.n + n, params.n - n, value);
}
