// partial[s, ky, kx, ci, co] = sum over the output pixels p = (n, oy, ox) of chunk s of
//   x[n, oy*stride + ky - top, ox*stride + kx - left, ci] * dy[p, co]   (zero outside x)
// The kernel gradient for software drivers, split over pixels; matmul-sum.wgsl adds the chunks in order. Registers
// only: a subgroup computes ROWS consecutive ci x SG*J channels co of one tap, four pixels at a time. A lane loads 4*ROWS/SG
// of their elements, which are spread over the subgroup; it owns J output channels. Parameters are read once, which is a
// load, and distances are in items, of the type that an array is read in.
// Constants: SG (4 or 8), ROWS (a multiple of SG), J, WG; P4, ALONG: whether pixels, and those of a row, are a multiple of
// 4; T = f32 or vecJ<f32>, X = vec4<f32> or f32, W = T or f32. Lines with $ are repeated and `spread`, `rowOf` appended, see
// unroll in product-text.ts. Also appended: of itemText A and B, the bindings x and dy; of channelsText `channelsOf`, `channels` and `row0` to
// the last, the channels of x; of laneText `owned`, `placesOf`, `store`; of rowsText `startsOf` and `quad`, whose rows are the pixels of dy.
// Params: chunk in fours of pixels; items of a pixel of x and of dy.
// Grid: x: WG/SG blocks of ROWS rows (a tap has ceil(cin/ROWS)), y: SG*J channels, z: chunks.
enable subgroups;
struct Params {
  h: i32, wd: i32, cin: u32, oh: i32, ow: i32, cout: u32,
  kw: u32, stride: i32, top: i32, left: i32, pixels: u32, chunk: u32, blocks: u32, pixel: u32, row: u32,
}
@group(0) @binding(2) var<storage, read_write> y: array<W>;
@group(0) @binding(3) var<uniform> params: Params;

struct Pixel { n: i32, y: i32, x: i32 }
// Its first item, and 1, or 0 and 0 outside the image. Conditions are joined by & and |, as && and || are branches.
struct Source { at: u32, keep: f32 }

fn next(p: Params, o: Pixel) -> Pixel {
  let right = o.x + 1 < p.ow;
  let down = o.y + 1 < p.oh;
  return Pixel(o.n + select(1, 0, right | down), select(select(0, o.y + 1, down), o.y, right), select(0, o.x + 1, right));
}

fn along(p: Params, o: Pixel) -> Pixel {
  if (ALONG) { return Pixel(o.n, o.y, o.x + 1); }
  return next(p, o);
}

fn load(p: Params, o: Pixel, ky: i32, kx: i32, wanted: bool) -> Source {
  let iy = o.y * p.stride + ky;
  let ix = o.x * p.stride + kx;
  let inside = wanted & (iy >= 0) & (ix >= 0) & (iy < p.h) & (ix < p.wd);
  return Source(select(0u, u32((o.n * p.h + iy) * p.wd + ix) * p.pixel, inside), select(0.0, 1.0, inside));
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let p = params;
  let lane = local % SG;
  let c = group.y * (SG * J) + owned(lane);
  let perTap = (p.cin + ROWS - 1u) / ROWS;
  // Blocks past the last repeat it and store nothing, so that whole subgroups stay in step.
  let wanted = group.x * (WG / SG) + local / SG;
  let mine = min(wanted, p.blocks - 1u);
  let tap = mine / perTap;
  let ci = mine % perTap * ROWS;
  let ky = i32(tap / p.kw) - p.top;
  let kx = i32(tap % p.kw) - p.left;
  let first = group.z * p.chunk;
  let last = min(first + p.chunk, (p.pixels + 3u) / 4u);
  let places = placesOf(c, p.cout);
  let starts = startsOf(places, p.pixels);
  let own = channelsOf(ci, lane, p.cin);
  let begin = i32(4u * first);
  var o0 = Pixel(begin / (p.ow * p.oh), (begin / p.ow) % p.oh, begin % p.ow);
  var s$r_$j = 0.0;
  for (var q = first; q < last; q++) {
    let o1 = along(p, o0);
    let o2 = along(p, o1);
    let o3 = along(p, o2);
    let p0 = load(p, o0, ky, kx, true);
    let p1 = load(p, o1, ky, kx, P4 | (4u * q + 1u < p.pixels));
    let p2 = load(p, o2, ky, kx, P4 | (4u * q + 2u < p.pixels));
    let p3 = load(p, o3, ky, kx, P4 | (4u * q + 3u < p.pixels));
    o0 = next(p, o3);
    let keep = vec4(p0.keep, p1.keep, p2.keep, p3.keep);
    let x = channels(vec4(p0.at, p1.at, p2.at, p3.at), keep, own);
    let w = quad(0u, q, starts, p.row, p.pixels);
    let e$r = row$r(x);
    s$r_$j += dot(e$r, w.w$j);
  }
  if (wanted < p.blocks) {
    let row = group.z * (p.blocks / perTap * p.cin) + tap * p.cin + ci;
    let r$r = rowOf($ru, lane);
    if (ci + r$r < p.cin) { store((row + r$r) * p.row, c, p.cout, places, $sums); }
  }
}
