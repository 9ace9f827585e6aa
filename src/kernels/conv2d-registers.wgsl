// y[n, oy, ox, co] = bias[co] + sum over ky, kx, ci of x[n, iy, ix, ci] * w[ky, kx, ci, co], with
//   iy = (oy*STRIDE + ky - top) / DILATION, ix likewise, where they divide and lie inside x.
// For software drivers without subgroups of eight, where a load costs many times an addition. Registers only: an
// invocation computes 8 pixels x Q vec4 of channels. DILATION > 1 (input gradient of a strided convolution): the
// pixels are dealt to DILATION^2 phases, workgroup z, each with its own taps, so no tap is visited in vain.
// Constants: KH, KW, CIN, COUT (in vec4), STRIDE, DILATION, Q (divides COUT), BIAS; T = vec4<f32> or matQx4<f32>,
// X = vec4<f32> or f32 (CIN not a multiple of 4). Appended: `fn four(at: u32, ci: u32) -> vec4<f32>`, four channels of x
// from ci, where at is the first element of the pixel; `fn columns(at: u32) -> T`, Q neighbours of w; `biases`;
// `fn store(at: u32, T)`.
// Grid: x: one invocation 8 pixels x Q channels of a phase, y: folded, z: DILATION^2.
struct Params { h: i32, wd: i32, oh: i32, ow: i32, top: i32, left: i32, pixels: u32 }
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

struct Pixel { n: i32, y: i32, x: i32 }

// Pixel m of the phase; rows and columns outside the image occur where DILATION does not divide its size.
fn pixelOf(m: u32, phase: i32) -> Pixel {
  let i = i32(min(m, params.pixels - 1u));
  let across = (params.ow + DILATION - 1) / DILATION;
  let down = (params.oh + DILATION - 1) / DILATION;
  return Pixel(i / (across * down), ((i / across) % down) * DILATION + phase / DILATION, (i % across) * DILATION + phase % DILATION);
}

fn firstTap(base: i32) -> i32 {
  return ((-base) % DILATION + DILATION) % DILATION;
}

fn load(p: Pixel, ky: i32, kx: i32) -> vec2<u32> {
  let iy = p.y * STRIDE + ky - params.top;
  let ix = p.x * STRIDE + kx - params.left;
  let inside = iy >= 0 && ix >= 0 && iy / DILATION < params.h && ix / DILATION < params.wd;
  let at = u32((p.n * params.h + iy / DILATION) * params.wd + ix / DILATION) * CIN;
  return vec2(select(0u, at, inside), u32(inside));
}

fn put(m: u32, phase: i32, c: u32, value: T) {
  let p = pixelOf(m, phase);
  if (m < params.pixels && p.y < params.oh && p.x < params.ow) {
    store(u32((p.n * params.oh + p.y) * params.ow + p.x) * COUT + c, value);
  }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let c = i % (COUT / Q) * Q;
  let m0 = i / (COUT / Q) * 8u;
  let phase = i32(id.z);
  let p0 = pixelOf(m0, phase);
  let p1 = pixelOf(m0 + 1u, phase);
  let p2 = pixelOf(m0 + 2u, phase);
  let p3 = pixelOf(m0 + 3u, phase);
  let p4 = pixelOf(m0 + 4u, phase);
  let p5 = pixelOf(m0 + 5u, phase);
  let p6 = pixelOf(m0 + 6u, phase);
  let p7 = pixelOf(m0 + 7u, phase);
  var s0 = T();  var s1 = T();  var s2 = T();  var s3 = T();
  var s4 = T();  var s5 = T();  var s6 = T();  var s7 = T();
  for (var ky = firstTap(phase / DILATION * STRIDE - params.top); ky < KH; ky += DILATION) {
    for (var kx = firstTap(phase % DILATION * STRIDE - params.left); kx < KW; kx += DILATION) {
      let f0 = load(p0, ky, kx);
      let f1 = load(p1, ky, kx);
      let f2 = load(p2, ky, kx);
      let f3 = load(p3, ky, kx);
      let f4 = load(p4, ky, kx);
      let f5 = load(p5, ky, kx);
      let f6 = load(p6, ky, kx);
      let f7 = load(p7, ky, kx);
      let i0 = f32(f0.y);
      let i1 = f32(f1.y);
      let i2 = f32(f2.y);
      let i3 = f32(f3.y);
      let i4 = f32(f4.y);
      let i5 = f32(f5.y);
      let i6 = f32(f6.y);
      let i7 = f32(f7.y);
      var at = u32(ky * KW + kx) * (CIN * COUT) + c;
      for (var ci = 0u; ci < CIN; ci += 4u) {
        // Where CIN is not a multiple of 4 the channels past the last are zeros, times a weight that exists.
        let w0 = columns(at);
        let w1 = columns(at + min(1u, CIN - 1u - ci) * COUT);
        let w2 = columns(at + min(2u, CIN - 1u - ci) * COUT);
        let w3 = columns(at + min(3u, CIN - 1u - ci) * COUT);
        let x0 = four(f0.x, ci) * i0;
        s0 += x0.x * w0 + x0.y * w1 + x0.z * w2 + x0.w * w3;
        let x1 = four(f1.x, ci) * i1;
        s1 += x1.x * w0 + x1.y * w1 + x1.z * w2 + x1.w * w3;
        let x2 = four(f2.x, ci) * i2;
        s2 += x2.x * w0 + x2.y * w1 + x2.z * w2 + x2.w * w3;
        let x3 = four(f3.x, ci) * i3;
        s3 += x3.x * w0 + x3.y * w1 + x3.z * w2 + x3.w * w3;
        let x4 = four(f4.x, ci) * i4;
        s4 += x4.x * w0 + x4.y * w1 + x4.z * w2 + x4.w * w3;
        let x5 = four(f5.x, ci) * i5;
        s5 += x5.x * w0 + x5.y * w1 + x5.z * w2 + x5.w * w3;
        let x6 = four(f6.x, ci) * i6;
        s6 += x6.x * w0 + x6.y * w1 + x6.z * w2 + x6.w * w3;
        let x7 = four(f7.x, ci) * i7;
        s7 += x7.x * w0 + x7.y * w1 + x7.z * w2 + x7.w * w3;
        at += 4u * COUT;
      }
    }
  }
  if (BIAS) {
    let b = biases(c);
    s0 += b; s1 += b; s2 += b; s3 += b; s4 += b; s5 += b; s6 += b; s7 += b;
  }
  put(m0, phase, c, s0);
  put(m0 + 1u, phase, c, s1);
  put(m0 + 2u, phase, c, s2);
  put(m0 + 3u, phase, c, s3);
  put(m0 + 4u, phase, c, s4);
  put(m0 + 5u, phase, c, s5);
  put(m0 + 6u, phase, c, s6);
  put(m0 + 7u, phase, c, s7);
}
