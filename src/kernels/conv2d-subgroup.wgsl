// y[n, oy, ox, co] = bias[co] + sum over ky, kx, ci of x[n, iy, ix, ci] * w[ky, kx, ci, co], with
//   iy = (oy*stride + ky - top) / DILATION, ix likewise, where they divide and lie inside x.
// For software drivers, where a load costs many times an addition. Registers only: a subgroup computes ROWS pixels x
// SG*J channels. Lane l loads four channels of the pixels l, l + SG, ..., which subgroupBroadcast spreads; it owns J
// output channels. DILATION > 1 (input gradient of a strided convolution): the pixels are dealt to DILATION^2 phases,
// workgroup z, each with its own taps, so no tap is visited in vain.
// Sizes are params, not constants: they cost no speed here, and one pipeline then serves all layers.
// Constants: DILATION, TURNED (w is [KH,KW,COUT,CIN] and turned by 180 degrees: an input gradient reads the kernel as it
// is), SG (4 or 8), ROWS (a multiple of SG), J, WG; T = f32 or vecJ<f32>, X = vec4<f32> or f32 (cin not a multiple of 4),
// B = the type that w is read in, W = T or f32. Lines with $ are repeated, see unroll in product-text.ts. Appended:
// `fn four(at: u32, ci: u32) -> vec4<f32>`, four channels of x from ci, where at is the first element of the pixel;
// `struct Quad { w0: T, w1: T, w2: T, w3: T }`; `fn quad(first: u32, ci: u32, c: u32) -> Quad`, the lane's elements of
// four rows of the tap's matrix, the last one in place of those past it; `fn owned(lane: u32) -> u32`, the first of the
// lane's channels; `fn biases(c: u32) -> T`; `fn store(at: u32, c: u32, value: T)`, which leaves out channels past the last.
// Grid: x: ROWS*WG/SG pixels of a phase, y: SG*J channels, z: DILATION^2.
enable subgroups;
struct Params {
  h: i32, wd: i32, cin: u32, oh: i32, ow: i32, cout: u32, kh: i32, kw: i32,
  stride: i32, top: i32, left: i32, pixels: u32, bias: u32,
}
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> w: array<B>;
@group(0) @binding(2) var<storage, read> bias: array<W>;
@group(0) @binding(3) var<storage, read_write> y: array<W>;
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
  let iy = p.y * params.stride + ky - params.top;
  let ix = p.x * params.stride + kx - params.left;
  let inside = iy >= 0 && ix >= 0 && iy / DILATION < params.h && ix / DILATION < params.wd;
  let at = u32((p.n * params.h + iy / DILATION) * params.wd + ix / DILATION) * params.cin;
  return vec2(select(0u, at, inside), u32(inside));
}

fn put(m: u32, phase: i32, c: u32, value: T) {
  let p = pixelOf(m, phase);
  if (m < params.pixels && p.y < params.oh && p.x < params.ow) {
    store(u32((p.n * params.oh + p.y) * params.ow + p.x) * params.cout, c, value);
  }
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let lane = local % SG;
  let m0 = (group.x * (WG / SG) + local / SG) * ROWS;
  let c = group.y * (SG * J) + owned(lane);
  let phase = i32(group.z);
  let p$v = pixelOf(m0 + $vu * SG + lane, phase);
  var s$r = T();
  for (var ky = firstTap(phase / DILATION * params.stride - params.top); ky < params.kh; ky += DILATION) {
    for (var kx = firstTap(phase % DILATION * params.stride - params.left); kx < params.kw; kx += DILATION) {
      let from$v = load(p$v, ky, kx);
      let tap = select(ky * params.kw + kx, params.kh * params.kw - 1 - (ky * params.kw + kx), TURNED);
      let first = u32(tap) * params.cin * params.cout;
      for (var ci = 0u; ci < params.cin; ci += 4u) {
        let x$v = four(from$v.x, ci) * f32(from$v.y);
        // Where cin is not a multiple of 4 the channels past the last are zeros, times a weight that exists.
        let w = quad(first, ci, c);
        s$r += subgroupBroadcast(x$v.x, $lu) * w.w0 + subgroupBroadcast(x$v.y, $lu) * w.w1 + subgroupBroadcast(x$v.z, $lu) * w.w2 + subgroupBroadcast(x$v.w, $lu) * w.w3;
      }
    }
  }
  var b = T();
  if (params.bias != 0u) { b = biases(c); }
  put(m0 + $ru, phase, c, s$r + b);
}
