// y = act((x - mean[c]) / sqrt(variance[c] + eps) * scale[c] + bias[c]), x and y [rows, columns] as T.
// Constants: T (f32 or vec4<f32>), RELU (bool).
// Grid: one invocation does one T of channels in rows r, r + stride, r + 2 stride, ...; count = columns * stride.
struct Params { rows: u32, columns: u32, stride: u32, count: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> scale: array<T>;
@group(0) @binding(2) var<storage, read> bias: array<T>;
@group(0) @binding(3) var<storage, read> mean: array<T>;
@group(0) @binding(4) var<storage, read> variance: array<T>;
@group(0) @binding(5) var<storage, read_write> y: array<T>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let c = i % params.columns;
  let factor = scale[c] * inverseSqrt(variance[c] + params.eps);
  let shift = bias[c];
  let m = mean[c];
  let end = params.rows * params.columns;
  for (var at = i; at < end; at += params.count) {
    var v = (x[at] - m) * factor + shift;
    if (RELU) { v = select(v, T(), v < T()); }
    y[at] = v;
  }
}
