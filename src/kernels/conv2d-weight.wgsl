// partial[s, ky, kx, ci, co] = sum over the output pixels p = (n, oy, ox) of chunk s of
//   x[n, oy*stride + ky - top, ox*stride + kx - left, ci] * dy[p, co]   (zero outside x)
// The kernel gradient, split over pixels; matmul-sum.wgsl adds the chunks in order. An invocation computes ROWS
// consecutive ci x one T of co; cin is a multiple of ROWS; cout is counted in T.
// Constants: T (f32 or vec4<f32>, along co), ROWS. Grid: one invocation a result block.
struct Params {
  h: i32, wd: i32, cin: u32, oh: u32, ow: u32, cout: u32,
  kh: u32, kw: u32, stride: i32, top: i32, left: i32,
  pixels: u32, chunk: u32, count: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<T>;
@group(0) @binding(2) var<storage, read_write> partial: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let co = i % params.cout;
  let blocks = params.cin / ROWS;
  let ci = (i / params.cout) % blocks * ROWS;
  let tap = (i / (params.cout * blocks)) % (params.kh * params.kw);
  let split = i / (params.cout * blocks * params.kh * params.kw);
  let ky = i32(tap / params.kw) - params.top;
  let kx = i32(tap % params.kw) - params.left;
  let first = split * params.chunk;
  let last = min(first + params.chunk, params.pixels);
  var ox = i32(first % params.ow);
  var oy = i32((first / params.ow) % params.oh);
  var n = i32(first / (params.ow * params.oh));
  var sum: array<T, ROWS>;
  for (var p = first; p < last; p++) {
    let iy = oy * params.stride + ky;
    let ix = ox * params.stride + kx;
    if (iy >= 0 && iy < params.h && ix >= 0 && ix < params.wd) {
      let at = u32((n * params.h + iy) * params.wd + ix) * params.cin + ci;
      let d = dy[p * params.cout + co];
      for (var r = 0u; r < ROWS; r++) { sum[r] += x[at + r] * d; }
    }
    ox++;
    if (ox == i32(params.ow)) { ox = 0; oy++; }
    if (oy == i32(params.oh)) { oy = 0; n++; }
  }
  for (var r = 0u; r < ROWS; r++) { partial[(i / params.cout * ROWS + r) * params.cout + co] = sum[r]; }
}
