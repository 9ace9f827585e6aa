// y[b, m, n] = scale * sum_k A[b, m, k] * B[b, k, n] + bias[n], for any sizes: one invocation a T of y, no reuse.
// A is a[b, m, k], or a[b, k, m] when aColumn is the stride of a row; all strides are given in elements, those of b in
// T where T is a vector, which runs along n (then b must be contiguous along n).
// Constants: T (f32 or vec4<f32>), BIAS (bool). Grid: one invocation a T of y; count = batch*m*n in T.
struct Params {
  m: u32, n: u32, k: u32, count: u32,
  aBatch: u32, aRow: u32, aColumn: u32,
  bBatch: u32, bRow: u32, bColumn: u32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<T>;
@group(0) @binding(2) var<storage, read> bias: array<T>;
@group(0) @binding(3) var<storage, read_write> y: array<T>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let n = i % params.n;
  let row = i / params.n;
  let m = row % params.m;
  let batch = row / params.m;
  var at = batch * params.aBatch + m * params.aRow;
  var bt = batch * params.bBatch + n * params.bColumn;
  var sum = T();
  for (var k = 0u; k < params.k; k++) {
    sum += a[at] * b[bt];
    at += params.aColumn;
    bt += params.bRow;
  }
  sum *= params.scale;
  if (BIAS) { sum += bias[n]; }
  y[i] = sum;
}
