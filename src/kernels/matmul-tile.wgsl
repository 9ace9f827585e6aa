// One tile of y = A*B for GPUs: TILE x TILE of y a workgroup, 4x4 an invocation, both operands staged through
// workgroup memory KT = 16 deep. What A, B and y are is appended, so that this one text serves products of matrices,
// convolutions and kernel gradients:
//   fn innerOf(z: u32) -> vec2<u32>                          the range of k
//   fn loadA(z: u32, m: u32, k: u32) -> vec4<f32>   A[m, k..k+3], zeros outside
//   fn loadB(z: u32, k: u32, n: u32) -> vec4<f32>   B[k, n..n+3], zeros outside
//   fn store(z: u32, m: u32, n: u32, value: vec4<f32>)       guards the edges
// Constants: TILE (64 or 32). Grid: x: TILE columns, y: TILE rows, z: whatever the appended text makes of it.
const KT = 16u;
const FOURS = TILE / 4u;
const THREADS = FOURS * FOURS;
// One vec4 of padding a row keeps neighbouring rows out of each other's banks.
const ROW_A = KT / 4u + 1u;
const ROW_B = FOURS + 1u;
var<workgroup> tileA: array<vec4<f32>, TILE * ROW_A>;
var<workgroup> tileB: array<vec4<f32>, KT * ROW_B>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let z = group.z;
  let column = local % FOURS;
  let row = local / FOURS * 4u;
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  let range = innerOf(z);
  var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
  for (var k0 = range.x; k0 < range.y; k0 += KT) {
    for (var i = local; i < TILE * (KT / 4u); i += THREADS) {
      tileA[i / (KT / 4u) * ROW_A + i % (KT / 4u)] = loadA(z, m0 + i / (KT / 4u), k0 + i % (KT / 4u) * 4u);
    }
    for (var i = local; i < KT * FOURS; i += THREADS) {
      tileB[i / FOURS * ROW_B + i % FOURS] = loadB(z, k0 + i / FOURS, n0 + i % FOURS * 4u);
    }
    workgroupBarrier();
    for (var k = 0u; k < KT / 4u; k++) {
      let b0 = tileB[(k * 4u) * ROW_B + column];
      let b1 = tileB[(k * 4u + 1u) * ROW_B + column];
      let b2 = tileB[(k * 4u + 2u) * ROW_B + column];
      let b3 = tileB[(k * 4u + 3u) * ROW_B + column];
      let a0 = tileA[row * ROW_A + k];
      let a1 = tileA[(row + 1u) * ROW_A + k];
      let a2 = tileA[(row + 2u) * ROW_A + k];
      let a3 = tileA[(row + 3u) * ROW_A + k];
      s0 += a0.x * b0 + a0.y * b1 + a0.z * b2 + a0.w * b3;
      s1 += a1.x * b0 + a1.y * b1 + a1.z * b2 + a1.w * b3;
      s2 += a2.x * b0 + a2.y * b1 + a2.z * b2 + a2.w * b3;
      s3 += a3.x * b0 + a3.y * b1 + a3.z * b2 + a3.w * b3;
    }
    workgroupBarrier();
  }
  store(z, m0 + row, n0 + column * 4u, s0);
  store(z, m0 + row + 1u, n0 + column * 4u, s1);
  store(z, m0 + row + 2u, n0 + column * 4u, s2);
  store(z, m0 + row + 3u, n0 + column * 4u, s3);
}
