// y[n, oy, ox, co] = bias[co] + sum over ky, kx, ci of x[n, iy, ix, ci] * w[ky, kx, ci, co], with
//   iy = (oy*stride + ky - top) / dilation, ix likewise, where they divide and lie inside x.
// dilation > 1 is the input gradient of a strided convolution: only the taps that divide are visited.
// x [N, h, wd, cin], w [kh, kw, cin, cout], y [N, oh, ow, cout]; cout and y counted in T. Any sizes, no reuse.
// Constants: T (f32 or vec4<f32>, along co), BIAS (bool). Grid: one invocation a T of y.
struct Params {
  h: i32, wd: i32, cin: u32, oh: u32, ow: u32, cout: u32,
  kh: i32, kw: i32, stride: i32, dilation: i32, top: i32, left: i32,
  count: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<T>;
@group(0) @binding(2) var<storage, read> bias: array<T>;
@group(0) @binding(3) var<storage, read_write> y: array<T>;
@group(0) @binding(4) var<uniform> params: Params;

// The first tap k >= 0 for which base + k is a multiple of the dilation.
fn firstTap(base: i32) -> i32 {
  // Unsigned: drivers have no remainder of a negative number unless Dawn writes it out for them.
  let d = u32(params.dilation);
  let rest = u32(abs(base)) % d;
  return i32(select((d - rest) % d, rest, base < 0));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let co = i % params.cout;
  let pixel = i / params.cout;
  let ox = i32(pixel % params.ow);
  let oy = i32((pixel / params.ow) % params.oh);
  let n = i32(pixel / (params.ow * params.oh));
  let y0 = oy * params.stride - params.top;
  let x0 = ox * params.stride - params.left;
  var sum = T();
  for (var ky = firstTap(y0); ky < params.kh; ky += params.dilation) {
    let iy = (y0 + ky) / params.dilation;
    if (y0 + ky < 0 || iy >= params.h) { continue; }
    for (var kx = firstTap(x0); kx < params.kw; kx += params.dilation) {
      let ix = (x0 + kx) / params.dilation;
      if (x0 + kx < 0 || ix >= params.wd) { continue; }
      let at = u32((n * params.h + iy) * params.wd + ix) * params.cin;
      let tap = u32(ky * params.kw + kx) * params.cin;
      for (var ci = 0u; ci < params.cin; ci++) {
        sum += x[at + ci] * w[(tap + ci) * params.cout + co];
      }
    }
  }
  if (BIAS) { sum += bias[co]; }
  y[i] = sum;
}
