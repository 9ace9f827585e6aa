// y = x keep/(1 - rate), keep = [u >= rate], u = uniform number e of a row by Philox (see random.wgsl): the mask is a function
// of (seed, row, purpose, step) and is stored nowhere; the gradient runs the same kernel on dy.
// philox.wgsl stands before. Grid: one invocation a group of four elements of a row.
struct Params { rows: u32, first: u32, length: u32, blocks: u32, purpose: u32, rate: f32, factor: f32, seed_low: u32, seed_high: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let row = i / params.blocks;
  let quad = i % params.blocks;
  if (row >= params.rows) { return; }
  let words = philox4x32(vec4<u32>(quad, params.first + row, params.purpose, step[0]), vec2<u32>(params.seed_low, params.seed_high));
  let first = row * params.length + quad * 4u;
  let left = min(4u, params.length - quad * 4u);
  for (var j = 0u; j < left; j++) {
    y[first + j] = select(0.0, params.factor * x[first + j], uniform_of(words[j]) >= params.rate);
  }
}
