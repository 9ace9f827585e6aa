// One tile of y = A*B for GPUs: TILE x TILE of y a workgroup, DOWN x 4*QUADS an invocation, both operands staged through
// workgroup memory KT deep. What A, B and y are is appended, so that this one text serves products of matrices,
// convolutions and kernel gradients:
//   fn innerOf(z: u32) -> vec2<u32>                          the range of k
//   fn loadA(z: u32, m: u32, k: u32) -> vec4<f32>   A[m, k..k+3], zeros outside
//   fn loadB(z: u32, k: u32, n: u32) -> vec4<f32>   B[k, n..n+3], zeros outside
//   fn store(z: u32, m: u32, n: u32, value: vec4<f32>)       guards the edges
// Constants: TILE (32, 64 or 128), DOWN, QUADS, KT (a multiple of 4). Lines with $ are repeated, see tileOf in product-text.ts.
// Grid: x: TILE columns, y: TILE rows, z: whatever the appended text makes of it.
const DEEP = KT / 4u;
const FOURS = TILE / 4u;
// Invocations side by side; an invocation's quads are ACROSS apart, so that neighbours read neighbouring banks.
const ACROSS = FOURS / QUADS;
const THREADS = ACROSS * (TILE / DOWN);
// One vec4 of padding a row keeps neighbouring rows out of each other's banks.
const ROW_A = DEEP + 1u;
const ROW_B = FOURS + 1u;
var<workgroup> tileA: array<vec4<f32>, TILE * ROW_A>;
var<workgroup> tileB: array<vec4<f32>, KT * ROW_B>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let z = group.z;
  let column = local % ACROSS;
  let row = local / ACROSS * DOWN;
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  let range = innerOf(z);
  var s$r_$q = vec4<f32>();
  for (var k0 = range.x; k0 < range.y; k0 += KT) {
    for (var i = local; i < TILE * DEEP; i += THREADS) {
      tileA[i / DEEP * ROW_A + i % DEEP] = loadA(z, m0 + i / DEEP, k0 + i % DEEP * 4u);
    }
    for (var i = local; i < KT * FOURS; i += THREADS) {
      tileB[i / FOURS * ROW_B + i % FOURS] = loadB(z, k0 + i / FOURS, n0 + i % FOURS * 4u);
    }
    workgroupBarrier();
    for (var k = 0u; k < DEEP; k++) {
      let b0_$q = tileB[(k * 4u) * ROW_B + column + $qu * ACROSS];
      let b1_$q = tileB[(k * 4u + 1u) * ROW_B + column + $qu * ACROSS];
      let b2_$q = tileB[(k * 4u + 2u) * ROW_B + column + $qu * ACROSS];
      let b3_$q = tileB[(k * 4u + 3u) * ROW_B + column + $qu * ACROSS];
      let a$r = tileA[(row + $ru) * ROW_A + k];
      s$r_$q += a$r.x * b0_$q + a$r.y * b1_$q + a$r.z * b2_$q + a$r.w * b3_$q;
    }
    workgroupBarrier();
  }
  store(z, m0 + row + $ru, n0 + (column + $qu * ACROSS) * 4u, s$r_$q);
}
