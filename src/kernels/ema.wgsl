// average <- average + w (scale * value - average), w = weights[index]; nothing once control says halted. A weight of 1 copies exactly.
// Constants: T (f32 or vec4<f32>). Grid: one invocation a T.
struct Params { index: u32, scale: f32, count: u32 }
@group(0) @binding(0) var<storage, read_write> average: array<T>;
@group(0) @binding(1) var<storage, read> value: array<T>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> control: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count || control[2] != 0.0) { return; }
  let w = weights[params.index];
  let x = params.scale * value[i];
  if (w == 1.0) { average[i] = x; } else { average[i] += w * (x - average[i]); }
}
