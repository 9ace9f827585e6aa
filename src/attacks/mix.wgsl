// y = keep·y + weight·x, in place; keep 0 does not read y, so that what it held (even NaN) is gone.
// Grid: one invocation an element.
struct Params { count: u32, keep: f32, weight: f32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  var v = params.weight * x[i];
  if (params.keep != 0.0) { v = v + params.keep * y[i]; }
  y[i] = v;
}
