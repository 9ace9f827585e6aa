// Group normalisation, forward, for GPUs: one workgroup a group of one image. The formula is group-norm.wgsl's.
// An invocation keeps to one T of channels, so its coefficients stay in registers: channel i % width, pixels from
// i / width in steps of `rows`, a power of two with rows * width <= THREADS.
// An invocation's first KEEP pixels are read once and stay in registers, the others are read in each pass, KEEP at a time, so that as
// many loads are on their way: lines with $p are repeated for each.
// Constants: T, LANES, SILU, MODULATION as there; THREADS (a power of two, 64..256), KEEP.
// Grid: one workgroup a group, count = N * groups. Workgroup memory 8 * (THREADS + FAN) bytes.
struct Params { pixels: u32, groups: u32, width: u32, rows: u32, count: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> scale: array<T>;
@group(0) @binding(2) var<storage, read> bias: array<T>;
@group(0) @binding(3) var<storage, read> modulation: array<T>;
@group(0) @binding(4) var<storage, read_write> y: array<T>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

const FAN = THREADS / 16u;
var<workgroup> part: array<vec2<f32>, THREADS>;
var<workgroup> few: array<vec2<f32>, FAN>;

/// The sum over the workgroup, in every invocation.
fn reduce(i: u32, value: vec2<f32>) -> vec2<f32> {
  part[i] = value;
  workgroupBarrier();
  if (i < FAN) {
    var sum = part[i];
    for (var j = 1u; j < 16u; j++) { sum += part[i + j * FAN]; }
    few[i] = sum;
  }
  workgroupBarrier();
  var sum = few[0];
  for (var j = 1u; j < FAN; j++) { sum += few[j]; }
  return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let index = group.x + group.y * groups.x;
  if (index >= params.count) { return; }
  let n = index / params.groups;
  let row = params.groups * params.width;
  let c = (index % params.groups) * params.width + i % params.width;
  let start = i / params.width;
  // Invocations beyond params.rows * params.width do no pixels.
  let end = select(0u, params.pixels, start < params.rows);
  let first = n * params.pixels * row + c;
  let inverse = 1.0 / f32(params.pixels * params.width * LANES);

  let step = KEEP * params.rows;
  let last = params.pixels - 1u;
  let k$p = start + $pu * params.rows;
  let x$p = x[first + min(k$p, last) * row];
  var sum = T();
  sum += select(T(), x$p, k$p < end);
  for (var q = start + step; q < end; q += step) {
    let e$p = x[first + min(q + $pu * params.rows, last) * row];
    sum += select(T(), e$p, q + $pu * params.rows < end);
  }
  let rough = reduce(i, vec2<f32>(total(sum), 0.0)).x * inverse;
  var off = T();
  var squares = T();
  let d$p = select(T(), x$p - rough, k$p < end); off += d$p; squares += d$p * d$p;
  for (var q = start + step; q < end; q += step) {
    let e$p = x[first + min(q + $pu * params.rows, last) * row];
    let f$p = select(T(), e$p - rough, q + $pu * params.rows < end); off += f$p; squares += f$p * f$p;
  }
  let moments = reduce(i, vec2<f32>(total(off), total(squares))) * inverse;
  let mean = rough + moments.x;
  let rstd = inverseSqrt(max(moments.y - moments.x * moments.x, 0.0) + params.eps);
  if (i == 0u) { stats[index] = vec2<f32>(mean, rstd); }

  var factor = scale[c] * rstd;
  var shift = bias[c];
  if (MODULATION) {
    let m = modulation[n * 2u * row + c] + T(1.0);
    factor *= m;
    shift = shift * m + modulation[(n * 2u + 1u) * row + c];
  }
  if (k$p < end) { y[first + k$p * row] = activated((x$p - mean) * factor + shift); }
  for (var q = start + step; q < end; q += step) {
    let e$p = x[first + min(q + $pu * params.rows, last) * row];
    if (q + $pu * params.rows < end) { y[first + (q + $pu * params.rows) * row] = activated((e$p - mean) * factor + shift); }
  }
}

fn activated(u: T) -> T {
  if (!SILU) { return u; }
  return u / (T(1.0) + exp(-clamp(u, T(-80.0), T(80.0))));
}
