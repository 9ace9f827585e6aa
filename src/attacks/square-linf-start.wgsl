// x = clamp(clean ± eps, low, high), one random sign for each column and channel of an image: vertical stripes.
// philox.wgsl stands before. Grid: one invocation an element of x [rows, height, width, channels].
struct Params {
  rows: u32, size: u32, height: u32, width: u32, channels: u32, purpose: u32, seed_low: u32, seed_high: u32, eps: f32,
}
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> clean: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> run: array<u32>;
@group(0) @binding(4) var<storage, read> low: array<f32>;
@group(0) @binding(5) var<storage, read> high: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.rows * params.size) { return; }
  let stripe = i % (params.width * params.channels);
  let key = vec2<u32>(params.seed_low, params.seed_high);
  let words = philox4x32(vec4<u32>(stripe, ids[i / params.size], params.purpose, run[0]), key);
  let delta = select(-params.eps, params.eps, (words.x >> 31u) == 1u);
  x[i] = clamp(clean[i] + delta, low[i], high[i]);
}
