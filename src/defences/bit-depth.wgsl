// y = round(x * levels) / levels: values in [0, 1] on levels + 1 steps. Grid: one invocation an element.
struct Params { count: u32, levels: f32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i < params.count) { y[i] = floor(x[i] * params.levels + 0.5) / params.levels; }
}
