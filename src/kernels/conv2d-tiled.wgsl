// y[n, oy, ox, co] = bias[co] + sum over ky, kx, ci of x[n, iy, ix, ci] * w[ky, kx, ci, co], with
//   iy = (oy*STRIDE + ky - top) / DILATION, ix likewise, where they divide and lie inside x:
// what matmul-tile.wgsl needs to know of it. Rows m are output pixels of a phase (see conv2d-subgroup.wgsl), columns n
// output channels, k = tap*CINP + ci over the taps of the phase, with CINP = CIN rounded up to a multiple of 4.
// With PARTS > 1 the sum over k is cut: y holds as many arrays of its size, for matmul-sum.wgsl to add.
// Constants: KH, KW, CIN, COUT, STRIDE, DILATION, PARTS, BIAS; TURNED (bool: w is [KH,KW,COUT,CIN] and turned by 180 degrees);
// TA = false, TB = TURNED; A, B, Y: vec4<f32>, or f32 where their rows are not a multiple of 4; fitting `foursOf` and `putText` of
// product-text.ts are appended. Grid of matmul-tile.wgsl with z: DILATION^2 phases, PARTS each.
struct Params { h: u32, wd: u32, oh: u32, ow: u32, top: i32, left: i32, pixels: u32, size: u32 }
@group(0) @binding(0) var<storage, read> x: array<A>;
@group(0) @binding(1) var<storage, read> w: array<B>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;
const CINP = (CIN + 3u) / 4u * 4u;
// All of a step has one tap, which is then the workgroup's and no invocation's.
const ONE_TAP = CIN % KT == 0u;

// The first tap of a phase and the number of its taps, in one direction of k taps.
fn taps(phase: i32, before: i32, k: i32) -> vec2<i32> {
  // Unsigned: drivers have no remainder of a negative number unless Dawn writes it out for them.
  let offset = before - phase * STRIDE;
  let rest = u32(abs(offset)) % u32(DILATION);
  let first = i32(select(rest, (u32(DILATION) - rest) % u32(DILATION), offset < 0));
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
  let chunk = (whole + PARTS * KT - 1u) / (PARTS * KT) * KT;
  let part = z % PARTS;
  return vec2(min(part * chunk, whole), min((part + 1u) * chunk, whole));
}

/// Of the tap'th tap of a phase: what it adds to a pixel's place in x, down and across, and ky*KW + kx.
struct Tap { down: i32, across: i32, index: u32 }
fn tapOf(z: u32, tap: u32) -> Tap {
  let phase = phaseOf(z);
  let down = taps(phase.x, params.top, KH);
  let across = taps(phase.y, params.left, KW);
  // A phase may have no taps, whose places nobody uses; a division by zero is undefined all the same.
  let row = max(across.y, 1);
  let ky = down.x + i32(tap) / row * DILATION;
  let kx = across.x + i32(tap) % row * DILATION;
  // They divide, by the choice of the first taps.
  return Tap((phase.x * STRIDE + ky - params.top) / DILATION, (phase.y * STRIDE + kx - params.left) / DILATION, u32(ky * KW + kx));
}

// (n, down, across) of pixel m of the phase, counted in the phase; it may lie outside the image where DILATION does not divide that.
fn pixelOf(m: u32) -> vec3<u32> {
  let across = (params.ow + DILATION - 1u) / DILATION;
  let down = (params.oh + DILATION - 1u) / DILATION;
  return vec3(m / (across * down), m / across % down, m % across);
}

/// Channel 0 of the pixel of x for a tap that adds nothing, in elements; its place; and what a load is apart from the step's first k.
struct Row { first: i32, y: i32, x: i32, k: u32, inside: bool }
fn rowAt(z: u32, m: u32, k: u32) -> Row {
  let p = pixelOf(m);
  let y = p.y * STRIDE;
  let x = p.z * STRIDE;
  return Row(i32(((p.x * params.h + y) * params.wd + x) * CIN), i32(y), i32(x), k, m < params.pixels);
}

// In j of the step's k: the tap, and the channel of the load that is k apart.
fn stepK(k0: u32, k: u32) -> u32 { return k0 + select(k, 0u, ONE_TAP); }
fn channelOf(j: u32, k: u32) -> u32 { return j % CINP + select(0u, k, ONE_TAP); }

fn placeA(row: Row, z: u32, k0: u32) -> PlaceA {
  let j = stepK(k0, row.k);
  let tap = tapOf(z, j / CINP);
  let ci = channelOf(j, row.k);
  // A negative place is a large number.
  let there = (u32(row.y + tap.down) < params.h) & (u32(row.x + tap.across) < params.wd);
  let at = u32(row.first + (tap.down * i32(params.wd) + tap.across) * i32(CIN)) + ci;
  return fourA(vec2(at, select(0u, CIN - ci, row.inside & there & (j < innerOf(z).y))));
}

/// The element of w for tap 0 and channel 0, columns from it on, and k as for a Row.
struct Column { first: u32, count: u32, k: u32 }
fn columnAt(z: u32, n: u32, k: u32) -> Column {
  return Column(select(n, n * CIN, TURNED), max(COUT, n) - n, k);
}

fn placeB(column: Column, z: u32, k0: u32) -> PlaceB {
  let j = stepK(k0, column.k);
  let tap = tapOf(z, j / CINP).index;
  let ci = channelOf(j, column.k);
  let there = (j < innerOf(z).y) & (ci < CIN);
  if (TURNED) {
    let at = (u32(KH * KW) - 1u - tap) * (COUT * CIN) + column.first + ci;
    return fourB(vec2(at, select(0u, CIN - ci, there & (column.count > 0u))));
  }
  return fourB(vec2((tap * CIN + ci) * COUT + column.first, select(0u, column.count, there)));
}

fn store(z: u32, m: u32, n: u32, sum: vec4<f32>) {
  if (m >= params.pixels || n >= COUT) { return; }
  var at = m;
  if (DILATION > 1) {
    let p = pixelOf(m);
    let phase = vec2<u32>(phaseOf(z));
    let oy = p.y * DILATION + phase.x;
    let ox = p.z * DILATION + phase.y;
    if (oy >= params.oh || ox >= params.ow) { return; }
    at = (p.x * params.oh + oy) * params.ow + ox;
  }
  var value = sum;
  if (BIAS && z % PARTS == 0u) { value += vec4(bias[n], bias[min(n + 1u, COUT - 1u)], bias[min(n + 2u, COUT - 1u)], bias[min(n + 3u, COUT - 1u)]); }
  putY(z % PARTS * params.size + at * COUT + n, COUT - n, value);
}
