// Gradient of softmax or its logarithm from the output, registers only: one invocation a row.
//   softmax: dx = y (dy - sum(y dy));  logarithm: dx = dy - exp(y) sum(dy)
// y, dy, dx [rows, columns] as T. Constants: T, LANES, LOG as softmax.wgsl. Grid: one invocation a row.
struct Params { rows: u32, columns: u32 }
@group(0) @binding(0) var<storage, read> y: array<T>;
@group(0) @binding(1) var<storage, read> dy: array<T>;
@group(0) @binding(2) var<storage, read_write> dx: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 16u;
  if (r >= params.rows) { return; }
  let first = r * params.columns;
  let end = first + params.columns;
  var sum = T();
  for (var at = first; at < end; at++) {
    if (LOG) { sum += dy[at]; } else { sum += dy[at] * y[at]; }
  }
  let u = vec4<f32>(sum);
  let total = select(u.x, (u.x + u.y) + (u.z + u.w), LANES == 4);
  for (var at = first; at < end; at++) {
    if (LOG) { dx[at] = dy[at] - exp(y[at]) * total; } else { dx[at] = y[at] * (dy[at] - total); }
  }
}
