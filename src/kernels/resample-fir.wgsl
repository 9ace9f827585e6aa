// y = gain · (zero-insert by UP, pad by `before`, correlate with k ⊗ k, keep every DOWN-th), k = [1,3,3,1]/8,
// x [N,H,W,C] -> y [N,OH,OW,C]. One axis: y[o] = Σ_t k[t] z[o·DOWN + t − before], z[j] = x[j/UP] where UP divides j
// and x has j/UP, else 0. The zeros are never read: only every UP-th tap is visited.
// Constants: T (channel, or four), UP, DOWN. Counts of channels in Ts. Grid: one invocation a T of y.
struct Params { count: u32, channels: u32, in_size: vec2<u32>, out_size: vec2<u32>, before: i32, gain: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

fn weight(t: i32) -> f32 { return select(0.125, 0.375, t == 1 || t == 2); }

/// The first tap t >= 0 with UP | b + t.
fn first(b: i32) -> i32 { return (UP - ((b % UP) + UP) % UP) % UP; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let size = vec2<i32>(params.in_size);
  var j = i / params.channels;
  let c = i - j * params.channels;
  let ox = j % params.out_size.y;
  j /= params.out_size.y;
  let oy = j % params.out_size.x;
  let n = j / params.out_size.x;
  let by = i32(oy) * DOWN - params.before;
  let bx = i32(ox) * DOWN - params.before;
  let image = n * params.in_size.x * params.in_size.y;
  var total = T(0.0);
  for (var ty = first(by); ty < 4; ty += UP) {
    let zy = by + ty;
    let iy = zy / UP;
    if (zy < 0 || iy >= size.x) { continue; }
    var row = T(0.0);
    for (var tx = first(bx); tx < 4; tx += UP) {
      let zx = bx + tx;
      let ix = zx / UP;
      if (zx < 0 || ix >= size.y) { continue; }
      row += weight(tx) * x[(image + u32(iy) * params.in_size.y + u32(ix)) * params.channels + c];
    }
    total += weight(ty) * row;
  }
  y[i] = params.gain * total;
}
