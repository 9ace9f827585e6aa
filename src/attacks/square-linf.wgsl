// x = clamp(best + δ, low, high): δ is ±2·eps, one random sign a channel, in a square of side plans[q].x at a random place
// (which, as in the published code, never touches the last row or column unless it must), 0 elsewhere; q = counter.
// philox.wgsl stands before. Grid: one invocation an element of x [rows, height, width, channels].
struct Params {
  rows: u32, size: u32, height: u32, width: u32, channels: u32, purpose: u32, seed_low: u32, seed_high: u32,
  eps: f32, queries: u32,
}
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> best: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> plans: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> counter: array<u32>;
@group(0) @binding(5) var<storage, read> run: array<u32>;
@group(0) @binding(6) var<storage, read> low: array<f32>;
@group(0) @binding(7) var<storage, read> high: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

fn place(word: u32, room: u32) -> u32 { return u32(uniform_of(word) * f32(room)); }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.rows * params.size) { return; }
  let q = counter[0];
  let side = plans[q].x;
  let key = vec2<u32>(params.seed_low, params.seed_high);
  let draw = run[0] * (params.queries + 1u) + q;
  let words = philox4x32(vec4<u32>(0u, ids[i / params.size], params.purpose, draw), key);
  let top = place(words.x, params.height - side);
  let left = place(words.y, params.width - side);
  let within = i % params.size;
  let channel = within % params.channels;
  let column = within / params.channels % params.width;
  let line = within / (params.channels * params.width);
  var v = best[i];
  if (line >= top && line < top + side && column >= left && column < left + side) {
    v += select(-2.0, 2.0, ((words.z >> channel) & 1u) == 1u) * params.eps;
  }
  x[i] = clamp(v, low[i], high[i]);
}
