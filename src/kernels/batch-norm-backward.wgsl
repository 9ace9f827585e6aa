// dx = dy [y > 0] scale[c] / sqrt(variance[c] + eps), with statistics that do not depend on x; the factor [y > 0] where RELU.
// y, dy, dx [rows, columns] as T. Constants and grid: as batch-norm.wgsl.
struct Params { rows: u32, columns: u32, stride: u32, count: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> y: array<T>;
@group(0) @binding(1) var<storage, read> dy: array<T>;
@group(0) @binding(2) var<storage, read> scale: array<T>;
@group(0) @binding(3) var<storage, read> variance: array<T>;
@group(0) @binding(4) var<storage, read_write> dx: array<T>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  let c = i % params.columns;
  let factor = scale[c] * inverseSqrt(variance[c] + params.eps);
  let end = params.rows * params.columns;
  for (var at = i; at < end; at += params.count) {
    var g = dy[at] * factor;
    if (RELU) { g = select(T(), g, y[at] > T()); }
    dx[at] = g;
  }
}
