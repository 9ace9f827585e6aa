// As matmul-tile.wgsl, on a GPU's units for matrices: both operands are rounded to f16, sums are f32. The same functions
// are appended. Each of 2 x 2 subgroups computes DOWN x ACROSS matrices of EDGE x EDGE, so TILE = 2*DOWN*EDGE = 2*ACROSS*EDGE.
// What f16 cannot hold becomes infinite, and so shows. A cotangent is far from 1 in a way that nobody knows beforehand, so
// it is multiplied by a power of two that brings its largest element near 2^14, and the sum divided by it:
//   fn scaleOf(lane: u32) -> vec2<f32>        factors of A and B
// Constants: TILE (32, 64 or 128), DOWN, ACROSS, KT (a multiple of EDGE), EDGE (8 or 16), LANES (of a subgroup), TA, TB, SCALED (1 or
// 2 where A or B is a cotangent). Lines with $ are repeated, see matrixTileOf in matrix.ts: $i is an invocation's loads of A, $j of B.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
alias Left = subgroup_matrix_left<f16, EDGE, EDGE>;
alias Right = subgroup_matrix_right<f16, EDGE, EDGE>;
alias Sum = subgroup_matrix_result<f32, EDGE, EDGE>;
const DEEP = KT / 4u;
const FOURS = TILE / 4u;
const THREADS = 4u * LANES;
// Padding keeps neighbouring rows out of each other's banks.
const ROW_A = KT + 8u;
const ROW_B = TILE + 8u;
const MATRIX = EDGE * EDGE;
var<workgroup> tileA: array<f16, TILE * ROW_A>;
var<workgroup> tileB: array<f16, KT * ROW_B>;
var<workgroup> sums: array<f32, 4u * MATRIX>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let z = group.z;
  let lane = local % LANES;
  let part = local / LANES;
  let row = part / 2u * (DOWN * EDGE);
  let column = part % 2u * (ACROSS * EDGE);
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  let range = innerOf(z);
  let scale = scaleOf(lane);
  let back = 1.0 / (scale.x * scale.y);
  let atA$i = loadOfA(local, $iu);
  let row$i = rowAt(z, m0 + atA$i.x, atA$i.y);
  let atB$j = loadOfB(local, $ju);
  let column$j = columnAt(z, n0 + atB$j.x, atB$j.y);
  var s$r_$q: Sum;
  for (var k0 = range.x; k0 < range.y; k0 += KT) {
    let placeA$i = placeA(row$i, z, k0);
    let a_$i = readA(placeA$i);
    let placeB$j = placeB(column$j, z, k0);
    let b_$j = readB(placeB$j);
    putA(atA$i, vec4<f16>(cutA(placeA$i, a_$i) * scale.x));
    putB(atB$j, vec4<f16>(cutB(placeB$j, b_$j) * scale.y));
    workgroupBarrier();
    for (var k = 0u; k < KT; k += EDGE) {
      let a$r = subgroupMatrixLoad<Left, row_major>(&tileA, (row + $ru * EDGE) * ROW_A + k, ROW_A);
      let b$q = subgroupMatrixLoad<Right, row_major>(&tileB, k * ROW_B + column + $qu * EDGE, ROW_B);
      s$r_$q = subgroupMatrixMultiplyAccumulate(a$r, b$q, s$r_$q);
    }
    workgroupBarrier();
  }
  let mine = part * MATRIX;
  subgroupMatrixStore<row_major>(&sums, mine, s$r_$q, EDGE); put(z, m0 + row + $ru * EDGE, n0 + column + $qu * EDGE, lane, mine, back);
}

fn putA(at: vec2<u32>, v: vec4<f16>) {
  let first = at.x * ROW_A + at.y;
  let step = select(1u, ROW_A, TA);
  tileA[first] = v.x;
  tileA[first + step] = v.y;
  tileA[first + 2u * step] = v.z;
  tileA[first + 3u * step] = v.w;
}

fn putB(at: vec2<u32>, v: vec4<f16>) {
  let first = at.y * ROW_B + at.x;
  let step = select(1u, ROW_B, TB);
  tileB[first] = v.x;
  tileB[first + step] = v.y;
  tileB[first + 2u * step] = v.z;
  tileB[first + 3u * step] = v.w;
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
