// partial[s, ky, kx, ci, co] = sum over the output pixels p = (n, oy, ox) of chunk s of
//   x[n, oy*stride + ky - top, ox*stride + kx - left, ci] * dy[p, co]   (zero outside x)
// The kernel gradient for software drivers, split over pixels; matmul-sum.wgsl adds the chunks in order. Registers
// only: a subgroup computes 8 consecutive ci x SG*J channels co of one tap, SG pixels at a time. Lane l loads the 8
// channels of pixel p + l, which subgroupBroadcast spreads; it owns the output channels c + l + SG*j.
// Constants: SG (4 or 8), J, WG; T = f32 or vecJ<f32>. cin is a multiple of 4. Appended: `fn columns(row: u32, c: u32)
// -> T`, the lane's J elements of dy of pixel `row`; `fn store(at: u32, c: u32, value: T)`, which leaves out channels
// past the last. Grid: x: WG/SG blocks of 8 rows (a tap has ceil(cin/8)), y: SG*J channels, z: chunks.
enable subgroups;
struct Params {
  h: i32, wd: i32, cin: u32, oh: u32, ow: u32, cout: u32,
  kw: u32, stride: i32, top: i32, left: i32, pixels: u32, chunk: u32, blocks: u32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let lane = local % SG;
  let c = group.y * (SG * J) + lane;
  let perTap = (params.cin + 7u) / 8u;
  // Blocks past the last repeat it and store nothing, so that whole subgroups stay in step.
  let wanted = group.x * (WG / SG) + local / SG;
  let owned = min(wanted, params.blocks - 1u);
  let tap = owned / perTap;
  let ci = owned % perTap * 8u;
  let second = select(0u, 1u, ci + 4u < params.cin);
  let ky = i32(tap / params.kw) - params.top;
  let kx = i32(tap % params.kw) - params.left;
  let first = group.z * params.chunk;
  let last = min(first + params.chunk, params.pixels);
  var s0 = T(); var s1 = T(); var s2 = T(); var s3 = T();
  var s4 = T(); var s5 = T(); var s6 = T(); var s7 = T();
  for (var p = first; p < last; p += SG) {
    let mine = min(p + lane, params.pixels - 1u);
    let iy = i32((mine / params.ow) % params.oh) * params.stride + ky;
    let ix = i32(mine % params.ow) * params.stride + kx;
    let inside = p + lane < last && iy >= 0 && ix >= 0 && iy < params.h && ix < params.wd;
    let n = i32(mine / (params.ow * params.oh));
    let at = select(0u, (u32((n * params.h + iy) * params.wd + ix) * params.cin + ci) / 4u, inside);
    let keep = f32(inside);
    let xa = x[at] * keep;
    let xb = x[at + second] * keep;
    let d0 = columns(min(p + 0u, params.pixels - 1u), c);
    s0 += subgroupBroadcast(xa.x, 0u) * d0;
    s1 += subgroupBroadcast(xa.y, 0u) * d0;
    s2 += subgroupBroadcast(xa.z, 0u) * d0;
    s3 += subgroupBroadcast(xa.w, 0u) * d0;
    s4 += subgroupBroadcast(xb.x, 0u) * d0;
    s5 += subgroupBroadcast(xb.y, 0u) * d0;
    s6 += subgroupBroadcast(xb.z, 0u) * d0;
    s7 += subgroupBroadcast(xb.w, 0u) * d0;
    let d1 = columns(min(p + 1u, params.pixels - 1u), c);
    s0 += subgroupBroadcast(xa.x, 1u) * d1;
    s1 += subgroupBroadcast(xa.y, 1u) * d1;
    s2 += subgroupBroadcast(xa.z, 1u) * d1;
    s3 += subgroupBroadcast(xa.w, 1u) * d1;
    s4 += subgroupBroadcast(xb.x, 1u) * d1;
    s5 += subgroupBroadcast(xb.y, 1u) * d1;
    s6 += subgroupBroadcast(xb.z, 1u) * d1;
    s7 += subgroupBroadcast(xb.w, 1u) * d1;
    let d2 = columns(min(p + 2u, params.pixels - 1u), c);
    s0 += subgroupBroadcast(xa.x, 2u) * d2;
    s1 += subgroupBroadcast(xa.y, 2u) * d2;
    s2 += subgroupBroadcast(xa.z, 2u) * d2;
    s3 += subgroupBroadcast(xa.w, 2u) * d2;
    s4 += subgroupBroadcast(xb.x, 2u) * d2;
    s5 += subgroupBroadcast(xb.y, 2u) * d2;
    s6 += subgroupBroadcast(xb.z, 2u) * d2;
    s7 += subgroupBroadcast(xb.w, 2u) * d2;
    let d3 = columns(min(p + 3u, params.pixels - 1u), c);
    s0 += subgroupBroadcast(xa.x, 3u) * d3;
    s1 += subgroupBroadcast(xa.y, 3u) * d3;
    s2 += subgroupBroadcast(xa.z, 3u) * d3;
    s3 += subgroupBroadcast(xa.w, 3u) * d3;
    s4 += subgroupBroadcast(xb.x, 3u) * d3;
    s5 += subgroupBroadcast(xb.y, 3u) * d3;
    s6 += subgroupBroadcast(xb.z, 3u) * d3;
    s7 += subgroupBroadcast(xb.w, 3u) * d3;
    if (SG == 8) {
      let d4 = columns(min(p + 4u, params.pixels - 1u), c);
      s0 += subgroupBroadcast(xa.x, 4u % SG) * d4;
      s1 += subgroupBroadcast(xa.y, 4u % SG) * d4;
      s2 += subgroupBroadcast(xa.z, 4u % SG) * d4;
      s3 += subgroupBroadcast(xa.w, 4u % SG) * d4;
      s4 += subgroupBroadcast(xb.x, 4u % SG) * d4;
      s5 += subgroupBroadcast(xb.y, 4u % SG) * d4;
      s6 += subgroupBroadcast(xb.z, 4u % SG) * d4;
      s7 += subgroupBroadcast(xb.w, 4u % SG) * d4;
      let d5 = columns(min(p + 5u, params.pixels - 1u), c);
      s0 += subgroupBroadcast(xa.x, 5u % SG) * d5;
      s1 += subgroupBroadcast(xa.y, 5u % SG) * d5;
      s2 += subgroupBroadcast(xa.z, 5u % SG) * d5;
      s3 += subgroupBroadcast(xa.w, 5u % SG) * d5;
      s4 += subgroupBroadcast(xb.x, 5u % SG) * d5;
      s5 += subgroupBroadcast(xb.y, 5u % SG) * d5;
      s6 += subgroupBroadcast(xb.z, 5u % SG) * d5;
      s7 += subgroupBroadcast(xb.w, 5u % SG) * d5;
      let d6 = columns(min(p + 6u, params.pixels - 1u), c);
      s0 += subgroupBroadcast(xa.x, 6u % SG) * d6;
      s1 += subgroupBroadcast(xa.y, 6u % SG) * d6;
      s2 += subgroupBroadcast(xa.z, 6u % SG) * d6;
      s3 += subgroupBroadcast(xa.w, 6u % SG) * d6;
      s4 += subgroupBroadcast(xb.x, 6u % SG) * d6;
      s5 += subgroupBroadcast(xb.y, 6u % SG) * d6;
      s6 += subgroupBroadcast(xb.z, 6u % SG) * d6;
      s7 += subgroupBroadcast(xb.w, 6u % SG) * d6;
      let d7 = columns(min(p + 7u, params.pixels - 1u), c);
      s0 += subgroupBroadcast(xa.x, 7u % SG) * d7;
      s1 += subgroupBroadcast(xa.y, 7u % SG) * d7;
      s2 += subgroupBroadcast(xa.z, 7u % SG) * d7;
      s3 += subgroupBroadcast(xa.w, 7u % SG) * d7;
      s4 += subgroupBroadcast(xb.x, 7u % SG) * d7;
      s5 += subgroupBroadcast(xb.y, 7u % SG) * d7;
      s6 += subgroupBroadcast(xb.z, 7u % SG) * d7;
      s7 += subgroupBroadcast(xb.w, 7u % SG) * d7;
    }
  }
  if (wanted < params.blocks) {
    let row = group.z * (params.blocks / perTap * params.cin) + tap * params.cin + ci;
    store((row + 0u) * params.cout, c, s0);
    store((row + 1u) * params.cout, c, s1);
    store((row + 2u) * params.cout, c, s2);
    store((row + 3u) * params.cout, c, s3);
    if (second == 1u) {
      store((row + 4u) * params.cout, c, s4);
      store((row + 5u) * params.cout, c, s5);
      store((row + 6u) * params.cout, c, s6);
      store((row + 7u) * params.cout, c, s7);
    }
  }
}
