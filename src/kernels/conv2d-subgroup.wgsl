// y[n, oy, ox, co] = bias[co] + sum over ky, kx, ci of x[n, iy, ix, ci] * w[ky, kx, ci, co], with
//   iy = (oy*stride + ky - top) / DILATION, ix likewise, where they divide and lie inside x.
// For software drivers, where a load costs many times an addition, and reading a parameter is a load: all are read once, and
// distances are in items, of the type that an array is read in. Registers only: a subgroup computes ROWS pixels x
// SG*J channels. Lane l loads four channels of the pixels l, l + SG, ..., which are spread over the subgroup; it owns J
// output channels. DILATION > 1 (input gradient of a strided convolution): the pixels are dealt to DILATION^2 phases,
// workgroup z, each with its own taps, so no tap is visited in vain.
// Sizes are params, not constants: they cost no speed here, and one pipeline then serves all layers.
// Constants: DILATION, TURNED (w is [KH,KW,COUT,CIN] and turned by 180 degrees: an input gradient reads the kernel as it
// is), SG (4 or 8), ROWS (a multiple of SG), J, WG; T = f32 or vecJ<f32>, X = vec4<f32> or f32 (cin not a multiple of 4),
// B = the type that w is read in, W = T or f32. Lines with $ are repeated and `spread`, `rowOf` appended, see unroll in
// product-text.ts. Also appended: of itemText A and B, the bindings x and w; `fn four(p: Params, at: u32, q: u32) -> vec4<f32>`,
// the q-th four channels of x, zeros past the last, where at is the first item of the pixel; of laneText `owned`, `placesOf`,
// `biases` with the binding bias, `store`; of rowsText `startsOf` and `quad`.
// Params: items of a pixel of x, of a tap of w, and of a pixel of y; fours of input channels.
// Grid: x: ROWS*WG/SG pixels of a phase, y: SG*J channels, z: DILATION^2.
enable subgroups;
struct Params {
  h: i32, wd: i32, cin: u32, oh: i32, ow: i32, cout: u32, kh: i32, kw: i32,
  stride: i32, top: i32, left: i32, pixels: u32,
  fours: u32, pixel: u32, tap: u32, row: u32,
}
@group(0) @binding(3) var<storage, read_write> y: array<W>;
@group(0) @binding(4) var<uniform> params: Params;

struct Pixel { n: i32, y: i32, x: i32 }
// Its first item, and 1, or 0 and 0 outside the image. Conditions are joined by &, as && is a branch.
struct Source { at: u32, keep: f32 }

// Pixel m of the phase; rows and columns outside the image occur where DILATION does not divide its size.
fn pixelOf(p: Params, m: u32, phase: i32) -> Pixel {
  let i = i32(min(m, p.pixels - 1u));
  let across = (p.ow + DILATION - 1) / DILATION;
  let down = (p.oh + DILATION - 1) / DILATION;
  return Pixel(i / (across * down), ((i / across) % down) * DILATION + phase / DILATION, (i % across) * DILATION + phase % DILATION);
}

fn firstTap(base: i32) -> i32 {
  // Unsigned: drivers have no remainder of a negative number unless Dawn writes it out for them.
  let rest = u32(abs(base)) % u32(DILATION);
  return i32(select((u32(DILATION) - rest) % u32(DILATION), rest, base < 0));
}

fn load(p: Params, o: Pixel, ky: i32, kx: i32) -> Source {
  let iy = o.y * p.stride + ky - p.top;
  let ix = o.x * p.stride + kx - p.left;
  let inside = (iy >= 0) & (ix >= 0) & (iy / DILATION < p.h) & (ix / DILATION < p.wd);
  let at = u32((o.n * p.h + iy / DILATION) * p.wd + ix / DILATION) * p.pixel;
  return Source(select(0u, at, inside), select(0.0, 1.0, inside));
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let p = params;
  let lane = local % SG;
  let m0 = (group.x * (WG / SG) + local / SG) * ROWS;
  let c = group.y * (SG * J) + owned(lane);
  let phase = i32(group.z);
  let o$v = pixelOf(p, m0 + $vu * SG + lane, phase);
  let places = placesOf(c, p.cout);
  let starts = startsOf(places, p.cin);
  var s$r_$j = 0.0;
  for (var ky = firstTap(phase / DILATION * p.stride - p.top); ky < p.kh; ky += DILATION) {
    for (var kx = firstTap(phase % DILATION * p.stride - p.left); kx < p.kw; kx += DILATION) {
      let from$v = load(p, o$v, ky, kx);
      let tap = select(ky * p.kw + kx, p.kh * p.kw - 1 - (ky * p.kw + kx), TURNED);
      let first = u32(tap) * p.tap;
      for (var q = 0u; q < p.fours; q++) {
        let x$v = four(p, from$v.at, q) * from$v.keep;
        // Where cin is not a multiple of 4 the channels past the last are zeros, times a weight that exists.
        let w = quad(first, q, starts, p.row, p.cin);
        let e$r = spread$l(x$v);
        s$r_$j += dot(e$r, w.w$j);
      }
    }
  }
  let added = biases(places);
  put(p, m0 + rowOf($ru, lane), phase, c, places, $sums + added);
}

fn put(p: Params, m: u32, phase: i32, c: u32, places: P, value: T) {
  let o = pixelOf(p, m, phase);
  if ((m < p.pixels) & (o.y < p.oh) & (o.x < p.ow)) {
    store(u32((o.n * p.oh + o.y) * p.ow + o.x) * p.row, c, p.cout, places, value);
  }
}
