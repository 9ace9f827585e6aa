// y[n, oy, ox, co] = bias[co] + sum over ky, kx, ci of x[n, iy, ix, ci] * w[ky, kx, ci, co], with
//   iy = (oy*STRIDE + ky - top) / DILATION, ix likewise, where they divide and lie inside x:
// what matmul-tile.wgsl needs to know of it. Rows m are output pixels of a phase (see conv2d-subgroup.wgsl), columns n
// output channels, k = tap*CINP + ci over the taps of the phase, with CINP = CIN rounded up to a multiple of 4.
// With PARTS > 1 the sum over k is cut: y holds as many arrays of its size, for matmul-sum.wgsl to add.
// Constants: KH, KW, CIN, COUT, STRIDE, DILATION, PARTS, BIAS; A, B, Y: vec4<f32>, or f32 where channels are not a multiple
// of 4; fitting `quadA`, `quadB` and `putY` are appended. Grid of matmul-tile.wgsl with z: DILATION^2 phases, PARTS each.
struct Params { h: i32, wd: i32, oh: i32, ow: i32, top: i32, left: i32, pixels: u32, size: u32 }
@group(0) @binding(0) var<storage, read> x: array<A>;
@group(0) @binding(1) var<storage, read> w: array<B>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;
const CINP = (CIN + 3u) / 4u * 4u;

// The first tap of a phase and the number of its taps, in one direction of k taps.
fn taps(phase: i32, before: i32, k: i32) -> vec2<i32> {
  let first = ((before - phase * STRIDE) % DILATION + DILATION) % DILATION;
  return vec2(first, max(0, (k - first + DILATION - 1) / DILATION));
}

// Down and across.
fn phaseOf(z: u32) -> vec2<i32> {
  let phase = i32(z / PARTS);
  return vec2(phase / DILATION, phase % DILATION);
}

fn innerOf(z: u32) -> vec2<u32> {
  let phase = phaseOf(z);
  let whole = u32(taps(phase.x, params.top, KH).y * taps(phase.y, params.left, KW).y) * CINP;
  let chunk = (whole / 4u + PARTS - 1u) / PARTS * 4u;
  let part = z % PARTS;
  return vec2(min(part * chunk, whole), min((part + 1u) * chunk, whole));
}

// (n, oy, ox) of pixel m of the phase; rows and columns outside the image occur where DILATION does not divide it.
fn pixelOf(z: u32, m: u32) -> vec3<i32> {
  let across = (params.ow + DILATION - 1) / DILATION;
  let down = (params.oh + DILATION - 1) / DILATION;
  let i = i32(m);
  let phase = phaseOf(z);
  return vec3(i / (across * down), ((i / across) % down) * DILATION + phase.x, (i % across) * DILATION + phase.y);
}

// ky, kx of the tap'th tap of the phase.
fn tapOf(z: u32, tap: u32) -> vec2<i32> {
  let phase = phaseOf(z);
  let down = taps(phase.x, params.top, KH);
  let across = taps(phase.y, params.left, KW);
  return vec2(down.x + i32(tap) / across.y * DILATION, across.x + i32(tap) % across.y * DILATION);
}

/// The image's first row in x, the pixel's first tap were it tap (0, 0), and whether there is a pixel m.
struct Row { image: i32, y: i32, x: i32, inside: bool }
fn rowAt(z: u32, m: u32) -> Row {
  let p = pixelOf(z, m);
  return Row(p.x * params.h, p.y * STRIDE - params.top, p.z * STRIDE - params.left, m < params.pixels);
}

fn loadA(row: Row, z: u32, k: u32) -> vec4<f32> {
  if (!row.inside || k >= innerOf(z).y) { return vec4<f32>(); }
  let t = tapOf(z, k / CINP);
  let iy = row.y + t.x;
  let ix = row.x + t.y;
  if (iy < 0 || ix < 0 || iy / DILATION >= params.h || ix / DILATION >= params.wd) { return vec4<f32>(); }
  let ci = k % CINP;
  return quadA(u32((row.image + iy / DILATION) * params.wd + ix / DILATION) * CIN + ci, CIN - ci);
}

fn loadB(z: u32, k: u32, n: u32) -> vec4<f32> {
  let ci = k % CINP;
  if (n >= COUT || ci >= CIN || k >= innerOf(z).y) { return vec4<f32>(); }
  let t = tapOf(z, k / CINP);
  return quadB((u32(t.x * KW + t.y) * CIN + ci) * COUT + n, COUT - n);
}

fn store(z: u32, m: u32, n: u32, sum: vec4<f32>) {
  if (m >= params.pixels || n >= COUT) { return; }
  let p = pixelOf(z, m);
  if (p.y >= params.oh || p.z >= params.ow) { return; }
  var value = sum;
  if (BIAS && z % PARTS == 0u) { value += vec4(bias[n], bias[min(n + 1u, COUT - 1u)], bias[min(n + 2u, COUT - 1u)], bias[min(n + 3u, COUT - 1u)]); }
  putY(z % PARTS * params.size + u32((p.x * params.oh + p.y) * params.ow + p.z) * COUT + n, COUT - n, value);
}
