// y[n,oy,ox,c] = factor · Σ_{dy,dx < size} x[n, oy·stride + dy, ox·stride + dx, c]; windows lie inside x.
// Constants: T (channel, or four). Counts of channels in Ts. Grid: one invocation a T of y.
struct Params { count: u32, channels: u32, in_size: vec2<u32>, out_size: vec2<u32>, size: u32, stride: u32, factor: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  var j = i / params.channels;
  let c = i - j * params.channels;
  let ox = j % params.out_size.y;
  j /= params.out_size.y;
  let oy = j % params.out_size.x;
  let n = j / params.out_size.x;
  let row = params.in_size.y * params.channels;
  var at = ((n * params.in_size.x + oy * params.stride) * params.in_size.y + ox * params.stride) * params.channels + c;
  var total = T(0.0);
  for (var dy = 0u; dy < params.size; dy++) {
    var line = T(0.0);
    for (var dx = 0u; dx < params.size; dx++) { line += x[at + dx * params.channels]; }
    total += line;
    at += row;
  }
  y[i] = params.factor * total;
}
