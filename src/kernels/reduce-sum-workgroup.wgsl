// The sum of reduce-sum.wgsl with a workgroup for a chunk: TX lanes across c, TY lanes down the chunk, then a tree
// in workgroup memory. A chunk is `chunk` consecutive rows: y[o,s,c] = scale · finish(Σ x[o, s·chunk + k, c]).
// Constants: T, U as there, TX · TY = 256 (TX a power of two). 4 KiB of workgroup memory at T = vec4.
// Grid: one workgroup for TX elements of y: tiles (= ceil(inner / TX)) · chunks · outer, folded.
struct Params { groups: u32, length: u32, chunks: u32, chunk: u32, inner: u32, tiles: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<U>;
@group(0) @binding(2) var<uniform> params: Params;
var<workgroup> partial: array<T, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let g = group.x + group.y * groups.x;
  if (g >= params.groups) { return; }
  let j = g / params.tiles;
  let o = j / params.chunks;
  let s = j - o * params.chunks;
  let c = (g - j * params.tiles) * TX + lane % TX;
  let first = s * params.chunk;
  let end = min(first + params.chunk, params.length);
  var s0 = T(0.0);
  var s1 = T(0.0);
  if (c < params.inner) {
    let base = o * params.length * params.inner + c;
    var r = first + lane / TX;
    for (; r + TY < end; r += 2u * TY) {
      s0 += x[base + r * params.inner];
      s1 += x[base + (r + TY) * params.inner];
    }
    if (r < end) { s0 += x[base + r * params.inner]; }
  }
  partial[lane] = s0 + s1;
  for (var half = 128u; half >= TX; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] += partial[lane + half]; }
  }
  if (lane < TX && c < params.inner) {
    y[j * params.inner + c] = finish(partial[lane]) * params.scale;
  }
}
