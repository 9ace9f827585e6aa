// parts[n, p] = sum of |x[n, e] - y[n / group, e]| over e = p, p + parts, p + 2 parts, ... < length.
// Constants: T (f32 or vec4<f32>); `total` is appended. params.length counts Ts. Grid: one invocation a partial sum.
struct Params { rows: u32, length: u32, parts: u32, group: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> y: array<T>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let n = i / params.parts;
  if (n >= params.rows) { return; }
  let target_row = n / params.group;
  var sum = T(0.0);
  for (var e = i % params.parts; e < params.length; e += params.parts) {
    sum += abs(x[n * params.length + e] - y[target_row * params.length + e]);
  }
  parts[i] = total(sum);
}
