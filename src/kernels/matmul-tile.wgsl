// One tile of y = A*B for GPUs: TILE x TILE of y a workgroup, DOWN x 4*QUADS an invocation, both operands staged through
// workgroup memory KT deep. What A, B and y are is appended, so that this one text serves products of matrices,
// convolutions and kernel gradients:
//   fn innerOf(z: u32) -> vec2<u32>                          the range of k
//   fn rowAt(z: u32, m: u32) -> Row                 what loadA must know of row m; found once, as its divisions are slow
//   fn loadA(row: Row, z: u32, k: u32) -> vec4<f32> A[m, k..k+3], zeros outside
//   fn loadB(z: u32, k: u32, n: u32) -> vec4<f32>   B[k, n..n+3], zeros outside
//   fn store(z: u32, m: u32, n: u32, value: vec4<f32>)       guards the edges
// Constants: TILE (32, 64 or 128), DOWN, QUADS, KT (a multiple of 4), AHEAD: load the next tiles while these are multiplied.
// Lines with $ are repeated, see tileOf in product-text.ts: $i and $j are an invocation's loads of A and of B.
// Grid: x: TILE columns, y: TILE rows, z: whatever the appended text makes of it.
const DEEP = KT / 4u;
const FOURS = TILE / 4u;
// Invocations side by side, and below one another; an invocation's quads are ACROSS apart and its rows BELOW, so that
// neighbours read neighbouring banks.
const ACROSS = FOURS / QUADS;
const BELOW = TILE / DOWN;
const THREADS = ACROSS * BELOW;
// One vec4 of padding a row keeps neighbouring rows out of each other's banks.
const ROW_A = DEEP + 1u;
const ROW_B = FOURS + 1u;
var<workgroup> tileA: array<vec4<f32>, TILE * ROW_A>;
var<workgroup> tileB: array<vec4<f32>, KT * ROW_B>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let z = group.z;
  let column = local % ACROSS;
  let row = local / ACROSS;
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  let range = innerOf(z);
  // Where this invocation loads: DEEP divides THREADS, and so does FOURS.
  let downA = local / DEEP;
  let deepA = local % DEEP;
  let deepB = local / FOURS;
  let acrossB = local % FOURS;
  let row$i = rowAt(z, m0 + downA + $iu * (THREADS / DEEP));
  var a_$i = vec4<f32>();
  var b_$j = vec4<f32>();
  if (AHEAD) {
    a_$i = loadA(row$i, z, range.x + deepA * 4u);
    b_$j = loadB(z, range.x + deepB + $ju * (THREADS / FOURS), n0 + acrossB * 4u);
  }
  var s$r_$q = vec4<f32>();
  for (var k0 = range.x; k0 < range.y; k0 += KT) {
    if (!AHEAD) {
      a_$i = loadA(row$i, z, k0 + deepA * 4u);
      b_$j = loadB(z, k0 + deepB + $ju * (THREADS / FOURS), n0 + acrossB * 4u);
    }
    tileA[(downA + $iu * (THREADS / DEEP)) * ROW_A + deepA] = a_$i;
    tileB[(deepB + $ju * (THREADS / FOURS)) * ROW_B + acrossB] = b_$j;
    workgroupBarrier();
    if (AHEAD) {
      a_$i = loadA(row$i, z, k0 + KT + deepA * 4u);
      b_$j = loadB(z, k0 + KT + deepB + $ju * (THREADS / FOURS), n0 + acrossB * 4u);
    }
    for (var k = 0u; k < DEEP; k++) {
      let b0_$q = tileB[(k * 4u) * ROW_B + column + $qu * ACROSS];
      let b1_$q = tileB[(k * 4u + 1u) * ROW_B + column + $qu * ACROSS];
      let b2_$q = tileB[(k * 4u + 2u) * ROW_B + column + $qu * ACROSS];
      let b3_$q = tileB[(k * 4u + 3u) * ROW_B + column + $qu * ACROSS];
      let a$r = tileA[(row + $ru * BELOW) * ROW_A + k];
      // A chain that contracts to four multiply-adds a vector; the sum of four products would be a fifth instruction.
      s$r_$q = a$r.w * b3_$q + (a$r.z * b2_$q + (a$r.y * b1_$q + (a$r.x * b0_$q + s$r_$q)));
    }
    workgroupBarrier();
  }
  store(z, m0 + row + $ru * BELOW, n0 + (column + $qu * ACROSS) * 4u, s$r_$q);
}
