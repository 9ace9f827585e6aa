// y[n,iy,ix,c] = factor · Σ x[n,oy,ox,c] over the windows (oy·stride .. + size, ox·stride .. + size) that hold
// (iy,ix): the adjoint of pool-sum.wgsl.
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
  let ix = j % params.out_size.y;
  j /= params.out_size.y;
  let iy = j % params.out_size.x;
  let n = j / params.out_size.x;
  // Windows from ceil((i + 1 - size) / stride) to floor(i / stride).
  let from_y = (max(iy + 1u, params.size) - params.size + params.stride - 1u) / params.stride;
  let from_x = (max(ix + 1u, params.size) - params.size + params.stride - 1u) / params.stride;
  let end_y = min(iy / params.stride + 1u, params.in_size.x);
  let end_x = min(ix / params.stride + 1u, params.in_size.y);
  var total = T(0.0);
  for (var oy = from_y; oy < end_y; oy++) {
    for (var ox = from_x; ox < end_x; ox++) {
      total += x[((n * params.in_size.x + oy) * params.in_size.y + ox) * params.channels + c];
    }
  }
  y[i] = params.factor * total;
}
