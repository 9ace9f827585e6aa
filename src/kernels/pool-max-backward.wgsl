// dx[n,iy,ix,c] = Σ dy[n,oy,ox,c] over the windows that hold (iy,ix) and whose index is iy·W + ix. A gather: every
// sum is made by one invocation in a fixed order.
// Constants: T, I (f32 and u32, or vec4 of them). Counts of channels in Ts. Grid: one invocation a T of dx.
struct Params { count: u32, channels: u32, in_size: vec2<u32>, out_size: vec2<u32>, size: u32, stride: u32, padding: u32 }
@group(0) @binding(0) var<storage, read> dy: array<T>;
@group(0) @binding(1) var<storage, read> index: array<I>;
@group(0) @binding(2) var<storage, read_write> dx: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  var j = i / params.channels;
  let c = i - j * params.channels;
  let ix = j % params.in_size.y;
  j /= params.in_size.y;
  let iy = j % params.in_size.x;
  let n = j / params.in_size.x;
  let me = I(iy * params.in_size.y + ix);
  let py = iy + params.padding;
  let px = ix + params.padding;
  let from_y = (max(py + 1u, params.size) - params.size + params.stride - 1u) / params.stride;
  let from_x = (max(px + 1u, params.size) - params.size + params.stride - 1u) / params.stride;
  let end_y = min(py / params.stride + 1u, params.out_size.x);
  let end_x = min(px / params.stride + 1u, params.out_size.y);
  var total = T(0.0);
  for (var oy = from_y; oy < end_y; oy++) {
    for (var ox = from_x; ox < end_x; ox++) {
      let at = ((n * params.out_size.x + oy) * params.out_size.y + ox) * params.channels + c;
      total += select(T(0.0), dy[at], index[at] == me);
    }
  }
  dx[i] = total;
}
