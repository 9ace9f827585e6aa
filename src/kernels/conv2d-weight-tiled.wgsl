// partial[s, ky, kx, ci, co] = sum over the output pixels p = (n, oy, ox) of chunk s of
//   x[n, oy*STRIDE + ky - top, ox*STRIDE + kx - left, ci] * dy[p, co]   (zero outside x):
// what matmul-tile.wgsl needs to know of it. Rows m = tap*CINP + ci, with CINP = CIN rounded up to a multiple of 4, columns n are co, k
// runs over pixels. Constants: KH, KW, CIN, COUT, STRIDE, OH, OW (numbers, so that divisions by them are cheap); TA = true, TB = false; A, B, Y: vec4<f32>, or
// f32 where CIN or COUT is not a multiple of 4; fitting `foursOf` and `putText` of product-text.ts are appended.
// Grid of matmul-tile.wgsl with z: chunks. matmul-sum.wgsl adds the chunks in order.
struct Params { h: u32, wd: u32, top: i32, left: i32, pixels: u32, chunk: u32 }
@group(0) @binding(0) var<storage, read> x: array<A>;
@group(0) @binding(1) var<storage, read> dy: array<B>;
@group(0) @binding(2) var<storage, read_write> partial: array<Y>;
@group(0) @binding(3) var<uniform> params: Params;
const CINP = (CIN + 3u) / 4u * 4u;
const ROWS = u32(KH * KW) * CINP;

fn innerOf(z: u32) -> vec2<u32> {
  return vec2(z * params.chunk, min((z + 1u) * params.chunk, params.pixels));
}

/// What the tap adds to a pixel's place, the channel, channels from it on to the last, and the pixel where k0 is 0.
struct Row { down: i32, across: i32, ci: u32, count: u32, k: u32 }
fn rowAt(z: u32, m: u32, k: u32) -> Row {
  let tap = i32(m / CINP);
  let ci = m % CINP;
  return Row(tap / KW - params.top, tap % KW - params.left, ci, select(0u, CIN - ci, m < ROWS), k);
}

fn placeA(row: Row, z: u32, k0: u32) -> PlaceA {
  let p = k0 + row.k;
  let line = p / OW;
  let iy = u32(i32(line % OH * STRIDE) + row.down);
  let ix = u32(i32(p % OW * STRIDE) + row.across);
  // A negative place is a large number.
  let there = (p < innerOf(z).y) & (iy < params.h) & (ix < params.wd);
  return fourA(vec2(((line / OH * params.h + iy) * params.wd + ix) * CIN + row.ci, select(0u, row.count, there)));
}

/// The element of the first pixel, columns from it on, and the pixel where k0 is 0.
struct Column { first: u32, count: u32, k: u32 }
fn columnAt(z: u32, n: u32, k: u32) -> Column { return Column(k * COUT + n, max(COUT, n) - n, k); }
fn placeB(column: Column, z: u32, k0: u32) -> PlaceB {
  return fourB(vec2(column.first + k0 * COUT, select(0u, column.count, k0 + column.k < innerOf(z).y)));
}

fn store(z: u32, m: u32, n: u32, sum: vec4<f32>) {
  let ci = m % CINP;
  if (m < ROWS && ci < CIN && n < COUT) {
    putY(((z * u32(KH * KW) + m / CINP) * CIN + ci) * COUT + n, COUT - n, sum);
  }
}
