// dx where mean and variance are those of x itself: with du = dy [y > 0 where RELU] and h = (x - mean) / sqrt(variance + eps),
//   dx = scale / sqrt(variance + eps) * (du - dbias / rows - h dscale / rows), dbias = sum of du, dscale = sum of du h.
// x, y, dy, dx [rows, columns] as T. Constants and grid: as batch-norm.wgsl. sums [2, columns] = (dbias, dscale).
struct Params { rows: u32, columns: u32, stride: u32, count: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read> y: array<T>;
@group(0) @binding(2) var<storage, read> dy: array<T>;
@group(0) @binding(3) var<storage, read> scale: array<T>;
@group(0) @binding(4) var<storage, read> mean: array<T>;
@group(0) @binding(5) var<storage, read> variance: array<T>;
@group(0) @binding(6) var<storage, read> sums: array<T>;
@group(0) @binding(7) var<storage, read_write> dx: array<T>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let c = i % params.columns;
  let rstd = inverseSqrt(variance[c] + params.eps);
  let factor = scale[c] * rstd;
  let m = mean[c];
  let plain = sums[c] / f32(params.rows);
  let weighted = sums[params.columns + c] / f32(params.rows) * rstd;
  let end = params.rows * params.columns;
  for (var at = i; at < end; at += params.count) {
    var du = dy[at];
    if (RELU) { du = select(T(), du, y[at] > T()); }
    dx[at] = factor * (du - plain - (x[at] - m) * weighted);
  }
}
