// y = gain · (zero-insert by UP, pad by `before`, correlate with k ⊗ k, keep every DOWN-th), k = [1,3,3,1]/8,
// x [N,H,W,C] -> y [N,OH,OW,C]. One axis: y[o] = Σ_t k[t] z[o·DOWN + t − before], z[j] = x[j/UP] where UP divides j
// and x has j/UP, else 0. The zeros are never read: only every UP-th tap is visited.
// Constants: T (channel, or four), UP, DOWN. Counts of channels in Ts. Positions are kept positive: z is shifted by
// `shift` pixels of x, `bias` = shift·UP − before >= 0. Grid: one invocation a T of y.
struct Params { count: u32, channels: u32, in_size: vec2<u32>, out_size: vec2<u32>, bias: u32, shift: u32, gain: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

/// k[t], 0 beyond its four taps.
fn weight(t: u32) -> f32 { return select(select(0.125, 0.375, t == 1u || t == 2u), 0.0, t > 3u); }

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
  let by = oy * DOWN + params.bias;
  let bx = ox * DOWN + params.bias;
  // The first tap on a pixel, and that pixel: rows above the image wrap to huge numbers and fail `< in_size`.
  let ty = (UP - by % UP) % UP;
  let tx = (UP - bx % UP) % UP;
  let iy = (by + ty) / UP - params.shift;
  let ix = (bx + tx) / UP - params.shift;
  let image = n * params.in_size.x;
  var total = T(0.0);
  // Without branches, so that all loads are on their way together.
  for (var ky = 0u; ky < (3u + UP) / UP; ky++) {
    let down = iy + ky < params.in_size.x;
    let line = (image + select(0u, iy + ky, down)) * params.in_size.y;
    var row = T(0.0);
    for (var kx = 0u; kx < (3u + UP) / UP; kx++) {
      let inside = down & (ix + kx < params.in_size.y);
      let v = x[(line + select(0u, ix + kx, inside)) * params.channels + c];
      row += weight(tx + kx * UP) * select(T(0.0), v, inside);
    }
    total += weight(ty + ky * UP) * row;
  }
  y[i] = params.gain * total;
}
