// Gradient of softmax or its logarithm from the output, for GPUs: one workgroup a row. Formulas: softmax-backward.wgsl.
// Constants: T, LANES, LOG, THREADS as softmax-workgroup.wgsl. Grid: one workgroup a row. Workgroup memory 4 * THREADS bytes.
struct Params { rows: u32, columns: u32 }
@group(0) @binding(0) var<storage, read> y: array<T>;
@group(0) @binding(1) var<storage, read> dy: array<T>;
@group(0) @binding(2) var<storage, read_write> dx: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> part: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = group.x + group.y * groups.x;
  if (r >= params.rows) { return; }
  let start = r * params.columns + i;
  let end = (r + 1u) * params.columns;
  var sum = T();
  for (var at = start; at < end; at += THREADS) {
    if (LOG) { sum += dy[at]; } else { sum += dy[at] * y[at]; }
  }
  let u = vec4<f32>(sum);
  part[i] = select(u.x, (u.x + u.y) + (u.z + u.w), LANES == 4);
  workgroupBarrier();
  for (var s = THREADS / 2u; s > 0u; s /= 2u) {
    if (i < s) { part[i] += part[i + s]; }
    workgroupBarrier();
  }
  let total = part[0];
  for (var at = start; at < end; at += THREADS) {
    if (LOG) { dx[at] = dy[at] - exp(y[at]) * total; } else { dx[at] = y[at] * (dy[at] - total); }
  }
}
