// As matmul-tile.wgsl, on a GPU's units for matrices: both operands are rounded to f16, sums are f32. The same functions
// are appended. Each of 2 x SIDE subgroups computes DOWN x ACROSS matrices of EDGE x EDGE, so TILE = 2*DOWN*EDGE = SIDE*ACROSS*EDGE.
// What f16 cannot hold becomes infinite, and so shows. A cotangent is far from 1 in a way that nobody knows beforehand, so
// it is multiplied by a power of two that brings its largest element near 2^14, and the sum divided by it:
//   fn scaleOf(lane: u32) -> vec2<f32>        factors of A and B
// Both lie in workgroup memory as they do in memory, along k or across it, for units that read either. The next tiles are loaded
// while these are multiplied, as in matmul-tile.wgsl.
// Constants: TILE (32, 64 or 128), SIDE, DOWN, ACROSS, KT (a multiple of EDGE), EDGE (8 or 16), LANES (of a subgroup), TA, TB, AHEAD, UNROLL, SCALED (1
// or 2 where A or B is a cotangent). Lines with $ are repeated, see tileText in product-text.ts: `$next` are the loads for the next step, $i is an invocation's loads of A, $j of B, $k
// UNROLL matrices along k, all of a step on a GPU; `$orderA` and `$orderB` are row_major or col_major.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
alias Left = subgroup_matrix_left<f16, EDGE, EDGE>;
alias Right = subgroup_matrix_right<f16, EDGE, EDGE>;
alias Sum = subgroup_matrix_result<f32, EDGE, EDGE>;
const DEEP = KT / 4u;
const FOURS = TILE / 4u;
const THREADS = 2u * SIDE * LANES;
// Padding keeps neighbouring lines out of each other's banks.
const LINE_A = select(KT, TILE, TA) + 8u;
const LINE_B = select(TILE, KT, TB) + 8u;
const ALL_A = select(TILE, KT, TA) * LINE_A;
const ALL_B = select(KT, TILE, TB) * LINE_B;
const SIDES = select(1u, 2u, AHEAD);
const MATRIX = EDGE * EDGE;
var<workgroup> tileA: array<f16, SIDES * ALL_A>;
var<workgroup> tileB: array<f16, SIDES * ALL_B>;
var<workgroup> sums: array<f32, 2u * SIDE * MATRIX>;

// Where an element lies in a tile.
fn tiledAt(at: vec2<u32>, line: u32, along: bool) -> u32 {
  return select(at.y * line + at.x, at.x * line + at.y, along);
}

fn putA(side: u32, at: vec2<u32>, v: vec4<f16>) {
  let first = side * ALL_A + tiledAt(at, LINE_A, !TA);
  tileA[first] = v.x;
  tileA[first + 1u] = v.y;
  tileA[first + 2u] = v.z;
  tileA[first + 3u] = v.w;
}

fn putB(side: u32, at: vec2<u32>, v: vec4<f16>) {
  let first = side * ALL_B + tiledAt(at, LINE_B, TB);
  tileB[first] = v.x;
  tileB[first + 1u] = v.y;
  tileB[first + 2u] = v.z;
  tileB[first + 3u] = v.w;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let z = group.z;
  let lane = local % LANES;
  let part = local / LANES;
  let row = part / SIDE * (DOWN * EDGE);
  let column = part % SIDE * (ACROSS * EDGE);
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  let range = innerOf(z);
  let scale = scaleOf(lane);
  let back = 1.0 / (scale.x * scale.y);
  let atA$i = loadOf(local, $iu, !TA);
  let row$i = rowAt(z, m0 + atA$i.x, atA$i.y);
  let atB$j = loadOf(local, $ju, TB);
  let column$j = columnAt(z, n0 + atB$j.x, atB$j.y);
  var placeA$i = placeA(row$i, z, range.x);
  var a_$i = readA(placeA$i);
  var placeB$j = placeB(column$j, z, range.x);
  var b_$j = readB(placeB$j);
  putA(0u, atA$i, vec4<f16>(cutA(placeA$i, a_$i) * scale.x));
  putB(0u, atB$j, vec4<f16>(cutB(placeB$j, b_$j) * scale.y));
  var s$r_$q: Sum;
  var side = 0u;
  for (var k0 = range.x; k0 < range.y; k0 += KT) {
    workgroupBarrier();
    if (AHEAD) {
      $next
    }
    for (var k = 0u; k < KT; k += UNROLL * EDGE) {
      let a$r_$k = subgroupMatrixLoad<Left, $orderA>(&tileA, side * ALL_A + tiledAt(vec2(row + $ru * EDGE, k + $ku * EDGE), LINE_A, !TA), LINE_A);
      let b$q_$k = subgroupMatrixLoad<Right, $orderB>(&tileB, side * ALL_B + tiledAt(vec2(column + $qu * EDGE, k + $ku * EDGE), LINE_B, TB), LINE_B);
      s$r_$q = subgroupMatrixMultiplyAccumulate(a$r_$k, b$q_$k, s$r_$q);
    }
    if (AHEAD) {
      side = 1u - side;
    } else {
      workgroupBarrier();
      $next
    }
    putA(side, atA$i, vec4<f16>(cutA(placeA$i, a_$i) * scale.x));
    putB(side, atB$j, vec4<f16>(cutB(placeB$j, b_$j) * scale.y));
  }
  let mine = part * MATRIX;
  subgroupMatrixStore<row_major>(&sums, mine, s$r_$q, EDGE); put(z, m0 + row + $ru * EDGE, n0 + column + $qu * EDGE, lane, mine, back);
}

// Stores the matrix that the subgroup has put into its own part of `sums`.
fn put(z: u32, m: u32, n: u32, lane: u32, mine: u32, back: f32) {
  workgroupBarrier();
  for (var i = lane; i < MATRIX / 4u; i += LANES) {
    let at = mine + i * 4u;
    store(z, m + i / (EDGE / 4u), n + i % (EDGE / 4u) * 4u, vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]) * back);
  }
  workgroupBarrier();
}
