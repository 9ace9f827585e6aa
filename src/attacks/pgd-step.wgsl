// One projected sign step: x <- clip(clip(x + step·sign(g), x0 - eps, x0 + eps), 0, 1), in place.
// Grid: one invocation an element.
struct Params { count: u32, step: f32, eps: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> clean: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let moved = x[i] + params.step * sign(gradient[i]);
  x[i] = clamp(clamp(moved, clean[i] - params.eps, clean[i] + params.eps), 0.0, 1.0);
}
