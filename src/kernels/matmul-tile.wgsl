// One tile of y = A*B for GPUs: TILE x TILE of y a workgroup, DOWN x 4*QUADS an invocation, both operands staged through
// workgroup memory KT deep. What A, B and y are is appended, so that this one text serves products of matrices,
// convolutions and kernel gradients:
//   fn innerOf(z: u32) -> vec2<u32>                     the range of k
//   fn rowAt(z: u32, m: u32, k: u32) -> Row             what is known of a load of A before the loop, as divisions are slow:
//                                                       of rows m..m+3 at k0 + k, or of row m at k0 + k..k0 + k + 3
//   fn placeA(row: Row, z: u32, k0: u32) -> PlaceA      where its four elements lie in step k0, or that they are zeros
//   fn columnAt(z: u32, n: u32, k: u32) -> Column, placeB(column: Column, z: u32, k0: u32) -> PlaceB    likewise of B
//   fn store(z: u32, m: u32, n: u32, value: vec4<f32>)  guards the edges
// and by `foursOf` in product-text.ts readA, cutA, readB and cutB. A load takes no branch, as a driver waits at a branch's end for what it has
// loaded: it reads a place that exists, and zeros are put in when the value is used.
// Constants: TILE (32, 64 or 128), DOWN, QUADS, KT (a multiple of 4); TA: A is stored along m, else along k; TB: B is stored along
// k, else along n; AHEAD: load the next tiles while these are multiplied, into a second pair, so that one barrier a step does; UNROLL.
// Lines with $ are repeated, see tileText in product-text.ts: `$next` are the loads for the next step, $i and $j are an invocation's loads of A and of B, $k UNROLL fours of a
// step: all of them on a GPU, so that a step is one block with the loads at its head and what uses them at its end, as drivers move
// loads down into the block of their use.
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
const SIDES = select(1u, 2u, AHEAD);
var<workgroup> tileA: array<vec4<f32>, SIDES * TILE * ROW_A>;
var<workgroup> tileB: array<vec4<f32>, SIDES * KT * ROW_B>;

fn putA(side: u32, at: vec2<u32>, v: vec4<f32>) {
  let first = side * (TILE * ROW_A) + at.x * ROW_A + at.y / 4u;
  if (!TA) {
    tileA[first] = v;
    return;
  }
  tileA[first][at.y % 4u] = v.x;
  tileA[first + ROW_A][at.y % 4u] = v.y;
  tileA[first + 2u * ROW_A][at.y % 4u] = v.z;
  tileA[first + 3u * ROW_A][at.y % 4u] = v.w;
}

fn putB(side: u32, at: vec2<u32>, v: vec4<f32>) {
  let first = side * (KT * ROW_B) + at.y * ROW_B + at.x / 4u;
  if (!TB) {
    tileB[first] = v;
    return;
  }
  tileB[first][at.x % 4u] = v.x;
  tileB[first + ROW_B][at.x % 4u] = v.y;
  tileB[first + 2u * ROW_B][at.x % 4u] = v.z;
  tileB[first + 3u * ROW_B][at.x % 4u] = v.w;
}

// Where four elements go to four rows of workgroup memory neighbours take neighbouring k, so that they meet different banks.
fn loadOfA(local: u32, i: u32) -> vec2<u32> {
  if (TA) { return vec2((local / KT + i * (THREADS / KT)) * 4u, local % KT); }
  return loadOf(local, i, true);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let z = group.z;
  let column = local % ACROSS;
  let row = local / ACROSS;
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  let range = innerOf(z);
  let atA$i = loadOfA(local, $iu);
  let row$i = rowAt(z, m0 + atA$i.x, atA$i.y);
  let atB$j = loadOf(local, $ju, TB);
  let column$j = columnAt(z, n0 + atB$j.x, atB$j.y);
  var placeA$i = placeA(row$i, z, range.x);
  var a_$i = readA(placeA$i);
  var placeB$j = placeB(column$j, z, range.x);
  var b_$j = readB(placeB$j);
  putA(0u, atA$i, cutA(placeA$i, a_$i));
  putB(0u, atB$j, cutB(placeB$j, b_$j));
  var s$r_$q = vec4<f32>();
  var side = 0u;
  for (var k0 = range.x; k0 < range.y; k0 += KT) {
    workgroupBarrier();
    if (AHEAD) {
      $next
    }
    // Each sum is a chain that contracts to four multiply-adds a vector; the sum of four products would be a fifth instruction.
    let ownA = side * (TILE * ROW_A) + row * ROW_A;
    let ownB = side * (KT * ROW_B) + column;
    for (var k = 0u; k < DEEP; k += UNROLL) {
      let b0_$k_$q = tileB[ownB + (4u * (k + $ku)) * ROW_B + $qu * ACROSS];
      let b1_$k_$q = tileB[ownB + (4u * (k + $ku) + 1u) * ROW_B + $qu * ACROSS];
      let b2_$k_$q = tileB[ownB + (4u * (k + $ku) + 2u) * ROW_B + $qu * ACROSS];
      let b3_$k_$q = tileB[ownB + (4u * (k + $ku) + 3u) * ROW_B + $qu * ACROSS];
      let a$r_$k = tileA[ownA + $ru * BELOW * ROW_A + k + $ku];
      s$r_$q = a$r_$k.w * b3_$k_$q + (a$r_$k.z * b2_$k_$q + (a$r_$k.y * b1_$k_$q + (a$r_$k.x * b0_$k_$q + s$r_$q)));
    }
    if (AHEAD) {
      side = 1u - side;
    } else {
      workgroupBarrier();
      $next
    }
    putA(side, atA$i, cutA(placeA$i, a_$i));
    putB(side, atB$j, cutB(placeB$j, b_$j));
  }
  store(z, m0 + row + $ru * BELOW, n0 + (column + $qu * ACROSS) * 4u, s$r_$q);
}
