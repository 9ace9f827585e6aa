// Group normalisation, backward, for GPUs: one workgroup a group of one image. The formulas are group-norm-backward.wgsl's,
// constants, lines with $p and grid group-norm-workgroup.wgsl's. Workgroup memory 8 * LANES * THREADS bytes.
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

/// dy·act'(u), or zeros.
fn cotangent(dy: T, u: T, inside: bool) -> T {
  var du = dy;
  if (SILU) { du *= slope(u); }
  return select(T(), du, inside);
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
  let step = KEEP * params.rows;
  let last = params.pixels - 1u;
  let k$p = start + $pu * params.rows;
  let x$p = x[first + min(k$p, last) * row];
  let g$p = dy[first + min(k$p, last) * row];
  var s0 = T();
  var s1 = T();
  let h$p = (x$p - mean) * rstd;
  let du$p = cotangent(g$p, h$p * k + shift, k$p < end); s0 += du$p; s1 += du$p * h$p;
  for (var q = start + step; q < end; q += step) {
    let e$p = x[first + min(q + $pu * params.rows, last) * row];
    let f$p = dy[first + min(q + $pu * params.rows, last) * row];
    let i$p = (e$p - mean) * rstd;
    let v$p = cotangent(f$p, i$p * k + shift, q + $pu * params.rows < end); s0 += v$p; s1 += v$p * i$p;
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

  if (k$p < end) { dx[first + k$p * row] = rstd * k * du$p - p0 - (x$p - mean) * p1; }
  for (var q = start + step; q < end; q += step) {
    let e$p = x[first + min(q + $pu * params.rows, last) * row];
    let f$p = dy[first + min(q + $pu * params.rows, last) * row];
    let v$p = cotangent(f$p, (e$p - mean) * rstd * k + shift, true);
    if (q + $pu * params.rows < end) { dx[first + (q + $pu * params.rows) * row] = rstd * k * v$p - p0 - (e$p - mean) * p1; }
  }
}
