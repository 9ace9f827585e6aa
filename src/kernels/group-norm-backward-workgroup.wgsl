// Group normalisation, backward, for GPUs: one workgroup a group of one image. The formulas are group-norm-backward.wgsl's,
// constants and grid group-norm-workgroup.wgsl's. Workgroup memory 8 * LANES * THREADS bytes.
struct Params { pixels: u32, groups: u32, width: u32, rows: u32, count: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> dy: array<T>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> scale: array<T>;
@group(0) @binding(4) var<storage, read> bias: array<T>;
@group(0) @binding(5) var<storage, read> modulation: array<T>;
@group(0) @binding(6) var<storage, read_write> dx: array<T>;
@group(0) @binding(7) var<storage, read_write> sums: array<T>;
@group(0) @binding(8) var<uniform> params: Params;

var<workgroup> part0: array<T, THREADS>;
var<workgroup> part1: array<T, THREADS>;

/// act'(u)
fn slope(u: T) -> T {
  let s = T(1.0) / (T(1.0) + exp(-clamp(u, T(-80.0), T(80.0))));
  return s * (T(1.0) + u * (T(1.0) - s));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = group.x + group.y * groups.x;
  if (index >= params.count) { return; }
  let n = index / params.groups;
  let row = params.groups * params.width;
  let c = (index % params.groups) * params.width + i % params.width;
  let start = i / params.width;
  let end = select(0u, params.pixels, start < params.rows);
  let first = n * params.pixels * row + c;
  let inverse = 1.0 / f32(params.pixels * params.width * LANES);
  let mean = stats[index].x;
  let rstd = stats[index].y;

  var k = scale[c];
  var shift = bias[c];
  if (MODULATION) {
    let m = modulation[n * 2u * row + c] + T(1.0);
    k *= m;
    shift = shift * m + modulation[(n * 2u + 1u) * row + c];
  }
  var s0 = T();
  var s1 = T();
  for (var p = start; p < end; p += params.rows) {
    let at = first + p * row;
    let h = (x[at] - mean) * rstd;
    var du = dy[at];
    if (SILU) { du *= slope(h * k + shift); }
    s0 += du;
    s1 += du * h;
  }
  part0[i] = s0;
  part1[i] = s1;
  workgroupBarrier();
  for (var s = (params.rows / 2u) * params.width; s >= params.width; s /= 2u) {
    if (i < s) {
      part0[i] += part0[i + s];
      part1[i] += part1[i + s];
    }
    workgroupBarrier();
  }
  if (i < params.width) {
    sums[n * 2u * row + c] = part0[i];
    sums[(n * 2u + 1u) * row + c] = part1[i];
    part0[i] *= k;
    part1[i] *= k;
  }
  workgroupBarrier();
  var plain = T();
  var weighted = T();
  for (var b = 0u; b < params.width; b++) {
    plain += part0[b];
    weighted += part1[b];
  }
  let p0 = total(plain) * inverse * rstd;
  let p1 = total(weighted) * inverse * rstd * rstd;

  for (var p = start; p < end; p += params.rows) {
    let at = first + p * row;
    var du = dy[at];
    if (SILU) { du *= slope((x[at] - mean) * rstd * k + shift); }
    dx[at] = rstd * k * du - p0 - (x[at] - mean) * p1;
  }
}
