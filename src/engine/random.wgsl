// y[r, e] = word e mod 4 of philox(counter = (e / 4, row id of r, purpose, step), key = seed), as a number.
// philox.wgsl stands before; random.ts appends `fn draw(words: vec4<u32>) -> vec4<NUMBER>`, `fn row_id(r: u32) -> u32`,
// `fn step_of(base: u32) -> u32`, and their bindings. Constants: NUMBER (f32 or u32). Grid: one invocation a group of four elements of a row.
struct Params { rows: u32, length: u32, blocks: u32, purpose: u32, step: u32, seed_low: u32, seed_high: u32 }
@group(0) @binding(0) var<storage, read_write> y: array<NUMBER>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let row = i / params.blocks;
  let quad = i % params.blocks;
  if (row >= params.rows) { return; }
  let counter = vec4<u32>(quad, row_id(row), params.purpose, step_of(params.step));
  let key = vec2<u32>(params.seed_low, params.seed_high);
  let drawn = draw(philox4x32(counter, key));
  let first = row * params.length + quad * 4u;
  let left = min(4u, params.length - quad * 4u);
  for (var j = 0u; j < left; j++) { y[first + j] = drawn[j]; }
}
