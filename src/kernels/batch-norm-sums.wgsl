// Sums over chunks of rows for the gradients of scale and bias, with du = dy [y > 0 where RELU]:
//   partial[k, 0, c] = sum of du, partial[k, 1, c] = sum of du (x - mean) / sqrt(variance + eps)
// x, y, dy [rows, columns] as T. Constants: T, RELU. Grid: one invocation a chunk and T of channels; count of them.
struct Params { rows: u32, columns: u32, chunk: u32, count: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> y: array<T>;
@group(0) @binding(2) var<storage, read> dy: array<T>;
@group(0) @binding(3) var<storage, read> mean: array<T>;
@group(0) @binding(4) var<storage, read> variance: array<T>;
@group(0) @binding(5) var<storage, read_write> partial: array<T>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let c = i % params.columns;
  let k = i / params.columns;
  let first = k * params.chunk;
  let start = first * params.columns + c;
  let end = start + min(params.chunk, params.rows - first) * params.columns;
  let m = mean[c];
  var s0 = T();
  var s1 = T();
  for (var at = start; at < end; at += params.columns) {
    var du = dy[at];
    if (RELU) { du = select(T(), du, y[at] > T()); }
    s0 += du;
    s1 += du * (x[at] - m);
  }
  partial[2u * k * params.columns + c] = s0;
  partial[(2u * k + 1u) * params.columns + c] = s1 * inverseSqrt(variance[c] + params.eps);
}
