// y[b, m, n] = scale * sum over k of A[b, m, k] * B[b, k, n] + bias[n]; A and B are read through strides.
// For software drivers, where a load costs many times an addition, and reading a parameter is a load: all are read once, and
// distances are in items, of the type that an array is read in. Registers only: a subgroup computes ROWS rows x SG*J
// columns. Lane l loads four k of the rows l, l + SG, ..., which are spread over the subgroup; it owns J columns.
// Constants: SG (4 or 8), ROWS (a multiple of SG), J, WG; T = f32 or vecJ<f32>, X = vec4<f32> (A contiguous in
// fours) or f32, B = the type that B is read in, W = T or f32. Lines with $ are repeated and `spread`, `rowOf` appended,
// see unroll in product-text.ts. Also appended: of itemText A and B, the bindings a and b; of foursText `rowsOf`, `fours` and `row0`
// to the last, the rows of A; of laneText `owned`, `placesOf`, `biases` with the
// binding bias, `store`; of rowsText `startsOf` and `quad`.
// Grid: x: ROWS*WG/SG rows, y: SG*J columns, z: batch.
enable subgroups;
diagnostic(off, subgroup_uniformity);
struct Params {
  m: u32, n: u32, k: u32, fours: u32, row: u32,
  aBatch: u32, aRow: u32, aColumn: u32,
  bBatch: u32,
  scale: f32,
}
@group(0) @binding(3) var<storage, read_write> y: array<W>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let p = params;
  let lane = local % SG;
  let m0 = (group.x * (WG / SG) + local / SG) * ROWS;
  // Whole subgroups leave, which the compiler cannot see.
  if (m0 >= p.m) { return; }
  let n = group.y * (SG * J) + owned(lane);
  let places = placesOf(n, p.n);
  let starts = startsOf(places, p.k);
  let first = group.z * p.bBatch;
  let own = rowsOf(p, group.z * p.aBatch, m0, lane);
  var s$r_$j = 0.0;
  for (var q = 0u; q < p.fours; q++) {
    let x = fours(p, own, q);
    // Where K is not a multiple of 4 the elements of A past the last are zeros, times one of B that exists.
    let w = quad(first, q, starts, p.row, p.k);
    let e$r = row$r(x);
    s$r_$j += dot(e$r, w.w$j);
  }
  let added = biases(places);
  let batch = group.z * p.m;
  if (m0 + rowOf($ru, lane) < p.m) { store((batch + m0 + rowOf($ru, lane)) * p.row, n, p.n, places, $sums * p.scale + added); }
}
