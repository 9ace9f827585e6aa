// dtarget[b, e] = scale * sum_k dy[b group + k] * sign(y[b, e] - x[b group + k, e]), sign(0) = 0.
// Constants: T (f32 or vec4<f32>). params.length counts Ts. Grid: one invocation a T of y.
struct Params { count: u32, length: u32, group: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> y: array<T>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dtarget: array<T>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let b = i / params.length;
  var sum = T(0.0);
  for (var n = b * params.group; n < (b + 1u) * params.group; n++) {
    sum += sign(y[i] - x[n * params.length + i % params.length]) * (params.scale * dy[n]);
  }
  dtarget[i] = sum;
}
