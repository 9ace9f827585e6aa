// y = softmax(x) or log(softmax(x)) along rows, registers only: one invocation a row.
// x, y [rows, columns] as T. Constants: T (f32 or vec4<f32>), LANES (1 or 4), LOG (bool). Grid: one invocation a row.
struct Params { rows: u32, columns: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let r = id.x + id.y * groups.x * 16u;
  if (r >= params.rows) { return; }
  let first = r * params.columns;
  let end = first + params.columns;
  var highest = T(-0x1.fffffep+127);
  for (var at = first; at < end; at++) { highest = max(highest, x[at]); }
  let h = vec4<f32>(highest);
  let top = T(max(max(h.x, h.y), max(h.z, h.w)));
  var sum = T();
  if (LOG) {
    for (var at = first; at < end; at++) { sum += exp(x[at] - top); }
  } else {
    // Kept for the last pass.
    for (var at = first; at < end; at++) {
      let e = exp(x[at] - top);
      y[at] = e;
      sum += e;
    }
  }
  let u = vec4<f32>(sum);
  let total = select(u.x, (u.x + u.y) + (u.z + u.w), LANES == 4);
  if (LOG) {
    let shift = log(total);
    for (var at = first; at < end; at++) { y[at] = (x[at] - top) - shift; }
  } else {
    let inverse = 1.0 / total;
    for (var at = first; at < end; at++) { y[at] *= inverse; }
  }
}
