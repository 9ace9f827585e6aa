// partial[s, ky, kx, ci, co] = sum over the output pixels p = (n, oy, ox) of chunk s of
//   x[n, oy*STRIDE + ky - top, ox*STRIDE + kx - left, ci] * dy[p, co]   (zero outside x):
// what matmul-tile.wgsl needs to know of it. Rows m are (ky, kx, ci), columns n are co, k runs over pixels.
// Constants: KH, KW, CIN, COUT, STRIDE, ALONG (output rows are a multiple of 4 pixels); B, Y: vec4<f32>, or f32 where COUT is not a multiple of 4; fitting `quadB` and
// `putY` are appended. Grid of matmul-tile.wgsl with z: chunks. matmul-sum.wgsl adds the chunks in order.
struct Params { h: i32, wd: i32, oh: i32, ow: i32, top: i32, left: i32, pixels: u32, chunk: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<B>;
@group(0) @binding(2) var<storage, read_write> partial: array<Y>;
@group(0) @binding(3) var<uniform> params: Params;
const ROWS = u32(KH * KW) * CIN;

fn innerOf(z: u32) -> vec2<u32> {
  return vec2(z * params.chunk, min((z + 1u) * params.chunk, params.pixels));
}

/// What the tap adds to a pixel's place, its channel, and whether there is a row m.
struct Row { down: i32, across: i32, ci: u32, inside: bool }
fn rowAt(z: u32, m: u32) -> Row {
  let tap = i32(m / CIN);
  return Row(tap / KW - params.top, tap % KW - params.left, m % CIN, m < ROWS);
}

// One of the four pixels is found by division, the others follow it, in the same row where ALONG: k is a multiple of 4.
fn loadA(row: Row, z: u32, k: u32) -> vec4<f32> {
  var v: vec4<f32>;
  if (!row.inside) { return v; }
  let end = innerOf(z).y;
  var ox = i32(k) % params.ow;
  var line = i32(k) / params.ow;
  var iy = line % params.oh * STRIDE + row.down;
  for (var j = 0u; j < 4u; j++) {
    let ix = ox * STRIDE + row.across;
    if (k + j < end && iy >= 0 && ix >= 0 && iy < params.h && ix < params.wd) {
      v[j] = x[u32((line / params.oh * params.h + iy) * params.wd + ix) * CIN + row.ci];
    }
    ox++;
    if (!ALONG && ox == params.ow) {
      ox = 0;
      line++;
      iy = line % params.oh * STRIDE + row.down;
    }
  }
  return v;
}

fn loadB(z: u32, k: u32, n: u32) -> vec4<f32> {
  if (n >= COUT || k >= innerOf(z).y) { return vec4<f32>(); }
  return quadB(k * COUT + n, COUT - n);
}

fn store(z: u32, m: u32, n: u32, sum: vec4<f32>) {
  if (m < ROWS && n < COUT) { putY((z * ROWS + m) * COUT + n, COUT - n, sum); }
}
