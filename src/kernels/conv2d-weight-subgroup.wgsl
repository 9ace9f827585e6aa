// partial[s, ky, kx, ci, co] = sum over the output pixels p = (n, oy, ox) of chunk s of
//   x[n, oy*stride + ky - top, ox*stride + kx - left, ci] * dy[p, co]   (zero outside x)
// The kernel gradient for software drivers, split over pixels; matmul-sum.wgsl adds the chunks in order. Registers
// only: a subgroup computes ROWS consecutive ci x SG*J channels co of one tap, four pixels at a time. Lane l loads the
// channels l, l + SG, ... of the four, which subgroupBroadcast spreads; it owns J output channels.
// Constants: SG (4 or 8), ROWS (a multiple of SG), J, WG; T = f32 or vecJ<f32>, W = T or f32. Lines with $ are repeated,
// see unroll in product-text.ts. Appended: `fn owned(lane: u32) -> u32`, the first of the lane's output channels;
// `fn columns(row: u32, c: u32) -> T`, the lane's elements of dy of pixel `row`; `fn store(at: u32, c: u32, value: T)`,
// which leaves out channels past the last.
// Grid: x: WG/SG blocks of ROWS rows (a tap has ceil(cin/ROWS)), y: SG*J channels, z: chunks.
enable subgroups;
struct Params {
  h: i32, wd: i32, cin: u32, oh: i32, ow: i32, cout: u32,
  kw: u32, stride: i32, top: i32, left: i32, pixels: u32, chunk: u32, blocks: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<W>;
@group(0) @binding(2) var<storage, read_write> y: array<W>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let lane = local % SG;
  let c = group.y * (SG * J) + owned(lane);
  let perTap = (params.cin + ROWS - 1u) / ROWS;
  // Blocks past the last repeat it and store nothing, so that whole subgroups stay in step.
  let wanted = group.x * (WG / SG) + local / SG;
  let own = min(wanted, params.blocks - 1u);
  let tap = own / perTap;
  let ci = own % perTap * ROWS;
  let ky = i32(tap / params.kw) - params.top;
  let kx = i32(tap % params.kw) - params.left;
  let first = group.z * params.chunk;
  let last = min(first + params.chunk, params.pixels);
  // Channels past the last read the last, and are not stored.
  let c$v = min(ci + $vu * SG + lane, params.cin - 1u);
  var at = Pixel(i32(first) / (params.ow * params.oh), (i32(first) / params.ow) % params.oh, i32(first) % params.ow);
  var s$r = T();
  for (var p = first; p < last; p += 4u) {
    let p0 = load(at, ky, kx, true);
    at = next(at);
    let p1 = load(at, ky, kx, p + 1u < last);
    at = next(at);
    let p2 = load(at, ky, kx, p + 2u < last);
    at = next(at);
    let p3 = load(at, ky, kx, p + 3u < last);
    at = next(at);
    let keep = vec4(f32(p0.y), f32(p1.y), f32(p2.y), f32(p3.y));
    let x$v = vec4(x[p0.x + c$v], x[p1.x + c$v], x[p2.x + c$v], x[p3.x + c$v]) * keep;
    let w0 = columns(p, c);
    let w1 = columns(min(p + 1u, params.pixels - 1u), c);
    let w2 = columns(min(p + 2u, params.pixels - 1u), c);
    let w3 = columns(min(p + 3u, params.pixels - 1u), c);
    s$r += subgroupBroadcast(x$v.x, $lu) * w0 + subgroupBroadcast(x$v.y, $lu) * w1 + subgroupBroadcast(x$v.z, $lu) * w2 + subgroupBroadcast(x$v.w, $lu) * w3;
  }
  if (wanted < params.blocks) {
    let row = group.z * (params.blocks / perTap * params.cin) + tap * params.cin + ci;
    if (ci + $ru < params.cin) { store((row + $ru) * params.cout, c, s$r); }
  }
}

struct Pixel { n: i32, y: i32, x: i32 }

fn next(p: Pixel) -> Pixel {
  let right = p.x + 1 < params.ow;
  let down = p.y + 1 < params.oh;
  return Pixel(p.n + i32(!right && !down), select(select(0, p.y + 1, down), p.y, right), select(0, p.x + 1, right));
}

// First element of the tap's pixel and 1, or 0 and 0 outside.
fn load(p: Pixel, ky: i32, kx: i32, wanted: bool) -> vec2<u32> {
  let iy = p.y * params.stride + ky;
  let ix = p.x * params.stride + kx;
  let inside = wanted && iy >= 0 && ix >= 0 && iy < params.h && ix < params.wd;
  return vec2(select(0u, u32((p.n * params.h + iy) * params.wd + ix) * params.cin, inside), u32(inside));
}
