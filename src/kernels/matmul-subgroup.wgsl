// y[b, m, n] = scale * sum over k of A[b, m, k] * B[b, k, n] + bias[n]; A and B are read through strides in elements.
// For software drivers, where a load costs many times an addition. Registers only: a subgroup computes ROWS rows x SG*J
// columns. Lane l loads four k of the rows l, l + SG, ..., which subgroupBroadcast spreads; it owns J columns.
// Constants: SG (4 or 8), ROWS (a multiple of SG), J, WG; T = f32 or vecJ<f32>, X = vec4<f32> (A contiguous along k
// in fours) or f32, B = the type that B is read in, W = T or f32. Lines with $ are repeated, see unroll in product-text.ts.
// Appended: `fn four(at: u32, k: u32) -> vec4<f32>`, A from k on, zeros past the last, where at is the row's first
// element; `struct Quad { w0: T, w1: T, w2: T, w3: T }`; `fn quad(first: u32, k: u32, n: u32) -> Quad`, the lane's
// elements of four rows of B, the last one in place of those past it; `fn owned(lane: u32) -> u32`, the first of the
// lane's columns; `fn biases(n: u32) -> T`; `fn store(at: u32, n: u32, value: T)`, which leaves out columns past the last.
// Grid: x: ROWS*WG/SG rows, y: SG*J columns, z: batch.
enable subgroups;
struct Params {
  m: u32, n: u32, k: u32,
  aBatch: u32, aRow: u32, aColumn: u32,
  bBatch: u32,
  scale: f32, bias: u32,
}
@group(0) @binding(0) var<storage, read> a: array<X>;
@group(0) @binding(1) var<storage, read> b: array<B>;
@group(0) @binding(2) var<storage, read> bias: array<W>;
@group(0) @binding(3) var<storage, read_write> y: array<W>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let lane = local % SG;
  let m0 = (group.x * (WG / SG) + local / SG) * ROWS;
  let n = group.y * (SG * J) + owned(lane);
  let first = group.z * params.bBatch;
  let a$v = group.z * params.aBatch + min(m0 + $vu * SG + lane, params.m - 1u) * params.aRow;
  var s$r = T();
  for (var k = 0u; k < params.k; k += 4u) {
    let x$v = four(a$v, k);
    // Where K is not a multiple of 4 the elements of A past the last are zeros, times one of B that exists.
    let w = quad(first, k, n);
    s$r += subgroupBroadcast(x$v.x, $lu) * w.w0 + subgroupBroadcast(x$v.y, $lu) * w.w1 + subgroupBroadcast(x$v.z, $lu) * w.w2 + subgroupBroadcast(x$v.w, $lu) * w.w3;
  }
  put(group.z, m0 + $ru, n, s$r);
}

fn put(batch: u32, m: u32, n: u32, sum: T) {
  var value = sum * params.scale;
  if (params.bias != 0u) { value += biases(n); }
  if (m < params.m) { store((batch * params.m + m) * params.n, n, value); }
}
