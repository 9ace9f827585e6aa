// y[b, m, n] = scale * sum over k of A[b, m, k] * B[b, k, n] + bias[n]; A and B are read through strides in elements.
// For software drivers, where a load costs many times an addition. Registers only: a subgroup computes 8 rows x SG*J
// columns. Lane l loads four k of row l (and, where SG is 4, of row l+4), which subgroupBroadcast spreads; it owns
// the columns n + l + SG*j.
// Constants: SG (4 or 8), J, WG; T = f32 or vecJ<f32>, X = vec4<f32> (A contiguous along k in fours) or f32.
// Appended: `fn four(at: u32, k: u32) -> vec4<f32>`, A from k on, zeros past the last, where at is the row's first
// element; `fn columns(at: u32, n: u32) -> T`, the lane's J elements of a row of B; `fn biases(n: u32) -> T`;
// `fn store(at: u32, n: u32, value: T)`, which leaves out columns past the last.
// Grid: x: 8*WG/SG rows, y: SG*J columns, z: batch.
enable subgroups;
struct Params {
  m: u32, n: u32, k: u32,
  aBatch: u32, aRow: u32, aColumn: u32,
  bBatch: u32, bRow: u32, bColumn: u32,
  scale: f32, bias: u32,
}
@group(0) @binding(0) var<storage, read> a: array<X>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let lane = local % SG;
  let m0 = (group.x * (WG / SG) + local / SG) * 8u;
  let n = group.y * (SG * J) + lane;
  let ra = group.z * params.aBatch + min(m0 + lane % 8u, params.m - 1u) * params.aRow;
  let rb = group.z * params.aBatch + min(m0 + (lane + SG) % 8u, params.m - 1u) * params.aRow;
  let bFirst = group.z * params.bBatch;
  var s0 = T(); var s1 = T(); var s2 = T(); var s3 = T();
  var s4 = T(); var s5 = T(); var s6 = T(); var s7 = T();
  for (var k = 0u; k < params.k; k += 4u) {
    let xa = four(ra, k);
    var xb = xa;
    if (SG < 8) { xb = four(rb, k); }
    // Where K is not a multiple of 4 the elements of A past the last are zeros, times one of B that exists.
    let last = params.k - 1u;
    let w0 = columns(bFirst + k * params.bRow, n);
    let w1 = columns(bFirst + min(k + 1u, last) * params.bRow, n);
    let w2 = columns(bFirst + min(k + 2u, last) * params.bRow, n);
    let w3 = columns(bFirst + min(k + 3u, last) * params.bRow, n);
    s0 += subgroupBroadcast(xa.x, 0u) * w0 + subgroupBroadcast(xa.y, 0u) * w1 + subgroupBroadcast(xa.z, 0u) * w2 + subgroupBroadcast(xa.w, 0u) * w3;
    s1 += subgroupBroadcast(xa.x, 1u) * w0 + subgroupBroadcast(xa.y, 1u) * w1 + subgroupBroadcast(xa.z, 1u) * w2 + subgroupBroadcast(xa.w, 1u) * w3;
    s2 += subgroupBroadcast(xa.x, 2u) * w0 + subgroupBroadcast(xa.y, 2u) * w1 + subgroupBroadcast(xa.z, 2u) * w2 + subgroupBroadcast(xa.w, 2u) * w3;
    s3 += subgroupBroadcast(xa.x, 3u) * w0 + subgroupBroadcast(xa.y, 3u) * w1 + subgroupBroadcast(xa.z, 3u) * w2 + subgroupBroadcast(xa.w, 3u) * w3;
    s4 += subgroupBroadcast(xb.x, 4u % SG) * w0 + subgroupBroadcast(xb.y, 4u % SG) * w1 + subgroupBroadcast(xb.z, 4u % SG) * w2 + subgroupBroadcast(xb.w, 4u % SG) * w3;
    s5 += subgroupBroadcast(xb.x, 5u % SG) * w0 + subgroupBroadcast(xb.y, 5u % SG) * w1 + subgroupBroadcast(xb.z, 5u % SG) * w2 + subgroupBroadcast(xb.w, 5u % SG) * w3;
    s6 += subgroupBroadcast(xb.x, 6u % SG) * w0 + subgroupBroadcast(xb.y, 6u % SG) * w1 + subgroupBroadcast(xb.z, 6u % SG) * w2 + subgroupBroadcast(xb.w, 6u % SG) * w3;
    s7 += subgroupBroadcast(xb.x, 7u % SG) * w0 + subgroupBroadcast(xb.y, 7u % SG) * w1 + subgroupBroadcast(xb.z, 7u % SG) * w2 + subgroupBroadcast(xb.w, 7u % SG) * w3;
  }
  put(group.z, m0 + 0u, n, s0);
  put(group.z, m0 + 1u, n, s1);
  put(group.z, m0 + 2u, n, s2);
  put(group.z, m0 + 3u, n, s3);
  put(group.z, m0 + 4u, n, s4);
  put(group.z, m0 + 5u, n, s5);
  put(group.z, m0 + 6u, n, s6);
  put(group.z, m0 + 7u, n, s7);
}

fn put(batch: u32, m: u32, n: u32, sum: T) {
  var value = sum * params.scale;
  if (params.bias != 0u) { value += biases(n); }
  if (m < params.m) { store((batch * params.m + m) * params.n, n, value); }
}
