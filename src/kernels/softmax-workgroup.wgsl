// y = softmax(x) or log(softmax(x)) along rows, for GPUs: one workgroup a row.
// x, y [rows, columns] as T. Constants: T (f32 or vec4<f32>), LANES (1 or 4), LOG (bool), THREADS (a power of two).
// Grid: one workgroup a row. Workgroup memory 4 * THREADS bytes.
struct Params { rows: u32, columns: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> part: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = group.x + group.y * groups.x;
  if (r >= params.rows) { return; }
  let start = r * params.columns + i;
  let end = (r + 1u) * params.columns;
  var highest = T(-0x1.fffffep+127);
  for (var at = start; at < end; at += THREADS) { highest = max(highest, x[at]); }
  let h = vec4<f32>(highest);
  part[i] = max(max(h.x, h.y), max(h.z, h.w));
  workgroupBarrier();
  for (var s = THREADS / 2u; s > 0u; s /= 2u) {
    if (i < s) { part[i] = max(part[i], part[i + s]); }
    workgroupBarrier();
  }
  let top = T(part[0]);
  workgroupBarrier();
  var sum = T();
  for (var at = start; at < end; at += THREADS) { sum += exp(x[at] - top); }
  let u = vec4<f32>(sum);
  part[i] = select(u.x, (u.x + u.y) + (u.z + u.w), LANES == 4);
  workgroupBarrier();
  for (var s = THREADS / 2u; s > 0u; s /= 2u) {
    if (i < s) { part[i] += part[i + s]; }
    workgroupBarrier();
  }
  let total = part[0];
  if (LOG) {
    let shift = log(total);
    for (var at = start; at < end; at += THREADS) { y[at] = (x[at] - top) - shift; }
  } else {
    let inverse = 1.0 / total;
    for (var at = start; at < end; at += THREADS) { y[at] = exp(x[at] - top) * inverse; }
  }
}
