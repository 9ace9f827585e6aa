// y = the elements that half-store put into x, two a word. Grid: one invocation a word.
struct Params { size: u32 }
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (2u * i >= params.size) { return; }
  let pair = unpack2x16float(x[i]);
  y[2u * i] = pair.x;
  if (2u * i + 1u < params.size) { y[2u * i + 1u] = pair.y; }
}
