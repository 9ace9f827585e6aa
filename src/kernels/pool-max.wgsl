// y[n,oy,ox,c] = max of x over the window at (oy·stride − padding, ox·stride − padding) of size², and index = the
// row-major position h·W + w of the first pixel that has it. What lies outside x never wins.
// Constants: T, I (f32 and u32, or vec4 of them). Counts of channels in Ts. Grid: one invocation a T of y.
struct Params { count: u32, channels: u32, in_size: vec2<u32>, out_size: vec2<u32>, size: u32, stride: u32, padding: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<storage, read_write> index: array<I>;
@group(0) @binding(3) var<uniform> params: Params;

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
  let from_y = max(oy * params.stride, params.padding) - params.padding;
  let from_x = max(ox * params.stride, params.padding) - params.padding;
  let end_y = min(oy * params.stride + params.size - params.padding, params.in_size.x);
  let end_x = min(ox * params.stride + params.size - params.padding, params.in_size.y);
  let image = n * params.in_size.x * params.in_size.y;
  var at = from_y * params.in_size.y + from_x;
  var best = x[(image + at) * params.channels + c];
  var where_ = I(at);
  for (var iy = from_y; iy < end_y; iy++) {
    for (var ix = from_x; ix < end_x; ix++) {
      at = iy * params.in_size.y + ix;
      let v = x[(image + at) * params.channels + c];
      let wins = v > best;
      best = select(best, v, wins);
      where_ = select(where_, I(at), wins);
    }
  }
  y[i] = best;
  index[i] = where_;
}
