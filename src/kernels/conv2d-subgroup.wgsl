// y[n, oy, ox, co] = bias[co] + sum over ky, kx, ci of x[n, iy, ix, ci] * w[ky, kx, ci, co], with
//   iy = (oy*stride + ky - top) / DILATION, ix likewise, where they divide and lie inside x.
// For software drivers, where a load costs many times an addition. Registers only: a subgroup computes 8 pixels x
// SG*J channels. Lane l loads four channels of pixel l (and, where SG is 4, of pixel l+4), which subgroupBroadcast
// spreads; it owns the output channels c + l + SG*j. DILATION > 1 (input gradient of a strided convolution): the
// pixels are dealt to DILATION^2 phases, workgroup z, each with its own taps, so no tap is visited in vain.
// Sizes are params, not constants: they cost no speed here, and one pipeline then serves all layers.
// Constants: DILATION, SG (4 or 8), J, WG; T = f32 or vecJ<f32>, X = vec4<f32> or f32 (cin not a multiple of 4). Appended: `fn four(at: u32, ci: u32) -> vec4<f32>`, four channels of x from ci, where
// at is the first element of the pixel; `fn columns(row: u32, c: u32) -> T`, the lane's J elements of a row of w;
// `fn biases(c: u32) -> T`; `fn store(at: u32, c: u32, value: T)`, which leaves out channels past the last.
// Grid: x: 8*WG/SG pixels of a phase, y: SG*J channels, z: DILATION^2.
enable subgroups;
struct Params {
  h: i32, wd: i32, cin: u32, oh: i32, ow: i32, cout: u32, kh: i32, kw: i32,
  stride: i32, top: i32, left: i32, pixels: u32, bias: u32,
}
@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
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
  let m0 = (group.x * (WG / SG) + local / SG) * 8u;
  let c = group.y * (SG * J) + lane;
  let phase = i32(group.z);
  let pa = pixelOf(m0 + lane % 8u, phase);
  let pb = pixelOf(m0 + (lane + SG) % 8u, phase);
  var s0 = T(); var s1 = T(); var s2 = T(); var s3 = T();
  var s4 = T(); var s5 = T(); var s6 = T(); var s7 = T();
  for (var ky = firstTap(phase / DILATION * params.stride - params.top); ky < params.kh; ky += DILATION) {
    for (var kx = firstTap(phase % DILATION * params.stride - params.left); kx < params.kw; kx += DILATION) {
      let fromA = load(pa, ky, kx);
      let fromB = load(pb, ky, kx);
      let ia = f32(fromA.y);
      let ib = f32(fromB.y);
      var row = u32(ky * params.kw + kx) * params.cin;
      for (var ci = 0u; ci < params.cin; ci += 4u) {
        let xa = four(fromA.x, ci) * ia;
        var xb = xa;
        if (SG < 8) { xb = four(fromB.x, ci) * ib; }
        // Where cin is not a multiple of 4 the channels past the last are zeros, times a weight that exists.
        let w0 = columns(row, c);
        let w1 = columns(row + min(1u, params.cin - 1u - ci), c);
        let w2 = columns(row + min(2u, params.cin - 1u - ci), c);
        let w3 = columns(row + min(3u, params.cin - 1u - ci), c);
        s0 += subgroupBroadcast(xa.x, 0u) * w0 + subgroupBroadcast(xa.y, 0u) * w1 + subgroupBroadcast(xa.z, 0u) * w2 + subgroupBroadcast(xa.w, 0u) * w3;
        s1 += subgroupBroadcast(xa.x, 1u) * w0 + subgroupBroadcast(xa.y, 1u) * w1 + subgroupBroadcast(xa.z, 1u) * w2 + subgroupBroadcast(xa.w, 1u) * w3;
        s2 += subgroupBroadcast(xa.x, 2u) * w0 + subgroupBroadcast(xa.y, 2u) * w1 + subgroupBroadcast(xa.z, 2u) * w2 + subgroupBroadcast(xa.w, 2u) * w3;
        s3 += subgroupBroadcast(xa.x, 3u) * w0 + subgroupBroadcast(xa.y, 3u) * w1 + subgroupBroadcast(xa.z, 3u) * w2 + subgroupBroadcast(xa.w, 3u) * w3;
        s4 += subgroupBroadcast(xb.x, 4u % SG) * w0 + subgroupBroadcast(xb.y, 4u % SG) * w1 + subgroupBroadcast(xb.z, 4u % SG) * w2 + subgroupBroadcast(xb.w, 4u % SG) * w3;
        s5 += subgroupBroadcast(xb.x, 5u % SG) * w0 + subgroupBroadcast(xb.y, 5u % SG) * w1 + subgroupBroadcast(xb.z, 5u % SG) * w2 + subgroupBroadcast(xb.w, 5u % SG) * w3;
        s6 += subgroupBroadcast(xb.x, 6u % SG) * w0 + subgroupBroadcast(xb.y, 6u % SG) * w1 + subgroupBroadcast(xb.z, 6u % SG) * w2 + subgroupBroadcast(xb.w, 6u % SG) * w3;
        s7 += subgroupBroadcast(xb.x, 7u % SG) * w0 + subgroupBroadcast(xb.y, 7u % SG) * w1 + subgroupBroadcast(xb.z, 7u % SG) * w2 + subgroupBroadcast(xb.w, 7u % SG) * w3;
        row += 4u;
      }
    }
  }
  if (params.bias != 0u) {
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
